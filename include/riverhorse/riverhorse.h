/* Riverhorse: H3 state-space language models on the CPU, on NVIDIA GPUs and on any Vulkan device. The public
 * interface, in C99: devices, models and sessions. Beside it, riverhorse/vulkan.h runs models on a Vulkan device of
 * the application's and inside its frames, and riverhorse/training.h trains. What follows holds for all three.
 *
 * Errors. Every function that can fail returns a riverhorse_status; 0 is success. riverhorse_last_error() has the
 * message of the last failure on the calling thread. No C++ exception leaves the library, and it never ends the
 * process. A function that fails leaves its outputs and its objects as they were, unless its comment says otherwise.
 * A null pointer where one is needed is RIVERHORSE_INVALID_ARGUMENT.
 *
 * Options. Every option struct begins with `struct_size`, which the caller sets to sizeof of that struct; all other
 * members zero mean the defaults, so `riverhorse_model_options options = {sizeof options};` is right. A null
 * options pointer means all defaults.
 *
 * Buffers. Functions that fill an array take its capacity and return the number of elements there are. With a null
 * array they only return that number; with a capacity that is too small they fail and still set the number.
 *
 * Threads. Each function says by a word at the end of its comment which threads may call it, and when. "any": every
 * thread, at any time. "turn": the same, and calls for one model, its sessions, batches and conversations wait for
 * each other, as do those for one opened device and its trainers; those for different models do not. "alone": no
 * other call may use the object meanwhile, or afterwards. Callbacks run during the call that they were given to; from
 * within one, the functions riverhorse_model_... of the same model may be called, those of its sessions are refused
 * with RIVERHORSE_INVALID_ARGUMENT. riverhorse_session_cancel waits for nothing and may be called from any thread and
 * callback while the session is not being freed. A callback must not throw C++ exceptions or jump out.
 *
 * Lifetimes. A session keeps its model alive, and a trainer its device: they may be freed in any order. All freeing
 * functions accept null. A handle that was freed must not be used again: debug and sanitized builds of the library
 * (RIVERHORSE_CHECK_HANDLES) refuse the last 1,024 of them with INVALID_ARGUMENT, others do not look. Free models and
 * trainers before main() returns, not in a static destructor: GPU drivers unload in exit handlers of their own, and
 * what is freed after them may crash (programs that did so crashed at exit on NVIDIA's).
 *
 * Token ids are int32_t in [0, vocab_size). Texts are UTF-8 and have an explicit size in bytes; paths and names are
 * zero-terminated UTF-8.
 */
#ifndef RIVERHORSE_RIVERHORSE_H
#define RIVERHORSE_RIVERHORSE_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32) && defined(RIVERHORSE_BUILDING)
#define RIVERHORSE_API __declspec(dllexport)
#elif defined(_WIN32) && !defined(RIVERHORSE_STATIC)
#define RIVERHORSE_API __declspec(dllimport)
#elif defined(__GNUC__)
#define RIVERHORSE_API __attribute__((visibility("default")))
#else
#define RIVERHORSE_API
#endif

