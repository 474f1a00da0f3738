// The C++ wrapper: what it adds to the C functions (ownership, exceptions, callbacks that may throw).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <riverhorse/riverhorse.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace rh = riverhorse_api;
const std::string pure_path = std::string(RIVERHORSE_TEST_DATA) + "/lm/h3-pure/model.pt";

riverhorse_model_options cpu_options() {
  riverhorse_model_options options = rh::model_options();
  options.backend = "cpu";
  return options;
}

TEST(Wrapper, ListsDevices) {
  const rh::device_listing listing = rh::list_devices();
  ASSERT_FALSE(listing.devices.empty());
  EXPECT_STREQ(listing.devices.back().backend, "cpu");
  for (const rh::absent_backend& absent : listing.absent) EXPECT_FALSE(absent.reason.empty());
}

TEST(Wrapper, ThrowsStatusAndMessage) {
  try {
    rh::model model("/no/such/model", cpu_options());
    FAIL() << "no exception";
  } catch (const rh::api_error& error) {
    EXPECT_EQ(error.status(), RIVERHORSE_NOT_FOUND);
    EXPECT_NE(std::string(error.what()).find("/no/such/model"), std::string::npos);
  }
}

TEST(Wrapper, EstimatesMemory) {
  const riverhorse_memory_estimate estimate = rh::estimate_memory(pure_path, cpu_options());
  EXPECT_GT(estimate.total_bytes, estimate.weights_bytes);
  EXPECT_GT(estimate.available_bytes, estimate.total_bytes);
  EXPECT_THROW(rh::estimate_memory("/no/such/model"), rh::api_error);
}

TEST(Wrapper, DoesAllThatASessionDoes) {
  std::uint64_t loaded = 0;
  rh::model model(pure_path, cpu_options(), [&](std::uint64_t done, std::uint64_t) {
    loaded = done;
    return true;
  });
  EXPECT_GT(loaded, 0u);
  EXPECT_EQ(model.info().layer_count, 3);
  EXPECT_EQ(model.decode(model.encode("hippo")), "hippo");

  rh::session text = model.create_session();
  text.append(model.encode("hip"));
  text.checkpoint();
  const std::int32_t first = text.step();
  EXPECT_EQ(text.position(), 4);
  EXPECT_EQ(text.tokens().back(), first);
  EXPECT_EQ(text.logits().size(), 512u);
  EXPECT_LE(text.rewind(3), 1);
  text.cancel();  // nothing to end

  rh::session copy = text.clone();
  EXPECT_EQ(rh::step({&text, &copy}), (std::vector<std::int32_t>{first, first}));
  const std::string path = testing::TempDir() + "wrapper_test.session";
  text.save(path);
  const std::vector<unsigned char> bytes = text.save_bytes();
  EXPECT_EQ(text.load_bytes(bytes), text.position());
  copy.clear();
  EXPECT_EQ(copy.load(path), 4);
  EXPECT_EQ(copy.step(), text.step());
  std::remove(path.c_str());

  riverhorse_sampling_options sampling = rh::sampling_options();
  const riverhorse_logit_bias bias = {'x', 1000.0f};
  sampling.logit_bias = &bias;
  sampling.logit_bias_count = 1;
  text.set_sampling(sampling);
  riverhorse_generate_options options = rh::generate_options();
  options.max_tokens = 4;
  std::string drawn;
  const auto result = text.generate(options, [&](std::int32_t, std::string_view part) {
    drawn += part;
    return true;
  });
  EXPECT_EQ(drawn, "xxxx");
  EXPECT_EQ(result.token_count, 4);
}

