// Sequences of calls of the C API, valid and not, on a small model: the bytes of the input choose functions, handles
// and arguments. Whatever is called, nothing crashes, no status is RIVERHORSE_INTERNAL, and a session's tokens are as
// many as its position says. Where the library looks at freed handles (RIVERHORSE_CHECK_HANDLES), these are used too.
#include <riverhorse/conversation.h>
#include <riverhorse/vulkan.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
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
    if (next() % 2 == 0) riverhorse_conversation_free(std::exchange(talk_, nullptr));
    for (riverhorse_session* session : sessions_) riverhorse_session_free(session);
    riverhorse_conversation_free(talk_);
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
    switch (next() % 32) {
      case 0: {
        riverhorse_session*& session = handle();
        if (session != nullptr) return;
        const riverhorse_sampling_options options = sampling();
        check(riverhorse_session_create(next() % 16 == 0 ? nullptr : model_, &options, &session));
        return;
      }
      case 1: {
        riverhorse_session*& session = handle();
        if (session != nullptr) freed_ = session;
        riverhorse_session_free(std::exchange(session, nullptr));
        return;
      }
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
        const std::string state = damaged(saved_);
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
      case 20: {
        riverhorse_conversation_free(std::exchange(talk_, nullptr));
        create_conversation();
        return;
      }
      case 21: {
        const std::string said = text();
        check(riverhorse_conversation_begin_turn(talk_, said.data(), said.size()));
        return;
      }
      case 22: {
        riverhorse_generate_result result{};
        size_it(result);
        check(riverhorse_conversation_reply(talk_, next() % 8 == 0 ? -1 : 1 + next() % 8,
                                            next() % 2 == 0 ? on_token : nullptr, this, &result));
        return;
      }
      case 23: turn_by_hand(); return;
      case 24: {
        if (next() % 2 == 0) {
          check(riverhorse_conversation_undo(talk_, next() % 4));
          return;
        }
        const riverhorse_sampling_options options = sampling();
        check(riverhorse_conversation_regenerate(talk_, next() % 2 == 0 ? &options : nullptr));
        return;
      }
      case 25: {
        std::size_t size = 0;
        check(riverhorse_conversation_save_memory(talk_, nullptr, 0, &size));
        std::string bytes(size, '\0');
        const riverhorse_status status = riverhorse_conversation_save_memory(talk_, bytes.data(), size, &size);
        check(status);
        if (status == RIVERHORSE_OK) saved_talk_ = std::move(bytes);
        return;
      }
      case 26: {
        const std::string state = damaged(saved_talk_);
        check(riverhorse_conversation_load_memory(talk_, state.data(), state.size()));
        return;
      }
      case 27: {
        riverhorse_conversation_info info{};
        size_it(info);
        check(riverhorse_conversation_get_info(talk_, &info));
        std::array<char, 64> out{};
        std::size_t size = 0;
        const std::int64_t turn = next() % 8 - 1;
        check(riverhorse_conversation_get_user_text(talk_, turn, out.data(), next() % 64, &size));
        check(riverhorse_conversation_get_reply(talk_, turn, next() % 2 == 0 ? out.data() : nullptr, 64, &size));
        return;
      }
      case 28: break_conversation(); return;
      case 29: host(); return;
      case 30: {
        const std::string path = folder() + "/session";
        riverhorse_session* const session = handle();
        check(riverhorse_session_save(session, next() % 8 == 0 ? nullptr : path.c_str()));
        if (next() % 4 == 0) std::ofstream(path, std::ios::app) << "x";
        std::int64_t reused = 0;
        check(riverhorse_session_load(handle(), path.c_str(), &reused));
        std::remove(path.c_str());
        return;
      }
      case 31: use_freed(); return;
      default: load_another(); return;
    }
  }

  std::string text() {
    constexpr const char* texts[] = {"", "hippo", "a\xc3\xa9", "\xff", "<|endoftext|>", "\nGuest:"};
    return texts[next() % std::size(texts)];
  }
  std::string damaged(std::string state) {
    const std::uint8_t damage = next();
    const std::size_t at = state.empty() ? 0 : (next() * 257u + next()) % state.size();
    if (damage % 4 == 1 && !state.empty()) state[at] = static_cast<char>(state[at] ^ (1 << damage % 8));
    if (damage % 4 == 2) state.resize(at);
    return state;
  }
  static const std::string& folder() {
    static const struct Folder {
      std::string path =
          (std::filesystem::temp_directory_path() / ("api_fuzzer_" + std::to_string(getpid()))).string();
      Folder() { std::filesystem::create_directories(path); }
      ~Folder() { std::filesystem::remove_all(path); }
    } made;
    return made.path;
  }

  void create_conversation() {
    constexpr const char* templates[] = {
        R"({"system": {"prefix": "", "suffix": "."}, "user": {"prefix": "Guest:", "suffix": "\n"},)"
        R"( "assistant": {"prefix": "Host:", "suffix": "\n"}, "stop": ["\nGuest:", "\n"], "end_of_text": true})",
        R"({"system": {"prefix": "", "suffix": ""}, "user": {"prefix": "", "suffix": ""},)"
        R"( "assistant": {"prefix": "", "suffix": ""}, "stop": [], "end_of_text": false})",
        R"({"system": {"prefix": ""}})", "{", ""};
    std::string form = templates[next() % std::size(templates)];
    if (next() % 8 == 0 && !form.empty()) form[next() % form.size()] = static_cast<char>(next());
    const std::string system = text();
    riverhorse_conversation_options options{};
    size_it(options);
    options.undo_turns = next() % 8 - 2;
    options.template_json = next() % 16 == 0 ? nullptr : form.data();
    options.template_bytes = form.size();
    options.system_text = next() % 2 == 0 ? nullptr : system.data();
    options.system_bytes = next() % 8 == 0 ? 0 : system.size();
    if (options.system_text == nullptr && next() % 2 == 0) options.system_bytes = 0;
    const riverhorse_sampling_options drawn_by = sampling();
    check(riverhorse_conversation_create(model_, &options, &drawn_by, &talk_));
  }

  // The prompt of a turn read and answered by the session, blocking or by the library's thread; then its end, which
  // may come too early.
  void turn_by_hand() {
    std::array<std::int32_t, 96> prompt{};
    std::size_t count = 0;
    const riverhorse_status status =
        riverhorse_conversation_get_prompt(talk_, prompt.data(), next() % 8 == 0 ? 2 : prompt.size(), &count);
    check(status);
    riverhorse_generate_options options = generation();
    check(riverhorse_conversation_get_generate_options(talk_, &options));
    riverhorse_session* const session = riverhorse_conversation_get_session(talk_);
    if (status == RIVERHORSE_OK && next() % 2 == 0) {
      check(riverhorse_session_append(session, prompt.data(), count - next() % 2, nullptr, nullptr));
      check(riverhorse_session_generate(session, &options, on_token, this, nullptr));
    } else if (status == RIVERHORSE_OK) {
      check(riverhorse_session_start_async(session, prompt.data(), count, &options, nullptr, nullptr));
      riverhorse_poll_result result{};
      result.struct_size = sizeof result;
      for (int polls = next() % 4; polls > 0; --polls)
        check(riverhorse_session_poll(session, on_token, this, &result));
      if (next() % 2 == 0) check(riverhorse_session_cancel(session));
    }
    check(riverhorse_conversation_end_turn(talk_));
  }

  // What the header says not to do with a conversation's session.
  void break_conversation() {
    riverhorse_session* const session = riverhorse_conversation_get_session(talk_);
    const std::vector<std::int32_t> read = ids();
    std::int64_t again = 0;
    std::int32_t token = 0;
    switch (next() % 6) {
      case 0: check(riverhorse_session_append(session, read.data(), read.size(), nullptr, nullptr)); return;
      case 1: check(riverhorse_session_step(session, &token)); return;
      case 2: check(riverhorse_session_rewind(session, next() % 64, &again)); return;
      case 3: check(riverhorse_session_clear(session)); return;
      case 4: check(riverhorse_session_load_memory(session, saved_.data(), saved_.size(), &again)); return;
      default: {
        const riverhorse_sampling_options options = sampling();
        check(riverhorse_session_set_sampling(session, &options));
        return;
      }
    }
  }

  // Frames and batches, which the cpu has not, and devices that are none.
  void host() {
    const std::vector<std::int32_t> read = ids();
    switch (next() % 5) {
      case 0: check(riverhorse_session_enqueue(handle(), read.data(), read.size())); return;
      case 1:
        check(riverhorse_session_enqueue_text(handle(), saved_.data(), std::min<std::size_t>(saved_.size(), 9)));
        return;
      case 2: {
        riverhorse_batch_options options{};
        size_it(options);
        options.max_together = next() % 12 - 2;
        riverhorse_batch* batch = nullptr;
        check(riverhorse_batch_create(model_, next() % 2 == 0 ? &options : nullptr, &batch));
        check(riverhorse_batch_add(batch, handle(), number()));
        check(riverhorse_batch_record(batch, this, number(), nullptr));
        check(riverhorse_batch_remove(batch, handle()));
        riverhorse_batch_free(batch);
        return;
      }
      case 3: {
        riverhorse_vulkan_device device{};
        size_it(device);
        device.api_version = next() * 100000u;
        device.extension_count = next() % 2;
        riverhorse_vulkan_requirements requirements{};
        size_it(requirements);
        check(riverhorse_vulkan_query_requirements(&device, &requirements));
        riverhorse_adopted_device* adopted = nullptr;
        check(riverhorse_adopt_vulkan(next() % 4 == 0 ? nullptr : &device, &adopted));
        riverhorse_adopted_device_free(adopted);
        return;
      }
      default: {
        riverhorse_device_list* list = nullptr;
        check(riverhorse_list_devices(&list));
        riverhorse_device_info info{};
        size_it(info);
        check(riverhorse_device_list_get(list, next() % 4, &info));
        const char *backend = nullptr, *reason = nullptr;
        check(riverhorse_device_list_get_absent(list, next() % 4, &backend, &reason));
        riverhorse_device_list_free(list);
        return;
      }
    }
  }

  void use_freed() {
#ifdef RIVERHORSE_CHECK_HANDLES
    if (freed_ == nullptr) return;
    const auto refused = [](riverhorse_status status) {
      if (status != RIVERHORSE_INVALID_ARGUMENT) __builtin_trap();
    };
    std::int32_t token = 0;
    riverhorse_session* copy = nullptr;
    riverhorse_session* list[] = {handle(), freed_};
    switch (next() % 7) {
      case 0: refused(riverhorse_session_step(freed_, &token)); return;
      case 1: refused(riverhorse_session_poll(freed_, on_token, this, nullptr)); return;
      case 2: refused(riverhorse_session_cancel(freed_)); return;
      case 3: refused(riverhorse_session_clone(freed_, &copy)); return;
      case 4: refused(riverhorse_sessions_step(list, 2, &token)); return;
      case 5: refused(riverhorse_session_start_async(freed_, &token, 1, nullptr, nullptr, nullptr)); return;
      default: riverhorse_session_free(freed_); return;
    }
#endif
  }

  // From an archive that has too much, too little, or something broken.
  void load_another() {
    riverhorse_model_options options = model_options();
    size_it(options);
    options.dtype = static_cast<riverhorse_dtype>(next() % 8);
    options.conv = static_cast<riverhorse_conv>(next() % 4);
    options.memory_budget_bytes = next() % 4 == 0 ? next() * 1000 : 0;
    options.progress = next() % 2 == 0 ? on_progress : nullptr;
    if (next() % 4 == 0) {
      options.low_priority = next() % 2;
      options.frame_sessions = next() % 8 - 2;
      options.max_sessions = next() % 8 - 2;
      options.device = next() % 2 == 0 ? "00112233-4455-6677-8899-aabbccddeeff" : "cpu:0";
      riverhorse_memory_estimate estimate{};
      size_it(estimate);
      check(riverhorse_model_estimate_memory(next() % 4 == 0 ? nullptr : model_folder.c_str(), &options, &estimate));
    }
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
  riverhorse_session* freed_ = nullptr;  // the last one that was
  riverhorse_conversation* talk_ = nullptr;
  std::string saved_, saved_talk_;
  riverhorse_logit_bias bias_{};
  const char* const stops_[1] = {"a"};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Calls(data, std::min<std::size_t>(size, 512)).run();
  return 0;
}

// Sessions made, read, drawn from, saved, loaded, cloned, rewound, run on the library's thread and freed;
// conversations begun, answered, taken back, saved and loaded.
std::vector<std::string> fuzz_seeds() {
  const auto bytes = [](std::initializer_list<int> values) { return std::string(values.begin(), values.end()); };
  const std::string create = bytes({0, 0, 1, 0, 1}), append = bytes({2, 5, 9, 1, 8, 1, 7, 1, 6, 1, 5, 1, 0, 1, 1});
  const std::string step = bytes({3, 0, 1}), generate = bytes({4, 1, 6, 1, 1, 1, 1, 0, 1});
  const std::string async = bytes({5, 2, 9, 1, 8, 1, 1, 7, 1, 1, 1, 0}), poll = bytes({6, 1, 0, 1});
  const std::string save = bytes({12, 0, 0, 1}), load = bytes({13, 0, 0, 0, 0}), damaged = bytes({13, 1, 3, 7, 0});
  const std::string talk = bytes({20, 0, 1, 1, 1, 5, 1, 1, 1, 1, 1}), begin = bytes({21, 1}),
                    reply = bytes({22, 1, 4, 1}), undo = bytes({24, 0, 1}), regenerate = bytes({24, 1, 1, 1, 1});
  const std::string keep = bytes({25}), back = bytes({26, 0, 0, 0}), look = bytes({27, 1, 1, 60, 0});
  return {talk + begin + reply + look + begin + reply + undo + regenerate + reply,
          talk + begin + reply + keep + begin + back + look + begin + bytes({23, 1, 1, 6, 1, 1, 1, 0, 0}) + look,
          talk + begin + bytes({23, 1, 1, 6, 1, 1, 1, 1, 3, 1}) + bytes({28, 0, 1}) + reply + bytes({28, 0, 3}) +
              reply + undo,
          create + append + bytes({1, 0, 31, 0, 0, 31, 0, 1, 31, 0, 6, 30, 1, 1, 0, 29, 0, 2, 1, 3, 0, 0, 0, 0, 0}),
          create + append + step + generate,
          create + append + save + step + damaged + load + step + bytes({14, 0, 0}),
          create + append + async + poll + bytes({7, 0}) + poll + poll + step + bytes({1, 0}),
          create + append + bytes({8, 0, 1, 9, 0}) + step + bytes({10, 0, 10, 15, 0, 1, 2, 2, 11, 0}) + append,
          create + append + async + bytes({1, 0}) + create + append + async,
          bytes({19, 1, 0, 0, 1, 1, 2, 0, 0, 1, 0, 16, 0, 1, 0, 0, 18, 1, 9, 1, 17, 1, 1, 1, 1, 1, 0, 0})};
}
