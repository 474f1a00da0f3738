// Handles that were freed: builds with RIVERHORSE_CHECK_HANDLES refuse them, in every function that takes one.
#include <riverhorse/conversation.h>
#include <riverhorse/training.h>
#include <riverhorse/vulkan.h>

#include <cstring>
#include <thread>

#include "api_fixture.h"

namespace api_test {
namespace {

class ApiHandles : public Api {
 protected:
  void SetUp() override {
#ifndef RIVERHORSE_CHECK_HANDLES
    GTEST_SKIP() << "this build does not look at freed handles (debug and sanitized ones do)";
#endif
  }

  // Freeing a second time does nothing, and the log says so.
  template <typename Free>
  static void expect_told(const char* function, const Free& free_again) {
    WarningCounter warnings;
    free_again();
    EXPECT_TRUE(warnings.text.starts_with(function)) << warnings.text;
    EXPECT_TRUE(warnings.text.ends_with(": the handle was freed already")) << warnings.text;
    EXPECT_NE(std::strstr(riverhorse_last_error(), function), nullptr) << riverhorse_last_error();
  }
};

#define EXPECT_FREED(call, name) EXPECT_FAILS(call, RIVERHORSE_INVALID_ARGUMENT, name " was freed")

TEST_F(ApiHandles, FreedSessionsAreRefused) {
  riverhorse_model* model = load(pure_path);
  riverhorse_session* freed = session(model, prompt);
  riverhorse_session* alive = session(model, prompt);
  sessions_.erase(sessions_.begin());
  riverhorse_session_free(freed);
  std::int32_t token = 3;
  std::int64_t number = 0;
  std::size_t count = 0;
  char bytes[4] = "";
  riverhorse_session* copy = nullptr;
  riverhorse_session* both[] = {alive, freed};
  EXPECT_FREED(riverhorse_session_step(freed, &token), "session");
  EXPECT_FREED(riverhorse_session_append(freed, &token, 1, nullptr, nullptr), "session");
  EXPECT_FREED(riverhorse_session_generate(freed, nullptr, nullptr, nullptr, nullptr), "session");
  EXPECT_FREED(riverhorse_session_set_sampling(freed, nullptr), "session");
  EXPECT_FREED(riverhorse_session_poll(freed, nullptr, nullptr, nullptr), "session");
  EXPECT_FREED(riverhorse_session_cancel(freed), "session");
  EXPECT_FREED(riverhorse_session_start(freed, nullptr), "session");
  EXPECT_FREED(riverhorse_session_start_async(freed, &token, 1, nullptr, nullptr, nullptr), "session");
  EXPECT_FREED(riverhorse_session_enqueue(freed, &token, 1), "session");
  EXPECT_FREED(riverhorse_session_enqueue_text(freed, "a", 1), "session");
  EXPECT_FREED(riverhorse_session_record(freed, bytes, 1, nullptr), "session");
  EXPECT_FREED(riverhorse_session_get_tokens(freed, nullptr, 0, &count), "session");
  EXPECT_FREED(riverhorse_session_get_logits(freed, nullptr, 0, &count), "session");
  EXPECT_FREED(riverhorse_session_clone(freed, &copy), "session");
  EXPECT_FREED(riverhorse_session_checkpoint(freed), "session");
  EXPECT_FREED(riverhorse_session_rewind(freed, 0, &number), "session");
  EXPECT_FREED(riverhorse_session_clear(freed), "session");
  EXPECT_FREED(riverhorse_session_save(freed, "x"), "session");
  EXPECT_FREED(riverhorse_session_load(freed, "x", &number), "session");
  EXPECT_FREED(riverhorse_session_save_memory(freed, nullptr, 0, &count), "session");
  EXPECT_FREED(riverhorse_session_load_memory(freed, bytes, 4, &number), "session");
  EXPECT_FREED(riverhorse_sessions_step(both, 2, &token), "sessions[i]");
  EXPECT_EQ(riverhorse_session_position(freed), -1);
  expect_told("riverhorse_session_free", [&] { riverhorse_session_free(freed); });
  EXPECT_EQ(steps(alive, 3).size(), 3u);
}

TEST_F(ApiHandles, FreedModelsAreRefused) {
  riverhorse_model* model = load(pure_path);
  riverhorse_session* text = session(model, prompt);
  models_.clear();
  riverhorse_model_free(model);
  riverhorse_model_info info{};
  info.struct_size = sizeof info;
  std::size_t count = 0;
  riverhorse_session* made = nullptr;
  riverhorse_conversation* talk = nullptr;
  riverhorse_batch* batch = nullptr;
  EXPECT_FREED(riverhorse_model_get_info(model, &info), "model");
  EXPECT_FREED(riverhorse_model_encode(model, "a", 1, 0, nullptr, 0, &count), "model");
  EXPECT_FREED(riverhorse_model_decode(model, nullptr, 0, nullptr, 0, &count), "model");
  EXPECT_FREED(riverhorse_session_create(model, nullptr, &made), "model");
  EXPECT_FREED(riverhorse_conversation_create(model, nullptr, nullptr, &talk), "model");
  EXPECT_FREED(riverhorse_batch_create(model, nullptr, &batch), "model");
  expect_told("riverhorse_model_free", [&] { riverhorse_model_free(model); });
  EXPECT_EQ(steps(text, 2).size(), 2u) << "its session lives";
}

TEST_F(ApiHandles, FreedListsConversationsAndTrainersAreRefused) {
  riverhorse_device_list* list = nullptr;
  ASSERT_OK(riverhorse_list_devices(&list));
  riverhorse_device_list_free(list);
  riverhorse_device_info info{};
  info.struct_size = sizeof info;
  const char* text = nullptr;
  EXPECT_EQ(riverhorse_device_list_count(list), 0u);
  EXPECT_EQ(riverhorse_device_list_absent_count(list), 0u);
  EXPECT_FREED(riverhorse_device_list_get(list, 0, &info), "list");
  EXPECT_FREED(riverhorse_device_list_get_absent(list, 0, &text, &text), "list");
  expect_told("riverhorse_device_list_free", [&] { riverhorse_device_list_free(list); });

  constexpr std::string_view form =
      R"({"system": {"prefix": "", "suffix": ""}, "user": {"prefix": "", "suffix": ""},)"
      R"( "assistant": {"prefix": "", "suffix": ""}, "stop": [], "end_of_text": true})";
  riverhorse_conversation_options options{};
  options.struct_size = sizeof options;
  options.template_json = form.data();
  options.template_bytes = form.size();
  riverhorse_conversation* talk = nullptr;
  ASSERT_OK(riverhorse_conversation_create(load(pure_path), &options, nullptr, &talk));
  riverhorse_session* const of_talk = riverhorse_conversation_get_session(talk);
  riverhorse_conversation_free(talk);
  std::size_t count = 0;
  EXPECT_EQ(riverhorse_conversation_get_session(talk), nullptr);
  EXPECT_FREED(riverhorse_conversation_begin_turn(talk, "a", 1), "conversation");
  EXPECT_FREED(riverhorse_conversation_reply(talk, 1, nullptr, nullptr, nullptr), "conversation");
  EXPECT_FREED(riverhorse_conversation_get_reply(talk, 0, nullptr, 0, &count), "conversation");
  EXPECT_FREED(riverhorse_session_checkpoint(of_talk), "session");
  expect_told("riverhorse_conversation_free", [&] { riverhorse_conversation_free(talk); });

  riverhorse_device_options device_options{};
  device_options.struct_size = sizeof device_options;
  device_options.backend = "cpu";
  riverhorse_trainer_options training{};
  training.struct_size = sizeof training;
  training.preset = "tiny";
  training.batch = 1;
  training.length = 16;
  riverhorse_device* device = nullptr;
  riverhorse_trainer* trainer = nullptr;
  ASSERT_OK(riverhorse_device_open(&device_options, &device));
  ASSERT_OK(riverhorse_trainer_create(device, &training, &trainer));
  riverhorse_device_free(device);
  riverhorse_trainer_free(trainer);
  EXPECT_FREED(riverhorse_trainer_resume(device, "x", &trainer), "device");
  EXPECT_FREED(riverhorse_trainer_save(trainer, "x"), "trainer");
  expect_told("riverhorse_device_free", [&] { riverhorse_device_free(device); });
  expect_told("riverhorse_trainer_free", [&] { riverhorse_trainer_free(trainer); });
}

// So many that what was freed first is forgotten; on several threads at once.
TEST_F(ApiHandles, AreForgottenOneDay) {
  riverhorse_model* model = load(pure_path);
  std::thread threads[2];
  for (std::thread& each : threads) {
    each = std::thread([model] {
      for (int i = 0; i < 700; ++i) {
        riverhorse_session* text = nullptr;
        EXPECT_OK(riverhorse_session_create(model, nullptr, &text));
        riverhorse_session_free(text);
        EXPECT_EQ(riverhorse_session_position(text), -1);
      }
    });
  }
  for (std::thread& each : threads) each.join();
}

}  // namespace
}  // namespace api_test
