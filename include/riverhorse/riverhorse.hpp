// Riverhorse for C++17: a header-only layer over the C headers. Objects own their handles and free them; failures are
// thrown as riverhorse::api_error; callbacks are functions that may throw. Units, shapes and thread rules are those
// of the C functions of the same names.
#ifndef RIVERHORSE_RIVERHORSE_HPP
#define RIVERHORSE_RIVERHORSE_HPP

#include <riverhorse/conversation.h>
#include <riverhorse/riverhorse.h>
#include <riverhorse/training.h>
#include <riverhorse/vulkan.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace riverhorse_api {

class api_error : public std::runtime_error {
 public:
  api_error(riverhorse_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
  riverhorse_status status() const noexcept { return status_; }

 private:
  riverhorse_status status_;
};

inline void check(riverhorse_status status) {
  if (status != RIVERHORSE_OK) throw api_error(status, riverhorse_last_error());
}

// An option or info struct with its struct_size set and all else at its default.
template <typename Struct>
Struct make() {
  Struct value{};
  value.struct_size = sizeof(Struct);
  return value;
}

inline riverhorse_model_options model_options() { return make<riverhorse_model_options>(); }
inline riverhorse_sampling_options sampling_options() { return make<riverhorse_sampling_options>(); }
inline riverhorse_generate_options generate_options() { return make<riverhorse_generate_options>(); }
inline riverhorse_vulkan_device vulkan_device() { return make<riverhorse_vulkan_device>(); }
inline riverhorse_conversation_options conversation_options() { return make<riverhorse_conversation_options>(); }
inline riverhorse_batch_options batch_options() { return make<riverhorse_batch_options>(); }
inline riverhorse_device_options device_options() { return make<riverhorse_device_options>(); }
inline riverhorse_trainer_options trainer_options() { return make<riverhorse_trainer_options>(); }

struct absent_backend {
  std::string backend, reason;
};

struct device_listing {
  std::vector<riverhorse_device_info> devices;
  std::vector<absent_backend> absent;
};

inline device_listing list_devices() {
  riverhorse_device_list* raw = nullptr;
  check(riverhorse_list_devices(&raw));
  const std::unique_ptr<riverhorse_device_list, void (*)(riverhorse_device_list*)> list(raw,
                                                                                        riverhorse_device_list_free);
  device_listing result;
  for (std::size_t i = 0; i < riverhorse_device_list_count(raw); ++i) {
    result.devices.push_back(make<riverhorse_device_info>());
    check(riverhorse_device_list_get(raw, i, &result.devices.back()));
  }
  for (std::size_t i = 0; i < riverhorse_device_list_absent_count(raw); ++i) {
    const char *backend = nullptr, *reason = nullptr;
    check(riverhorse_device_list_get_absent(raw, i, &backend, &reason));
    result.absent.push_back({backend, reason});
  }
  return result;
}

// What to enable on a Vulkan device that is to be adopted.
inline riverhorse_vulkan_requirements vulkan_requirements(const riverhorse_vulkan_device& device) {
  auto value = make<riverhorse_vulkan_requirements>();
  check(riverhorse_vulkan_query_requirements(&device, &value));
  return value;
}

// The application's own Vulkan device, lent to models: model_options.adopted_device = adopted.get(). The library
// keeps what it needs of it alive; the Vulkan handles are the application's to keep.
class adopted_device {
 public:
  explicit adopted_device(const riverhorse_vulkan_device& device) {
    riverhorse_adopted_device* raw = nullptr;
    check(riverhorse_adopt_vulkan(&device, &raw));
    handle_.reset(raw);
  }

  riverhorse_adopted_device* get() const noexcept { return handle_.get(); }

 private:
  struct deleter {
    void operator()(riverhorse_adopted_device* handle) const noexcept { riverhorse_adopted_device_free(handle); }
  };
  std::unique_ptr<riverhorse_adopted_device, deleter> handle_;
};

// Return false to cancel.
using progress_function = std::function<bool(std::uint64_t done, std::uint64_t total)>;
// A drawn token and the text that it completes; return false to stop. The last call may have token -1.
using token_function = std::function<bool(std::int32_t token, std::string_view text)>;

namespace detail {

// Carries a C++ callback through C, and what it throws back out.
template <typename Function>
struct callback_state {
  const Function& function;
  std::exception_ptr thrown;

  template <typename... Args>
  int call(Args... args) noexcept {
    try {
      return function(args...) ? 0 : 1;
    } catch (...) {
      thrown = std::current_exception();
      return 1;
    }
  }
  void finish(riverhorse_status status) {
    if (thrown) std::rethrow_exception(thrown);
    check(status);
  }
};

inline int on_progress(void* user, std::uint64_t done, std::uint64_t total) {
  return static_cast<callback_state<progress_function>*>(user)->call(done, total);
}

inline int on_token(void* user, std::int32_t token, const char* text, std::size_t text_bytes) {
  return static_cast<callback_state<token_function>*>(user)->call(token, std::string_view(text, text_bytes));
}

}  // namespace detail

// What a model would take on its device.
inline riverhorse_memory_estimate estimate_memory(const std::string& path,
                                                  const riverhorse_model_options& options = model_options()) {
  auto value = make<riverhorse_memory_estimate>();
  check(riverhorse_model_estimate_memory(path.c_str(), &options, &value));
  return value;
}

class session;

// Shared ownership is by its sessions, in the library: a model may be destroyed before them.
class model {
 public:
  // `options.progress` is replaced when `progress` is given.
  explicit model(const std::string& path, const riverhorse_model_options& options = model_options(),
                 const progress_function& progress = {}) {
    load(options, progress, [&](const riverhorse_model_options& given, riverhorse_model** raw) {
      return riverhorse_model_load(path.c_str(), &given, raw);
    });
  }

  // From memory, which is needed during the call only: {"config.json", data, size}, ...
  explicit model(const std::vector<riverhorse_model_file>& files,
                 const riverhorse_model_options& options = model_options(), const progress_function& progress = {}) {
    load(options, progress, [&](const riverhorse_model_options& given, riverhorse_model** raw) {
      return riverhorse_model_load_memory(files.data(), files.size(), &given, raw);
    });
  }

  riverhorse_model_info info() const {
    auto value = make<riverhorse_model_info>();
    check(riverhorse_model_get_info(handle_.get(), &value));
    return value;
  }

  std::vector<std::int32_t> encode(std::string_view text, bool special = false) const {
    std::size_t count = 0;
    check(riverhorse_model_encode(handle_.get(), text.data(), text.size(), special, nullptr, 0, &count));
    std::vector<std::int32_t> ids(count);
    check(riverhorse_model_encode(handle_.get(), text.data(), text.size(), special, ids.data(), ids.size(), &count));
    return ids;
  }

  std::string decode(const std::vector<std::int32_t>& ids) const {
    std::size_t size = 0;
    check(riverhorse_model_decode(handle_.get(), ids.data(), ids.size(), nullptr, 0, &size));
    std::string text(size, '\0');
    check(riverhorse_model_decode(handle_.get(), ids.data(), ids.size(), text.data(), text.size(), &size));
    return text;
  }

  session create_session(const riverhorse_sampling_options& sampling = sampling_options()) const;

  riverhorse_model* get() const noexcept { return handle_.get(); }

 private:
  template <typename Call>
  void load(riverhorse_model_options options, const progress_function& progress, const Call& call) {
    detail::callback_state<progress_function> state{progress, nullptr};
    if (progress) {
      options.progress = detail::on_progress;
      options.progress_user = &state;
    }
    riverhorse_model* raw = nullptr;
    state.finish(call(options, &raw));
    handle_.reset(raw);
  }

  struct deleter {
    void operator()(riverhorse_model* handle) const noexcept { riverhorse_model_free(handle); }
  };
  std::unique_ptr<riverhorse_model, deleter> handle_;
};

class session {
 public:
  void set_sampling(const riverhorse_sampling_options& sampling) {
    check(riverhorse_session_set_sampling(get(), &sampling));
  }

  void append(const std::vector<std::int32_t>& ids, const progress_function& progress = {}) {
    detail::callback_state<progress_function> state{progress, nullptr};
    state.finish(
        riverhorse_session_append(get(), ids.data(), ids.size(), progress ? detail::on_progress : nullptr, &state));
  }

  std::int32_t step() {
    std::int32_t token = 0;
    check(riverhorse_session_step(get(), &token));
    return token;
  }

  riverhorse_generate_result generate(const riverhorse_generate_options& options = generate_options(),
                                      const token_function& on_token = {}) {
    auto result = make<riverhorse_generate_result>();
    detail::callback_state<token_function> state{on_token, nullptr};
    state.finish(
        riverhorse_session_generate(get(), &options, on_token ? detail::on_token : nullptr, &state, &result));
    return result;
  }

  // In frames of the application's own; see riverhorse_session_start.
  void start(const riverhorse_generate_options& options = generate_options()) {
    check(riverhorse_session_start(get(), &options));
  }

  void enqueue(const std::vector<std::int32_t>& ids) {
    check(riverhorse_session_enqueue(get(), ids.data(), ids.size()));
  }
  void enqueue(std::string_view text) { check(riverhorse_session_enqueue_text(get(), text.data(), text.size())); }

  riverhorse_record_result record(void* command_buffer, double budget_us) {
    auto result = make<riverhorse_record_result>();
    check(riverhorse_session_record(get(), command_buffer, budget_us, &result));
    return result;
  }

  riverhorse_poll_result poll(const token_function& on_token = {}) {
    auto result = make<riverhorse_poll_result>();
    detail::callback_state<token_function> state{on_token, nullptr};
    state.finish(riverhorse_session_poll(get(), on_token ? detail::on_token : nullptr, &state, &result));
    return result;
  }

  // On a thread of the library's, to be polled; see riverhorse_session_start_async.
  void start_async(const std::vector<std::int32_t>& ids = {},
                   const riverhorse_generate_options& options = generate_options()) {
    check(riverhorse_session_start_async(get(), ids.data(), ids.size(), &options, nullptr, nullptr));
  }

  // From any thread.
  void cancel() { check(riverhorse_session_cancel(get())); }

  std::int64_t position() const { return riverhorse_session_position(get()); }

  std::vector<std::int32_t> tokens() const {
    std::size_t count = 0;
    check(riverhorse_session_get_tokens(get(), nullptr, 0, &count));
    std::vector<std::int32_t> ids(count);
    check(riverhorse_session_get_tokens(get(), ids.data(), ids.size(), &count));
    return ids;
  }

  std::vector<float> logits() {
    std::size_t count = 0;
    check(riverhorse_session_get_logits(get(), nullptr, 0, &count));
    std::vector<float> values(count);
    check(riverhorse_session_get_logits(get(), values.data(), values.size(), &count));
    return values;
  }

  session clone() {
    riverhorse_session* copy = nullptr;
    check(riverhorse_session_clone(get(), &copy));
    return session(copy);
  }

  void checkpoint() { check(riverhorse_session_checkpoint(get())); }

  // Returns the tokens that had to be read again.
  std::int64_t rewind(std::int64_t position) {
    std::int64_t again = 0;
    check(riverhorse_session_rewind(get(), position, &again));
    return again;
  }

  void clear() { check(riverhorse_session_clear(get())); }
  void save(const std::string& path) { check(riverhorse_session_save(get(), path.c_str())); }

  // Returns the tokens whose state was taken from the file: all of the saved text.
  std::int64_t load(const std::string& path) {
    std::int64_t reused = 0;
    check(riverhorse_session_load(get(), path.c_str(), &reused));
    return reused;
  }

  // The bytes of such a file, for a saved game.
  std::vector<unsigned char> save_bytes() {
    std::size_t size = 0;
    check(riverhorse_session_save_memory(get(), nullptr, 0, &size));
    std::vector<unsigned char> bytes(size);
    check(riverhorse_session_save_memory(get(), bytes.data(), bytes.size(), &size));
    return bytes;
  }

  std::int64_t load_bytes(const std::vector<unsigned char>& bytes) {
    std::int64_t reused = 0;
    check(riverhorse_session_load_memory(get(), bytes.data(), bytes.size(), &reused));
    return reused;
  }

  riverhorse_session* get() const noexcept { return handle_.get(); }

 private:
  friend class conversation;
  friend class model;
  struct deleter {
    bool owns;
    void operator()(riverhorse_session* handle) const noexcept {
      if (owns) riverhorse_session_free(handle);
    }
  };
  explicit session(riverhorse_session* handle, bool owns = true) : handle_(handle, deleter{owns}) {}
  std::unique_ptr<riverhorse_session, deleter> handle_;
};

inline session model::create_session(const riverhorse_sampling_options& sampling) const {
  riverhorse_session* handle = nullptr;
  check(riverhorse_session_create(get(), &sampling, &handle));
  return session(handle);
}

// Turns of a user's text and a reply, in the words of a template; see riverhorse/conversation.h.
class conversation {
 public:
  conversation(const model& of, const riverhorse_conversation_options& options,
               const riverhorse_sampling_options& sampling = sampling_options()) {
    riverhorse_conversation* raw = nullptr;
    check(riverhorse_conversation_create(of.get(), &options, &sampling, &raw));
    handle_.reset(raw);
    session_ = riverhorse_api::session(riverhorse_conversation_get_session(raw), false);
  }

  // A whole turn, which waits for the reply.
  riverhorse_generate_result say(std::string_view text, std::int64_t max_tokens = 0,
                                 const token_function& on_token = {}) {
    begin_turn(text);
    return reply(max_tokens, on_token);
  }

  void begin_turn(std::string_view text) {
    check(riverhorse_conversation_begin_turn(get(), text.data(), text.size()));
  }

  riverhorse_generate_result reply(std::int64_t max_tokens = 0, const token_function& on_token = {}) {
    auto result = make<riverhorse_generate_result>();
    detail::callback_state<token_function> state{on_token, nullptr};
    state.finish(
        riverhorse_conversation_reply(get(), max_tokens, on_token ? detail::on_token : nullptr, &state, &result));
    return result;
  }

  // For a reply that does not wait: session().start_async(prompt(), generate_options()), or enqueue and start; then
  // end_turn().
  std::vector<std::int32_t> prompt() const {
    std::size_t count = 0;
    check(riverhorse_conversation_get_prompt(get(), nullptr, 0, &count));
    std::vector<std::int32_t> ids(count);
    check(riverhorse_conversation_get_prompt(get(), ids.data(), ids.size(), &count));
    return ids;
  }
  riverhorse_generate_options generate_options() const {
    auto value = make<riverhorse_generate_options>();
    check(riverhorse_conversation_get_generate_options(get(), &value));
    return value;
  }
  riverhorse_api::session& session() noexcept { return session_; }
  void end_turn() { check(riverhorse_conversation_end_turn(get())); }

  void undo(std::int64_t turns = 1) { check(riverhorse_conversation_undo(get(), turns)); }
  void regenerate() { check(riverhorse_conversation_regenerate(get(), nullptr)); }
  void regenerate(const riverhorse_sampling_options& sampling) {
    check(riverhorse_conversation_regenerate(get(), &sampling));
  }

  riverhorse_conversation_info info() const {
    auto value = make<riverhorse_conversation_info>();
    check(riverhorse_conversation_get_info(get(), &value));
    return value;
  }
  std::string user_text(std::int64_t turn) const { return text(riverhorse_conversation_get_user_text, turn); }
  std::string reply_text(std::int64_t turn) const { return text(riverhorse_conversation_get_reply, turn); }

  std::vector<unsigned char> save_bytes() {
    std::size_t size = 0;
    check(riverhorse_conversation_save_memory(get(), nullptr, 0, &size));
    std::vector<unsigned char> bytes(size);
    check(riverhorse_conversation_save_memory(get(), bytes.data(), bytes.size(), &size));
    return bytes;
  }
  void load_bytes(const std::vector<unsigned char>& bytes) {
    check(riverhorse_conversation_load_memory(get(), bytes.data(), bytes.size()));
  }

  riverhorse_conversation* get() const noexcept { return handle_.get(); }

 private:
  template <typename Get>
  std::string text(const Get& get_text, std::int64_t turn) const {
    std::size_t size = 0;
    check(get_text(get(), turn, nullptr, 0, &size));
    std::string result(size, '\0');
    check(get_text(get(), turn, result.data(), result.size(), &size));
    return result;
  }

  struct deleter {
    void operator()(riverhorse_conversation* handle) const noexcept { riverhorse_conversation_free(handle); }
  };
  std::unique_ptr<riverhorse_conversation, deleter> handle_;
  riverhorse_api::session session_{nullptr, false};  // the handle's
};

// Sessions whose work is recorded together, within one budget; see riverhorse_batch_create.
class batch {
 public:
  explicit batch(const model& of, const riverhorse_batch_options& options = batch_options()) {
    riverhorse_batch* raw = nullptr;
    check(riverhorse_batch_create(of.get(), &options, &raw));
    handle_.reset(raw);
  }

  void add(const session& each, double priority = 1) { check(riverhorse_batch_add(get(), each.get(), priority)); }
  void remove(const session& each) { check(riverhorse_batch_remove(get(), each.get())); }

  riverhorse_record_result record(void* command_buffer, double budget_us) {
    auto result = make<riverhorse_record_result>();
    check(riverhorse_batch_record(get(), command_buffer, budget_us, &result));
    return result;
  }

  riverhorse_batch* get() const noexcept { return handle_.get(); }

 private:
  struct deleter {
    void operator()(riverhorse_batch* handle) const noexcept { riverhorse_batch_free(handle); }
  };
  std::unique_ptr<riverhorse_batch, deleter> handle_;
};

// One token for each of several sessions of one model, together.
inline std::vector<std::int32_t> step(const std::vector<session*>& sessions) {
  std::vector<riverhorse_session*> handles;
  for (const session* each : sessions) handles.push_back(each->get());
  std::vector<std::int32_t> tokens(handles.size());
  check(riverhorse_sessions_step(handles.data(), handles.size(), tokens.data()));
  return tokens;
}

// A device to train on. Shared ownership is by its trainers, in the library: it may be destroyed before them.
class device {
 public:
  explicit device(const riverhorse_device_options& options = device_options()) {
    riverhorse_device* raw = nullptr;
    check(riverhorse_device_open(&options, &raw));
    handle_.reset(raw);
  }

  riverhorse_device* get() const noexcept { return handle_.get(); }

 private:
  struct deleter {
    void operator()(riverhorse_device* handle) const noexcept { riverhorse_device_free(handle); }
  };
  std::unique_ptr<riverhorse_device, deleter> handle_;
};

class trainer {
 public:
  trainer(const device& on, const riverhorse_trainer_options& options) {
    riverhorse_trainer* raw = nullptr;
    check(riverhorse_trainer_create(on.get(), &options, &raw));
    handle_.reset(raw);
  }

  static trainer resume(const device& on, const std::string& folder) {
    riverhorse_trainer* raw = nullptr;
    check(riverhorse_trainer_resume(on.get(), folder.c_str(), &raw));
    return trainer(raw);
  }

  riverhorse_trainer_info info() const {
    auto value = make<riverhorse_trainer_info>();
    check(riverhorse_trainer_get_info(get(), &value));
    return value;
  }

  // `ids` and `targets` (sequences, length); empty targets: the next id of each sequence.
  riverhorse_step_result step(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& targets = {}) {
    auto result = make<riverhorse_step_result>();
    const std::size_t sequences = count_sequences(ids, targets);
    check(riverhorse_trainer_step(get(), ids.data(), targets.empty() ? nullptr : targets.data(), sequences, &result));
    return result;
  }

  riverhorse_evaluation evaluate(const std::vector<std::int32_t>& ids,
                                 const std::vector<std::int32_t>& targets = {}) {
    auto result = make<riverhorse_evaluation>();
    const std::size_t sequences = count_sequences(ids, targets);
    check(riverhorse_trainer_evaluate(get(), ids.data(), targets.empty() ? nullptr : targets.data(), sequences,
                                      &result));
    return result;
  }

  void save(const std::string& folder) { check(riverhorse_trainer_save(get(), folder.c_str())); }

  riverhorse_trainer* get() const noexcept { return handle_.get(); }

 private:
  explicit trainer(riverhorse_trainer* handle) : handle_(handle) {}

  // The C functions see pointers only, so sizes are compared here.
  std::size_t count_sequences(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& targets) const {
    const auto length = static_cast<std::size_t>(info().length);
    if (ids.size() % length != 0 || (!targets.empty() && targets.size() != ids.size())) {
      throw api_error(RIVERHORSE_INVALID_ARGUMENT,
                      std::to_string(ids.size()) + " ids and " + std::to_string(targets.size()) +
                          " targets are no whole sequences of " + std::to_string(length) + " tokens each");
    }
    return ids.size() / length;
  }

  struct deleter {
    void operator()(riverhorse_trainer* handle) const noexcept { riverhorse_trainer_free(handle); }
  };
  std::unique_ptr<riverhorse_trainer, deleter> handle_;
};

}  // namespace riverhorse_api

#endif
