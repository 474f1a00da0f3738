/* The public interface from plain C99: a text, a copy of it that goes its own way, a saved state that brings it back.
 *   minimal_c MODEL PROMPT */
#include <riverhorse/riverhorse.h>
#include <stdio.h>
#include <stdlib.h>

/* Every function that can fail returns a status; the message is this thread's last error. */
static int failed(riverhorse_status status) {
  if (status == RIVERHORSE_OK) return 0;
  fprintf(stderr, "%s: %s\n", riverhorse_status_name(status), riverhorse_last_error());
  return 1;
}

static void on_log(void* user, riverhorse_log_level level, const char* message) {
  (void)user;
  if (level >= RIVERHORSE_LOG_WARNING) fprintf(stderr, "riverhorse: %s\n", message);
}

static int on_token(void* user, int32_t token, const char* text, size_t text_bytes) {
  (void)token;
  fwrite(text, 1, text_bytes, (FILE*)user);
  return 0; /* nonzero stops */
}

/* Reads `prompt`, saves, draws 24 tokens; then back to the saved state, and 24 more by chance. */
static int run(riverhorse_model* model, riverhorse_session* session, const char* prompt, size_t prompt_bytes,
               int32_t* ids, size_t count) {
  riverhorse_sampling_options by_chance = {sizeof by_chance};
  riverhorse_generate_options length = {sizeof length};
  size_t saved_bytes = 0;
  int64_t reused = 0;
  int bad;
  void* saved;

  if (failed(riverhorse_model_encode(model, prompt, prompt_bytes, 0, ids, count, &count))) return 1;
  if (failed(riverhorse_session_append(session, ids, count, NULL, NULL))) return 1;

  /* The state is small, and of the same size however long the text (attention layers add their keys and values). */
  if (failed(riverhorse_session_save_memory(session, NULL, 0, &saved_bytes))) return 1;
  saved = malloc(saved_bytes);
  if (saved == NULL || failed(riverhorse_session_save_memory(session, saved, saved_bytes, &saved_bytes))) {
    free(saved);
    return 1;
  }
  length.max_tokens = 24;
  bad = failed(riverhorse_session_generate(session, &length, on_token, stdout, NULL));
  printf("\n");

  by_chance.temperature = 0.8;
  by_chance.top_k = 40;
  by_chance.seed = 7;
  bad = bad || failed(riverhorse_session_load_memory(session, saved, saved_bytes, &reused)) ||
        failed(riverhorse_session_set_sampling(session, &by_chance)) ||
        failed(riverhorse_session_generate(session, &length, on_token, stdout, NULL));
  printf("\n");
  free(saved);
  fprintf(stderr, "%lu bytes of state, %ld tokens not read again\n", (unsigned long)saved_bytes, (long)reused);
  return bad;
}

int main(int argc, char** argv) {
  riverhorse_model_options options = {sizeof options}; /* all zero: the defaults */
  riverhorse_model* model = NULL;
  riverhorse_session* session = NULL;
  size_t prompt_bytes = 0, count = 0;
  int32_t* ids = NULL;
  int bad;

  if (argc != 3) {
    fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]);
    return 2;
  }
  if (riverhorse_abi_version() != RIVERHORSE_ABI_VERSION) {
    fprintf(stderr, "the library is of another version than riverhorse.h\n");
    return 1;
  }
  riverhorse_set_log_callback(on_log, NULL);
  if (failed(riverhorse_model_load(argv[1], &options, &model))) return 1;
  while (argv[2][prompt_bytes] != '\0') ++prompt_bytes;
  bad = failed(riverhorse_session_create(model, NULL, &session)) ||
        failed(riverhorse_model_encode(model, argv[2], prompt_bytes, 0, NULL, 0, &count));
  ids = malloc((count + 1) * sizeof *ids);
  bad = bad || ids == NULL || run(model, session, argv[2], prompt_bytes, ids, count);
  free(ids);
  riverhorse_session_free(session);
  riverhorse_model_free(model);
  return bad ? 1 : 0;
}
