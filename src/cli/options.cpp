#include "cli/options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "engine/selftest.h"
#include "engine/trace.h"

namespace riverhorse::cli {
namespace {

CheckedDeviceOptions checked_options(const DeviceChoiceOptions& options) {
  CheckedDeviceOptions checked;
  checked.backend = options.backend;
  checked.device = options.device;
  checked.device_options.cache_folder = options.cache;
  checked.device_options.tuning = options.tuning;
  checked.device_options.minimal_features = options.safe_shaders;
  checked.device_options.validation = options.validation;
  checked.device_options.memory_limit_bytes = options.memory_limit_mib << 20;
  checked.self_test = !options.no_selftest;
  return checked;
}

// "2GiB", "800 MB", "1.5G": a number and a unit, B where there is none. Nothing for what is no such size.
std::optional<std::uint64_t> parse_size(const std::string& text) {
  static const std::map<std::string, double> units = {
      {"", 1},         {"B", 1},        {"KB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
      {"TB", 1e12},    {"K", 0x1p10},   {"M", 0x1p20},   {"G", 0x1p30},  {"T", 0x1p40},
      {"KIB", 0x1p10}, {"MIB", 0x1p20}, {"GIB", 0x1p30}, {"TIB", 0x1p40}};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  if (error != std::errc() || !(number > 0)) return std::nullopt;
  std::string unit(rest, end);
  std::erase(unit, ' ');
  std::transform(unit.begin(), unit.end(), unit.begin(), [](unsigned char c) { return std::toupper(c); });
  const auto found = units.find(unit);
  const double bytes = found == units.end() ? 0 : number * found->second;
  if (bytes < 1 || bytes >= 0x1p60) return std::nullopt;
  return static_cast<std::uint64_t>(bytes);
}

volatile std::sig_atomic_t interrupt_count = 0;

extern "C" void handle_interrupt(int signal_number) {
  interrupt_count = 1;
  std::signal(signal_number, SIG_DFL);  // the second Ctrl-C ends the program at once
}

// One of a few names, each of which stands for a value.
template <typename Value>
void add_choice(CLI::App& command, const std::string& flag, Value& value,
                const std::vector<std::pair<std::string, Value>>& choices, const std::string& type,
                const std::string& help) {
  std::vector<std::string> names;
  for (const auto& choice : choices) names.push_back(choice.first);
  command
      .add_option_function<std::string>(
          flag,
          [&value, choices](const std::string& name) {
            for (const auto& choice : choices) {
              if (choice.first == name) value = choice.second;
            }
          },
          help)
      ->type_name(type)
      ->check(CLI::IsMember(names));
}

}  // namespace

void add_model_options(CLI::App& command, ModelOptions& options, bool required) {
  CLI::Option* model =
      command.add_option("-m,--model", options.model, "A model folder, or a .safetensors or .pt file")
          ->type_name("PATH");
  if (required) model->required();
  command.add_option("--config", options.config, "config.json for a bare weights file (default: beside the weights)")
      ->type_name("FILE");
}

void add_device_options(CLI::App& command, DeviceChoiceOptions& options) {
  command.add_option("--backend", options.backend, "auto, cpu, vulkan or cuda (default: auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "cpu", "vulkan", "cuda"}));
  command
      .add_option("--device", options.device, "An index, an id like vulkan:0, a UUID, or a part of a device's name")
      ->type_name("DEVICE");
  command
      .add_option(
          "--cache", options.cache,
          "Folder for what can be made again (pipelines, times, self tests, tokens), or none (default: the user's)")
      ->type_name("FOLDER");
  add_choice(command, "--tune", options.tuning,
             {{"auto", Tuning::automatic}, {"on", Tuning::on}, {"off", Tuning::off}}, "WHEN",
             "Time the tiles of products when a model is loaded for the first time on a Vulkan device: auto (GPUs "
             "but an H100, which the rule is from, where there is a cache folder), on or off (default: auto)");
  command.add_flag("--safe-shaders", options.safe_shaders,
                   "Use only what every Vulkan 1.1 device has: slower, for drivers that compute wrongly");
  command.add_flag("--validation", options.validation, "Run with the Vulkan validation layer");
  command.add_flag("--no-selftest", options.no_selftest, "Skip the self test at the first use of a device");
}

void add_dtype_option(CLI::App& command, DType& dtype) {
  add_choice(command, "--dtype", dtype, {{"f32", DType::f32}, {"f16", DType::f16}, {"bf16", DType::bf16}}, "TYPE",
             "Type of weights and activations: f32, f16 or bf16 (default: f32)");
}

void add_conv_option(CLI::App& command, ConvAlgorithm& algorithm) {
  add_choice(command, "--conv", algorithm,
             {{"auto", ConvAlgorithm::automatic}, {"chunked", ConvAlgorithm::chunked}, {"fft", ConvAlgorithm::fft}},
             "NAME", "Long convolution: auto, chunked or fft (default: auto)");
}

CLI::Option* add_size_option(CLI::App& command, const std::string& flag, std::uint64_t& bytes,
                             const std::string& help) {
  return command
      .add_option_function<std::string>(
          flag, [&bytes](const std::string& text) { bytes = *parse_size(text); }, help)
      ->type_name("SIZE")
      ->check(CLI::Validator(
          [](std::string& text) {
            return parse_size(text) ? "" : text + " is no size; give a number and B, KB, MB, GB, KiB, MiB or GiB";
          },
          ""));
}

void add_memory_budget_option(CLI::App& command, std::uint64_t& bytes) {
  add_size_option(command, "--memory-budget", bytes,
                  "The most to take on the device, like 2GiB or 800MB; a model that does not fit is refused, with "
                  "what would (default: what is free)");
}

void add_trace_option(CLI::App& command, std::string& path) {
  command
      .add_option("--trace", path,
                  "Also write what the device did when, operation by operation, for chrome://tracing or Perfetto; "
                  "operations then run one after another")
      ->type_name("FILE");
}

std::shared_ptr<Trace> make_trace(const std::string& path) {
  return path.empty() ? nullptr : std::make_shared<Trace>(path);
}

void add_recompute_option(CLI::App& command, Recompute& level) {
  add_choice(command, "--recompute", level,
             {{"none", Recompute::none}, {"mixer", Recompute::mixer}, {"block", Recompute::block}}, "NAME",
             "train: what the backward pass makes again instead of keeping it: none, mixer or block (default: none)");
}

void add_logits_option(CLI::App& command, LogitBits& bits) {
  add_choice(command, "--logits", bits, {{"32", LogitBits::full}, {"16", LogitBits::half}}, "BITS",
             "train: bits of a logit before the softmax of the loss: 32 or, in f16 and bf16, 16 (default: 32)");
}

void add_shard_options(CLI::App& command, Shard& shard, ReduceDtype& reduce_dtype) {
  add_choice(command, "--shard", shard,
             {{"none", Shard::none}, {"optimizer", Shard::optimizer}, {"gradients", Shard::gradients}}, "WHAT",
             "scaling: what the ranks divide among them, none, optimizer or gradients (default: none)");
  add_choice(command, "--reduce-dtype", reduce_dtype, {{"f32", ReduceDtype::f32}, {"bf16", ReduceDtype::bf16}},
             "TYPE", "scaling: of the gradients between ranks, f32 or bf16 (default: f32)");
}

std::shared_ptr<Device> open_chosen_device(const DeviceChoiceOptions& options) {
  return open_checked_device(checked_options(options));
}

std::shared_ptr<Device> open_training_device(const DeviceChoiceOptions& options) {
  std::shared_ptr<Device> device = open_checked_training_device(checked_options(options));
  const DeviceInfo& info = device->info();
  if (options.memory_limit_mib > 0 && info.backend != BackendKind::cpu) {
    fail(StatusCode::unsupported, "--memory-limit is for the cpu backend, and {} ({}) was chosen", info.id(),
         info.name);
  }
  log_info(fmt::format("training on {} ({})", info.id(), info.name));
  return device;
}

int exit_status(StatusCode code) {
  constexpr int failure = 1, usage = 2, interrupted_status = 130;
  if (code == StatusCode::invalid_argument) return usage;
  return code == StatusCode::cancelled ? interrupted_status : failure;
}

bool interrupted() { return interrupt_count != 0; }

void install_interrupt_handler() { std::signal(SIGINT, handle_interrupt); }

ProgressFunction progress_line(const std::string& what) {
  if (isatty(STDERR_FILENO) == 0) return {};
  using Clock = std::chrono::steady_clock;
  struct State {
    Clock::time_point start = Clock::now();
    Clock::time_point drawn;
    bool visible = false;
  };
  auto state = std::make_shared<State>();
  return [what, state](std::uint64_t done, std::uint64_t total) {
    const auto now = Clock::now();
    const bool finished = done >= total;
    if (finished) {
      if (state->visible) std::fputs("\r\033[K", stderr);
      state->visible = false;
      return;
    }
    const bool soon = now - state->start < std::chrono::milliseconds(400);
    const bool recent = now - state->drawn < std::chrono::milliseconds(100);
    if (soon || recent) return;
    state->drawn = now;
    state->visible = true;
    const double percent = total > 0 ? 100.0 * static_cast<double>(done) / static_cast<double>(total) : 0.0;
    std::fprintf(stderr, "\r%s %.0f%%\033[K", what.c_str(), percent);
    std::fflush(stderr);
  };
}

}  // namespace riverhorse::cli
