/* Riverhorse inside an application that has a Vulkan device of its own: the device is lent to models, and their work
 * is recorded into the application's command buffers. Errors, options, threads: as riverhorse/riverhorse.h says. This
 * header needs no vulkan.h: handles are given as pointers.
 */
#ifndef RIVERHORSE_VULKAN_H
#define RIVERHORSE_VULKAN_H

#include <riverhorse/riverhorse.h>

#ifdef __cplusplus
extern "C" {
#endif

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
 * UNSUPPORTED: Vulkan below 1.1, no queue that computes, or a library without Vulkan. Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_vulkan_query_requirements(const riverhorse_vulkan_device* device,
                                                                      riverhorse_vulkan_requirements* requirements);

/* Lets models run on a device of the application's: riverhorse_model_options.adopted_device. Its handles must stay
 * valid until the adopted device and all models on it are freed; until then their work may be in flight on the queue,
 * and after that nothing of theirs is left on it. What the application made is never destroyed or changed. Several
 * models may run on one adopted device, from several threads: their uses of the queue take turns.
 * INVALID_ARGUMENT: a handle is null. UNSUPPORTED: as above, and a queue family that does not compute.
 * Threads: any. */
RIVERHORSE_API riverhorse_status riverhorse_adopt_vulkan(const riverhorse_vulkan_device* device,
                                                         riverhorse_adopted_device** adopted);
/* Models keep it alive. Threads: alone. */
RIVERHORSE_API void riverhorse_adopted_device_free(riverhorse_adopted_device* adopted);

/* --------------------------------------------------------------------------------------------- recorded frames */

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
 * empty text. UNSUPPORTED: not a Vulkan device, or a queue without timestamps. OUT_OF_MEMORY: what it takes
 * does not fit, which the load would have told with riverhorse_model_options.frame_sessions. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_start(riverhorse_session* session,
                                                          const riverhorse_generate_options* options);

/* What the session reads next, recorded into frames too: behind all that it has to read already, in the pieces that
 * riverhorse_session_append would read, so that tokens and logits are the same to the last bit. A player's line
 * stalls no frame. The tokens belong to the text at once. What was being drawn ends with the token that was passed on
 * last; riverhorse_session_start then draws the answer, and may be called before all is read. Slow the first time (as
 * start, of which it needs none before it), and for a text that is longer than all before and than 256 tokens. A
 * single dispatch grows with the piece: load the model with a prefill_piece_tokens of 64, say, for budgets below a
 * millisecond. INVALID_ARGUMENT: an id out of range. UNSUPPORTED: as start. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_enqueue(riverhorse_session* session, const int32_t* ids,
                                                            size_t count);
/* The same for UTF-8 text, without special tokens. UNSUPPORTED: as start, and for a model without a tokenizer.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_enqueue_text(riverhorse_session* session, const char* text,
                                                                 size_t text_bytes);

typedef struct riverhorse_record_result {
  uint32_t struct_size;
  int32_t pieces;     /* that were appended; 0: there is nothing to do, no budget, or eight frames are in flight */
  double expected_us; /* of GPU time, by what the same pieces took before */
} riverhorse_record_result;

/* Appends work that is expected to take at most `budget_us` microseconds of GPU time to an open VkCommandBuffer. A
 * token is cut where the budget ends and goes on in the next frame. A single dispatch that takes longer than the
 * budget is appended alone, once in as many frames as its time is worth. `result` may be null. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_session_record(riverhorse_session* session, void* command_buffer,
                                                           double budget_us, riverhorse_record_result* result);

/* Characters that share a budget: sessions of one model whose work is recorded together, into one command buffer a
 * frame. Those that draw at the same time draw in one step, which takes little longer than that of one alone; texts
 * are read between the steps. Each session says what it would say alone. They are started, enqueued and polled as
 * before; riverhorse_batch_record takes the place of riverhorse_session_record. */
typedef struct riverhorse_batch riverhorse_batch;

typedef struct riverhorse_batch_options {
  uint32_t struct_size;
  int32_t max_together; /* sessions in one step, at most 8, the default; more of them take turns */
} riverhorse_batch_options;

/* Records and measures steps of 1 to max_together sessions; slow, and what joins and leaves later costs nothing of
 * it. The batch keeps its model alive. UNSUPPORTED: as riverhorse_session_start. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_batch_create(riverhorse_model* model,
                                                         const riverhorse_batch_options* options,
                                                         riverhorse_batch** batch);
/* Its sessions stay, as if removed. Waits for nothing; frames in flight may still have its work. Threads: alone. */
RIVERHORSE_API void riverhorse_batch_free(riverhorse_batch* batch);

/* From then on the session's work is recorded by the batch. Of two that draw, one of twice the `priority` (0: 1) gets
 * twice as many tokens where there is not time for all; likewise of two that read. Again for the same session: a new
 * priority. INVALID_ARGUMENT: a session of another model or in another batch, one that works on the library's thread,
 * and while its own frames are in flight. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_batch_add(riverhorse_batch* batch, riverhorse_session* session,
                                                      double priority);

/* At any time. What the session was drawing ends with the token that was passed on last; what it has still to read,
 * and what is in flight, its next use does or waits for. A session that is freed leaves by itself. INVALID_ARGUMENT:
 * it is not in the batch. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_batch_remove(riverhorse_batch* batch, riverhorse_session* session);

/* As riverhorse_session_record, for all of them: within one budget. A poll of any session tells of these frames.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_batch_record(riverhorse_batch* batch, void* command_buffer,
                                                         double budget_us, riverhorse_record_result* result);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif
