// What the benchmark files share: rows, ceilings, and the report. A row says how long something took, how many bytes
// had to move and how many operations had to be done for it, and what share that is of the rates that this very
// device reached in this very run: a figure without its ceiling says nothing.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/op_cases_shapes.h"
#include "backend/op_timing.h"
#include "cli/options.h"
#include "model/checkpoint.h"
#include "train/ranks.h"

namespace riverhorse {
struct EngineOptions;
}

namespace riverhorse::cli {

struct BenchOptions {
  std::string what;  // "ops", "mixer", "fft_conv", "prefill", "decode", "sessions", "train" or "scaling"
  ModelOptions model;
  std::string preset = "125m";
  DeviceChoiceOptions device;
  std::uint64_t memory_budget_bytes = 0;  // prefill, decode, sessions; 0: what is free
  std::string trace;                      // prefill, decode, sessions: a file; empty: none
  DType dtype = DType::f32;
  bool dtype_given = false;
  std::string weights;  // prefill, decode, sessions: random weights of the preset quantised so; empty: not
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  Recompute recompute = Recompute::none;  // train
  LogitBits logits = LogitBits::full;     // train
  std::int64_t tokens = 0;         // prefill, train: length of the text; decode, sessions: tokens drawn; 0: chosen
  std::int64_t prompt_tokens = 0;  // decode, sessions: length of the text before, of the longest
  std::int64_t batch = 0;          // decode, train: sequences stepped together; sessions: most; 0: chosen
  int repetitions = 0;             // 0: chosen
  std::string filter;              // ops: only cases whose id contains this
  std::string output;              // also write the JSON there
  bool json = false;
  double seconds = 0;                // ops, mixer, fft_conv, train: how long each row is repeated; 0: shortly
  std::int64_t width = 0;            // mixer, fft_conv: channels; 0: chosen
  std::vector<std::int64_t> states;  // mixer: N; none: chosen
  std::vector<double> budgets = {250, 500, 1000, 2000, 4000, 8000};  // frames: microseconds
  bool compare = false;                                              // mixer: chunked and fft
  std::string peers;  // mixer, fft_conv, train: the Python that measures peers; empty: none does
  // scaling
  std::vector<int> gpus;  // numbers of them; none: the ranks of a launcher
  Shard shard = Shard::none;
  ReduceDtype reduce_dtype = ReduceDtype::f32;
  int sequence_parallel = 1;  // ranks that share a sequence
};

// Rates of the device, measured in this run.
struct BenchCeilings {
  double copy_bytes_per_second = 0;  // read + written, by the device's copy operation
  std::uint64_t copy_tensor_bytes = 0;
  std::string copy_method;
  double gemm_f32_flops = 0;  // a second, by the device's linear operation on large squares; 0: not measured
  double gemm_f16_flops = 0;
  double gemm_bf16_flops = 0;
  std::int64_t gemm_size = 0;

  double gemm_flops(DType dtype) const {
    return dtype == DType::f32 ? gemm_f32_flops : dtype == DType::f16 ? gemm_f16_flops : gemm_bf16_flops;
  }
};

class CopyMeter {
 public:
  explicit CopyMeter(Device& device);
  double measure(double seconds = 0) const;  // bytes a second
  // Once, as this was made.
  double bytes_per_second() const { return bytes_per_second_; }
  std::uint64_t tensor_bytes() const { return in_.size_bytes(); }
  std::string method() const { return fmt::format("copy f32 to {}", dtype_name(out_.dtype)); }

 private:
  Device& device_;
  Tensor in_, out_;
  double bytes_per_second_ = 0;
};

// Of a training on several ranks.
struct ScalingFigures {
  int ranks = 1;
  int sequence_parallel = 1;         // of them, that share a sequence
  double sent_bytes = 0;             // by each rank in a step, at least
  double compute_ms = 0;             // of a step of every rank by itself, at once
  double communication_ms = 0;       // of the gradients and parameters that a step sends, alone; 0: nothing
  std::optional<double> hidden;      // part of it that does not lengthen the step; not known of shared sequences
  std::optional<double> efficiency;  // tokens/s of a rank, next to those of one alone in the same run
};

// Of a program's frames with a model's work, by GPU time.
struct FrameFigures {
  double budget_us = 0;
  std::int64_t tokens = 0;
  double tokens_per_second = 0;  // at 60 frames a second
  double p50_us = 0, p99_us = 0, p999_us = 0, longest_us = 0;
};

struct BenchRow {
  std::string implementation;  // of a peer; empty: ours
  std::string name;            // "linear.r1024_k768_m3072", "decode"
  DType dtype = DType::f32;
  std::string shape;     // what `name` does not say: "125m, 1 sequence, position 1024"
  std::string skipped;   // why there are no figures; empty when there are
  double device_ms = 0;  // median, by the device's clock where it has one; 0: unknown
  double wall_ms = 0;    // median, by the host's clock; 0: not measured
  double bytes = 0;      // that must move at least
  double flops = 0;
  int repetitions = 0;
  std::int64_t tokens = 0;         // read or drawn in that time, by all sequences together; 0: not a token benchmark
  bool gemm_bound = false;         // its ceiling is the GEMM rate
  std::uint64_t memory_bytes = 0;  // that tensors have on the device meanwhile; 0: not known

  // Of convolutions.
  std::string operation;  // of a peer: "plain", "gated" or "mixer"
  std::optional<ConvolutionShape> convolution;
  std::string conv;                        // the mixer's way that was asked for
  std::vector<std::string> parts;          // what ran, by the device's own names: "h3_mixer.chunked"
  std::vector<CaseResult::Output> errors;  // relative L2 against the cpu backend in f32; none: not compared
  ConvolutionShape compared = {};          // the part of the shape that was
  double copy_bytes_per_second = 0;        // measured directly before; 0: not, but once in this run

  std::optional<FrameFigures> frames;

  std::optional<ScalingFigures> scaling;

  double best_ms() const { return device_ms > 0 ? device_ms : wall_ms; }
};

struct BenchReport {
  DeviceInfo device;
  BenchCeilings ceilings;
  std::vector<BenchRow> rows;
};

// The model that is measured: that of the options, or one with random weights of the preset; and how it is called.
Checkpoint benchmark_checkpoint(const BenchOptions& options);
std::string benchmark_model_name(const BenchOptions& options);
// Ids all over the vocabulary, always the same.
std::vector<std::int32_t> benchmark_ids(std::int64_t count, std::int64_t vocab_size);
// What all engines of benchmarks have of the options: types, the way of the long convolution, cache, memory budget.
EngineOptions benchmark_engine_options(const BenchOptions& options);

bool is_software(const DeviceInfo& info);
BenchCeilings measure_ceilings(Device& device, const CopyMeter& copy, bool with_f16, bool with_bf16);
// Times the case; the row lacks what the case does not know of: its name and shape.
BenchRow measured_row(Device& device, const OpCase& op_case, const BenchOptions& options, const CopyMeter& copy);

std::vector<BenchRow> bench_ops(Device& device, const BenchOptions& options, const CopyMeter& copy);
std::vector<BenchRow> bench_mixer(Device& device, const BenchOptions& options, const CopyMeter& copy);
std::vector<BenchRow> bench_fft_conv(Device& device, const BenchOptions& options, const CopyMeter& copy);
std::vector<BenchRow> bench_frames(const std::shared_ptr<Device>& device, const BenchOptions& options);
std::vector<BenchRow> bench_prefill(const std::shared_ptr<Device>& device, const BenchOptions& options);
std::vector<BenchRow> bench_decode(const std::shared_ptr<Device>& device, const BenchOptions& options);
std::vector<BenchRow> bench_sessions(const std::shared_ptr<Device>& device, const BenchOptions& options);
std::vector<BenchRow> bench_train(const std::shared_ptr<Device>& device, const BenchOptions& options);

// The schema is in the README ("riverhorse bench --json").
std::string bench_json(const BenchOptions& options, const BenchReport& report);
std::string bench_table(const BenchOptions& options, const BenchReport& report);

}  // namespace riverhorse::cli
