// Options, golden models and a fixture that frees what it made, for the tests of the C API.
#pragma once

#include <gtest/gtest.h>
#include <riverhorse/riverhorse.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace api_test {

inline const std::string golden = RIVERHORSE_TEST_DATA;
inline const std::string pure_path = golden + "/lm/h3-pure/model.pt";  // 512 tokens: the byte tokenizer fits
inline const std::string hybrid_path =
    golden + "/lm/h3-hybrid/model.pt";  // two attention layers, 509 tokens in 512 rows

inline std::string temporary_path(const std::string& name) {
  return (std::filesystem::path(testing::TempDir()) / ("api_test_" + std::to_string(getpid()) + "_" + name)).string();
}

inline riverhorse_model_options cpu_options() {
  riverhorse_model_options options{};
  options.struct_size = sizeof options;
  options.backend = "cpu";
  options.cache_folder = "none";
  return options;
}

// "cpu", and "vulkan" where there is a device for it.
inline std::vector<const char*> backends() {
  std::vector<const char*> names = {"cpu"};
  riverhorse_device_list* list = nullptr;
  EXPECT_EQ(riverhorse_list_devices(&list), RIVERHORSE_OK);
  for (std::size_t i = 0; i < riverhorse_device_list_count(list); ++i) {
    riverhorse_device_info info{};
    info.struct_size = sizeof info;
    EXPECT_EQ(riverhorse_device_list_get(list, i, &info), RIVERHORSE_OK);
    if (names.size() == 1 && std::string(info.backend) == "vulkan") names.push_back("vulkan");
  }
  riverhorse_device_list_free(list);
  return names;
}

// Warnings and errors in the log while it lives.
struct WarningCounter {
  WarningCounter() {
    riverhorse_set_log_callback(
        [](void* user, riverhorse_log_level level, const char* message) {
          if (level >= RIVERHORSE_LOG_WARNING) static_cast<WarningCounter*>(user)->text += message;
        },
        this);
  }
  ~WarningCounter() { riverhorse_set_log_callback(nullptr, nullptr); }
  WarningCounter(const WarningCounter&) = delete;
  WarningCounter& operator=(const WarningCounter&) = delete;
  std::string text;
};

inline riverhorse_sampling_options sampling_options() {
  riverhorse_sampling_options options{};
  options.struct_size = sizeof options;
  return options;
}

inline riverhorse_generate_options generate_options(std::int64_t max_tokens) {
  riverhorse_generate_options options{};
  options.struct_size = sizeof options;
  options.max_tokens = max_tokens;
  options.ignore_end_of_text = 1;
  return options;
}

#define EXPECT_OK(call) EXPECT_EQ(call, RIVERHORSE_OK) << riverhorse_last_error()
#define ASSERT_OK(call) ASSERT_EQ(call, RIVERHORSE_OK) << riverhorse_last_error()
// The status, and a message that names what is wrong.
#define EXPECT_FAILS(call, status, part)                                                      \
  do {                                                                                        \
    EXPECT_EQ(call, status) << riverhorse_last_error();                                       \
    EXPECT_NE(std::string(riverhorse_last_error()).find(part), std::string::npos)             \
        << "the message is \"" << riverhorse_last_error() << "\" and should name " << (part); \
  } while (false)

class Api : public testing::Test {
 protected:
  void TearDown() override {
    for (riverhorse_session* session : sessions_) riverhorse_session_free(session);
    for (riverhorse_model* model : models_) riverhorse_model_free(model);
  }

  riverhorse_model* load(const std::string& path, const riverhorse_model_options& options = cpu_options()) {
    riverhorse_model* model = nullptr;
    EXPECT_OK(riverhorse_model_load(path.c_str(), &options, &model));
    models_.push_back(model);
    return model;
  }

  riverhorse_session* session(riverhorse_model* model, const std::vector<std::int32_t>& ids = {},
                              const riverhorse_sampling_options* sampling = nullptr) {
    riverhorse_session* result = nullptr;
    EXPECT_OK(riverhorse_session_create(model, sampling, &result));
    EXPECT_OK(riverhorse_session_append(result, ids.data(), ids.size(), nullptr, nullptr));
    sessions_.push_back(result);
    return result;
  }

  static std::vector<std::int32_t> steps(riverhorse_session* session, int count) {
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < count; ++i) {
      std::int32_t token = -1;
      EXPECT_OK(riverhorse_session_step(session, &token));
      tokens.push_back(token);
    }
    return tokens;
  }

  static std::vector<std::int32_t> tokens_of(riverhorse_session* session) {
    std::size_t count = 0;
    EXPECT_OK(riverhorse_session_get_tokens(session, nullptr, 0, &count));
    std::vector<std::int32_t> ids(count);
    EXPECT_OK(riverhorse_session_get_tokens(session, ids.data(), ids.size(), &count));
    return ids;
  }

  static std::vector<float> logits_of(riverhorse_session* session) {
    std::size_t count = 0;
    EXPECT_OK(riverhorse_session_get_logits(session, nullptr, 0, &count));
    std::vector<float> values(count);
    EXPECT_OK(riverhorse_session_get_logits(session, values.data(), values.size(), &count));
    return values;
  }

  std::vector<riverhorse_model*> models_;
  std::vector<riverhorse_session*> sessions_;
};

inline const std::vector<std::int32_t> prompt = {404, 213, 188, 151, 446, 322, 145, 291,
                                                 334, 53,  485, 55,  482, 354, 429, 119};

}  // namespace api_test