/* Enumerations are 32 bits wide in C and C++ alike. */
#ifdef __cplusplus
#define RIVERHORSE_ENUM(name) enum name : int32_t
extern "C" {
#else
#define RIVERHORSE_ENUM(name) \
  typedef int32_t name;       \
  enum
#endif

/* The ABI that this header describes; compare with riverhorse_abi_version(). It changes when a program compiled
 * against an older header would no longer work. */
#define RIVERHORSE_ABI_VERSION 0

/* clang-format takes the macro for a function. */
/* clang-format off */
RIVERHORSE_ENUM(riverhorse_status) {
  RIVERHORSE_OK = 0,
  RIVERHORSE_INVALID_ARGUMENT = 1, /* the call makes no sense: null, a wrong struct_size, an id out of range */
  RIVERHORSE_NOT_FOUND = 2,        /* a file or device that was named does not exist */
  RIVERHORSE_BAD_FILE = 3,         /* a file exists and what is in it is wrong */
  RIVERHORSE_UNSUPPORTED = 4,      /* this device cannot do it; the message says what to do instead */
  RIVERHORSE_OUT_OF_MEMORY = 5,    /* host or device memory, or no free session slot */
  RIVERHORSE_DEVICE_LOST = 6,      /* the driver gave up; free the model, the process lives */
  RIVERHORSE_IO_ERROR = 7,         /* reading or writing failed */
  RIVERHORSE_CANCELLED = 8,        /* a callback asked to stop, or riverhorse_session_cancel */
  RIVERHORSE_INTERNAL = 9          /* a bug in Riverhorse */
};

RIVERHORSE_ENUM(riverhorse_log_level) {
  RIVERHORSE_LOG_DEBUG = 0,
  RIVERHORSE_LOG_INFO = 1,
  RIVERHORSE_LOG_WARNING = 2,
  RIVERHORSE_LOG_ERROR = 3
};

RIVERHORSE_ENUM(riverhorse_dtype) {
  RIVERHORSE_DTYPE_DEFAULT = 0, /* f32 */
  RIVERHORSE_DTYPE_F32 = 1,
  RIVERHORSE_DTYPE_F16 = 2, /* storage of weights and activations; sums and states stay f32 */
  RIVERHORSE_DTYPE_BF16 = 3 /* likewise */
};

RIVERHORSE_ENUM(riverhorse_conv) {
  RIVERHORSE_CONV_AUTO = 0,
  RIVERHORSE_CONV_CHUNKED = 1,
  RIVERHORSE_CONV_FFT = 2
};

RIVERHORSE_ENUM(riverhorse_tuning) {
  RIVERHORSE_TUNING_AUTO = 0, /* where it pays: on a GPU that is not lent, with a cache folder */
  RIVERHORSE_TUNING_ON = 1,
  RIVERHORSE_TUNING_OFF = 2
};

RIVERHORSE_ENUM(riverhorse_stop_reason) {
  RIVERHORSE_STOP_MAX_TOKENS = 0,
  RIVERHORSE_STOP_END_OF_TEXT = 1, /* the model drew its end-of-text token */
  RIVERHORSE_STOP_STRING = 2,      /* one of the stop strings was completed */
  RIVERHORSE_STOP_CALLBACK = 3,    /* the callback asked to stop */
  RIVERHORSE_STOP_CANCELLED = 4    /* riverhorse_session_cancel */
};
/* clang-format on */

typedef struct riverhorse_device_list riverhorse_device_list;
typedef struct riverhorse_model riverhorse_model;
typedef struct riverhorse_session riverhorse_session;
typedef struct riverhorse_adopted_device riverhorse_adopted_device; /* of riverhorse/vulkan.h */

/* Called now and then with the work done so far, in units of its own (bytes, tokens). Nonzero cancels the call in
 * progress, which then returns RIVERHORSE_CANCELLED. */
typedef int (*riverhorse_progress_callback)(void* user, uint64_t done, uint64_t total);

/* ---------------------------------------------------------------------------------------- versions, errors, log */

/* "0.1.0". Never fails; the text is static. Threads: any. */
RIVERHORSE_API const char* riverhorse_version(void);

/* The ABI of the loaded library. Never fails. Threads: any. */
RIVERHORSE_API uint32_t riverhorse_abi_version(void);

/* "bad_file" for RIVERHORSE_BAD_FILE; "unknown" for a value outside the enumeration. Static text. Threads: any. */
RIVERHORSE_API const char* riverhorse_status_name(riverhorse_status status);

/* One line about the last failed call of this thread; "" before the first. Valid until the next failure on this
 * thread. A call that succeeds does not change it. Threads: any. */
RIVERHORSE_API const char* riverhorse_last_error(void);

/* Sends the library's messages to `callback` (`message` is valid during the call only); null silences them. Without
 * this call, warnings and errors go to stderr. For the whole process; may be called from any thread, as may the
 * callback, which must not call the library. */
typedef void (*riverhorse_log_callback)(void* user, riverhorse_log_level level, const char* message);
/* Threads: any. */
RIVERHORSE_API void riverhorse_set_log_callback(riverhorse_log_callback callback, void* user);

/* ------------------------------------------------------------------------------------------------------ devices */

typedef struct riverhorse_device_info {
  uint32_t struct_size;
  int32_t is_default; /* 1: taken when nothing is chosen */
  char id[32];        /* "vulkan:0": pass it as riverhorse_model_options.device */
  char backend[16];   /* "cpu", "vulkan", "cuda" */
  char name[256];     /* longer names are cut at a character */
  char type[32];      /* "discrete GPU", "integrated GPU", "software", ... */
  char driver[256];   /* name and version */
  char api[64];       /* "Vulkan 1.3.230", or "" */
  uint8_t uuid[16];   /* of the physical device; zero when unknown */
  uint64_t memory_total_bytes;
  uint64_t memory_free_bytes; /* when listed; equals the total when unknown */
} riverhorse_device_info;

/* Lists every device of every backend as it is now. A missing or broken driver is no error: it is in the list of
 * absent backends, with the reason. Free the list with riverhorse_device_list_free. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_list_devices(riverhorse_device_list** list);
/* Threads: alone. */
RIVERHORSE_API void riverhorse_device_list_free(riverhorse_device_list* list);

/* 0 for null. Threads: any. */
RIVERHORSE_API size_t riverhorse_device_list_count(const riverhorse_device_list* list);
/* Fills `info`, whose struct_size is set by the caller. INVALID_ARGUMENT when `index` is not below the count.
 * Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_device_list_get(const riverhorse_device_list* list, size_t index,
                                                            riverhorse_device_info* info);

/* Backends without a device, and why: "no Vulkan loader ...". The texts live as long as the list. Threads: any. */
RIVERHORSE_API size_t riverhorse_device_list_absent_count(const riverhorse_device_list* list);
/* Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_device_list_get_absent(const riverhorse_device_list* list, size_t index,
                                                                   const char** backend, const char** reason);

/* -------------------------------------------------------------------------------------------------------- model */

typedef struct riverhorse_model_options {
  uint32_t struct_size;
  riverhorse_dtype dtype;
  riverhorse_conv conv;         /* how long convolutions are computed */
  int32_t safe_shaders;         /* 1: use only what every Vulkan 1.1 device has; slower */
  int32_t skip_self_test;       /* 1: no test at the first use of a device and driver */
  int32_t validation;           /* 1: with the Vulkan validation layer; UNSUPPORTED when it is not installed */
  int32_t check_finite;         /* 1: refuse a model with NaN or infinite weights */
  int32_t max_sessions;         /* sessions alive at once; default 4 */
  int64_t context_tokens;       /* first capacity of the attention cache, which grows when needed; default 2048 */
  int64_t prefill_piece_tokens; /* tokens read at once by append; default: chosen by the library */
  double submission_limit_ms;   /* longest GPU submission, so that a desktop stays responsive; default 8 */
  const char* config_path;      /* config.json of a bare weights file; default: beside the weights */
  const char* backend;          /* "cpu", "vulkan", "cuda"; default: the best that is there */
  const char* device; /* an index, an id ("vulkan:0"), a UUID as text or a part of a name; default: the best */
  const char*
      cache_folder; /* of compiled pipelines, times and self-test results; "none": none; default: the user's */
  riverhorse_progress_callback progress; /* of loading */
  void* progress_user;
  riverhorse_adopted_device* adopted_device; /* instead of `backend` and `device`, which must be null then */
  uint64_t memory_budget_bytes;              /* the most to take on the device; default: what is free there */
  int32_t low_priority; /* 1: other work on the GPU goes first, where the Vulkan driver has VK_KHR_global_priority and
                           grants it; elsewhere nothing changes, and riverhorse_model_info.low_priority is 0. Not with
                           `adopted_device`, whose queue is the application's: INVALID_ARGUMENT */
  int32_t frame_sessions; /* with `adopted_device`: so many sessions will be in frames at once (riverhorse/vulkan.h),
                             each by itself; what they take counts when loading checks the memory. A text of more than
                             256 tokens, and a session's penalties and biases, take more. Default 0: not counted */
  riverhorse_tuning tuning; /* whether loading may run trials on a Vulkan device, for up to a second or so and what
                               compiling them takes, to find the fastest tiles of its products; remembered in
                               cache_folder. They change no bit of what a model says */
} riverhorse_model_options;

/* Loads a model onto a device. `path` is a model folder (config.json, model.safetensors, tokenizer files), a
 * .safetensors or a .pt file. The device asked for is the one used, or the call fails. Weights are read from the file
 * piece by piece: no second copy of them lies in the host's memory. OUT_OF_MEMORY says what is needed, what there is,
 * and what would fit. All that is slow is done here, pipelines and plans too, so a program that must not wait calls
 * it on a thread of its own; any will do, and models may be loaded and freed on several at once. Errors: NOT_FOUND,
 * BAD_FILE, UNSUPPORTED, OUT_OF_MEMORY (before anything large is allocated), CANCELLED. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_model_load(const char* path, const riverhorse_model_options* options,
                                                       riverhorse_model** model);

typedef struct riverhorse_memory_estimate {
  uint32_t struct_size;
  uint64_t weights_bytes;   /* as they lie on the device, with what is made of them for convolutions */
  uint64_t sessions_bytes;  /* states and attention caches of max_sessions sessions of context_tokens */
  uint64_t workspace_bytes; /* scratch memory, transfers */
  uint64_t frames_bytes;    /* of frame_sessions */
  uint64_t total_bytes;
  uint64_t available_bytes; /* what is free, within memory_budget_bytes: the model fits when the total is no more */
} riverhorse_memory_estimate;

/* What riverhorse_model_load with the same arguments would take on its device, by purpose. Opens the device, reads
 * the configuration and what the weights file says of itself, and no weights. Fills `estimate`, whose struct_size is
 * set by the caller. Of RIVERHORSE_CONV_AUTO the way without transforms is counted. Errors: as riverhorse_model_load,
 * but for a model that does not fit. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_model_estimate_memory(const char* path,
                                                                  const riverhorse_model_options* options,
                                                                  riverhorse_memory_estimate* estimate);

typedef struct riverhorse_model_file {
  const char* name; /* as in a model folder: "config.json", "model.safetensors", "tokenizer.json", ... */
  const void* data; /* at any address */
  size_t size;      /* bytes */
} riverhorse_model_file;

/* Loads a model from memory, out of a game's archive for one: `files` (count) are those of a model folder, in any
 * order: config.json; model.safetensors or model.pt; tokenizer.json, or vocab.json and merges.txt, or none of these.
 * Weights are read where they are, the memory is needed during the call only, and no file is opened but those of
 * options.cache_folder. Messages begin with the name of the file that is wrong. options.config_path must be null.
 * Errors: as riverhorse_model_load; NOT_FOUND names the file that is missing; INVALID_ARGUMENT for a name that is
 * none of these or is there twice. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_model_load_memory(const riverhorse_model_file* files, size_t count,
                                                              const riverhorse_model_options* options,
                                                              riverhorse_model** model);
/* The model's memory is given back when its last session is freed too. Threads: alone. */
RIVERHORSE_API void riverhorse_model_free(riverhorse_model* model);

typedef struct riverhorse_model_info {
  uint32_t struct_size;
  riverhorse_dtype dtype;
  int64_t parameter_count; /* the tied embedding counted once */
  int64_t embedding_width; /* D */
  int64_t layer_count;
  int64_t attention_layer_count;
  int64_t state_size; /* N */
  int64_t vocab_size;
  int64_t padded_vocab_size;    /* columns of the logits */
  int32_t has_tokenizer;        /* 1: encode, decode and texts in generate work */
  int32_t end_of_text;          /* token id, -1: none */
  int64_t tokenizer_vocab_size; /* tokens that have a text: may be fewer than the model can draw; 0: no tokenizer */
  int64_t max_sessions;
  uint64_t device_memory_bytes; /* that the model holds on the device */
  char device_id[32];
  char device_name[256];
  int32_t low_priority; /* 1: its queue has low priority, as riverhorse_model_options asked; 0: not asked, or not had,
                           of which a message of level RIVERHORSE_LOG_INFO says why */
} riverhorse_model_info;

/* Fills `info`, whose struct_size is set by the caller. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_model_get_info(const riverhorse_model* model,
                                                           riverhorse_model_info* info);

/* Text to token ids. `text` may hold any bytes. `special` nonzero: texts of special tokens ("<|endoftext|>") become
 * their ids. `ids` (capacity) may be null; *count is the number of ids. UNSUPPORTED: the model has no tokenizer.
 * Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_model_encode(const riverhorse_model* model, const char* text,
                                                         size_t text_bytes, int special, int32_t* ids,
                                                         size_t capacity, size_t* count);

/* Token ids to text, without a terminating zero. `text` (capacity bytes) may be null; *text_bytes is the size. The
 * bytes of a single token may be a part of a character. INVALID_ARGUMENT for an unknown id. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_model_decode(const riverhorse_model* model, const int32_t* ids,
                                                         size_t count, char* text, size_t capacity,
                                                         size_t* text_bytes);

/* ----------------------------------------------------------------------------------------------------- sessions */

typedef struct riverhorse_logit_bias {
  int32_t token;
  float bias; /* added to the token's logit */
} riverhorse_logit_bias;

/* How tokens are drawn; all zero is greedy. The same seed, model, device and calls give the same tokens. */
typedef struct riverhorse_sampling_options {
  uint32_t struct_size;
  int32_t padded_vocabulary; /* 1: the padding columns of the logits may be drawn too */
  double temperature;        /* 0: greedy */
  int64_t top_k;             /* 0: all tokens */
  double top_p;              /* default 1: all tokens */
  double min_p;              /* 0: all tokens */
  double repetition_penalty; /* default 1: none */
  double presence_penalty;   /* 0: none */
  double frequency_penalty;  /* 0: none */
  uint64_t seed;
  int64_t vocabulary_limit; /* tokens from here on are never drawn, e.g. tokenizer_vocab_size; default: none but
                               the padding columns */
  const riverhorse_logit_bias* logit_bias; /* (logit_bias_count), copied */
  size_t logit_bias_count;
} riverhorse_sampling_options;

/* An empty text on the model's device. OUT_OF_MEMORY: max_sessions are alive. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_create(riverhorse_model* model,
                                                           const riverhorse_sampling_options* sampling,
                                                           riverhorse_session** session);
/* Does nothing when called from a callback of one of the model's sessions. Threads: alone. */
RIVERHORSE_API void riverhorse_session_free(riverhorse_session* session);

/* Replaces the sampling options and restarts the random numbers at the seed. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_set_sampling(riverhorse_session* session,
                                                                 const riverhorse_sampling_options* sampling);

/* Reads `count` tokens into the state, from wherever the text is. `progress` (may be null) counts tokens; when it
 * cancels, the tokens of the pieces done so far have been read. INVALID_ARGUMENT for an id out of range: none is
 * read then. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_append(riverhorse_session* session, const int32_t* ids,
                                                           size_t count, riverhorse_progress_callback progress,
                                                           void* progress_user);

/* Draws the next token, reads it into the state and writes it to *token. INVALID_ARGUMENT for an empty text.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_step(riverhorse_session* session, int32_t* token);

/* The same for several sessions of one model at once, which is faster than one after the other: tokens[i] is that of
 * sessions[i]. INVALID_ARGUMENT for an empty text, a session twice, or sessions of different models. Threads: turn.
 */
RIVERHORSE_API riverhorse_status riverhorse_sessions_step(riverhorse_session* const* sessions, size_t count,
                                                          int32_t* tokens);

typedef struct riverhorse_generate_options {
  uint32_t struct_size;
  int32_t ignore_end_of_text;      /* 1: go on after the end-of-text token */
  int64_t max_tokens;              /* default 128 */
  const char* const* stop_strings; /* (stop_string_count) zero-terminated; needs a tokenizer */
  size_t stop_string_count;
} riverhorse_generate_options;

/* Called for every drawn token with the text that it completes: whole UTF-8 characters only, `text_bytes` 0 while one
 * is incomplete or may be the beginning of a stop string, and for models without a tokenizer. What is held back comes
 * with a last call, whose token is -1. Invalid UTF-8 from the model is passed on as U+FFFD. Nonzero stops. */
typedef int (*riverhorse_token_callback)(void* user, int32_t token, const char* text, size_t text_bytes);

typedef struct riverhorse_generate_result {
  uint32_t struct_size;
  riverhorse_stop_reason stop_reason;
  int64_t token_count; /* drawn in this call; an end-of-text token counts, and is in the state */
  double seconds;      /* wall time of the call */
} riverhorse_generate_result;

/* Draws tokens until something stops it. `callback` and `result` may be null; with both null the tokens are found by
 * riverhorse_session_get_tokens. The stop string and what follows it is not passed to the callback. After an error
 * the tokens drawn before it remain in the state. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_generate(riverhorse_session* session,
                                                             const riverhorse_generate_options* options,
                                                             riverhorse_token_callback callback, void* user,
                                                             riverhorse_generate_result* result);

typedef struct riverhorse_poll_result {
  uint32_t struct_size;
  int32_t running;                    /* 1: tokens are still to be read or to come; record more */
  riverhorse_stop_reason stop_reason; /* when it is 0 */
  int32_t frames_in_flight;           /* recorded, and not seen to be executed */
  int64_t token_count;                /* since the start */
  double expected_us;                 /* of the newest frame that was executed since the last poll; 0: none was */
  double measured_us;                 /* what it took */
  int64_t tokens_to_read;             /* of what was enqueued */
} riverhorse_poll_result;

/* Passes on the tokens that executed frames, or the library's thread, have brought, as riverhorse_session_generate
 * does; never waits for the device. `result` may be null. INVALID_ARGUMENT when nothing was started or enqueued.
 * Threads: turn, but for a session that the library's thread works for, where it waits for nothing. */
RIVERHORSE_API riverhorse_status riverhorse_session_poll(riverhorse_session* session,
                                                         riverhorse_token_callback callback, void* user,
                                                         riverhorse_poll_result* result);

/* A generation on a thread of the library's, one for each model that needs it, on the model's own device and queue;
 * before it the tokens `ids` (count, may be 0) are read. Returns at once. The thread works for the sessions of a
 * model in turn, a piece of a prompt or some milliseconds of tokens at a time; calls for other sessions of the model
 * wait for one such turn at most, and riverhorse_session_poll and _cancel wait for nothing.
 *
 * With a null `callback`, riverhorse_session_poll passes the tokens on. Else `callback` is called on that thread, as
 * from riverhorse_session_generate, and polls only tell the state.
 *
 * While it runs (poll says so), riverhorse_session_position and _get_tokens may be used, waiting for a turn; poll,
 * cancel and free too; all other functions of the session fail with INVALID_ARGUMENT. Where the callback of a poll
 * ends the text, what was drawn beyond that is undone by the thread before it is over. Errors on the thread are
 * returned by the poll after the last token. riverhorse_session_free ends it without waiting, but for a callback that
 * is running: the session's memory and its place in max_sessions are given back a turn later. When the last of a
 * model and its sessions is freed, the turn in progress is waited for; on the library's thread freeing does nothing.
 * INVALID_ARGUMENT: an empty text and no `ids`, an id out of range, frames in flight. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_start_async(riverhorse_session* session, const int32_t* ids,
                                                                size_t count,
                                                                const riverhorse_generate_options* options,
                                                                riverhorse_token_callback callback, void* user);

/* Ends what riverhorse_session_append, _generate and what was started are doing for this session, or wait to do, at
 * the next token or the next piece of a text that is read: append then returns RIVERHORSE_CANCELLED, the others the
 * stop reason CANCELLED. What was read or drawn until then is in the state, which is that of
 * riverhorse_session_get_tokens, and the session is good. Nothing happens when there is nothing to end. Never waits.
 * Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_session_cancel(riverhorse_session* session);

/* Tokens in the state; -1 for null. Threads: turn. */
RIVERHORSE_API int64_t riverhorse_session_position(const riverhorse_session* session);

/* All tokens of the text, in order: `ids` (capacity) may be null; *count is their number. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_get_tokens(const riverhorse_session* session, int32_t* ids,
                                                               size_t capacity, size_t* count);

/* The logits after the last token: `logits` (capacity) may be null; *count is padded_vocab_size. INVALID_ARGUMENT for
 * an empty text. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_get_logits(riverhorse_session* session, float* logits,
                                                               size_t capacity, size_t* count);

/* A copy of everything, random numbers included, in a new session that continues exactly as this one would.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_clone(riverhorse_session* session, riverhorse_session** copy);

/* Remembers the state at this position, so that rewind() to here or later is cheap: a copy of the SSM state on the
 * device (a few MB), none of the attention cache. OUT_OF_MEMORY. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_checkpoint(riverhorse_session* session);

/* Goes back to an earlier position, exactly. *tokens_read_again (may be null) is how many tokens had to be read
 * anew: those since the newest remembered state at or before it. INVALID_ARGUMENT when `position` is negative or
 * ahead. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_rewind(riverhorse_session* session, int64_t position,
                                                           int64_t* tokens_read_again);

/* Back to an empty text. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_clear(riverhorse_session* session);

/* Writes the whole session (position, tokens, state, attention cache, sampler) to one file, whole or not at all.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_save(riverhorse_session* session, const char* path);

/* Replaces the session by a saved one of the same model. *tokens_reused (may be null) is the number of tokens whose
 * state was taken from the file: all of them. BAD_FILE: damaged, or of another model or version; the session is
 * then unchanged. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_load(riverhorse_session* session, const char* path,
                                                         int64_t* tokens_reused);

/* The same bytes as in such a file, for a saved game: `data` (capacity bytes) may be null; *size is how many there
 * are, which takes no work to know. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_save_memory(riverhorse_session* session, void* data,
                                                                size_t capacity, size_t* size);

/* riverhorse_session_load from memory, which is not needed afterwards. BAD_FILE as there. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_load_memory(riverhorse_session* session, const void* data,
                                                                size_t size, int64_t* tokens_reused);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif
