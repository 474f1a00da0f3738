// riverhorse bench: the command line, and what is done in which order.
#include "cli/bench.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "cli/bench_peers.h"
#include "cli/bench_scaling.h"
#include "cli/commands.h"

namespace riverhorse::cli {
namespace {

// Flags that the chosen benchmark does not read.
void refuse_others(const BenchOptions& options) {
  const auto refuse = [&](bool given, const char* flag, std::initializer_list<const char*> readers) {
    if (!given || std::find(readers.begin(), readers.end(), options.what) != readers.end()) return;
    fail(StatusCode::invalid_argument, "{} is not for bench {}, but for {}", flag, options.what,
         fmt::join(readers, ", "));
  };
  if (options.what == "prefill" && options.batch > 1) {
    fail(StatusCode::invalid_argument,
         "--batch is for decode, sessions, train and scaling: a prefill reads one text at a time");
  }
  refuse(options.seconds > 0, "--seconds", {"ops", "mixer", "fft_conv", "train"});
  refuse(options.tokens > 0, "--tokens",
         {"mixer", "fft_conv", "prefill", "decode", "sessions", "frames", "train", "scaling"});
  refuse(options.batch > 0, "--batch", {"mixer", "fft_conv", "prefill", "decode", "sessions", "train", "scaling"});
  refuse(options.repetitions > 0, "--repetitions", {"prefill", "train", "scaling"});
  refuse(options.conv != ConvAlgorithm::automatic, "--conv",
         {"mixer", "prefill", "decode", "sessions", "train", "scaling"});
  refuse(!options.weights.empty(), "--weights", {"prefill", "decode", "sessions"});
  refuse(options.memory_budget_bytes > 0, "--memory-budget", {"prefill", "decode", "sessions"});
  refuse(!options.trace.empty(), "--trace", {"prefill", "decode", "sessions"});
  refuse(!options.filter.empty(), "--filter", {"ops", "mixer", "fft_conv"});
  refuse(options.width > 0, "--width", {"mixer", "fft_conv"});
  refuse(!options.states.empty(), "--state", {"mixer"});
  refuse(options.budgets != BenchOptions().budgets, "--budgets", {"frames"});
  refuse(options.compare, "--compare", {"mixer"});
  refuse(!options.gpus.empty(), "--gpus", {"scaling"});
  refuse(options.shard != Shard::none, "--shard", {"scaling"});
  refuse(options.reduce_dtype != ReduceDtype::f32, "--reduce-dtype", {"scaling"});
  refuse(options.sequence_parallel > 1, "--sequence-parallel", {"scaling"});
  refuse(!options.peers.empty(), "--peers", {"mixer", "fft_conv", "train"});
  if (options.seconds > 0 && options.repetitions > 0) {
    fail(StatusCode::invalid_argument, "--seconds and --repetitions both say how often: give one of them");
  }
}

// The device is closed at the end: what others measure on it afterwards finds its memory free.
BenchReport our_report(BenchOptions& options) {
  const bool trains = options.what == "train", convolves = options.what == "mixer" || options.what == "fft_conv";
  const std::shared_ptr<Device> device =
      trains ? open_training_device(options.device) : open_chosen_device(options.device);
  if (convolves && !options.dtype_given && device->supports(Feature::bf16).supported) options.dtype = DType::bf16;
  device->require_activation(options.dtype);
  BenchReport report;
  report.device = device->info();
  const bool all_types = options.what == "ops" && !options.dtype_given;
  std::optional<CopyMeter> meter(std::in_place, *device);
  const CopyMeter& copy = *meter;
  report.ceilings = measure_ceilings(*device, copy, all_types || options.dtype == DType::f16,
                                     all_types || options.dtype == DType::bf16);
  if (options.what != "ops" && !convolves) meter.reset();  // the memory is for the model
  report.rows = options.what == "ops"        ? bench_ops(*device, options, copy)
                : options.what == "frames"   ? bench_frames(device, options)
                : options.what == "mixer"    ? bench_mixer(*device, options, copy)
                : options.what == "fft_conv" ? bench_fft_conv(*device, options, copy)
                : options.what == "prefill"  ? bench_prefill(device, options)
                : options.what == "sessions" ? bench_sessions(device, options)
                : trains                     ? bench_train(device, options)
                                             : bench_decode(device, options);
  return report;
}

void run(BenchOptions options) {
  refuse_others(options);
  if (options.what == "train" || options.what == "scaling") {
    if (options.tokens == 0) options.tokens = 1024;
    if (options.batch == 0) options.batch = 8;
  }
  BenchReport report;
  if (options.what == "scaling") {
    std::optional<BenchReport> scaling = bench_scaling(options);
    if (!scaling) return;
    report = std::move(*scaling);
  } else {
    report = our_report(options);
  }
  if (!options.peers.empty()) {
    const std::vector<BenchRow> peers = bench_peers(report.device, options, report.rows);
    report.rows.insert(report.rows.end(), peers.begin(), peers.end());
  }
  const std::string json = bench_json(options, report);
  if (!options.output.empty()) {
    AtomicFileWriter file(options.output);
    file.write(json + "\n");
    file.commit();
  }
  fmt::print("{}", options.json ? json + "\n" : bench_table(options, report));
  if (interrupted()) fail(StatusCode::cancelled, "interrupted: the rows above are complete, others are missing");
}

}  // namespace

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      app.add_subcommand("bench",
                         "Measure operations, long convolutions, prefill, decoding, many sessions, frames or "
                         "training, on one rank or many, next to the copy and GEMM rates of the "
                         "same run");
  command
      ->add_option("what", options->what, "ops, mixer, fft_conv, prefill, decode, sessions, frames, train or scaling")
      ->required()
      ->check(
          CLI::IsMember({"ops", "mixer", "fft_conv", "prefill", "decode", "sessions", "frames", "train", "scaling"}));
  add_model_options(*command, options->model, false);
  command->add_option("--preset", options->preset,
                      "Random weights of this size when there is no --model: 125m, 355m, 1.3b, ... (default: 125m)");
  command->add_option("--weights", options->weights, "prefill, decode, sessions: quantise these weights, q8 or q4")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"q8", "q4"}))
      ->excludes(command->get_option("--model"));
  add_device_options(*command, options->device);
  add_memory_budget_option(*command, options->memory_budget_bytes);
  add_trace_option(*command, options->trace);
  add_dtype_option(*command, options->dtype);
  add_conv_option(*command, options->conv);
  add_recompute_option(*command, options->recompute);
  add_logits_option(*command, options->logits);
  command
      ->add_option("--tokens", options->tokens,
                   "prefill, train, scaling: length of the text (default: 1024); decode, sessions: tokens drawn "
                   "(default: 128, 32); mixer, fft_conv: length of the sequences (default: many lengths)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--prompt-tokens", options->prompt_tokens,
                   "decode, sessions: length of the text before, of the longest one (default: 1024)")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--batch", options->batch,
                   "Sequences at once (default: decode 1, train 8, scaling 8 on each rank; sessions at most 64, on "
                   "a cpu 8; with mixer and fft_conv, as many as make 64K tokens)")
      ->check(CLI::PositiveNumber);
  command->add_option("--repetitions", options->repetitions, "prefill, train, scaling: how often (default: chosen)")
      ->check(CLI::PositiveNumber);
  command->add_option("--width", options->width, "mixer, fft_conv: channels (default: 768)")
      ->check(CLI::PositiveNumber);
  command->add_option("--state", options->states, "mixer: state size N, or several: 16,64 (default: 64)")
      ->delimiter(',')
      ->check(CLI::Range(2, 256));
  command
      ->add_option(
          "--budgets", options->budgets,
          "frames: microseconds of GPU time a frame (default: 250,500,1000,2000,4000,8000); --tokens are drawn "
          "at each (default: 64), after --prompt-tokens (default: 10000)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command->add_flag("--compare", options->compare, "mixer: chunked and fft, for N = 16, 64 and 128 (or --state)")
      ->excludes(command->get_option("--conv"));
  command
      ->add_option(
          "--seconds", options->seconds,
          "ops, mixer, fft_conv, train: repeat each for so long, and a copy before it; the median of the last "
          "half is what the device sustains")
      ->check(CLI::PositiveNumber);
  command->add_option("--filter", options->filter, "ops, mixer, fft_conv: only the rows whose name contains this")
      ->type_name("TEXT");
  command
      ->add_option(
          "--peers", options->peers,
          "mixer, fft_conv, train: rows of PyTorch (and FlashFFTConv) too, by this Python (default: python3)")
      ->type_name("PYTHON")
      ->expected(0, 1);
  command->add_option("--gpus", options->gpus, "scaling: on so many GPUs, or on each of several numbers: 1,2,4")
      ->delimiter(',')
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
  add_shard_options(*command, options->shard, options->reduce_dtype);
  command
      ->add_option("--sequence-parallel", options->sequence_parallel,
                   "scaling: so many ranks share each sequence, a part of its tokens each (default: 1)")
      ->type_name("K")
      ->check(CLI::Range(1, 1024));
  command->add_option("--output", options->output, "Also write the JSON to this file")->type_name("FILE");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options, command] {
    options->dtype_given = command->count("--dtype") > 0;
    if (command->count("--peers") > 0 && options->peers.empty()) options->peers = "python3";
    run(*options);
  });
}

}  // namespace riverhorse::cli
