// riverhorse bench train: optimiser steps of a whole model on random text.
#include <fmt/format.h>

#include <climits>

#include "cli/bench.h"
#include "train/trainer_core.h"
#include "train/training_flops.h"

namespace riverhorse::cli {
std::vector<BenchRow> bench_train(const std::shared_ptr<Device>& device, const BenchOptions& options) {
  const std::int64_t length = options.tokens, batch = options.batch;
  const Checkpoint checkpoint = benchmark_checkpoint(options);
  TrainerCoreOptions core_options;
  core_options.micro_batch = {batch, length};
  core_options.dtype = options.dtype;
  core_options.conv = options.conv;
  core_options.recompute = options.recompute;
  core_options.logits = options.logits;
  TrainerCore core(device, checkpoint, core_options);
  const std::vector<std::int32_t> ids = benchmark_ids(batch * length, checkpoint.config.vocab_size);
  const std::vector<std::int32_t> targets = next_token_targets(ids, length);

  // Until the clocks are up, and in f16 until the loss scale is found: a step that is left out is a shorter one.
  std::vector<double> times;
  int left_out = 0;
  const auto warm_up = Clock::now();
  while (!interrupted()) {
    left_out = core.step(ids, targets, 1.0).skipped ? left_out + 1 : 0;
    constexpr int most_left_out = 20;
    if (left_out > most_left_out || (left_out == 0 && milliseconds_since(warm_up) > 300.0)) break;
  }
  const auto start = Clock::now();
  const int most = options.repetitions > 0 ? options.repetitions : options.seconds > 0 ? INT_MAX : 30;
  const double budget_ms = options.seconds > 0 ? 1000 * options.seconds : 10000;
  left_out = 0;
  for (int i = 0; i < most && !interrupted(); ++i) {
    if (options.repetitions == 0 && i >= 3 && milliseconds_since(start) > budget_ms) break;
    const auto before = Clock::now();
    left_out += core.step(ids, targets, 1.0).skipped ? 1 : 0;
    times.push_back(milliseconds_since(before));
  }

  const std::size_t steps = times.size();
  if (options.seconds > 0) times.erase(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));

  double parameters = 0;
  for (const ParameterSpec& spec : parameter_table(checkpoint.config)) {
    double count = 1;
    for (const std::int64_t dimension : spec.shape) count *= static_cast<double>(dimension);
    parameters += count;
  }
  BenchRow row;
  row.name = "train";
  row.dtype = options.dtype;
  row.shape = fmt::format("{}, {} x {} tokens", benchmark_model_name(options), batch, length);
  if (options.recompute != Recompute::none)
    row.shape += fmt::format(", recompute {}", recompute_name(options.recompute));
  if (options.logits == LogitBits::half) row.shape += ", logits of 16 bits";
  if (left_out > 0) row.shape += fmt::format(", {} of {} steps left out", left_out, steps);
  row.wall_ms = median(times);
  row.repetitions = static_cast<int>(times.size());
  row.tokens = batch * length;
  row.flops = static_cast<double>(row.tokens) * training_flops_per_token(checkpoint.config, length);
  // Of the update: parameters, both moments and gradients are read, all but the gradients written.
  row.bytes = 28 * parameters;
  row.gemm_bound = true;
  row.memory_bytes = device->memory_usage().used_bytes;
  return {row};
}

}  // namespace riverhorse::cli
