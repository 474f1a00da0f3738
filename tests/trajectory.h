// A recorded training of the original: the tiny model, its batches, and what every step gave.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine_fixture.h"
#include "train/trainer_core.h"

namespace riverhorse::test {

struct Trajectory {
  nlohmann::json expected;
  TensorFile data = read_safetensors(golden + "/train/data.safetensors");
  Checkpoint start;
  TrainerCoreOptions options;
  std::vector<std::int32_t> ids;  // (steps, batch, length)
  std::int64_t steps = 0;

  Trajectory(const std::string& file, OptimizerRecipe recipe)
      : expected(nlohmann::json::parse(std::ifstream(golden + "/train/" + file))) {
    CheckpointOptions load;
    load.config_path = golden + "/train/config.json";
    start = load_checkpoint(golden + "/train/init.pt", load);
    const HostTensor& batches = data.at("batches");
    ids = ids_of(batches);
    steps = batches.shape[0];
    options.micro_batch = {batches.shape[1], batches.shape[2]};
    OptimizerOptions& optimizer = options.optimizer;
    optimizer.recipe = recipe;
    optimizer.learning_rate = expected.at("lr").get<double>();
    if (!expected.at("ssm_lr").is_null()) optimizer.ssm_learning_rate = expected.at("ssm_lr").get<double>();
    optimizer.weight_decay = expected.at("weight_decay").get<double>();
    optimizer.clip_norm = expected.at("clip_norm").get<double>();
  }

  std::span<const std::int32_t> ids_of_step(std::int64_t step) const {
    const auto rows = static_cast<std::size_t>(options.micro_batch.rows());
    return std::span(ids).subspan(static_cast<std::size_t>(step) * rows, rows);
  }
  std::vector<std::int32_t> targets_of_step(std::int64_t step) const {
    return next_token_targets(ids_of_step(step), options.micro_batch.length);
  }
  double loss(std::int64_t step) const { return expected.at("loss").at(static_cast<std::size_t>(step)); }
  double norm(std::int64_t step) const { return expected.at("grad_norm").at(static_cast<std::size_t>(step)); }
};

}  // namespace riverhorse::test
