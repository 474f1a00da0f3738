// Three times of N ranks, each with its own sequences: T of a step; C of a step of each rank by itself, all at once,
// which sends nothing; X of all that a step sends, without the rest of it. What the communication adds to a step is
// T - C, so that 1 - (T - C) / X of it is hidden behind the computation.
//
// Of K ranks that share sequences each has 1/K of the tokens of `--batch` sequences, and one alone has sequences of
// that length: so many tokens a rank in all rows. Their mixers wait for each other, which is in T - C and not in X.
#include "cli/bench_scaling.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>

#include "cli/train_ranks.h"
#include "train/shapes_device.h"
#include "train/trainer_core.h"
#include "train/training_flops.h"

namespace riverhorse::cli {
namespace {

// Of one number of ranks; crosses a pipe.
struct Measured {
  int ranks = 1, places = 1;
  int repetitions = 0;
  double step_ms = 0, compute_ms = 0, communication_ms = 0;
  double sent_bytes = 0;  // by each rank, a step
  double parameters = 0;
  double flops = 0;  // of each rank, a step
  std::uint64_t memory_bytes = 0;
};

// The median over repetitions, of the slowest rank. All ranks repeat it as often.
struct Timing {
  double ms = 0;
  int repetitions = 0;
};
Timing timed(const Ranks& ranks, const BenchOptions& options, const std::function<void()>& function) {
  const auto warm_up = Clock::now();
  do {
    function();
  } while (!ranks.any(interrupted() || milliseconds_since(warm_up) > 300.0));
  const int most = options.repetitions > 0 ? options.repetitions : 30, least = std::min(most, 3);
  std::vector<double> times;
  const auto start = Clock::now();
  for (int i = 0; i < most; ++i) {
    const bool over = i >= least && options.repetitions == 0 && milliseconds_since(start) > 10000.0;
    if (ranks.any(interrupted() || over)) break;
    const auto before = Clock::now();
    function();
    times.push_back(milliseconds_since(before));
  }
  return {ranks.largest(median(times)), static_cast<int>(times.size())};
}

// Of a sequence, on one rank.
std::int64_t own_tokens(const BenchOptions& options) { return options.tokens / options.sequence_parallel; }

// Steps of `ranks`, or of this rank by itself while `all` do the same.
struct Steps {
  Steps(const std::shared_ptr<Device>& device, const Checkpoint& checkpoint, const BenchOptions& options,
        const Ranks& ranks)
      : core(device, checkpoint, core_options(options, ranks)),
        ids(benchmark_ids(options.batch * own_tokens(options), checkpoint.config.vocab_size)),
        targets(next_token_targets(ids, own_tokens(options))) {}

  static TrainerCoreOptions core_options(const BenchOptions& options, const Ranks& ranks) {
    TrainerCoreOptions core;
    core.micro_batch = {options.batch, own_tokens(options)};
    core.dtype = options.dtype;
    core.conv = options.conv;
    core.recompute = options.recompute;
    core.logits = options.logits;
    core.ranks = ranks;
    if (ranks) core.shard = options.shard, core.reduce_dtype = options.reduce_dtype;
    return core;
  }
  Timing time(const Ranks& all, const BenchOptions& options) {
    return timed(all, options, [&] { core.step(ids, targets, 1.0); });
  }

