// The tiny golden training: a model of three layers and the bytes of a few lines that it can learn.
#pragma once

#include <fmt/core.h>

#include <filesystem>
#include <fstream>

#include "cpu/cpu_device.h"
#include "data/memory_tokens.h"
#include "train/trainer.h"

namespace riverhorse::test {

inline Checkpoint tiny_model() {
  const std::string folder = std::string(RIVERHORSE_TEST_DATA) + "/train";
  CheckpointOptions load;
  load.config_path = folder + "/config.json";
  return load_checkpoint(folder + "/init.pt", load);
}

// Text as ids of the tiny vocabulary of 96: printable ASCII.
inline std::vector<std::int32_t> tiny_text(int repetitions) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < repetitions; ++i) {
    for (const char letter : std::string("The river is wide, the horse is slow; so it goes. ")) {
      ids.push_back(letter - ' ');
    }
  }
  return ids;
}

inline TrainerOptions tiny_options() {
  TrainerOptions options;
  options.steps = 12;
  options.batch = 2;
  options.accumulation = 2;
  options.length = 16;
  options.optimizer.learning_rate = 5e-3;
  options.schedule.warmup_steps = 3;
  options.checkpoint_every = 4;
  options.seed = 7;
  return options;
}

// A folder of this process's own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() / fmt::format("riverhorse_trainer_{}_{}", getpid(), count++);
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

inline std::vector<nlohmann::json> log_rows(const std::filesystem::path& run) {
  std::vector<nlohmann::json> rows;
  std::ifstream file(run / "train.jsonl");
  for (std::string line; std::getline(file, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

}  // namespace riverhorse::test
