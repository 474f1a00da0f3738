// The C API: the library, devices, models and tokenizers. Every function does what its comment says, and every misuse
// gets a status code and a message. Sessions: api_session_test.cpp; generation: api_generate_test.cpp.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <thread>

#include "api_fixture.h"

namespace api_test {
namespace {

// ------------------------------------------------------------------------------------------------- the library

TEST_F(Api, TellsItsVersionAndStatusNames) {
  EXPECT_TRUE(std::regex_match(riverhorse_version(), std::regex("[0-9]+\\.[0-9]+\\.[0-9]+")));
  EXPECT_EQ(riverhorse_abi_version(), static_cast<std::uint32_t>(RIVERHORSE_ABI_VERSION));
  std::set<std::string> names;
  for (int status = RIVERHORSE_OK; status <= RIVERHORSE_INTERNAL; ++status) {
    names.insert(riverhorse_status_name(static_cast<riverhorse_status>(status)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(RIVERHORSE_INTERNAL) + 1);
  EXPECT_EQ(names.count("unknown"), 0u);
  EXPECT_STREQ(riverhorse_status_name(static_cast<riverhorse_status>(77)), "unknown");
}

TEST_F(Api, KeepsTheLastErrorOfEachThread) {
  EXPECT_FAILS(riverhorse_list_devices(nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "riverhorse_list_devices: list is null");
  std::thread([] { EXPECT_STREQ(riverhorse_last_error(), ""); }).join();
  riverhorse_device_list* list = nullptr;
  EXPECT_OK(riverhorse_list_devices(&list));
  riverhorse_device_list_free(list);
  EXPECT_NE(std::strstr(riverhorse_last_error(), "list is null"), nullptr) << "a success must not change the message";
}

TEST_F(Api, SendsMessagesToTheCallback) {
  // A field that nobody knows is a warning by name.
  const std::string config = temporary_path("unknown_field.json");
  std::ifstream original(golden + "/lm/h3-pure/config.json");
  std::stringstream text;
  text << original.rdbuf();
  std::ofstream(config) << text.str().replace(text.str().find('{'), 1, "{\"field_from_the_future\": 1,");
  riverhorse_model_options options = cpu_options();
  options.config_path = config.c_str();

  std::string messages;
  riverhorse_set_log_callback(
      [](void* user, riverhorse_log_level level, const char* message) {
        if (level >= RIVERHORSE_LOG_WARNING) *static_cast<std::string*>(user) += message;
      },
      &messages);
  load(pure_path, options);
  EXPECT_NE(messages.find("field_from_the_future"), std::string::npos) << messages;
  messages.clear();
  riverhorse_set_log_callback(nullptr, nullptr);
  load(pure_path, options);
  EXPECT_EQ(messages, "");
  std::filesystem::remove(config);
}

// ---------------------------------------------------------------------------------------------------- devices

TEST_F(Api, ListsDevices) {
  riverhorse_device_list* list = nullptr;
  ASSERT_OK(riverhorse_list_devices(&list));
  bool has_cpu = false;
  int defaults = 0;
  for (std::size_t i = 0; i < riverhorse_device_list_count(list); ++i) {
    riverhorse_device_info info{};
    info.struct_size = sizeof info;
    ASSERT_OK(riverhorse_device_list_get(list, i, &info));
    EXPECT_EQ(std::string(info.id).rfind(info.backend, 0), 0u) << info.id;
    EXPECT_GT(std::strlen(info.name), 0u);
    EXPECT_GT(std::strlen(info.type), 0u);
    EXPECT_GT(std::strlen(info.driver), 0u);
    EXPECT_GT(std::strlen(info.api), 0u);
    const bool has_uuid = std::any_of(info.uuid, info.uuid + 16, [](std::uint8_t byte) { return byte != 0; });
    EXPECT_EQ(has_uuid, std::string(info.backend) != "cpu");
    EXPECT_GT(info.memory_total_bytes, 0u);
    EXPECT_LE(info.memory_free_bytes, info.memory_total_bytes);
    has_cpu = has_cpu || std::string(info.id) == "cpu:0";
    defaults += info.is_default;
  }
  EXPECT_TRUE(has_cpu);
  EXPECT_EQ(defaults, 1);
  for (std::size_t i = 0; i < riverhorse_device_list_absent_count(list); ++i) {
    const char *backend = nullptr, *reason = nullptr;
    ASSERT_OK(riverhorse_device_list_get_absent(list, i, &backend, &reason));
    EXPECT_GT(std::strlen(backend), 0u);
    EXPECT_GT(std::strlen(reason), 10u) << backend;
  }

  riverhorse_device_info info{};
  EXPECT_FAILS(riverhorse_device_list_get(list, 0, &info), RIVERHORSE_INVALID_ARGUMENT, "struct_size");
  info.struct_size = sizeof info;
  EXPECT_FAILS(riverhorse_device_list_get(list, 1000, &info), RIVERHORSE_INVALID_ARGUMENT, "index is 1000");
  EXPECT_FAILS(riverhorse_device_list_get(list, 0, nullptr), RIVERHORSE_INVALID_ARGUMENT, "info");
  EXPECT_FAILS(riverhorse_device_list_get(nullptr, 0, &info), RIVERHORSE_INVALID_ARGUMENT, "list");
  const char* text = nullptr;
  EXPECT_FAILS(riverhorse_device_list_get_absent(list, 1000, &text, &text), RIVERHORSE_INVALID_ARGUMENT, "index");
  EXPECT_FAILS(riverhorse_device_list_get_absent(list, 0, nullptr, &text), RIVERHORSE_INVALID_ARGUMENT, "backend");
  EXPECT_EQ(riverhorse_device_list_count(nullptr), 0u);
  EXPECT_EQ(riverhorse_device_list_absent_count(nullptr), 0u);
  riverhorse_device_list_free(list);
  riverhorse_device_list_free(nullptr);
}

// ------------------------------------------------------------------------------------------------------ model

TEST_F(Api, DescribesAModel) {
  riverhorse_model_options options = cpu_options();
  options.max_sessions = 3;
  riverhorse_model* model = load(hybrid_path, options);
  riverhorse_model_info info{};
  info.struct_size = sizeof info;
  ASSERT_OK(riverhorse_model_get_info(model, &info));
  EXPECT_EQ(info.dtype, RIVERHORSE_DTYPE_F32);
  EXPECT_EQ(info.embedding_width, 48);
  EXPECT_EQ(info.layer_count, 4);
  EXPECT_EQ(info.attention_layer_count, 2);
  EXPECT_EQ(info.state_size, 16);
  EXPECT_EQ(info.vocab_size, 509);
  EXPECT_EQ(info.padded_vocab_size, 512);
  EXPECT_EQ(info.max_sessions, 3);
  EXPECT_GT(info.parameter_count, 512 * 48);
  EXPECT_GT(info.device_memory_bytes, static_cast<std::uint64_t>(info.parameter_count) * 4);
  EXPECT_STREQ(info.device_id, "cpu:0");
  EXPECT_GT(std::strlen(info.device_name), 0u);

  info.struct_size = 8;
  EXPECT_FAILS(riverhorse_model_get_info(model, &info), RIVERHORSE_INVALID_ARGUMENT, "struct_size is 8");
  EXPECT_FAILS(riverhorse_model_get_info(nullptr, &info), RIVERHORSE_INVALID_ARGUMENT, "model is null");
}

TEST_F(Api, RefusesWrongModelOptions) {
  riverhorse_model* model = nullptr;
  riverhorse_model_options options = cpu_options();
  const auto load_with = [&](const riverhorse_model_options& changed) {
    return riverhorse_model_load(pure_path.c_str(), &changed, &model);
  };
  EXPECT_FAILS(riverhorse_model_load(nullptr, &options, &model), RIVERHORSE_INVALID_ARGUMENT, "path is null");
  EXPECT_FAILS(riverhorse_model_load(pure_path.c_str(), &options, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "model is null");
  EXPECT_FAILS(riverhorse_model_load("/no/such/model", &options, &model), RIVERHORSE_NOT_FOUND, "/no/such/model");
  const std::string garbage = temporary_path("garbage.safetensors");
  const std::string config = golden + "/lm/h3-pure/config.json";
  std::ofstream(garbage) << "this is no such file";
  options.config_path = config.c_str();
  EXPECT_FAILS(riverhorse_model_load(garbage.c_str(), &options, &model), RIVERHORSE_BAD_FILE, garbage);
  std::filesystem::remove(garbage);
  for (const std::uint32_t size : {0u, 4u, static_cast<std::uint32_t>(sizeof options) - 1, 4000000000u}) {
    options.struct_size = size;
    EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "struct_size");
  }
  options = cpu_options();
  options.backend = "teapot";
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "teapot");
  options = cpu_options();
  options.device = "a device that nobody has";
  EXPECT_FAILS(load_with(options), RIVERHORSE_NOT_FOUND, "a device that nobody has");
  options = cpu_options();
  options.dtype = static_cast<riverhorse_dtype>(9);
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "dtype");
  options = cpu_options();
  options.conv = static_cast<riverhorse_conv>(9);
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "conv");
  options = cpu_options();
  options.tuning = static_cast<riverhorse_tuning>(9);
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "tuning");
  options = cpu_options();
  options.max_sessions = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "max_sessions");
  options = cpu_options();
  options.context_tokens = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "context_tokens");
  options = cpu_options();
  options.prefill_piece_tokens = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "prefill_piece_tokens");
  options = cpu_options();
  options.memory_budget_bytes = 100000;
  EXPECT_FAILS(load_with(options), RIVERHORSE_OUT_OF_MEMORY, "memory budget of 0.1 MiB");
  options = cpu_options();
  options.submission_limit_ms = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "submission_limit_ms");
  options = cpu_options();
  options.config_path = "/no/such/config.json";
  EXPECT_FAILS(load_with(options), RIVERHORSE_NOT_FOUND, "/no/such/config.json");
  EXPECT_EQ(model, nullptr) << "a failure must leave the output as it was";
}

TEST_F(Api, AcceptsLongerStructsOfNewerHeaders) {
  struct Newer {
    riverhorse_model_options options;
    std::uint64_t from_the_future;
  } newer{cpu_options(), 0};
  newer.options.struct_size = sizeof newer;
  load(pure_path, newer.options);
  newer.from_the_future = 1;
  riverhorse_model* model = nullptr;
  EXPECT_FAILS(riverhorse_model_load(pure_path.c_str(), &newer.options, &model), RIVERHORSE_UNSUPPORTED,
               "does not know");
}

TEST_F(Api, EveryModelOptionIsHeard) {
  riverhorse_model_options options = cpu_options();
  options.dtype = RIVERHORSE_DTYPE_F32;
  options.conv = RIVERHORSE_CONV_FFT;
  options.device = "cpu:0";
  options.safe_shaders = 1;
  options.skip_self_test = 1;
  options.check_finite = 1;
  options.max_sessions = 1;
  options.context_tokens = 64;
  options.prefill_piece_tokens = 5;
  options.submission_limit_ms = 4;
  options.tuning = RIVERHORSE_TUNING_ON;  // of the Vulkan backend, too
  const std::string config = golden + "/lm/h3-hybrid/config.json";
  options.config_path = config.c_str();
  riverhorse_model* model = load(hybrid_path, options);
  riverhorse_session* fft = session(model, prompt);
  // Pieces of 5 tokens and the FFT give what one chunked piece gives.
  options.conv = RIVERHORSE_CONV_CHUNKED;
  options.prefill_piece_tokens = 0;
  riverhorse_session* chunked = session(load(hybrid_path, options), prompt);
  EXPECT_EQ(steps(fft, 24), steps(chunked, 24));
  riverhorse_session* second = nullptr;
  EXPECT_FAILS(riverhorse_session_create(model, nullptr, &second), RIVERHORSE_OUT_OF_MEMORY, "session");

  options.check_finite = 0;
  options.validation = 1;  // of the Vulkan backend; the cpu has nothing to validate
  load(hybrid_path, options);
}

TEST_F(Api, TuningHappensWhereItIsAskedFor) {
  if (backends().size() < 2) GTEST_SKIP() << "no Vulkan device";
  const std::filesystem::path folder = api_test::temporary_path("tuning");
  riverhorse_model_options options = cpu_options();
  options.backend = "vulkan";
  const std::string cache = folder.string();
  options.cache_folder = cache.c_str();
  options.skip_self_test = 1;
  options.prefill_piece_tokens = 16;
  const auto tuned = [&] {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().filename().string().starts_with("tiles-")) return true;
    }
    return false;
  };
  options.tuning = RIVERHORSE_TUNING_OFF;
  const std::vector<std::int32_t> tokens = steps(session(load(hybrid_path, options), prompt), 8);
  EXPECT_FALSE(tuned());
  options.tuning = RIVERHORSE_TUNING_ON;
  EXPECT_EQ(steps(session(load(hybrid_path, options), prompt), 8), tokens);
  EXPECT_TRUE(tuned());
  std::filesystem::remove_all(folder);
}

TEST_F(Api, LoadsMany) {
  for (int i = 0; i < 100; ++i) {
    riverhorse_model* model = nullptr;
    riverhorse_session* text = nullptr;
    const riverhorse_model_options options = cpu_options();
    ASSERT_OK(riverhorse_model_load(pure_path.c_str(), &options, &model));
    ASSERT_OK(riverhorse_session_create(model, nullptr, &text));
    if (i % 2 == 0) riverhorse_model_free(model);
    ASSERT_OK(riverhorse_session_append(text, prompt.data(), 3, nullptr, nullptr));
    riverhorse_session_free(text);
    if (i % 2 == 1) riverhorse_model_free(model);
  }
  riverhorse_model_free(nullptr);
  riverhorse_session_free(nullptr);
}

TEST_F(Api, ReportsAndCancelsLoading) {
  struct Calls {
    int count = 0;
    std::uint64_t last = 0, total = 0;
  } calls;
  riverhorse_model_options options = cpu_options();
  options.progress_user = &calls;
  options.progress = [](void* user, std::uint64_t done, std::uint64_t total) {
    auto* seen = static_cast<Calls*>(user);
    ++seen->count;
    seen->last = done;
    seen->total = total;
    return 0;
  };
  load(pure_path, options);
  EXPECT_GT(calls.count, 0);
  EXPECT_EQ(calls.last, calls.total);
  options.progress = [](void*, std::uint64_t, std::uint64_t) { return 1; };
  riverhorse_model* model = nullptr;
  EXPECT_FAILS(riverhorse_model_load(pure_path.c_str(), &options, &model), RIVERHORSE_CANCELLED, "cancelled");
  EXPECT_EQ(model, nullptr);
}

// The budget that is just enough is the one that was told.
TEST_F(Api, EstimatesTheMemoryThatLoadingChecks) {
  for (const char* backend : backends()) {
    riverhorse_model_options options = cpu_options();
    options.backend = backend;
    options.skip_self_test = 1;
    options.max_sessions = 3;
    riverhorse_memory_estimate estimate{}, longer{};
    estimate.struct_size = longer.struct_size = sizeof estimate;
    ASSERT_OK(riverhorse_model_estimate_memory(hybrid_path.c_str(), &options, &estimate));
    EXPECT_GT(estimate.weights_bytes, 512u * 48 * 4);
    EXPECT_GT(estimate.sessions_bytes, 0u);
    EXPECT_EQ(estimate.frames_bytes, 0u);
    EXPECT_EQ(estimate.total_bytes, estimate.weights_bytes + estimate.sessions_bytes + estimate.workspace_bytes);
    EXPECT_GT(estimate.available_bytes, estimate.total_bytes);
    options.context_tokens = 4096;
    ASSERT_OK(riverhorse_model_estimate_memory(hybrid_path.c_str(), &options, &longer));
    EXPECT_EQ(longer.weights_bytes, estimate.weights_bytes);
    EXPECT_GT(longer.sessions_bytes, estimate.sessions_bytes);
    options.context_tokens = 0;

    riverhorse_model* model = nullptr;
    options.memory_budget_bytes = estimate.total_bytes - 1;
    ASSERT_OK(riverhorse_model_estimate_memory(hybrid_path.c_str(), &options, &longer));
    EXPECT_EQ(longer.available_bytes, estimate.total_bytes - 1) << backend;
    EXPECT_EQ(longer.total_bytes, estimate.total_bytes) << backend;
    EXPECT_FAILS(riverhorse_model_load(hybrid_path.c_str(), &options, &model), RIVERHORSE_OUT_OF_MEMORY, "needs");
    options.memory_budget_bytes = estimate.total_bytes;
    load(hybrid_path, options);
  }
  riverhorse_memory_estimate estimate{};
  EXPECT_FAILS(riverhorse_model_estimate_memory(hybrid_path.c_str(), nullptr, &estimate), RIVERHORSE_INVALID_ARGUMENT,
               "estimate.struct_size");
  EXPECT_FAILS(riverhorse_model_estimate_memory(hybrid_path.c_str(), nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "estimate is null");
  EXPECT_FAILS(riverhorse_model_estimate_memory(nullptr, nullptr, &estimate), RIVERHORSE_INVALID_ARGUMENT,
               "path is null");
  riverhorse_model_options wrong = cpu_options();
  wrong.max_sessions = 70000;
  EXPECT_FAILS(riverhorse_model_estimate_memory(hybrid_path.c_str(), &wrong, &estimate), RIVERHORSE_INVALID_ARGUMENT,
               "max_sessions is 70000");
  EXPECT_FAILS(riverhorse_model_estimate_memory("/no/such/model", nullptr, &estimate), RIVERHORSE_NOT_FOUND,
               "/no/such/model");
}

TEST_F(Api, OpensTheDeviceOfAUuid) {
  riverhorse_device_list* list = nullptr;
  ASSERT_OK(riverhorse_list_devices(&list));
  bool opened = false;
  for (std::size_t i = 0; i < riverhorse_device_list_count(list) && !opened; ++i) {
    riverhorse_device_info info{};
    info.struct_size = sizeof info;
    ASSERT_OK(riverhorse_device_list_get(list, i, &info));
    if (std::string(info.backend) != "vulkan") continue;
    std::string uuid;
    for (const std::uint8_t byte : info.uuid) {
      const char* digits = "0123456789abcdef";
      uuid += {digits[byte >> 4], digits[byte & 15]};
    }
    riverhorse_model_options options = cpu_options();
    options.backend = "vulkan";
    options.device = uuid.c_str();
    options.skip_self_test = 1;
    riverhorse_model* model = load(pure_path, options);
    riverhorse_model_info loaded{};
    loaded.struct_size = sizeof loaded;
    ASSERT_OK(riverhorse_model_get_info(model, &loaded));
    EXPECT_STREQ(loaded.device_name, info.name);
    opened = true;
  }
  riverhorse_device_list_free(list);
  riverhorse_model* model = nullptr;
  riverhorse_model_options options = cpu_options();
  options.device = "00112233-4455-6677-8899-aabbccddeeff";
  EXPECT_FAILS(riverhorse_model_load(pure_path.c_str(), &options, &model), RIVERHORSE_NOT_FOUND, "no device has");
  if (!opened) GTEST_SKIP() << "no device by its UUID: there is no Vulkan device here";
}

TEST_F(Api, EncodesAndDecodes) {
  riverhorse_model* model = load(pure_path);
  riverhorse_model_info info{};
  info.struct_size = sizeof info;
  ASSERT_OK(riverhorse_model_get_info(model, &info));
  ASSERT_EQ(info.has_tokenizer, 1);
  EXPECT_EQ(info.end_of_text, 256);
  EXPECT_EQ(info.tokenizer_vocab_size, 257);

  const std::string text = "hip\xc3\xa9 \xff";
  std::int32_t ids[16];
  std::size_t count = 0;
  ASSERT_OK(riverhorse_model_encode(model, text.data(), text.size(), 0, nullptr, 0, &count));
  ASSERT_EQ(count, text.size());
  ASSERT_OK(riverhorse_model_encode(model, text.data(), text.size(), 0, ids, 16, &count));
  EXPECT_EQ(ids[0], 'h');
  char decoded[16];
  std::size_t size = 0;
  ASSERT_OK(riverhorse_model_decode(model, ids, count, decoded, sizeof decoded, &size));
  EXPECT_EQ(std::string(decoded, size), text);
  ASSERT_OK(riverhorse_model_encode(model, nullptr, 0, 0, ids, 16, &count));
  EXPECT_EQ(count, 0u);
  ASSERT_OK(riverhorse_model_encode(model, "<|endoftext|>", 13, 1, ids, 16, &count));
  EXPECT_EQ(count, 1u);
  EXPECT_EQ(ids[0], 256);

  EXPECT_FAILS(riverhorse_model_encode(model, text.data(), text.size(), 0, ids, 2, &count),
               RIVERHORSE_INVALID_ARGUMENT, "room for 2");
  EXPECT_EQ(count, text.size()) << "the number needed is told all the same";
  EXPECT_FAILS(riverhorse_model_encode(model, nullptr, 3, 0, ids, 16, &count), RIVERHORSE_INVALID_ARGUMENT, "text");
  EXPECT_FAILS(riverhorse_model_encode(model, "a", 1, 0, ids, 16, nullptr), RIVERHORSE_INVALID_ARGUMENT, "count");
  EXPECT_FAILS(riverhorse_model_encode(nullptr, "a", 1, 0, ids, 16, &count), RIVERHORSE_INVALID_ARGUMENT, "model");
  ids[0] = 5000;
  EXPECT_FAILS(riverhorse_model_decode(model, ids, 1, decoded, sizeof decoded, &size), RIVERHORSE_INVALID_ARGUMENT,
               "5000");
  EXPECT_FAILS(riverhorse_model_decode(model, nullptr, 1, decoded, 1, &size), RIVERHORSE_INVALID_ARGUMENT, "ids");
  EXPECT_FAILS(riverhorse_model_decode(model, ids, 1, decoded, 1, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "text_bytes");
}

// ------------------------------------------------------------------------------------------------ doors tried

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_GT(text.str().size(), 0u) << path;
  return text.str();
}

std::string read_headers() {
  std::string headers;
  for (const auto& entry : std::filesystem::directory_iterator(RIVERHORSE_SOURCE_DIR "/include/riverhorse")) {
    if (entry.path().extension() == ".h") headers += read_file(entry.path().string());
  }
  return headers;
}

// By one of the words that the top of riverhorse.h explains.
TEST(ApiDoors, EveryPublicFunctionSaysWhichThreadsMayCallIt) {
  const std::string headers = read_headers();
  const std::regex declaration("\n(RIVERHORSE_API [^;]*?(riverhorse_\\w+)\\()");
  const std::regex rule("Threads: (any|turn|alone)[.,]");
  int count = 0;
  for (std::sregex_iterator it(headers.begin(), headers.end(), declaration), end; it != end; ++it, ++count) {
    const std::string name = (*it)[2];
    const std::string before = headers.substr(0, static_cast<std::size_t>(it->position(1)));
    ASSERT_TRUE(before.ends_with("*/\n")) << name << " has no comment";
    const std::string comment = before.substr(before.rfind("/*"));
    std::smatch word;
    ASSERT_TRUE(std::regex_search(comment, word, rule)) << name << " does not say which threads may call it";
    EXPECT_EQ(word[1] == "alone", name.ends_with("_free")) << name;
    EXPECT_NE(headers.find("\"" + word[1].str() + "\":"), std::string::npos) << "the top explains " << word[1];
  }
  EXPECT_GE(count, 75);
}

TEST(ApiDoors, EveryPublicFunctionIsTested) {
  const std::string header = read_headers();
  std::string tests;
  for (const auto& entry : std::filesystem::directory_iterator(RIVERHORSE_SOURCE_DIR "/tests")) {
    if (entry.path().filename().string().starts_with("api_")) tests += read_file(entry.path().string());
  }
  const std::regex function("RIVERHORSE_API [^;]*?(riverhorse_\\w+)\\(");
  int count = 0;
  for (std::sregex_iterator it(header.begin(), header.end(), function), end; it != end; ++it, ++count) {
    EXPECT_NE(tests.find((*it)[1].str() + "("), std::string::npos) << (*it)[1] << " is not called in any test";
  }
  EXPECT_GE(count, 30) << "the pattern finds the declarations";
  const std::regex member("^  (?:const )?[a-z_0-9]+(?: const)?\\*? ?\\*?([a-z_]+)(?:\\[\\d+\\])?;",
                          std::regex::multiline);
  for (std::sregex_iterator it(header.begin(), header.end(), member), end; it != end; ++it) {
    EXPECT_NE(tests.find((*it)[1].str()), std::string::npos)
        << "the member " << (*it)[1] << " is not used in any test";
  }
}

// What users copy stays short.
TEST(ApiDoors, SamplesHaveFewerThan150Lines) {
  for (const char* name : {"minimal_c", "minimal_cpp", "adopt_device", "record_into_frame", "npc_batch"}) {
    std::ptrdiff_t lines = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(RIVERHORSE_SOURCE_DIR "/samples/" + std::string(name))) {
      const std::string text = read_file(entry.path().string());
      lines += std::count(text.begin(), text.end(), '\n');
    }
    EXPECT_GT(lines, 0) << name;
    EXPECT_LT(lines, 150) << name;
  }
}

}  // namespace
}  // namespace api_test
