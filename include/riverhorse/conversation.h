/* Conversations over a session: turns of a user's text and a reply, in the words of a template. The history is the
 * session's state, so a turn reads its own text and nothing again; states of the last turns are kept on the host, so
 * that turns can be taken back. Errors, options, threads: as riverhorse/riverhorse.h says.
 *
 * Blocking:    begin_turn, reply.
 * Else:        begin_turn, get_prompt and get_generate_options; then, with the session of the conversation,
 *              riverhorse_session_start_async(session, prompt, count, &options, ...), or in frames of one's own
 *              riverhorse_session_enqueue(session, prompt, count) and riverhorse_session_start(session, &options);
 *              polls, until nothing runs and no frame is in flight; end_turn.
 */
#ifndef RIVERHORSE_CONVERSATION_H
#define RIVERHORSE_CONVERSATION_H

#include <riverhorse/riverhorse.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A template is a JSON object with these fields, all of them and no others:
 *
 *   {"system":    {"prefix": "",       "suffix": "\n\n"},
 *    "user":      {"prefix": "Guest:", "suffix": "\n"},
 *    "assistant": {"prefix": "Host:",  "suffix": "\n"},
 *    "stop": ["\nGuest:", "\nHost:"],
 *    "end_of_text": true}
 *
 * The model reads system.prefix, the system text and system.suffix; then for each turn user.prefix, the user's text,
 * user.suffix and assistant.prefix, draws the reply, and reads assistant.suffix with the next turn. A reply ends
 * before one of the stop strings (at most 16) and, where end_of_text is true, at the model's end-of-text token. What
 * the model has drawn of a stop string is not read again where it is the beginning of assistant.suffix and the next
 * user.prefix, as "\nGuest:" is here; else it stays in the state before them.
 *
 * Special tokens ("<|endoftext|>") are such in the template only: in a user's text they are plain characters. */
typedef struct riverhorse_conversation riverhorse_conversation;

typedef struct riverhorse_conversation_options {
  uint32_t struct_size;
  int32_t undo_turns;        /* that can be taken back, at most 256; default 4; -1: none. Each keeps a copy of the
                                SSM state on the device */
  const char* template_path; /* a file; or ... */
  const char* template_json; /* (template_bytes) in memory; one of both is needed */
  size_t template_bytes;
  const char* system_text; /* (system_bytes) UTF-8; null: none, and the template's system part is not read */
  size_t system_bytes;
} riverhorse_conversation_options;

/* Makes a session with `sampling` and reads the system text into it. All texts must be valid UTF-8.
 * Errors: BAD_FILE names the template and the field that is missing, unknown or wrong; NOT_FOUND; UNSUPPORTED: the
 * model has no tokenizer; OUT_OF_MEMORY: max_sessions are alive. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_create(riverhorse_model* model,
                                                                const riverhorse_conversation_options* options,
                                                                const riverhorse_sampling_options* sampling,
                                                                riverhorse_conversation** conversation);
/* Frees its session too, as riverhorse_session_free does. Threads: alone. */
RIVERHORSE_API void riverhorse_conversation_free(riverhorse_conversation* conversation);

/* The session, which is the conversation's: not to be freed. Within a turn it may read the prompt and draw, in any
 * way; its sampling may be set, its logits and tokens looked at, and it may be cancelled at any time. What else
 * changes its text breaks the conversation. Null for null. Threads: any. */
RIVERHORSE_API riverhorse_session* riverhorse_conversation_get_session(const riverhorse_conversation* conversation);

/* Begins a turn with what the user says: keeps the state, and says what is to be read (get_prompt). Reads nothing.
 * INVALID_ARGUMENT: a turn is open, or `text` is not valid UTF-8. Ends what frames still do, as any function of the
 * session; copying the state waits for the device. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_begin_turn(riverhorse_conversation* conversation,
                                                                    const char* text, size_t text_bytes);

/* The tokens of the open turn that come before its reply. INVALID_ARGUMENT: no turn is open. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_get_prompt(const riverhorse_conversation* conversation,
                                                                    int32_t* ids, size_t capacity, size_t* count);

/* Sets stop_strings, stop_string_count and ignore_end_of_text of `options` to those of the template, and nothing
 * else. The strings live as long as the conversation, and until load_memory replaces the template. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_get_generate_options(
    const riverhorse_conversation* conversation, riverhorse_generate_options* options);

/* Reads what is not read yet of the prompt, draws the reply (max_tokens 0: 128) as riverhorse_session_generate does,
 * and ends the turn. After an error, CANCELLED while reading for one, the turn is open: reply goes on, undo drops it.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_reply(riverhorse_conversation* conversation,
                                                               int64_t max_tokens, riverhorse_token_callback callback,
                                                               void* user, riverhorse_generate_result* result);

/* The turn is over: what the session drew after the prompt is the reply, up to a stop string of the template.
 * INVALID_ARGUMENT: no turn is open, the prompt was not read whole, or the session still works. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_end_turn(riverhorse_conversation* conversation);

/* Takes the last `turns` turns back, an open one included: state, random numbers and sampling options are those from
 * before, to the last bit, and nothing is read again, unless the session's text was replaced by other functions.
 * INVALID_ARGUMENT: more than info.undo_count, or the session still works. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_undo(riverhorse_conversation* conversation, int64_t turns);

/* Takes the last turn back and begins it again with the same text, and with `sampling` (null: as it was, which gives
 * the same reply); reply or what else one does after begin_turn follows. INVALID_ARGUMENT as undo. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_regenerate(riverhorse_conversation* conversation,
                                                                    const riverhorse_sampling_options* sampling);

typedef struct riverhorse_conversation_info {
  uint32_t struct_size;
  int32_t turn_is_open;
  int64_t turn_count; /* an open one included */
  int64_t undo_count; /* of them that can be taken back */
  /* Read in all, drawn ones not counted: of the system text, of each turn when it ends or is taken back. Taking back
   * does not make it less. */
  int64_t tokens_read;
} riverhorse_conversation_info;

/* Fills `info`, whose struct_size is set by the caller. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_get_info(const riverhorse_conversation* conversation,
                                                                  riverhorse_conversation_info* info);

/* What the user said in a turn (0: the first), and the reply: valid UTF-8 without a terminating zero; `text`
 * (capacity bytes) may be null. The reply of an open turn is empty. INVALID_ARGUMENT: there is no such turn.
 * Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_get_user_text(const riverhorse_conversation* conversation,
                                                                       int64_t turn, char* text, size_t capacity,
                                                                       size_t* text_bytes);
/* Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_get_reply(const riverhorse_conversation* conversation,
                                                                   int64_t turn, char* text, size_t capacity,
                                                                   size_t* text_bytes);

/* Everything but what can be taken back: the session, the texts of all turns, the template. `data` (capacity bytes)
 * may be null; *size is how many bytes there are, which takes no work of the device to know. INVALID_ARGUMENT: a turn
 * is open. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_save_memory(riverhorse_conversation* conversation,
                                                                     void* data, size_t capacity, size_t* size);

/* Replaces the conversation by a saved one of the same model; an open turn is dropped. `data` is not needed
 * afterwards. BAD_FILE: damaged, cut short, no conversation, or of another model or version; the conversation is then
 * unchanged. Threads: turn. */
RIVERHORSE_API riverhorse_status riverhorse_conversation_load_memory(riverhorse_conversation* conversation,
                                                                     const void* data, size_t size);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif
