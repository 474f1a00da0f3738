/* Riverhorse: H3 state-space language models on the CPU and on any Vulkan device. The public interface, in C99.
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
 * Threads. Different models may be used by different threads at once. A model and its sessions take one call at a
 * time, and so do an opened device and its trainers: calls from several threads wait for each other. Callbacks run
 * during the call that they were given to; from within one, the functions riverhorse_model_... of the same model may
 * be called, those of its sessions are refused with RIVERHORSE_INVALID_ARGUMENT. riverhorse_session_cancel waits for
 * nothing and may be called from any thread and callback while the session is not being freed. A callback must not
 * throw C++ exceptions or jump out.
 *
 * Lifetimes. A session keeps its model alive, and a trainer its device: they may be freed in any order. All freeing
 * functions accept null. Free models and trainers before main() returns, not in a static destructor: GPU drivers
 * unload in exit handlers of their own, and what is freed after them may crash (programs that did so crashed at exit
 * on NVIDIA's).
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

/* Activation recomputation: what the backward pass of a training makes again instead of keeping it. Less memory for
 * more time, and the same gradients bit for bit. */
RIVERHORSE_ENUM(riverhorse_recompute) {
  RIVERHORSE_RECOMPUTE_NONE = 0,
  RIVERHORSE_RECOMPUTE_MIXER = 1, /* all of a layer before its MLP: norms, projections, mixer */
  RIVERHORSE_RECOMPUTE_BLOCK = 2  /* all of a layer; only the residual stream that it begins with is kept */
};

/* Of a training in F16 or BF16, before the softmax of its loss. */
RIVERHORSE_ENUM(riverhorse_logits) {
  RIVERHORSE_LOGITS_32_BITS = 0,
  RIVERHORSE_LOGITS_16_BITS = 1 /* faster; each is rounded, and by as much its gradient */
};

RIVERHORSE_ENUM(riverhorse_stop_reason) {
  RIVERHORSE_STOP_MAX_TOKENS = 0,
  RIVERHORSE_STOP_END_OF_TEXT = 1, /* the model drew its end-of-text token */
  RIVERHORSE_STOP_STRING = 2,      /* one of the stop strings was completed */
  RIVERHORSE_STOP_CALLBACK = 3,    /* the callback asked to stop */
  RIVERHORSE_STOP_CANCELLED = 4    /* riverhorse_session_cancel */
};

/* What decays, and how fast the dynamics of the SSMs learn. */
RIVERHORSE_ENUM(riverhorse_recipe) {
  RIVERHORSE_RECIPE_GROUPED = 0, /* decay of the weights only; the dynamics learn as all else */
  RIVERHORSE_RECIPE_SAFARI = 1   /* decay of weights and vectors; the dynamics learn at most at 1e-3 */
};

/* Of the learning rate, after the warm-up. */
RIVERHORSE_ENUM(riverhorse_schedule) {
  RIVERHORSE_SCHEDULE_CONSTANT = 0,
  RIVERHORSE_SCHEDULE_LINEAR = 1, /* a straight line to the final fraction at the last step */
  RIVERHORSE_SCHEDULE_COSINE = 2, /* half a wave to it */
  RIVERHORSE_SCHEDULE_WSD = 3     /* constant, then a straight line over the last part */
};
/* clang-format on */

typedef struct riverhorse_device_list riverhorse_device_list;
typedef struct riverhorse_model riverhorse_model;
typedef struct riverhorse_session riverhorse_session;
typedef struct riverhorse_device riverhorse_device;
typedef struct riverhorse_adopted_device riverhorse_adopted_device;
typedef struct riverhorse_trainer riverhorse_trainer;

/* Called now and then with the work done so far, in units of its own (bytes, tokens). Nonzero cancels the call in
 * progress, which then returns RIVERHORSE_CANCELLED. */
typedef int (*riverhorse_progress_callback)(void* user, uint64_t done, uint64_t total);

/* ---------------------------------------------------------------------------------------- versions, errors, log */

/* "0.1.0". Never fails; the text is static. */
RIVERHORSE_API const char* riverhorse_version(void);

/* The ABI of the loaded library. Never fails. */
RIVERHORSE_API uint32_t riverhorse_abi_version(void);

/* "bad_file" for RIVERHORSE_BAD_FILE; "unknown" for a value outside the enumeration. Static text. */
RIVERHORSE_API const char* riverhorse_status_name(riverhorse_status status);

/* One line about the last failed call of this thread; "" before the first. Valid until the next failure on this
 * thread. A call that succeeds does not change it. */
RIVERHORSE_API const char* riverhorse_last_error(void);

/* Sends the library's messages to `callback` (`message` is valid during the call only); null silences them. Without
 * this call, warnings and errors go to stderr. For the whole process; may be called from any thread, as may the
 * callback, which must not call the library. */
typedef void (*riverhorse_log_callback)(void* user, riverhorse_log_level level, const char* message);
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
 * absent backends, with the reason. Free the list with riverhorse_device_list_free. */
RIVERHORSE_API riverhorse_status riverhorse_list_devices(riverhorse_device_list** list);
RIVERHORSE_API void riverhorse_device_list_free(riverhorse_device_list* list);

/* 0 for null. */
RIVERHORSE_API size_t riverhorse_device_list_count(const riverhorse_device_list* list);
/* Fills `info`, whose struct_size is set by the caller. INVALID_ARGUMENT when `index` is not below the count. */
RIVERHORSE_API riverhorse_status riverhorse_device_list_get(const riverhorse_device_list* list, size_t index,
                                                            riverhorse_device_info* info);

/* Backends without a device, and why: "no Vulkan loader ...". The texts live as long as the list. */
RIVERHORSE_API size_t riverhorse_device_list_absent_count(const riverhorse_device_list* list);
RIVERHORSE_API riverhorse_status riverhorse_device_list_get_absent(const riverhorse_device_list* list, size_t index,
                                                                   const char** backend, const char** reason);

/* ----------------------------------------------------------------------------------------- a host's Vulkan device */

/* Features of a Vulkan device that Riverhorse makes use of, by Vulkan's own names. None is needed; each that is there
 * makes models faster or smaller. */
typedef struct riverhorse_vulkan_features {
  int32_t storage_buffer_16bit_access; /* needed for F16 */
  int32_t shader_float16;
  int32_t timeline_semaphore;
  int32_t subgroup_size_control; /* with the next: only both are of use */
  int32_t compute_full_subgroups;
  int32_t vulkan_memory_model; /* with the next: only both are of use */
  int32_t vulkan_memory_model_device_scope;
  int32_t cooperative_matrix; /* of VK_KHR_cooperative_matrix, with all of the above but timeline semaphores */
} riverhorse_vulkan_features;

/* A Vulkan device that the application made. Handles are those of vulkan.h, given as pointers. */
typedef struct riverhorse_vulkan_device {
  uint32_t struct_size;
  uint32_t api_version;  /* VkApplicationInfo::apiVersion of the instance; at least 1.1 */
  void* instance;        /* VkInstance */
  void* physical_device; /* VkPhysicalDevice */
  void* device;          /* VkDevice */
  void* queue;           /* VkQueue: it computes */
  uint32_t queue_family; /* that it is of */
  uint32_t extension_count;
  const char* const* extensions;        /* (extension_count) enabled on the device; copied */
  riverhorse_vulkan_features features;  /* enabled on the device */
  void (*get_instance_proc_addr)(void); /* PFN_vkGetInstanceProcAddr, cast */
  const void* allocation_callbacks; /* VkAllocationCallbacks for all that is made on the device; copied. Null: none */
  /* Called around every use of the queue, when other threads use it too; both or none. The application must not hold
   * its lock while it calls Riverhorse. */
  void (*lock_queue)(void* user);
  void (*unlock_queue)(void* user);
  void* lock_user;
} riverhorse_vulkan_device;

typedef struct riverhorse_vulkan_requirements {
  uint32_t struct_size;
  uint32_t queue_family;               /* the one that Riverhorse would choose; any other that computes will do */
  riverhorse_vulkan_features features; /* 1: the device has it; enable it */
  uint32_t extension_count;
  const char* extensions[16]; /* (extension_count) that the device has, to be enabled too; static texts */
} riverhorse_vulkan_requirements;

/* What to enable when making a device on `device->physical_device`, so that Riverhorse can make the best of it. Of
 * `device`, api_version, instance, physical_device and get_instance_proc_addr are read.
 * UNSUPPORTED: Vulkan below 1.1, no queue that computes, or a library without Vulkan. */
RIVERHORSE_API riverhorse_status riverhorse_vulkan_query_requirements(const riverhorse_vulkan_device* device,
                                                                      riverhorse_vulkan_requirements* requirements);

/* Lets models run on a device of the application's: riverhorse_model_options.adopted_device. Its handles must stay
 * valid until the adopted device and all models on it are freed; until then their work may be in flight on the queue,
 * and after that nothing of theirs is left on it. What the application made is never destroyed or changed. Several
 * models may run on one adopted device, from several threads: their uses of the queue take turns.
 * INVALID_ARGUMENT: a handle is null. UNSUPPORTED: as above, and a queue family that does not compute. */
RIVERHORSE_API riverhorse_status riverhorse_adopt_vulkan(const riverhorse_vulkan_device* device,
                                                         riverhorse_adopted_device** adopted);
/* Models keep it alive. */
RIVERHORSE_API void riverhorse_adopted_device_free(riverhorse_adopted_device* adopted);

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
  const char* device;           /* an index, an id ("vulkan:0") or a part of a name; default: the best */
  const char* cache_folder; /* of compiled pipelines and self-test results; "none": no cache; default: the user's */
  riverhorse_progress_callback progress; /* of loading */
  void* progress_user;
  riverhorse_adopted_device* adopted_device; /* instead of `backend` and `device`, which must be null then */
  uint64_t memory_budget_bytes;              /* the most to take on the device; default: what is free there */
} riverhorse_model_options;

/* Loads a model onto a device. `path` is a model folder (config.json, model.safetensors, tokenizer files), a
 * .safetensors or a .pt file. The device asked for is the one used, or the call fails. Weights are read from the file
 * piece by piece: no second copy of them lies in the host's memory. OUT_OF_MEMORY says what is needed, what there is,
 * and what would fit.
 * Errors: NOT_FOUND, BAD_FILE, UNSUPPORTED, OUT_OF_MEMORY (before anything large is allocated), CANCELLED. */
RIVERHORSE_API riverhorse_status riverhorse_model_load(const char* path, const riverhorse_model_options* options,
                                                       riverhorse_model** model);

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
 * none of these or is there twice. */
RIVERHORSE_API riverhorse_status riverhorse_model_load_memory(const riverhorse_model_file* files, size_t count,
                                                              const riverhorse_model_options* options,
                                                              riverhorse_model** model);
/* The model's memory is given back when its last session is freed too. */
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
} riverhorse_model_info;

/* Fills `info`, whose struct_size is set by the caller. */
RIVERHORSE_API riverhorse_status riverhorse_model_get_info(const riverhorse_model* model,
                                                           riverhorse_model_info* info);

/* Text to token ids. `text` may hold any bytes. `special` nonzero: texts of special tokens ("<|endoftext|>") become
 * their ids. `ids` (capacity) may be null; *count is the number of ids. UNSUPPORTED: the model has no tokenizer. */
RIVERHORSE_API riverhorse_status riverhorse_model_encode(const riverhorse_model* model, const char* text,
                                                         size_t text_bytes, int special, int32_t* ids,
                                                         size_t capacity, size_t* count);

/* Token ids to text, without a terminating zero. `text` (capacity bytes) may be null; *text_bytes is the size. The
 * bytes of a single token may be a part of a character. INVALID_ARGUMENT for an unknown id. */
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

/* An empty text on the model's device. OUT_OF_MEMORY: max_sessions are alive. */
RIVERHORSE_API riverhorse_status riverhorse_session_create(riverhorse_model* model,
                                                           const riverhorse_sampling_options* sampling,
                                                           riverhorse_session** session);
/* Does nothing when called from a callback of one of the model's sessions. */
RIVERHORSE_API void riverhorse_session_free(riverhorse_session* session);

/* Replaces the sampling options and restarts the random numbers at the seed. */
RIVERHORSE_API riverhorse_status riverhorse_session_set_sampling(riverhorse_session* session,
                                                                 const riverhorse_sampling_options* sampling);

/* Reads `count` tokens into the state, from wherever the text is. `progress` (may be null) counts tokens; when it
 * cancels, the tokens of the pieces done so far have been read. INVALID_ARGUMENT for an id out of range: none is
 * read then. */
RIVERHORSE_API riverhorse_status riverhorse_session_append(riverhorse_session* session, const int32_t* ids,
                                                           size_t count, riverhorse_progress_callback progress,
                                                           void* progress_user);

/* Draws the next token, reads it into the state and writes it to *token. INVALID_ARGUMENT for an empty text. */
RIVERHORSE_API riverhorse_status riverhorse_session_step(riverhorse_session* session, int32_t* token);

/* The same for several sessions of one model at once, which is faster than one after the other: tokens[i] is that of
 * sessions[i]. INVALID_ARGUMENT for an empty text, a session twice, or sessions of different models. */
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
 * the tokens drawn before it remain in the state. */
RIVERHORSE_API riverhorse_status riverhorse_session_generate(riverhorse_session* session,
                                                             const riverhorse_generate_options* options,
                                                             riverhorse_token_callback callback, void* user,
                                                             riverhorse_generate_result* result);

/* A generation that the application runs itself, on a device that it lends (riverhorse_adopt_vulkan): recorded into
 * the command buffers of its frames, so much a frame as there is time for, and read when a frame is done. Nothing is
 * submitted and nothing waits.
 *
 *   riverhorse_session_start(session, &options);
 *   each frame:  riverhorse_session_record(session, commands, budget_us, NULL);   outside a render pass
 *                vkQueueSubmit, on the adopted queue
 *                riverhorse_session_poll(session, on_token, user, &result);       what earlier frames have brought
 *
 * Each command buffer with recorded work is submitted once, to the adopted queue, in the order of recording; the
 * application's semaphores and fences are its own business, and none is needed for ours. Until it has been executed,
 * the session may be freed (its memory goes when the device is done with it), but not its model's device.
 *
 * start: draws up to options.max_tokens tokens, from here on. Slow the first time, when it records and measures a
 * step; call it where a short stall does no harm. What is still being drawn then ends with the token that was passed
 * on last. Other functions of the session but enqueue, position and tokens end what was started: they finish what is
 * half done and read what was enqueued, which waits, and fail with INVALID_ARGUMENT while its frames are in flight.
 * The attention cache cannot grow meanwhile, so load the model with context_tokens large enough. INVALID_ARGUMENT: an
 * empty text. UNSUPPORTED: not a Vulkan device, or a queue without timestamps. */
RIVERHORSE_API riverhorse_status riverhorse_session_start(riverhorse_session* session,
                                                          const riverhorse_generate_options* options);

/* What the session reads next, recorded into frames too: behind all that it has to read already, in the pieces that
 * riverhorse_session_append would read, so that tokens and logits are the same to the last bit. A player's line
 * stalls no frame. The tokens belong to the text at once. What was being drawn ends with the token that was passed on
 * last; riverhorse_session_start then draws the answer, and may be called before all is read. Slow the first time (as
 * start, of which it needs none before it), and for a text that is longer than all before and than 256 tokens. A
 * single dispatch grows with the piece: load the model with a prefill_piece_tokens of 64, say, for budgets below a
 * millisecond. INVALID_ARGUMENT: an id out of range. UNSUPPORTED: as start. */
