// Sequences of calls of the C API, valid and not, on a small model: the bytes of the input choose functions, handles
// and arguments. Whatever is called, nothing crashes, no status is RIVERHORSE_INTERNAL, and a session's tokens are as
// many as its position says.
#include <riverhorse/vulkan.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <utility>

#include "fuzz/fuzz_target.h"

namespace {

const std::string model_folder = RIVERHORSE_TEST_DATA "/lm/h3-hybrid";
constexpr std::size_t handles = 4;

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

struct Archive {
  std::string config = read_file(model_folder + "/config.json");
  std::string weights = read_file(model_folder + "/model.pt");
};

const Archive& archive() {
  static const Archive files;
  return files;
}

riverhorse_model_options model_options() {
  riverhorse_model_options options{};
  options.struct_size = sizeof options;
  options.backend = "cpu";
  options.cache_folder = "none";
  options.skip_self_test = 1;
  options.max_sessions = handles - 1;
  options.context_tokens = 16;
  options.prefill_piece_tokens = 4;
  return options;
}

class Calls {
 public:
  Calls(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {
    riverhorse_set_log_callback(nullptr, nullptr);
    const riverhorse_model_options options = model_options();
    const std::array<riverhorse_model_file, 2> files = {
        {{"config.json", archive().config.data(), archive().config.size()},
         {"model.pt", archive().weights.data(), archive().weights.size()}}};
    check(riverhorse_model_load_memory(files.data(), files.size(), &options, &model_));
  }
  ~Calls() {
    if (next() % 2 == 0) riverhorse_model_free(std::exchange(model_, nullptr));
    for (riverhorse_session* session : sessions_) riverhorse_session_free(session);
    riverhorse_model_free(model_);
  }
  Calls(const Calls&) = delete;
  Calls& operator=(const Calls&) = delete;

  void run() {
    while (position_ < size_) {
      call();
      riverhorse_session* const any = sessions_[position_ % handles];
      if (any == nullptr) continue;
      std::size_t count = 0;
      const std::int64_t before = riverhorse_session_position(any);
      check(riverhorse_session_get_tokens(any, nullptr, 0, &count));
      const std::int64_t after = riverhorse_session_position(any);  // the library's thread may go on in between
      if (static_cast<std::int64_t>(count) < std::min(before, after)) __builtin_trap();
      if (static_cast<std::int64_t>(count) > std::max(before, after)) __builtin_trap();
    }
  }

 private:
  std::uint8_t next() { return position_ < size_ ? data_[position_++] : 0; }
  riverhorse_session*& handle() { return sessions_[next() % handles]; }
  static void check(riverhorse_status status) {
    if (status < RIVERHORSE_OK || status >= RIVERHORSE_INTERNAL) __builtin_trap();
    if (status != RIVERHORSE_OK && riverhorse_last_error()[0] == '\0') __builtin_trap();
  }
  double number() {
    constexpr double values[] = {0, 1, 0.5, 1.5, -1, 1e300, std::numeric_limits<double>::quiet_NaN(), 100};
    return values[next() % std::size(values)];
  }
  template <typename Struct>
  void size_it(Struct& value) {
    const std::uint8_t kind = next();
    value.struct_size = kind % 16 == 0 ? kind / 16 : sizeof(Struct);
  }
  std::vector<std::int32_t> ids() {
    std::vector<std::int32_t> result(next() % 24);
    for (std::int32_t& id : result) id = next() * 2 - (next() % 32 == 0 ? 700 : 0);
    return result;
  }
  riverhorse_sampling_options sampling() {
    riverhorse_sampling_options options{};
    size_it(options);
    if (next() % 2 == 0) return options;
    options.temperature = number();
    options.top_k = next() * 4 - 100;
    options.top_p = number();
    options.repetition_penalty = number();
    options.seed = next();
    options.vocabulary_limit = next() * 4 - 100;
    bias_ = {next() * 4 - 100, static_cast<float>(number())};
    options.logit_bias = next() % 8 == 0 ? nullptr : &bias_;
    options.logit_bias_count = next() % 2;
    return options;
  }
  riverhorse_generate_options generation() {
    riverhorse_generate_options options{};
    size_it(options);
    options.max_tokens = next() % 8 == 0 ? -1 : 1 + next() % 8;
    options.ignore_end_of_text = next() % 2;
    options.stop_strings = next() % 8 == 0 ? nullptr : stops_;
    options.stop_string_count = next() % 4 == 0 ? 1 : 0;
    return options;
  }
  // Calls what a callback may and may not call, and stops now and then.
  static int on_token(void* user, std::int32_t token, const char* text, std::size_t bytes) {
    Calls& self = *static_cast<Calls*>(user);
    if (bytes > 0 && text == nullptr) __builtin_trap();
    std::size_t size = 0;
    if (token >= 0) check(riverhorse_model_decode(self.model_, &token, 1, nullptr, 0, &size));
    check(riverhorse_session_step(self.sessions_[0], &token));
    check(riverhorse_session_poll(self.sessions_[1], nullptr, nullptr, nullptr));
    return token % 7 == 3 ? 1 : 0;
  }
  static int on_progress(void*, std::uint64_t done, std::uint64_t) { return done % 5 == 4 ? 1 : 0; }

  void call() {
    switch (next() % 20) {
      case 0: {
        riverhorse_session*& session = handle();
        if (session != nullptr) return;
        const riverhorse_sampling_options options = sampling();
        check(riverhorse_session_create(next() % 16 == 0 ? nullptr : model_, &options, &session));
        return;
      }
      case 1: riverhorse_session_free(std::exchange(handle(), nullptr)); return;
      case 2: {
        const std::vector<std::int32_t> read = ids();
        riverhorse_session* const session = handle();
        check(riverhorse_session_append(session, next() % 16 == 0 ? nullptr : read.data(), read.size(),
                                        next() % 2 == 0 ? on_progress : nullptr, nullptr));
        return;
      }
      case 3: {
        std::int32_t token = 0;
        check(riverhorse_session_step(handle(), next() % 16 == 0 ? nullptr : &token));
        return;
      }
      case 4: {
        const riverhorse_generate_options options = generation();
        riverhorse_generate_result result{};
        size_it(result);
        check(riverhorse_session_generate(handle(), &options, next() % 2 == 0 ? on_token : nullptr, this, &result));
        return;
      }
      case 5: {
        const std::vector<std::int32_t> read = ids();
        const riverhorse_generate_options options = generation();
        check(riverhorse_session_start_async(handle(), read.data(), read.size(), &options, nullptr, nullptr));
        return;
      }
      case 6: {
        riverhorse_poll_result result{};
        size_it(result);
        check(riverhorse_session_poll(handle(), next() % 2 == 0 ? on_token : nullptr, this, &result));
        return;
      }
      case 7: check(riverhorse_session_cancel(handle())); return;
      case 8: {
        riverhorse_session* const from = handle();
        riverhorse_session*& to = handle();
        if (to == nullptr) check(riverhorse_session_clone(from, &to));
        return;
      }
      case 9: check(riverhorse_session_checkpoint(handle())); return;
      case 10: {
        std::int64_t again = 0;
        check(riverhorse_session_rewind(handle(), next() - 8, &again));
        return;
      }
      case 11: check(riverhorse_session_clear(handle())); return;
      case 12: {
        std::size_t size = 0;
        riverhorse_session* const session = handle();
        check(riverhorse_session_save_memory(session, nullptr, 0, &size));
        std::vector<char> saved(size + next() % 2);
        if (next() % 8 == 0 && !saved.empty()) saved.pop_back();
        const riverhorse_status status = riverhorse_session_save_memory(session, saved.data(), saved.size(), &size);
        check(status);
        if (status == RIVERHORSE_OK) saved_.assign(saved.begin(), saved.begin() + static_cast<std::ptrdiff_t>(size));
        return;
      }
      case 13: {
        std::string state = saved_;
        const std::uint8_t damage = next();
        const std::size_t at = state.empty() ? 0 : (next() * 257u + next()) % state.size();
        if (damage % 4 == 1 && !state.empty()) state[at] = static_cast<char>(state[at] ^ (1 << damage % 8));
        if (damage % 4 == 2) state.resize(at);
        std::int64_t reused = 0;
        check(riverhorse_session_load_memory(handle(), state.data(), state.size(), &reused));
        return;
      }
      case 14: {
        std::array<float, 512> logits{};
        std::size_t count = 0;
        check(riverhorse_session_get_logits(handle(), logits.data(), next() % 2 == 0 ? 512 : next(), &count));
        return;
      }
      case 15: {
        std::array<riverhorse_session*, 3> list{};
        for (riverhorse_session*& each : list) each = handle();
        std::array<std::int32_t, 3> tokens{};
        check(riverhorse_sessions_step(list.data(), next() % 4, tokens.data()));
        return;
      }
      case 16: {
        const riverhorse_sampling_options options = sampling();
        check(riverhorse_session_set_sampling(handle(), &options));
        return;
      }
      case 17: {
        const riverhorse_generate_options options = generation();
        check(riverhorse_session_start(handle(), &options));  // a host's frames, which the cpu has not
        check(riverhorse_session_record(handle(), nullptr, number(), nullptr));
        return;
      }
      case 18: {
        riverhorse_model_info info{};
        size_it(info);
        check(riverhorse_model_get_info(model_, &info));
        const std::string text = saved_.substr(0, next());
        std::array<std::int32_t, 64> encoded{};
        std::size_t count = 0;
        check(riverhorse_model_encode(model_, text.data(), text.size(), next() % 2, encoded.data(), 64, &count));
        return;
      }
      default: load_another(); return;
    }
  }

  // From an archive that has too much, too little, or something broken.
  void load_another() {
    riverhorse_model_options options = model_options();
    size_it(options);
    options.dtype = static_cast<riverhorse_dtype>(next() % 8);
    options.conv = static_cast<riverhorse_conv>(next() % 4);
    options.memory_budget_bytes = next() % 4 == 0 ? next() * 1000 : 0;
    options.progress = next() % 2 == 0 ? on_progress : nullptr;
    constexpr const char* names[] = {"config.json", "model.pt", "model.safetensors", "vocab.json", "other", nullptr};
    std::vector<riverhorse_model_file> files;
    for (std::uint8_t i = next() % 4; i > 0; --i) {
      const std::uint8_t name = next() % std::size(names);
      const std::string& bytes = name == 0 ? archive().config : archive().weights;
      files.push_back({names[name], bytes.data(), next() % 2 == 0 ? bytes.size() : bytes.size() * next() / 256});
    }
    riverhorse_model* model = nullptr;
    check(riverhorse_model_load_memory(files.data(), files.size(), &options, &model));
    riverhorse_model_free(model);
  }

  const std::uint8_t* data_;
  std::size_t size_;
  std::size_t position_ = 0;
  riverhorse_model* model_ = nullptr;
  std::array<riverhorse_session*, handles> sessions_{};
  std::string saved_;
  riverhorse_logit_bias bias_{};
  const char* const stops_[1] = {"a"};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Calls(data, std::min<std::size_t>(size, 512)).run();
  return 0;
}

// Sessions made, read, drawn from, saved, loaded, cloned, rewound, run on the library's thread and freed.
std::vector<std::string> fuzz_seeds() {
  const auto bytes = [](std::initializer_list<int> values) { return std::string(values.begin(), values.end()); };
  const std::string create = bytes({0, 0, 1, 0, 1}), append = bytes({2, 5, 9, 1, 8, 1, 7, 1, 6, 1, 5, 1, 0, 1, 1});
  const std::string step = bytes({3, 0, 1}), generate = bytes({4, 1, 6, 1, 1, 1, 1, 0, 1});
  const std::string async = bytes({5, 2, 9, 1, 8, 1, 1, 7, 1, 1, 1, 0}), poll = bytes({6, 1, 0, 1});
  const std::string save = bytes({12, 0, 0, 1}), load = bytes({13, 0, 0, 0, 0}), damaged = bytes({13, 1, 3, 7, 0});
  return {create + append + step + generate,
          create + append + save + step + damaged + load + step + bytes({14, 0, 0}),
          create + append + async + poll + bytes({7, 0}) + poll + poll + step + bytes({1, 0}),
          create + append + bytes({8, 0, 1, 9, 0}) + step + bytes({10, 0, 10, 15, 0, 1, 2, 2, 11, 0}) + append,
          create + append + async + bytes({1, 0}) + create + append + async,
          bytes({19, 1, 0, 0, 1, 1, 2, 0, 0, 1, 0, 16, 0, 1, 0, 0, 18, 1, 9, 1, 17, 1, 1, 1, 1, 1, 0, 0})};
}
