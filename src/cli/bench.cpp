// riverhorse bench: the command line, the ceilings, and what is done in which order.
#include "cli/bench.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"

namespace riverhorse::cli {
namespace {

// Values of a fixed pseudo-random sequence in [-1, 1): zeros would let a GPU save power and look faster.
std::vector<float> noise(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint32_t state = 12345;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  return values;
}

// Milliseconds of one operation: several a submission, until the submission takes a while, median over submissions.
double time_operation(Device& device, const RecordFunction& operation) {
  constexpr double long_enough_ms = 5.0;
  constexpr double budget_ms = 1500.0;
  constexpr int most_submissions = 30;
  const bool has_clock = device.supports(Feature::timestamps).supported;
  const auto record = [&](int count) {
    return device.record(
        [&, count](Encoder& encoder) {
          for (int i = 0; i < count; ++i) operation(encoder);
        },
        {.timestamps = has_clock});
  };
  const auto run = [&](Recording& recording) {
    const auto start = Clock::now();
    device.wait(device.submit(recording));
    const double wall = milliseconds_since(start);
    return has_clock ? recording.total_time_ms() : wall;
  };
  int count = 1;
  auto recording = record(count);
  // Until the clocks are up: an idle GPU runs at a fraction of its rate for the first tenths of a second.
  const auto warm_up = Clock::now();
  do {
    run(*recording);
  } while (milliseconds_since(warm_up) < 300.0);
  const double single = std::max(run(*recording), 1e-4);
  count = std::clamp(static_cast<int>(long_enough_ms / single), 1, 64);
  if (count > 1) {
    recording = record(count);
    run(*recording);
  }
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 3 || (times.size() < most_submissions && milliseconds_since(start) < budget_ms)) {
    times.push_back(run(*recording) / count);
  }
  return median(std::move(times));
}

bool is_software(const DeviceInfo& info) { return info.type == DeviceType::software || info.type == DeviceType::cpu; }

void measure_copy(Device& device, BenchCeilings& ceilings) {
  const std::uint64_t wanted = is_software(device.info()) ? 32ull << 20 : 256ull << 20;
  const std::uint64_t bytes = std::min(
      {wanted, device.max_tensor_bytes(), std::max<std::uint64_t>(device.memory_free_bytes() / 4, 1u << 20)});
  const auto count = static_cast<std::int64_t>(bytes / 4);
  const Tensor in = device.allocate_tensor(DType::f32, {count});
  const Tensor out = device.allocate_tensor(DType::f32, {count});
  const std::vector<float> values = noise(count);
  device.upload(in, std::as_bytes(std::span(values)));
  const double ms = time_operation(device, [&](Encoder& encoder) { encoder.copy({in, out}); });
  ceilings.copy_tensor_bytes = static_cast<std::uint64_t>(count) * 4;
  ceilings.copy_bytes_per_second = 2.0 * static_cast<double>(ceilings.copy_tensor_bytes) / (ms * 1e-3);
  ceilings.copy_method = "copy f32 to f32";
  if (!device.supports(Feature::f16).supported) return;

  // Some drivers copy through a slower engine than their shader cores; a conversion is always a shader.
  const Tensor narrow = device.allocate_tensor(DType::f16, {count});
  const double convert_ms = time_operation(device, [&](Encoder& encoder) { encoder.copy({in, narrow}); });
  const double rate = 6.0 * static_cast<double>(count) / (convert_ms * 1e-3);
  if (rate > ceilings.copy_bytes_per_second) {
    ceilings.copy_bytes_per_second = rate;
    ceilings.copy_method = "copy f32 to f16";
  }
}

double measure_gemm(Device& device, DType dtype, std::int64_t size) {
  const Shape square{size, size};
  const Tensor noise_f32 = device.allocate_tensor(DType::f32, square);
  const std::vector<float> values = noise(size * size);
  device.upload(noise_f32, std::as_bytes(std::span(values)));
  const Tensor x = device.allocate_tensor(dtype, square);
  const Tensor weight = device.allocate_tensor(dtype, square);
  const Tensor y = device.allocate_tensor(dtype, square);
  device.run([&](Encoder& encoder) {
    encoder.copy({noise_f32, x});
    encoder.copy({noise_f32, weight});
  });
  LinearArgs args;
  args.x = x;
  args.weight = weight;
  args.y = y;
  const double ms = time_operation(device, [&](Encoder& encoder) { encoder.linear(args); });
  const auto edge = static_cast<double>(size);
  return 2.0 * edge * edge * edge / (ms * 1e-3);
}

void run(BenchOptions options) {
  if (options.what == "prefill" && options.batch > 1) {
    fail(StatusCode::invalid_argument, "--batch is for decode and train: a prefill reads one text at a time");
  }
  const bool trains = options.what == "train";
  const std::shared_ptr<Device> device =
      trains ? open_training_device(options.device) : open_chosen_device(options.device);
  device->require_activation(options.dtype);
  BenchReport report;
  report.device = device->info();
  const bool all_types = options.what == "ops" && !options.dtype_given;
  report.ceilings =
      measure_ceilings(*device, all_types || options.dtype == DType::f16, all_types || options.dtype == DType::bf16);
  report.rows = options.what == "ops"       ? bench_ops(*device, options)
                : options.what == "prefill" ? bench_prefill(device, options)
                : trains                    ? bench_train(device, options)
                                            : bench_decode(device, options);
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

double milliseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const std::size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle), values.end());
  return values[middle];
}

BenchCeilings measure_ceilings(Device& device, bool with_f16, bool with_bf16) {
  BenchCeilings ceilings;
  measure_copy(device, ceilings);
  const DeviceType type = device.info().type;
  ceilings.gemm_size = type == DeviceType::software ? 256 : type == DeviceType::discrete_gpu ? 4096 : 1024;
  ceilings.gemm_f32_flops = measure_gemm(device, DType::f32, ceilings.gemm_size);
  if (with_f16 && device.supports(Feature::f16).supported) {
    ceilings.gemm_f16_flops = measure_gemm(device, DType::f16, ceilings.gemm_size);
  }
  if (with_bf16 && device.supports(Feature::bf16).supported) {
    ceilings.gemm_bf16_flops = measure_gemm(device, DType::bf16, ceilings.gemm_size);
  }
  return ceilings;
}

void add_bench_command(CLI::App& app) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench", "Measure operations, prefill, decoding or training, next to the copy and GEMM rates of the same run");
  command->add_option("what", options->what, "ops, prefill, decode or train")
      ->required()
      ->check(CLI::IsMember({"ops", "prefill", "decode", "train"}));
  add_model_options(*command, options->model, false);
  command->add_option("--preset", options->preset,
                      "Random weights of this size when there is no --model: 125m, 355m, 1.3b, ... (default: 125m)");
  add_device_options(*command, options->device);
  add_dtype_option(*command, options->dtype);
  add_conv_option(*command, options->conv);
  add_recompute_option(*command, options->recompute);
  command
      ->add_option("--tokens", options->tokens,
                   "prefill, train: length of the text (default: 1024); decode: tokens drawn (default: 128)")
      ->check(CLI::PositiveNumber);
  command->add_option("--prompt-tokens", options->prompt_tokens, "decode: length of the text before (default: 1024)")
      ->check(CLI::PositiveNumber);
  command->add_option("--batch", options->batch, "Sequences at once (default: decode 1, train 8)")
      ->check(CLI::PositiveNumber);
  command->add_option("--repetitions", options->repetitions, "prefill, train: how often (default: chosen)")
      ->check(CLI::PositiveNumber);
  command->add_option("--filter", options->filter, "ops: only the cases whose name contains this")->type_name("TEXT");
  command->add_option("--output", options->output, "Also write the JSON to this file")->type_name("FILE");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options, command] {
    options->dtype_given = command->count("--dtype") > 0;
    run(*options);
  });
}

}  // namespace riverhorse::cli