RIVERHORSE_API riverhorse_status riverhorse_session_enqueue(riverhorse_session* session, const int32_t* ids,
                                                            size_t count);
/* The same for UTF-8 text, without special tokens. UNSUPPORTED: as start, and for a model without a tokenizer. */
RIVERHORSE_API riverhorse_status riverhorse_session_enqueue_text(riverhorse_session* session, const char* text,
                                                                 size_t text_bytes);

typedef struct riverhorse_record_result {
  uint32_t struct_size;
  int32_t pieces;     /* that were appended; 0: there is nothing to do, no budget, or eight frames are in flight */
  double expected_us; /* of GPU time, by what the same pieces took before */
} riverhorse_record_result;

/* Appends work that is expected to take at most `budget_us` microseconds of GPU time to an open VkCommandBuffer. A
 * token is cut where the budget ends and goes on in the next frame. A single dispatch that takes longer than the
 * budget is appended alone, once in as many frames as its time is worth. `result` may be null. */
RIVERHORSE_API riverhorse_status riverhorse_session_record(riverhorse_session* session, void* command_buffer,
                                                           double budget_us, riverhorse_record_result* result);

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
 * does; never waits for the device. `result` may be null. INVALID_ARGUMENT when nothing was started or enqueued. */
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
 * INVALID_ARGUMENT: an empty text and no `ids`, an id out of range, frames in flight. */
RIVERHORSE_API riverhorse_status riverhorse_session_start_async(riverhorse_session* session, const int32_t* ids,
                                                                size_t count,
                                                                const riverhorse_generate_options* options,
                                                                riverhorse_token_callback callback, void* user);

/* Ends what riverhorse_session_append, _generate and what was started are doing for this session, or wait to do, at
 * the next token or the next piece of a text that is read: append then returns RIVERHORSE_CANCELLED, the others the
 * stop reason CANCELLED. What was read or drawn until then is in the state, which is that of
 * riverhorse_session_get_tokens, and the session is good. Nothing happens when there is nothing to end. Never waits.
 */
RIVERHORSE_API riverhorse_status riverhorse_session_cancel(riverhorse_session* session);

/* Tokens in the state; -1 for null. */
RIVERHORSE_API int64_t riverhorse_session_position(const riverhorse_session* session);

/* All tokens of the text, in order: `ids` (capacity) may be null; *count is their number. */
RIVERHORSE_API riverhorse_status riverhorse_session_get_tokens(const riverhorse_session* session, int32_t* ids,
                                                               size_t capacity, size_t* count);

/* The logits after the last token: `logits` (capacity) may be null; *count is padded_vocab_size. INVALID_ARGUMENT for
 * an empty text. */
RIVERHORSE_API riverhorse_status riverhorse_session_get_logits(riverhorse_session* session, float* logits,
                                                               size_t capacity, size_t* count);

/* A copy of everything, random numbers included, in a new session that continues exactly as this one would. */
RIVERHORSE_API riverhorse_status riverhorse_session_clone(riverhorse_session* session, riverhorse_session** copy);

/* Remembers the state at this position, so that rewind() to here or later is cheap. */
RIVERHORSE_API riverhorse_status riverhorse_session_checkpoint(riverhorse_session* session);

/* Goes back to an earlier position, exactly. *tokens_read_again (may be null) is how many tokens had to be read
 * anew: those since the newest remembered state at or before it. INVALID_ARGUMENT when `position` is negative or
 * ahead. */
RIVERHORSE_API riverhorse_status riverhorse_session_rewind(riverhorse_session* session, int64_t position,
                                                           int64_t* tokens_read_again);