  TrainerCore core;
  std::vector<std::int32_t> ids, targets;
};

// What a rank sends of gradients, parameters, states and heads; one between others where there is one.
double sent_of_shared(const Checkpoint& checkpoint, const BenchOptions& options, const Ranks& ranks) {
  ShapesTraffic traffic;
  Ranks absent;
  absent.host = absent.tensors = make_absent_ranks(ranks.size(), ranks.places > 2 ? 1 : 0);
  TrainerCoreOptions core = Steps::core_options(options, absent.with_places(ranks.places));
  core.conv = ConvAlgorithm::chunked;
  TrainerCore::estimate_memory(make_shapes_device(&traffic), checkpoint.config, core);
  return traffic.summed + traffic.moved;
}

Measured measure(const std::shared_ptr<Device>& device, const Checkpoint& checkpoint, const BenchOptions& options,
                 const Ranks& ranks) {
  Measured measured;
  measured.ranks = ranks.size();
  measured.places = ranks.places;
  measured.flops = static_cast<double>(options.batch * own_tokens(options)) *
                   training_flops_per_token(checkpoint.config, own_tokens(options) * ranks.places);
  {
    Steps steps(device, checkpoint, options, ranks);
    const Timing step = steps.time(ranks, options);
    measured.step_ms = measured.compute_ms = step.ms;
    measured.repetitions = step.repetitions;
    measured.memory_bytes = device->memory_usage().used_bytes;
    measured.parameters = static_cast<double>(steps.core.model().parameters().values().count());
    if (!ranks) return measured;
    measured.sent_bytes =
        ranks.places == 1 ? steps.core.exchanged_bytes() : sent_of_shared(checkpoint, options, ranks);
    measured.communication_ms = timed(ranks, options, [&] { steps.core.exchange(); }).ms;
  }
  measured.compute_ms = Steps(device, checkpoint, options, Ranks()).time(ranks, options).ms;
  return measured;
}

// This process's device, as one of `host`'s ranks.
std::shared_ptr<Device> open_device_of(const std::shared_ptr<Communicator>& host, const BenchOptions& options) {
  DeviceChoiceOptions choice = options.device;
  if (host) choose_device_of_rank(*host, choice);
  std::shared_ptr<Device> device = open_training_device(choice);
  device->require_activation(options.dtype);
  return device;
}

Measured measure_on(const std::shared_ptr<Communicator>& host, const BenchOptions& options) {
  const std::shared_ptr<Device> device = open_device_of(host, options);
  const Checkpoint checkpoint = benchmark_checkpoint(options);
  if (!host) return measure(device, checkpoint, options, Ranks());
  Ranks ranks{host, device->tensor_communicator(host)};
  return measure(device, checkpoint, options, ranks.with_places(options.sequence_parallel));
}

// On so many GPUs, by processes that end with it: a number of ranks that were joined once cannot be changed. This
// process opens no device before.
Measured measure_apart(int count, const BenchOptions& options) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) fail(StatusCode::internal, "pipe: {}", std::strerror(errno));
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child < 0) fail(StatusCode::internal, "fork: {}", std::strerror(errno));
  if (child == 0) {
    ::close(ends[0]);
    int status = 0;
    try {
      const std::shared_ptr<Communicator> host = fork_ranks(count);
      run_as_rank(host, [&] {
        const Measured measured = measure_on(host, options);
        if ((!host || host->rank() == 0) && ::write(ends[1], &measured, sizeof measured) != sizeof measured) {
          fail(StatusCode::internal, "write to a pipe: {}", std::strerror(errno));
        }
      });
    } catch (const Error& error) {
      std::fprintf(stderr, "riverhorse: %s\n", error.what());
      status = exit_status(error.code());
    }
    std::_Exit(status);
  }
  ::close(ends[1]);
  Measured measured;
  const bool whole = ::read(ends[0], &measured, sizeof measured) == sizeof measured;
  ::close(ends[0]);
  int ended = 0;
  while (::waitpid(child, &ended, 0) < 0 && errno == EINTR) {
  }
  const int status = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
  if (status != 0) std::_Exit(status);  // which was said
  if (!whole) fail(StatusCode::internal, "the processes on {} GPUs ended without figures", count);
  return measured;
}

BenchRow row_of(const Measured& measured, const BenchOptions& options, const std::vector<BenchRow>& before) {
  BenchRow row;
  row.name = "scaling";
  row.dtype = options.dtype;
  row.shape = fmt::format("{}, {} x {} x {} tokens", benchmark_model_name(options), measured.ranks / measured.places,
                          options.batch, own_tokens(options) * measured.places);
  if (options.recompute != Recompute::none)
    row.shape += fmt::format(", recompute {}", recompute_name(options.recompute));
  if (options.logits == LogitBits::half) row.shape += ", logits of 16 bits";
  if (measured.ranks > 1 && options.shard != Shard::none) {
    row.shape += options.shard == Shard::optimizer ? ", shard optimizer" : ", shard gradients";
  }
  if (measured.ranks > 1 && options.reduce_dtype == ReduceDtype::bf16) row.shape += ", reduced in bf16";
  if (measured.places > 1) row.shape += fmt::format(", {} ranks a sequence", measured.places);
  row.wall_ms = measured.step_ms;
  row.repetitions = measured.repetitions;
  row.tokens = measured.ranks * options.batch * own_tokens(options);
  row.flops = measured.flops;
  row.bytes = 28 * measured.parameters;
  row.gemm_bound = true;
  row.memory_bytes = measured.memory_bytes;
  ScalingFigures& scaling = row.scaling.emplace();
  scaling.ranks = measured.ranks;
  scaling.sequence_parallel = measured.places;
  scaling.sent_bytes = measured.sent_bytes;
  scaling.compute_ms = measured.compute_ms;
  if (measured.ranks > 1) {
    scaling.communication_ms = measured.communication_ms;
    const double added = measured.step_ms - measured.compute_ms;
    if (measured.places == 1) scaling.hidden = std::clamp(1 - added / measured.communication_ms, 0.0, 1.0);
  }
  for (const BenchRow& one : before) {
    if (one.scaling->ranks == 1) scaling.efficiency = one.wall_ms / row.wall_ms;  // with as many tokens a rank
  }
  if (measured.ranks == 1) scaling.efficiency = 1;
  return row;
}

BenchReport report_of(const std::vector<Measured>& all, const BenchOptions& options, Device& device) {
  BenchReport report;
  report.device = device.info();
  report.ceilings =
      measure_ceilings(device, CopyMeter(device), options.dtype == DType::f16, options.dtype == DType::bf16);
  for (const Measured& measured : all) report.rows.push_back(row_of(measured, options, report.rows));
  return report;
}

// Errors: invalid_argument, for sequences or numbers of ranks that do not divide so.
void check_places(const BenchOptions& options) {
  if (options.tokens % options.sequence_parallel != 0) {
    fail(StatusCode::invalid_argument,
         "a sequence of {} tokens (--tokens) does not divide among {} ranks (--sequence-parallel); choose a multiple "
         "of {}",
         options.tokens, options.sequence_parallel, options.sequence_parallel);
  }
  for (const int count : options.gpus) {
    if (count > 1) Ranks{make_absent_ranks(count, 0), nullptr}.with_places(options.sequence_parallel);
  }
}

}  // namespace

std::optional<BenchReport> bench_scaling(const BenchOptions& options) {
  if (!options.gpus.empty()) {
    require_no_launcher();
    check_places(options);
    std::vector<int> counts = options.gpus;
    std::sort(counts.begin(), counts.end());
    counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
    std::vector<Measured> all;
    for (const int count : counts) {
      if (interrupted()) break;
      all.push_back(measure_apart(count, options));
    }
    return report_of(all, options, *open_device_of(nullptr, options));
  }
  const std::shared_ptr<Communicator> host = join_launched_ranks();
  if (!host) {
    fail(StatusCode::invalid_argument,
         "bench scaling needs several ranks: --gpus 1,2,4, or a launcher such as mpirun -np 2");
  }
  std::optional<BenchReport> report;
  run_as_rank(host, [&] {
    check_places(options);
    std::vector<Measured> all;
    const std::shared_ptr<Device> device = open_device_of(host, options);
    const Ranks ranks = Ranks{host, device->tensor_communicator(host)}.with_places(options.sequence_parallel);
    const Checkpoint checkpoint = benchmark_checkpoint(options);
    if (ranks.first()) all.push_back(measure(device, checkpoint, options, Ranks()));
    host->barrier();
    all.push_back(measure(device, checkpoint, options, ranks));
    if (ranks.first()) report = report_of(all, options, *device);
    host->barrier();
  });
  return report;
}

}  // namespace riverhorse::cli