TEST(Wrapper, LoadsFromMemory) {
  const auto read = [](const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::string folder = std::string(RIVERHORSE_TEST_DATA) + "/lm/h3-pure/";
  const std::string config = read(folder + "config.json"), weights = read(folder + "model.pt");
  std::vector<riverhorse_model_file> files = {{"config.json", config.data(), config.size()},
                                              {"model.pt", weights.data(), weights.size()}};
  const rh::model model(files, cpu_options());
  EXPECT_EQ(model.info().layer_count, 3);
  EXPECT_THROW(rh::model(files, cpu_options(), [](std::uint64_t, std::uint64_t) { return false; }), rh::api_error);
  files.pop_back();
  EXPECT_THROW(rh::model(files, cpu_options()), rh::api_error);
}

TEST(Wrapper, PollsTheLibrarysThread) {
  const rh::model model(pure_path, cpu_options());
  rh::session text = model.create_session();
  riverhorse_generate_options options = rh::generate_options();
  options.max_tokens = 4;
  options.ignore_end_of_text = 1;
  text.start_async({1, 2, 3}, options);
  int drawn = 0;
  const auto count = [&](std::int32_t token, std::string_view) {
    drawn += token >= 0 ? 1 : 0;
    return true;
  };
  while (text.poll(count).running != 0) {
  }
  EXPECT_EQ(drawn, 4);
  EXPECT_EQ(text.position(), 7);
}

TEST(Wrapper, CallbacksMayThrowAndStop) {
  const rh::model model(pure_path, cpu_options());
  rh::session text = model.create_session();
  text.append({1, 2, 3});
  EXPECT_THROW(text.generate(rh::generate_options(),
                             [](std::int32_t, std::string_view) -> bool { throw std::logic_error("mine"); }),
               std::logic_error);
  const auto result = text.generate(rh::generate_options(), [](std::int32_t, std::string_view) { return false; });
  EXPECT_EQ(result.stop_reason, RIVERHORSE_STOP_CALLBACK);
  EXPECT_THROW(rh::model(pure_path, cpu_options(), [](std::uint64_t, std::uint64_t) { return false; }),
               rh::api_error);
}

TEST(Wrapper, SessionsOutliveTheirModelAndMove) {
  auto make = [] {
    const rh::model model(pure_path, cpu_options());
    rh::session text = model.create_session();
    text.append({1, 2, 3});
    return text;
  };
  rh::session text = make();
  rh::session moved = std::move(text);
  EXPECT_GE(moved.step(), 0);
}

rh::trainer small_trainer() {
  riverhorse_device_options on = rh::device_options();
  on.backend = "cpu";
  riverhorse_trainer_options options = rh::trainer_options();
  options.config_json = R"({"n_embd": 16, "n_layer": 1, "vocab_size": 8, "ssm_d_state": 8})";
  options.batch = 2;
  options.length = 4;
  return rh::trainer(rh::device(on), options);  // keeps the device alive
}

TEST(Wrapper, TrainsSavesAndResumes) {
  rh::trainer trainer = small_trainer();
  const std::vector<std::int32_t> ids = {1, 2, 3, 4, 5, 6, 7, 0}, targets = {-1, -1, -1, 3, -1, -1, -1, 2};
  EXPECT_EQ(trainer.step(ids, targets).scored, 2);
  EXPECT_EQ(trainer.step(ids).scored, 6);
  EXPECT_EQ(trainer.evaluate({1, 2, 3, 4}, {2, 3, 4, 5}).scored, 4);
  EXPECT_EQ(trainer.info().sequences, 4);

  const std::string run = testing::TempDir() + "wrapper_test.training";
  trainer.save(run);
  riverhorse_device_options on = rh::device_options();
  on.backend = "cpu";
  const rh::device device(on);
  rh::trainer resumed = rh::trainer::resume(device, run);
  EXPECT_EQ(resumed.info().step, 2);
  EXPECT_EQ(resumed.step(ids).loss, trainer.step(ids).loss);
  std::filesystem::remove_all(run);
}

TEST(Wrapper, RefusesWhatAreNoWholeSequences) {
  rh::trainer trainer = small_trainer();
  EXPECT_THROW(trainer.step({1, 2, 3}), rh::api_error);
  EXPECT_THROW(trainer.step({1, 2, 3, 4}, {1, 2, 3}), rh::api_error);
  EXPECT_THROW(trainer.evaluate({}), rh::api_error);
  EXPECT_THROW(trainer.step({1, 2, 3, 8}), rh::api_error);
}

}  // namespace
