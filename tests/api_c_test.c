/* The C API from C99, with nothing of C++ in the program: load a model, read, draw, save, load; train, save, resume.
 * Prints what failed and returns 1; the arguments are the folder of the golden models and a folder for temporary
 * files. */
#include <riverhorse/riverhorse.h>
#include <riverhorse/training.h>
#include <riverhorse/vulkan.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(int holds, const char* what, int line) {
  if (holds) return;
  ++failures;
  fprintf(stderr, "line %d: %s (last error: %s)\n", line, what, riverhorse_last_error());
}
#define EXPECT(condition) expect((condition) ? 1 : 0, #condition, __LINE__)
#define EXPECT_OK(call) EXPECT((call) == RIVERHORSE_OK)

static int count_tokens(void* user, int32_t token, const char* text, size_t text_bytes) {
  (void)text;
  (void)text_bytes;
  if (token >= 0) ++*(int*)user;
  return 0;
}

/* Two sequences of eight tokens, learnt by heart; saved halfway, and gone on with from there. */
static void test_training(const char* folder) {
  const int32_t ids[16] = {1, 5, 2, 6, 3, 7, 4, 1, 2, 2, 5, 5, 1, 1, 3, 3};
  char run[4096], saved[4200];
  int i;
  riverhorse_device* device = NULL;
  riverhorse_trainer* trainer = NULL;
  riverhorse_trainer* resumed = NULL;
  riverhorse_model* model = NULL;
  riverhorse_device_options on_cpu = {sizeof on_cpu};
  riverhorse_model_options load = {sizeof load};
  riverhorse_trainer_options options = {sizeof options};
  riverhorse_step_result first = {sizeof first}, result = {sizeof result}, again = {sizeof again};
  riverhorse_evaluation evaluation = {sizeof evaluation};

  on_cpu.backend = load.backend = "cpu";
  EXPECT_OK(riverhorse_device_open(&on_cpu, &device));
  options.config_json = "{\"n_embd\": 16, \"n_layer\": 2, \"vocab_size\": 8, \"ssm_d_state\": 8}";
  options.batch = 2;
  options.length = 8;
  options.learning_rate = 0.01;
  EXPECT_OK(riverhorse_trainer_create(device, &options, &trainer));
  riverhorse_device_free(device); /* the trainer keeps it alive */
  device = NULL;
  if (trainer == NULL) return;
  EXPECT_OK(riverhorse_trainer_step(trainer, ids, NULL, 2, &first));
  EXPECT(first.step == 1 && first.scored == 14 && first.loss > 1.5 && first.gradient_norm > 0);
  EXPECT(first.learning_rate == 0.01);
  for (i = 0; i < 60; ++i) EXPECT_OK(riverhorse_trainer_step(trainer, ids, NULL, 2, NULL));
  EXPECT_OK(riverhorse_trainer_evaluate(trainer, ids, NULL, 2, &evaluation));
  EXPECT(evaluation.scored == 14 && evaluation.correct == 14 && evaluation.loss_sum < 14 * 0.5 * first.loss);

  snprintf(run, sizeof run, "%s/api_c_test.training", folder);
  snprintf(saved, sizeof saved, "%s/step-00000061", run);
  EXPECT_OK(riverhorse_trainer_save(trainer, run));
  EXPECT_OK(riverhorse_device_open(&on_cpu, &device));
  EXPECT_OK(riverhorse_trainer_resume(device, run, &resumed));
  EXPECT_OK(riverhorse_trainer_step(trainer, ids, NULL, 2, &result));
  EXPECT_OK(riverhorse_trainer_step(resumed, ids, NULL, 2, &again));
  EXPECT(again.step == 62 && again.loss == result.loss && again.gradient_norm == result.gradient_norm);
  EXPECT_OK(riverhorse_model_load(saved, &load, &model));

  EXPECT(riverhorse_trainer_step(NULL, ids, NULL, 2, NULL) == RIVERHORSE_INVALID_ARGUMENT);
  EXPECT(riverhorse_trainer_resume(device, "/does/not/exist", &resumed) == RIVERHORSE_NOT_FOUND);
  riverhorse_model_free(model);
  riverhorse_trainer_free(resumed);
  riverhorse_trainer_free(trainer);
  riverhorse_trainer_free(NULL);
  riverhorse_device_free(device);
}

int main(int argc, char** argv) {
  char path[4096], saved[4096];
  riverhorse_model* model = NULL;
  riverhorse_session* session = NULL;
  riverhorse_session* loaded = NULL;
  riverhorse_model_options options = {sizeof options};
  riverhorse_model_info info = {sizeof info};
  riverhorse_generate_options generate = {sizeof generate};
  riverhorse_generate_result result = {sizeof result};
  const int32_t prompt[4] = {1, 2, 3, 5};
  int32_t tokens[16], tokens_again[16];
  size_t count = 0;
  int seen = 0;
  int64_t reused = 0;

  if (argc != 3) return 2;
  snprintf(path, sizeof path, "%s/lm/h3-hybrid/model.pt", argv[1]);
  snprintf(saved, sizeof saved, "%s/api_c_test.session", argv[2]);

  EXPECT(riverhorse_abi_version() == RIVERHORSE_ABI_VERSION);
  EXPECT(strlen(riverhorse_version()) > 0);
  EXPECT(strcmp(riverhorse_status_name(RIVERHORSE_BAD_FILE), "bad_file") == 0);

  options.backend = "cpu";
  EXPECT_OK(riverhorse_model_load(path, &options, &model));
  if (model == NULL) return 1;
  EXPECT_OK(riverhorse_model_get_info(model, &info));
  EXPECT(info.embedding_width == 48 && info.layer_count == 4 && info.attention_layer_count == 2);
  EXPECT(strcmp(info.device_id, "cpu:0") == 0);

  EXPECT_OK(riverhorse_session_create(model, NULL, &session));
  riverhorse_model_free(model); /* the session keeps it alive */
  EXPECT_OK(riverhorse_session_append(session, prompt, 4, NULL, NULL));
  EXPECT_OK(riverhorse_session_save(session, saved));
  EXPECT(riverhorse_session_position(session) == 4);
  generate.max_tokens = 8;
  generate.ignore_end_of_text = 1;
  EXPECT_OK(riverhorse_session_generate(session, &generate, count_tokens, &seen, &result));
  EXPECT(seen == 8 && result.token_count == 8 && result.stop_reason == RIVERHORSE_STOP_MAX_TOKENS);
  EXPECT_OK(riverhorse_session_get_tokens(session, tokens, 16, &count));
  EXPECT(count == 12 && memcmp(tokens, prompt, sizeof prompt) == 0);

  EXPECT_OK(riverhorse_session_clone(session, &loaded));
  EXPECT_OK(riverhorse_session_load(loaded, saved, &reused));
  EXPECT(reused == 4);
  EXPECT_OK(riverhorse_session_generate(loaded, &generate, NULL, NULL, NULL));
  EXPECT_OK(riverhorse_session_get_tokens(loaded, tokens_again, 16, &count));
  EXPECT(count == 12 && memcmp(tokens, tokens_again, 12 * sizeof(int32_t)) == 0);

  EXPECT(riverhorse_session_load(loaded, "/does/not/exist", &reused) == RIVERHORSE_NOT_FOUND);
  EXPECT(strstr(riverhorse_last_error(), "/does/not/exist") != NULL);

  riverhorse_session_free(session);
  riverhorse_session_free(loaded);
  remove(saved);
  test_training(argv[2]);
  if (failures == 0) printf("the C API works from C\n");
  return failures == 0 ? 0 : 1;
}