/* Back to an empty text. */
RIVERHORSE_API riverhorse_status riverhorse_session_clear(riverhorse_session* session);

/* Writes the whole session (position, tokens, state, attention cache, sampler) to one file, whole or not at all. */
RIVERHORSE_API riverhorse_status riverhorse_session_save(riverhorse_session* session, const char* path);

/* Replaces the session by a saved one of the same model. *tokens_reused (may be null) is the number of tokens whose
 * state was taken from the file: all of them. BAD_FILE: damaged, or of another model or version; the session is
 * then unchanged. */
RIVERHORSE_API riverhorse_status riverhorse_session_load(riverhorse_session* session, const char* path,
                                                         int64_t* tokens_reused);

/* The same bytes as in such a file, for a saved game: `data` (capacity bytes) may be null; *size is how many there
 * are, which takes no work to know. */
RIVERHORSE_API riverhorse_status riverhorse_session_save_memory(riverhorse_session* session, void* data,
                                                                size_t capacity, size_t* size);

/* riverhorse_session_load from memory, which is not needed afterwards. BAD_FILE as there. */
RIVERHORSE_API riverhorse_status riverhorse_session_load_memory(riverhorse_session* session, const void* data,
                                                                size_t size, int64_t* tokens_reused);

/* ----------------------------------------------------------------------------------------------------- training */

/* Its members are those of riverhorse_model_options. */
typedef struct riverhorse_device_options {
  uint32_t struct_size;
  int32_t safe_shaders;
  int32_t skip_self_test;
  int32_t validation;
  double submission_limit_ms;
  const char* backend;
  const char* device;
  const char* cache_folder;
} riverhorse_device_options;

/* Opens a device to train on. The device asked for is the one used, or the call fails; where none is, it is the best
 * one that trains.
 * Errors: NOT_FOUND; UNSUPPORTED, for a device that does not train too. */
RIVERHORSE_API riverhorse_status riverhorse_device_open(const riverhorse_device_options* options,
                                                        riverhorse_device** device);
/* The device is given back when its last trainer is freed too. */
RIVERHORSE_API void riverhorse_device_free(riverhorse_device* device);

/* Where a training begins, and how it runs. The model is exactly one of `preset`, `config_json` and `model_path`. In
 * a step AdamW takes the gradients of the mean loss over the scored tokens, scaled down to a norm of `clip_norm`. */
typedef struct riverhorse_trainer_options {
  uint32_t struct_size;
  riverhorse_conv conv;
  riverhorse_recipe recipe;
  riverhorse_schedule schedule;
  const char* preset;       /* a new model: "tiny", "tiny-hybrid", "125m", "355m", ... */
  const char* config_json;  /* a new model: the text of a config.json */
  const char* model_path;   /* the weights of a model folder, .safetensors or .pt file, as riverhorse_model_load */
  uint64_t seed;            /* of a new model's values, and of dropout; below 2^63 */
  int64_t batch;            /* B, sequences at once; default 8. More of them in a step are done B at a time */
  int64_t length;           /* L, tokens of a sequence; default 1024 */
  double learning_rate;     /* the largest; default 6e-4 */
  double ssm_learning_rate; /* of the dynamics of the SSMs; default by recipe */
  double beta1;             /* default 0.9 */
  double beta2;             /* default 0.95 */
  double epsilon;           /* default 1e-8 */
  double weight_decay;      /* default 0.1; negative: none */
  double clip_norm;         /* default 1; negative: no clipping */
  double skip_above;        /* steps of a larger gradient norm change nothing; default: only those not finite */
  int64_t warmup_steps;     /* in which the learning rate rises from 0 */
  int64_t schedule_steps;   /* steps until the final fraction; needed by every schedule but the constant one */
  double final_fraction;    /* of the learning rate; default 0.1; negative: 0 */
  double decay_fraction;    /* of schedule_steps: the decay of WSD; default 0.2 */
  int64_t keep_checkpoints; /* in the folder of riverhorse_trainer_save; default 3 */
  riverhorse_dtype dtype;   /* of activations and of the matrices in products; the parameters that are learnt and
                             * saved are f32 in any case. F16 has a loss scale that finds its own size */
  riverhorse_recompute recompute; /* where memory is short */
  riverhorse_logits logits;
} riverhorse_trainer_options;

/* A training before its first step; all memory is allocated here, after the log was told how much for what.
 * Errors: NOT_FOUND, BAD_FILE, UNSUPPORTED (a device that does not train, or not in that dtype),
 * OUT_OF_MEMORY. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_create(riverhorse_device* device,
                                                           const riverhorse_trainer_options* options,
                                                           riverhorse_trainer** trainer);

/* Goes on exactly where a trainer was saved, with its options: `folder` is what riverhorse_trainer_save was given, of
 * which the newest whole checkpoint is taken, or one checkpoint's folder. Errors: as above; NOT_FOUND for a folder
 * without one. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_resume(riverhorse_device* device, const char* folder,
                                                           riverhorse_trainer** trainer);
RIVERHORSE_API void riverhorse_trainer_free(riverhorse_trainer* trainer);

typedef struct riverhorse_trainer_info {
  uint32_t struct_size;
  riverhorse_dtype dtype;
  int64_t batch;           /* B */
  int64_t length;          /* L */
  int64_t step;            /* done */
  int64_t sequences;       /* of all steps: where in its data a caller goes on */
  int64_t parameter_count; /* the tied embedding counted once */
  int64_t vocab_size;
  int64_t padded_vocab_size; /* ids and targets are below it */
  char device_id[32];
} riverhorse_trainer_info;

/* Fills `info`, whose struct_size is set by the caller. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_get_info(const riverhorse_trainer* trainer,
                                                             riverhorse_trainer_info* info);

typedef struct riverhorse_step_result {
  uint32_t struct_size;
  int32_t skipped;      /* 1: the gradient norm was above skip_above or not finite, and nothing was changed */
  int64_t step;         /* this one, from 1 */
  int64_t scored;       /* tokens */
  double loss;          /* mean over them, natural logarithm, before the update */
  double gradient_norm; /* before clipping */
  double loss_scale;    /* what the gradients were multiplied by, and divided again; 1 but for F16 */
  double learning_rate; /* of this step */
} riverhorse_step_result;

/* One step on `sequences` sequences, any number above 0, each from an empty state: `ids` (sequences, L) and
 * `targets` (sequences, L), the id that should follow each token, -1 where nothing is scored. Null targets: the next
 * id of each sequence, and -1 at its end. `result` may be null.
 * INVALID_ARGUMENT: an id or a target out of range, or no target at all; nothing was changed then. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_step(riverhorse_trainer* trainer, const int32_t* ids,
                                                         const int32_t* targets, size_t sequences,
                                                         riverhorse_step_result* result);

typedef struct riverhorse_evaluation {
  uint32_t struct_size;
  double loss_sum; /* over the scored tokens, natural logarithm */
  int64_t scored;  /* tokens */
  int64_t correct; /* of them, where the largest logit was the target's */
} riverhorse_evaluation;

/* The loss of such sequences, without dropout; changes nothing. Errors: as riverhorse_trainer_step. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_evaluate(riverhorse_trainer* trainer, const int32_t* ids,
                                                             const int32_t* targets, size_t sequences,
                                                             riverhorse_evaluation* result);

/* Writes the checkpoint <folder>/step-<the step, 8 digits>, whole or not at all: a model folder for
 * riverhorse_model_load, with the state of the training beside it. Makes `folder` if it is absent, and removes all
 * its checkpoints but the newest. IO_ERROR: the folder is in use by another process too. */
RIVERHORSE_API riverhorse_status riverhorse_trainer_save(riverhorse_trainer* trainer, const char* folder);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif
