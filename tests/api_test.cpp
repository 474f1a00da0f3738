// The C API: every function does what its comment says, and every misuse gets a status code and a message.
#include <gtest/gtest.h>
#include <riverhorse/riverhorse.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

const std::string golden = RIVERHORSE_TEST_DATA;
const std::string pure_path = golden + "/lm/h3-pure/model.pt";      // 512 tokens: the byte tokenizer fits
const std::string hybrid_path = golden + "/lm/h3-hybrid/model.pt";  // two attention layers, 509 tokens in 512 rows

std::string temporary_path(const std::string& name) {
  return (std::filesystem::path(testing::TempDir()) / ("api_test_" + std::to_string(getpid()) + "_" + name)).string();
}

riverhorse_model_options cpu_options() {
  riverhorse_model_options options{};
  options.struct_size = sizeof options;
  options.backend = "cpu";
  options.cache_folder = "none";
  return options;
}

riverhorse_sampling_options sampling_options() {
  riverhorse_sampling_options options{};
  options.struct_size = sizeof options;
  return options;
}

riverhorse_generate_options generate_options(std::int64_t max_tokens) {
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

const std::vector<std::int32_t> prompt = {404, 213, 188, 151, 446, 322, 145, 291,
                                          334, 53,  485, 55,  482, 354, 429, 119};

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
  options.max_sessions = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "max_sessions");
  options = cpu_options();
  options.context_tokens = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "context_tokens");
  options = cpu_options();
  options.prefill_piece_tokens = -1;
  EXPECT_FAILS(load_with(options), RIVERHORSE_INVALID_ARGUMENT, "prefill_piece_tokens");
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

// --------------------------------------------------------------------------------------------------- sessions

TEST_F(Api, DrawsTheGoldenTokens) {
  const std::vector<std::int32_t> continuation = {288, 373, 373, 373, 373, 373, 373, 373, 191, 191, 360, 497,
                                                  113, 113, 113, 79,  79,  79,  79,  79,  142, 80,  90,  34};
  riverhorse_model* model = load(hybrid_path);
  EXPECT_EQ(steps(session(model, prompt), 24), continuation);
  // The original's script may draw the padding columns: token 509 comes 15th.
  riverhorse_sampling_options padded = sampling_options();
  padded.padded_vocabulary = 1;
  EXPECT_EQ(steps(session(model, prompt, &padded), 15).back(), 509);
  riverhorse_sampling_options bytes = sampling_options();
  bytes.vocabulary_limit = 257;
  for (const std::int32_t token : steps(session(model, prompt, &bytes), 24)) EXPECT_LT(token, 257);
}

TEST_F(Api, AppendsInPiecesAndCancels) {
  riverhorse_model_options options = cpu_options();
  options.prefill_piece_tokens = 4;
  riverhorse_model* model = load(hybrid_path, options);
  std::vector<std::uint64_t> calls;
  riverhorse_session* text = session(model);
  ASSERT_OK(riverhorse_session_append(
      text, prompt.data(), prompt.size(),
      [](void* user, std::uint64_t done, std::uint64_t total) {
        auto* seen = static_cast<std::vector<std::uint64_t>*>(user);
        EXPECT_GT(done, seen->empty() ? 0 : seen->back());
        EXPECT_LE(done, total);
        seen->push_back(done);
        return 0;
      },
      &calls));
  EXPECT_GE(calls.size(), 4u) << "16 tokens in pieces of 4; the newest token may wait for the next step";
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()));

  riverhorse_session* stopped = session(model);
  EXPECT_FAILS(
      riverhorse_session_append(
          stopped, prompt.data(), prompt.size(), [](void*, std::uint64_t, std::uint64_t) { return 1; }, nullptr),
      RIVERHORSE_CANCELLED, "");
  const std::int64_t position = riverhorse_session_position(stopped);
  EXPECT_LT(position, static_cast<std::int64_t>(prompt.size()));
  // What was read is good: the rest brings the same text.
  ASSERT_OK(riverhorse_session_append(stopped, prompt.data() + position,
                                      prompt.size() - static_cast<std::size_t>(position), nullptr, nullptr));
  EXPECT_EQ(steps(stopped, 8), steps(text, 8));

  const std::vector<std::int32_t> bad = {1, 2, 512};
  EXPECT_FAILS(riverhorse_session_append(text, bad.data(), bad.size(), nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "512");
  EXPECT_EQ(riverhorse_session_position(text), static_cast<std::int64_t>(prompt.size()) + 8);
  EXPECT_FAILS(riverhorse_session_append(text, nullptr, 2, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "ids");
}

TEST_F(Api, StepsTogetherAsAlone) {
  riverhorse_model* model = load(hybrid_path);
  riverhorse_model* other = load(pure_path);
  riverhorse_session* a = session(model, prompt);
  riverhorse_session* b = session(model, {7, 8, 9});
  const auto alone_a = [&] {
    riverhorse_session* clone = nullptr;
    EXPECT_OK(riverhorse_session_clone(a, &clone));
    sessions_.push_back(clone);
    return steps(clone, 4);
  }();
  riverhorse_session* pair[2] = {b, a};
  std::vector<std::int32_t> together_a;
  for (int i = 0; i < 4; ++i) {
    std::int32_t tokens[2] = {-1, -1};
    ASSERT_OK(riverhorse_sessions_step(pair, 2, tokens));
    together_a.push_back(tokens[1]);
  }
  EXPECT_EQ(together_a, alone_a);
  EXPECT_EQ(riverhorse_session_position(b), 7);

  std::int32_t tokens[2];
  EXPECT_OK(riverhorse_sessions_step(nullptr, 0, nullptr));
  EXPECT_FAILS(riverhorse_sessions_step(nullptr, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "sessions");
  EXPECT_FAILS(riverhorse_sessions_step(pair, 2, nullptr), RIVERHORSE_INVALID_ARGUMENT, "tokens");
  riverhorse_session* twice[2] = {a, a};
  EXPECT_FAILS(riverhorse_sessions_step(twice, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "twice");
  riverhorse_session* mixed[2] = {a, session(other, {1})};
  EXPECT_FAILS(riverhorse_sessions_step(mixed, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "another model");
  riverhorse_session* with_null[2] = {a, nullptr};
  EXPECT_FAILS(riverhorse_sessions_step(with_null, 2, tokens), RIVERHORSE_INVALID_ARGUMENT, "null");
}

TEST_F(Api, RefusesAnEmptyText) {
  riverhorse_session* empty = session(load(pure_path));
  std::int32_t token = 0;
  std::size_t count = 0;
  EXPECT_FAILS(riverhorse_session_step(empty, &token), RIVERHORSE_INVALID_ARGUMENT, "");
  EXPECT_FAILS(riverhorse_session_get_logits(empty, nullptr, 0, &count), RIVERHORSE_INVALID_ARGUMENT, "");
  EXPECT_FAILS(riverhorse_session_generate(empty, nullptr, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "");
  EXPECT_EQ(riverhorse_session_position(empty), 0);
}

TEST_F(Api, GivesLogits) {
  riverhorse_session* text = session(load(hybrid_path), prompt);
  const std::vector<float> logits = logits_of(text);
  ASSERT_EQ(logits.size(), 512u);
  const auto best = std::max_element(logits.begin(), logits.end() - 3) - logits.begin();
  EXPECT_EQ(steps(text, 1)[0], best);
  std::size_t count = 0;
  float few[4];
  EXPECT_FAILS(riverhorse_session_get_logits(text, few, 4, &count), RIVERHORSE_INVALID_ARGUMENT, "512");
  EXPECT_FAILS(riverhorse_session_get_logits(text, few, 4, nullptr), RIVERHORSE_INVALID_ARGUMENT, "count");
  EXPECT_FAILS(riverhorse_session_get_tokens(text, nullptr, 0, nullptr), RIVERHORSE_INVALID_ARGUMENT, "count");
}

TEST_F(Api, SamplesAsTold) {
  riverhorse_model* model = load(hybrid_path);
  riverhorse_sampling_options sampling = sampling_options();
  sampling.temperature = 1.5;
  sampling.top_k = 100;
  sampling.top_p = 0.95;
  sampling.min_p = 0.001;
  sampling.repetition_penalty = 1.1;
  sampling.presence_penalty = 0.1;
  sampling.frequency_penalty = 0.1;
  sampling.seed = 11;
  riverhorse_session* text = session(model, prompt, &sampling);
  const std::vector<std::int32_t> drawn = steps(text, 16);
  EXPECT_EQ(steps(session(model, prompt, &sampling), 16), drawn) << "the same seed draws the same tokens";
  sampling.seed = 12;
  EXPECT_NE(steps(session(model, prompt, &sampling), 16), drawn);

  const riverhorse_logit_bias bias = {77, 1000.0f};
  sampling = sampling_options();
  sampling.logit_bias = &bias;
  sampling.logit_bias_count = 1;
  ASSERT_OK(riverhorse_session_set_sampling(text, &sampling));
  EXPECT_EQ(steps(text, 3), (std::vector<std::int32_t>{77, 77, 77}));
  sampling.logit_bias = nullptr;
  EXPECT_FAILS(riverhorse_session_set_sampling(text, &sampling), RIVERHORSE_INVALID_ARGUMENT, "logit_bias");
  ASSERT_OK(riverhorse_session_set_sampling(text, nullptr));

  const auto refuses = [&](auto change, const char* field) {
    riverhorse_sampling_options wrong = sampling_options();
    change(wrong);
    EXPECT_FAILS(riverhorse_session_set_sampling(text, &wrong), RIVERHORSE_INVALID_ARGUMENT, field);
  };
  refuses([](auto& s) { s.temperature = -1; }, "temperature");
  refuses([](auto& s) { s.temperature = std::nan(""); }, "temperature");
  refuses([](auto& s) { s.top_k = -1; }, "top_k");
  refuses([](auto& s) { s.top_p = 1.5; }, "top_p");
  refuses([](auto& s) { s.vocabulary_limit = -1; }, "vocabulary_limit");
  refuses([](auto& s) { s.vocabulary_limit = 5000; }, "vocabulary_limit");
  refuses([](auto& s) { s.min_p = -0.5; }, "min_p");
  refuses([](auto& s) { s.repetition_penalty = -1; }, "repetition_penalty");
  refuses([](auto& s) { s.presence_penalty = std::nan(""); }, "presence_penalty");
  refuses([](auto& s) { s.frequency_penalty = std::nan(""); }, "frequency_penalty");
  refuses([](auto& s) { s.struct_size = 1; }, "struct_size");
}

struct Collected {
  std::vector<std::int32_t> tokens;
  std::string text;
  int stop_after = 1000;
};

int collect(void* user, std::int32_t token, const char* text, std::size_t text_bytes) {
  auto* collected = static_cast<Collected*>(user);
  if (token >= 0) collected->tokens.push_back(token);
  collected->text.append(text, text_bytes);
  return static_cast<int>(collected->tokens.size()) >= collected->stop_after ? 1 : 0;
}

// A session whose tokens are forced by a large bias, so that the text is known.
class ApiGenerate : public Api {
 protected:
  void SetUp() override { model_ = load(pure_path); }

  riverhorse_session* forced(std::int32_t token) {
    bias_ = {token, 1000.0f};
    riverhorse_sampling_options sampling = sampling_options();
    sampling.logit_bias = &bias_;
    sampling.logit_bias_count = 1;
    return session(model_, {1, 2, 3}, &sampling);
  }

  riverhorse_generate_result run(riverhorse_session* text, const riverhorse_generate_options& options,
                                 Collected& collected) {
    riverhorse_generate_result result{};
    result.struct_size = sizeof result;
    EXPECT_OK(riverhorse_session_generate(text, &options, collect, &collected, &result));
    return result;
  }

  riverhorse_model* model_ = nullptr;
  riverhorse_logit_bias bias_{};
};

TEST_F(ApiGenerate, DrawsWhatStepsDraw) {
  Collected collected;
  riverhorse_session* text = session(model_, {1, 2, 3});
  const auto result = run(text, generate_options(20), collected);
  EXPECT_EQ(result.token_count, 20);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
  EXPECT_GT(result.seconds, 0.0);
  EXPECT_EQ(collected.tokens, steps(session(model_, {1, 2, 3}), 20));
  EXPECT_EQ(tokens_of(text).size(), 23u);
}

TEST_F(ApiGenerate, StopsAtTheCallbacksWish) {
  Collected collected;
  collected.stop_after = 5;
  riverhorse_session* text = session(model_, {1, 2, 3});
  const auto result = run(text, generate_options(20), collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CALLBACK);
  EXPECT_EQ(result.token_count, 5);
  EXPECT_EQ(riverhorse_session_position(text), 8);
  // ... and goes on as if it had not stopped.
  riverhorse_session* whole = session(model_, {1, 2, 3});
  steps(whole, 5);
  EXPECT_EQ(steps(text, 6), steps(whole, 6));
}

TEST_F(ApiGenerate, StopsAtEndOfText) {
  riverhorse_session* text = forced(256);
  Collected collected;
  riverhorse_generate_options options = generate_options(20);
  options.ignore_end_of_text = 0;
  const auto result = run(text, options, collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_END_OF_TEXT);
  EXPECT_EQ(result.token_count, 1);
  EXPECT_EQ(collected.text, "");
  options.ignore_end_of_text = 1;
  EXPECT_EQ(run(text, options, collected).token_count, 20);
}

TEST_F(ApiGenerate, StopsAtStopStrings) {
  const char* stops[] = {"zz", "aaa"};
  riverhorse_generate_options options = generate_options(20);
  options.stop_strings = stops;
  options.stop_string_count = 2;
  Collected collected;
  auto result = run(forced('a'), options, collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_STRING);
  EXPECT_EQ(result.token_count, 3);
  EXPECT_EQ(collected.text, "") << "nothing of the stop string is passed on";

  // The beginning of a stop string is held back, and comes at the end when nothing follows.
  options.max_tokens = 2;
  collected = {};
  result = run(forced('a'), options, collected);
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_MAX_TOKENS);
  EXPECT_EQ(collected.text, "aa");

  const char* wrong[] = {nullptr};
  options.stop_strings = wrong;
  options.stop_string_count = 1;
  riverhorse_session* text = forced('a');
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "stop_strings");
  options.stop_strings = nullptr;
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "stop_strings");
  options = generate_options(-1);
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "max_tokens");
  riverhorse_generate_result unsized{};
  options = generate_options(1);
  EXPECT_FAILS(riverhorse_session_generate(text, &options, nullptr, nullptr, &unsized), RIVERHORSE_INVALID_ARGUMENT,
               "struct_size");
  EXPECT_EQ(riverhorse_session_position(text), 3) << "a refused call draws nothing";
}

TEST_F(ApiGenerate, PassesOnWholeCharactersOnly) {
  Collected collected;
  run(forced(0xc3), generate_options(3), collected);  // the first byte of a pair, three times: never a character
  EXPECT_EQ(collected.text, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST_F(ApiGenerate, RefusesSessionFunctionsInCallbacks) {
  struct Inner {
    riverhorse_session* session;
    riverhorse_model* model;
    riverhorse_status step = RIVERHORSE_OK, decode = RIVERHORSE_INTERNAL;
    std::int64_t position = 0;
  } inner{session(model_, {1, 2, 3}), model_};
  const riverhorse_generate_options options = generate_options(2);
  ASSERT_OK(riverhorse_session_generate(
      inner.session, &options,
      [](void* user, std::int32_t, const char*, std::size_t) {
        auto* self = static_cast<Inner*>(user);
        std::int32_t token = 'a';
        std::size_t size = 0;
        self->decode = riverhorse_model_decode(self->model, &token, 1, nullptr, 0, &size);
        self->step = riverhorse_session_step(self->session, &token);
        self->position = riverhorse_session_position(self->session);
        riverhorse_session_free(self->session);
        return 0;
      },
      &inner, nullptr));
  EXPECT_EQ(inner.decode, RIVERHORSE_OK);
  EXPECT_EQ(inner.step, RIVERHORSE_INVALID_ARGUMENT);
  EXPECT_EQ(inner.position, -1);
  EXPECT_EQ(riverhorse_session_position(inner.session), 5) << "the session is alive";
}

TEST_F(Api, ClonesCheckpointsRewindsAndClears) {
  riverhorse_session* text = session(load(hybrid_path), prompt);
  ASSERT_OK(riverhorse_session_checkpoint(text));
  const std::vector<std::int32_t> drawn = steps(text, 6);
  riverhorse_session* clone = nullptr;
  ASSERT_OK(riverhorse_session_clone(text, &clone));
  sessions_.push_back(clone);
  const std::vector<std::int32_t> next = steps(text, 6);
  EXPECT_EQ(steps(clone, 6), next);

  const auto length = static_cast<std::int64_t>(prompt.size());
  std::int64_t again = -1;
  ASSERT_OK(riverhorse_session_rewind(text, length, &again));
  EXPECT_LE(again, 1) << "the state was remembered there";
  EXPECT_EQ(steps(text, 6), drawn);
  ASSERT_OK(riverhorse_session_rewind(text, length + 3, nullptr));
  EXPECT_EQ(steps(text, 3), (std::vector<std::int32_t>{drawn[3], drawn[4], drawn[5]}));
  EXPECT_FAILS(riverhorse_session_rewind(text, length + 7, &again), RIVERHORSE_INVALID_ARGUMENT, "");
  EXPECT_FAILS(riverhorse_session_rewind(text, -1, &again), RIVERHORSE_INVALID_ARGUMENT, "");
  ASSERT_OK(riverhorse_session_clear(text));
  EXPECT_EQ(riverhorse_session_position(text), 0);
  ASSERT_OK(riverhorse_session_append(text, prompt.data(), prompt.size(), nullptr, nullptr));
  EXPECT_EQ(steps(text, 6), drawn);
}

TEST_F(Api, SavesAndLoads) {
  const std::string path = temporary_path("session");
  riverhorse_model* model = load(hybrid_path);
  riverhorse_sampling_options sampling = sampling_options();
  sampling.temperature = 1.0;
  sampling.seed = 3;
  riverhorse_session* text = session(model, prompt, &sampling);
  steps(text, 5);
  ASSERT_OK(riverhorse_session_save(text, path.c_str()));
  const std::vector<std::int32_t> next = steps(text, 10);

  // In another model object, as another process would.
  riverhorse_session* loaded = session(load(hybrid_path));
  std::int64_t reused = 0;
  ASSERT_OK(riverhorse_session_load(loaded, path.c_str(), &reused));
  EXPECT_EQ(reused, static_cast<std::int64_t>(prompt.size()) + 5);
  EXPECT_EQ(steps(loaded, 10), next);

  riverhorse_session* other = session(load(pure_path), {4, 5});
  EXPECT_FAILS(riverhorse_session_load(other, path.c_str(), &reused), RIVERHORSE_BAD_FILE, path);
  EXPECT_EQ(tokens_of(other), (std::vector<std::int32_t>{4, 5})) << "a failure leaves the session as it was";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  EXPECT_FAILS(riverhorse_session_load(loaded, path.c_str(), nullptr), RIVERHORSE_BAD_FILE, path);
  std::filesystem::remove(path);
  EXPECT_FAILS(riverhorse_session_load(loaded, path.c_str(), nullptr), RIVERHORSE_NOT_FOUND, path);
  EXPECT_FAILS(riverhorse_session_save(text, "/no/such/folder/file"), RIVERHORSE_IO_ERROR, "/no/such/folder");
}

TEST_F(Api, RefusesNullSessions) {
  std::int32_t token = 0;
  std::int64_t position = 0;
  std::size_t count = 0;
  riverhorse_session* out = nullptr;
  EXPECT_FAILS(riverhorse_session_create(nullptr, nullptr, &out), RIVERHORSE_INVALID_ARGUMENT, "model is null");
  EXPECT_FAILS(riverhorse_session_create(load(pure_path), nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "session");
  EXPECT_EQ(riverhorse_session_position(nullptr), -1);
  for (const riverhorse_status status :
       {riverhorse_session_set_sampling(nullptr, nullptr),
        riverhorse_session_append(nullptr, &token, 1, nullptr, nullptr), riverhorse_session_step(nullptr, &token),
        riverhorse_session_generate(nullptr, nullptr, nullptr, nullptr, nullptr),
        riverhorse_session_get_tokens(nullptr, nullptr, 0, &count),
        riverhorse_session_get_logits(nullptr, nullptr, 0, &count), riverhorse_session_clone(nullptr, &out),
        riverhorse_session_checkpoint(nullptr), riverhorse_session_rewind(nullptr, 0, &position),
        riverhorse_session_clear(nullptr), riverhorse_session_save(nullptr, "x"),
        riverhorse_session_load(nullptr, "x", &position)}) {
    EXPECT_EQ(status, RIVERHORSE_INVALID_ARGUMENT);
    EXPECT_NE(std::strstr(riverhorse_last_error(), "session is null"), nullptr);
  }
  riverhorse_session* text = session(models_[0], {1});
  EXPECT_FAILS(riverhorse_session_step(text, nullptr), RIVERHORSE_INVALID_ARGUMENT, "token");
  EXPECT_FAILS(riverhorse_session_clone(text, nullptr), RIVERHORSE_INVALID_ARGUMENT, "copy");
  EXPECT_FAILS(riverhorse_session_save(text, nullptr), RIVERHORSE_INVALID_ARGUMENT, "path");
  EXPECT_FAILS(riverhorse_session_load(text, nullptr, nullptr), RIVERHORSE_INVALID_ARGUMENT, "path");
}

// ---------------------------------------------------------------------------------------------------- threads

TEST_F(Api, TwoModelsWorkInTwoThreads) {
  riverhorse_model* pure = load(pure_path);
  riverhorse_model* hybrid = load(hybrid_path);
  const std::vector<std::int32_t> expected_pure = steps(session(pure, {1, 2, 3}), 20);
  const std::vector<std::int32_t> expected_hybrid = steps(session(hybrid, prompt), 20);
  riverhorse_session* a = session(pure, {1, 2, 3});
  riverhorse_session* b = session(hybrid, prompt);
  std::vector<std::int32_t> drawn_a, drawn_b;
  std::thread first([&] { drawn_a = steps(a, 20); });
  std::thread second([&] { drawn_b = steps(b, 20); });
  first.join();
  second.join();
  EXPECT_EQ(drawn_a, expected_pure);
  EXPECT_EQ(drawn_b, expected_hybrid);
}

TEST_F(Api, OneModelTakesCallsInTurn) {
  riverhorse_model* model = load(hybrid_path);
  const std::vector<std::int32_t> expected = steps(session(model, prompt), 12);
  riverhorse_session* texts[3] = {session(model, prompt), session(model, prompt), session(model, prompt)};
  std::vector<std::int32_t> drawn[3];
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&, i] { drawn[i] = steps(texts[i], 12); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& tokens : drawn) EXPECT_EQ(tokens, expected);
}

// ------------------------------------------------------------------------------------------------ doors tried

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_GT(text.str().size(), 0u) << path;
  return text.str();
}

TEST(ApiDoors, EveryPublicFunctionIsTested) {
  const std::string header = read_file(RIVERHORSE_SOURCE_DIR "/include/riverhorse/riverhorse.h");
  const std::string tests = read_file(RIVERHORSE_SOURCE_DIR "/tests/api_test.cpp");
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

}  // namespace
