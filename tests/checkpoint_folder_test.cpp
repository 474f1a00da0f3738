// Training checkpoints on disk: there and back, what is kept, and what a crash leaves.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>

#include "base/error.h"
#include "trainer_fixture.h"

namespace riverhorse::test {
namespace {

namespace fs = std::filesystem;

TrainingCheckpoint checkpoint_of(std::int64_t step) {
  static const Checkpoint model = tiny_model();
  TrainingCheckpoint checkpoint;
  checkpoint.model = model;
  checkpoint.first_moments = checkpoint.second_moments = model.file.tensors;
  checkpoint.tokenizer_files = {{"merges.txt", "a b\n"}};
  checkpoint.state.step = step;
  checkpoint.state.samples = 3 * step;
  checkpoint.state.micro_batches = 2 * step;
  checkpoint.state.data_tokens = 1000;
  checkpoint.state.options = tiny_options();
  return checkpoint;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool equal(const std::map<std::string, HostTensor>& a, const std::map<std::string, HostTensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && std::ranges::equal(x.second.bytes, y.second.bytes);
  });
}

TEST(TrainingCheckpoints, ThereAndBack) {
  const TemporaryFolder folder;
  TrainingCheckpoint saved = checkpoint_of(12);
  saved.state.validation_loss = 1.0 / 3;
  saved.state.best_loss = 0.1;
  saved.state.best_step = 8;
  saved.state.loss_scale = {.value = 32768, .good_steps = 5};
  save_training_checkpoint(folder / "run", saved);
  EXPECT_EQ(names_in(folder / "run"), std::vector<std::string>{"step-00000012"});
  EXPECT_EQ(names_in(folder / "run/step-00000012"),
            (std::vector<std::string>{"config.json", "merges.txt", "model.safetensors", "optimizer.safetensors",
                                      "trainer_state.json"}));
  const TrainingCheckpoint loaded = load_newest_checkpoint(folder / "run");
  EXPECT_TRUE(equal(loaded.model.file.tensors, saved.model.file.tensors));
  EXPECT_TRUE(equal(loaded.first_moments, saved.first_moments));
  EXPECT_TRUE(equal(loaded.second_moments, saved.second_moments));
  EXPECT_EQ(loaded.tokenizer_files, saved.tokenizer_files);
  EXPECT_EQ(loaded.state.step, 12);
  EXPECT_EQ(loaded.state.samples, 36);
  EXPECT_EQ(loaded.state.micro_batches, 24);
  EXPECT_EQ(loaded.state.data_tokens, 1000);
  EXPECT_EQ(loaded.state.validation_loss, 1.0 / 3);
  EXPECT_EQ(loaded.state.best_loss, 0.1);
  EXPECT_EQ(loaded.state.best_step, 8);
  EXPECT_EQ(loaded.state.loss_scale.value, 32768);
  EXPECT_EQ(loaded.state.loss_scale.good_steps, 5);
  EXPECT_EQ(trainer_options_json(loaded.state.options), trainer_options_json(saved.state.options));
  EXPECT_TRUE(load_checkpoint(folder / "run/step-00000012", {}).warnings.empty()) << "it is a model folder too";
}

// A scale that no training leaves behind is refused; a state from before there was one has the first.
TEST(TrainingCheckpoints, TheLossScaleIsChecked) {
  const TemporaryFolder folder;
  save_training_checkpoint(folder / "run", checkpoint_of(12));
  const auto path = folder / "run/step-00000012/trainer_state.json";
  const nlohmann::json good = nlohmann::json::parse(std::ifstream(path));
  for (const nlohmann::json& value : {nlohmann::json(0.5), nlohmann::json(1e9), nlohmann::json("much")}) {
    nlohmann::json bad = good;
    bad["loss_scale"] = value;
    std::ofstream(path) << bad;
    try {
      load_training_checkpoint(path.parent_path());
      ADD_FAILURE() << value << " was taken";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("field \"loss_scale\" is " + value.dump()), std::string::npos)
          << error.what();
    }
  }
  nlohmann::json old = good;
  old.erase("loss_scale");
  old.erase("loss_scale_good_steps");
  std::ofstream(path) << old;
  EXPECT_EQ(load_training_checkpoint(path.parent_path()).state.loss_scale.value, LossScale().value);
}

TEST(TrainingCheckpoints, TheLastAndTheBestAreKept) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {1, 2, 3, 4, 5, 6}) {
    TrainingCheckpoint checkpoint = checkpoint_of(step);
    checkpoint.state.options.keep = 2;
    checkpoint.state.best_loss = 1.0;
    checkpoint.state.best_step = step < 2 ? step : 2;
    save_training_checkpoint(folder / "run", checkpoint);
  }
  EXPECT_EQ(names_in(folder / "run"), (std::vector<std::string>{"step-00000002", "step-00000005", "step-00000006"}));
}

TEST(TrainingCheckpoints, LeftoversGoAtTheNextSave) {
  const TemporaryFolder folder;
  fs::create_directories(folder / "run/tmp-step-00000007/half");
  fs::create_directories(folder / "run/tmp-step-00000003-old");
  fs::create_directories(folder / "run/step-notes");  // the user's own
  EXPECT_TRUE(list_checkpoints(folder / "run").empty());
  save_training_checkpoint(folder / "run", checkpoint_of(8));
  EXPECT_EQ(names_in(folder / "run"), (std::vector<std::string>{"step-00000008", "step-notes"}));
}

TEST(TrainingCheckpoints, ADamagedOneIsLeftOut) {
  const TemporaryFolder folder;
  for (const std::int64_t step : {1, 2, 3}) save_training_checkpoint(folder / "run", checkpoint_of(step));
  fs::resize_file(folder / "run/step-00000003/optimizer.safetensors", 1000);
  EXPECT_EQ(load_newest_checkpoint(folder / "run").state.step, 2);
  fs::remove(folder / "run/step-00000002/trainer_state.json");
  EXPECT_EQ(load_newest_checkpoint(folder / "run").state.step, 1);
  // It neither counts among those to keep nor is in the way of its own successor.
  TrainingCheckpoint next = checkpoint_of(2);
  next.state.options.keep = 1;
  save_training_checkpoint(folder / "run", next);
  EXPECT_EQ(load_newest_checkpoint(folder / "run").state.step, 2);
  std::ofstream(folder / "run/step-00000003/trainer_state.json") << "{\"step\": -1}";
  std::ofstream(folder / "run/step-00000002/trainer_state.json") << "no JSON";
  EXPECT_THROW(load_newest_checkpoint(folder / "run"), Error);
}

TEST(TrainingCheckpoints, AFolderThatCannotBeWritten) {
  const TemporaryFolder folder;
  std::ofstream(folder / "run") << "a file";
  try {
    save_training_checkpoint(folder / "run", checkpoint_of(1));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::io_error);
    EXPECT_NE(std::string(error.what()).find((folder / "run").string()), std::string::npos);
  }
}

// A child saves in a loop, telling each step once it is saved, and is killed at some moment. What it told of, or
// what came after that, loads; and the next save leaves nothing behind.
TEST(TrainingCheckpoints, KilledWhileSaving) {
  const TemporaryFolder folder;
  const fs::path run = folder / "run";
  std::mt19937 random(11);
  std::int64_t step = 0;
  save_training_checkpoint(run, checkpoint_of(step));
  int interrupted = 0;
  for (int attempt = 0; attempt < 60; ++attempt) {
    int tell[2];
    ASSERT_EQ(pipe(tell), 0);
    const pid_t child = fork();
    if (child == 0) {
      for (std::int64_t next = step + 1;; ++next) {
        TrainingCheckpoint checkpoint = checkpoint_of(next);
        checkpoint.state.options.keep = 1;
        save_training_checkpoint(run, checkpoint);
        if (write(tell[1], &next, sizeof next) != sizeof next) _exit(1);
      }
    }
    close(tell[1]);
    usleep(std::uniform_int_distribution<useconds_t>(500, 120'000)(random));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed by itself";
    std::int64_t told = step;
    for (std::int64_t value = 0; read(tell[0], &value, sizeof value) == sizeof value;) told = value;
    close(tell[0]);
    for (const std::string& name : names_in(run)) interrupted += name.starts_with("tmp-step-");
    // The newest by name must load: whatever is called step-* is whole.
    ASSERT_FALSE(list_checkpoints(run).empty());
    for (const fs::path& checkpoint : list_checkpoints(run)) EXPECT_NO_THROW(load_training_checkpoint(checkpoint));
    const std::int64_t newest = load_newest_checkpoint(run).state.step;
    EXPECT_GE(newest, told);
    EXPECT_LE(newest, told + 1);
    step = newest;
  }
  EXPECT_GT(interrupted, 10) << "most kills must have come in the middle of a save";
  std::printf("[  NOTE    ] %lld saves, %d of 60 kills left a temporary folder\n", static_cast<long long>(step),
              interrupted);
  TrainingCheckpoint last = checkpoint_of(step + 1);
  last.state.options.keep = 1;
  save_training_checkpoint(run, last);
  EXPECT_EQ(names_in(run).size(), 1u);
}

}  // namespace
}  // namespace riverhorse::test
