// Options that several commands share, so that they look and fail alike everywhere.
//
// Use: hold the structs in one shared_ptr that the command's callback captures.
//   auto options = std::make_shared<GenerateOptions>();          // has ModelOptions model; DeviceOptions...
//   CLI::App* command = app.add_subcommand("generate", "...");
//   add_model_options(*command, options->model);
//   command->callback([options] { run(*options); });
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "base/error.h"
#include "model/logit_bits.h"
#include "model/recompute.h"
#include "train/ranks.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace riverhorse {
class Trace;
}

namespace riverhorse::cli {

// --model M [--config C]
struct ModelOptions {
  std::string model;   // a model folder, a .safetensors or a .pt file
  std::string config;  // config.json for a bare weights file; empty: beside the weights
};
void add_model_options(CLI::App& command, ModelOptions& options, bool required = true);

// --backend B --device D --cache FOLDER --tune WHEN --safe-shaders --validation --no-selftest
struct DeviceChoiceOptions {
  std::string backend;  // "auto" or empty, "cpu", "vulkan", "cuda"
  std::string device;   // an index, an id ("vulkan:1") or a part of a name
  std::string cache;    // pipelines, self tests, tokens; empty: the user's cache folder; "none": no cache
  Tuning tuning = Tuning::automatic;
  bool safe_shaders = false;  // DeviceOptions::minimal_features
  bool validation = false;
  bool no_selftest = false;
  std::uint64_t memory_limit_mib = 0;  // 0: none
};
void add_device_options(CLI::App& command, DeviceChoiceOptions& options);

// --dtype T
void add_dtype_option(CLI::App& command, DType& dtype);
// --conv C
void add_conv_option(CLI::App& command, ConvAlgorithm& algorithm);
// FLAG SIZE, like 2GiB or 800MB
CLI::Option* add_size_option(CLI::App& command, const std::string& flag, std::uint64_t& bytes,
                             const std::string& help);
// --memory-budget SIZE
void add_memory_budget_option(CLI::App& command, std::uint64_t& bytes);
// --trace FILE
void add_trace_option(CLI::App& command, std::string& path);
// Null where `path` is empty.
std::shared_ptr<Trace> make_trace(const std::string& path);
// --recompute LEVEL
void add_recompute_option(CLI::App& command, Recompute& level);
// --logits BITS
void add_logits_option(CLI::App& command, LogitBits& bits);

// --shard WHAT --reduce-dtype TYPE
void add_shard_options(CLI::App& command, Shard& shard, ReduceDtype& reduce_dtype);

// Chooses and opens the device; runs the self test at the first use of a device and driver, and falls back to the
// safer shaders, saying so, when it fails. Errors: as choose_device and open_device; unsupported when the safer
// shaders fail too.
std::shared_ptr<Device> open_chosen_device(const DeviceChoiceOptions& options);

// The same for a training: when nobody chose backend or device, the best one that trains (choose_training_device).
// Says which was taken. Errors: unsupported when the chosen one does not train.
std::shared_ptr<Device> open_training_device(const DeviceChoiceOptions& options);

// Of a program that ends with such an error.
int exit_status(StatusCode code);

// True once the user has pressed Ctrl-C (the second time ends the program at once). Commands that take long ask
// it between steps, end cleanly, and throw Error(StatusCode::cancelled) if the result is incomplete.
bool interrupted();
void install_interrupt_handler();

// A progress line on stderr, "loading 45%", drawn only on a terminal, and only when it takes longer than a moment.
ProgressFunction progress_line(const std::string& what);

}  // namespace riverhorse::cli
