// riverhorse info: what a model is, what it needs, and what is wrong with it.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "formats/size_math.h"
#include "model/checkpoint.h"

namespace riverhorse::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint64_t config_limit_bytes = std::uint64_t{1} << 20;

struct InfoOptions {
  ModelOptions model;
  std::string preset;
  bool check_finite = false;
  bool json = false;
};

// What could be found out. A model that is not right still has a configuration worth seeing.
struct Findings {
  std::optional<ModelConfig> config;
  std::optional<Checkpoint> checkpoint;
  std::vector<std::string> warnings;
  std::optional<Error> problem;
};

Findings inspect(const InfoOptions& options) {
  Findings findings;
  try {
    if (!options.preset.empty()) findings.config = model_preset(options.preset);
    if (options.model.model.empty()) return findings;
    CheckpointOptions load;
    load.config_path = options.model.config;
    load.config = findings.config;
    load.check_finite = options.check_finite;
    if (!findings.config) {
      const CheckpointFiles files = find_checkpoint_files(options.model.model, load);
      findings.config = parse_model_config(read_text_file(files.config, config_limit_bytes), files.config.string(),
                                           findings.warnings);
    }
    findings.checkpoint = load_checkpoint(options.model.model, load);
    findings.warnings = findings.checkpoint->warnings;
  } catch (const Error& error) {
    findings.problem = error;
  }
  return findings;
}

struct MemoryRow {
  BackendKind backend;
  DType dtype;
};
constexpr std::array memory_rows = {MemoryRow{BackendKind::cpu, DType::f32},
                                    MemoryRow{BackendKind::vulkan, DType::f32},
                                    MemoryRow{BackendKind::vulkan, DType::f16}};

MemoryEstimate estimate(const Findings& findings, const MemoryRow& row) {
  EngineOptions options;
  options.dtype = row.dtype;
  return estimate_memory(*findings.config, options,
                         {row.dtype, findings.checkpoint ? &findings.checkpoint->file : nullptr});
}

std::string stored_dtype(const Findings& findings, const std::string& name) {
  return findings.checkpoint ? std::string(dtype_name(findings.checkpoint->file.at(name).dtype)) : "";
}

void print_json(const Findings& findings) {
  Json root;
  if (findings.config) {
    root["config"] = Json::parse(model_config_json(*findings.config));
    root["parameter_count"] = parameter_count(*findings.config);
    Json& parameters = root["parameters"] = Json::array();
    for (const ParameterSpec& parameter : parameter_table(*findings.config)) {
      Json entry = {{"name", parameter.name}, {"shape", parameter.shape}};
      if (findings.checkpoint) entry["dtype"] = stored_dtype(findings, parameter.name);
      parameters.push_back(std::move(entry));
    }
    Json& memory = root["memory"] = Json::array();
    for (const MemoryRow& row : memory_rows) {
      const MemoryEstimate bytes = estimate(findings, row);
      memory.push_back({{"backend", backend_name(row.backend)},
                        {"dtype", dtype_name(row.dtype)},
                        {"weights_bytes", bytes.weights_bytes},
                        {"filters_bytes", bytes.filters_bytes},
                        {"state_bytes", bytes.state_bytes},
                        {"cache_bytes", bytes.cache_bytes},
                        {"workspace_bytes", bytes.workspace_bytes},
                        {"total_bytes", bytes.total_bytes()}});
    }
  }
  if (findings.checkpoint) {
    root["weights"] = findings.checkpoint->file.path.string();
    root["content_hash"] = findings.checkpoint->content_hash;
  }
  root["warnings"] = findings.warnings;
  root["problem"] = findings.problem ? Json(findings.problem->what()) : Json(nullptr);
  fmt::print("{}\n", root.dump(2, ' ', false, Json::error_handler_t::replace));
}

void print_parameters(const Findings& findings) {
  const std::vector<ParameterSpec> table = parameter_table(*findings.config);
  std::size_t width = 0;
  for (const ParameterSpec& parameter : table) width = std::max(width, parameter.name.size());
  fmt::print("\nparameters\n");
  for (const ParameterSpec& parameter : table) {
    fmt::print("  {:<{}}  {:<18} {}\n", parameter.name, width, shape_text(parameter.shape),
               stored_dtype(findings, parameter.name));
  }
  fmt::print("  {} parameters in {} tensors\n", parameter_count(*findings.config), table.size());
}

void print_memory(const Findings& findings) {
  const auto mebibytes = [](std::uint64_t bytes) { return static_cast<double>(bytes) / 0x1p20; };
  const EngineOptions defaults;
  fmt::print("\nmemory in MiB ({} sessions of {} tokens)\n", defaults.max_sessions, defaults.context_tokens);
  fmt::print("  {:<12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n", "", "weights", "filters", "state", "cache",
             "workspace", "total");
  for (const MemoryRow& row : memory_rows) {
    const MemoryEstimate bytes = estimate(findings, row);
    fmt::print("  {:<12} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f} {:>10.1f}\n",
               fmt::format("{} {}", backend_name(row.backend), dtype_name(row.dtype)), mebibytes(bytes.weights_bytes),
               mebibytes(bytes.filters_bytes), mebibytes(bytes.state_bytes), mebibytes(bytes.cache_bytes),
               mebibytes(bytes.workspace_bytes), mebibytes(bytes.total_bytes()));
  }
}

void print_text(const Findings& findings) {
  if (findings.config) {
    fmt::print("configuration\n{}", model_config_json(*findings.config));
    print_parameters(findings);
    print_memory(findings);
  }
  if (findings.checkpoint) {
    fmt::print("\nweights {}, content {}\n", findings.checkpoint->file.path.string(),
               findings.checkpoint->content_hash);
  }
  for (const std::string& warning : findings.warnings) log_warning(warning);
}

void run_info(const InfoOptions& options) {
  if (options.model.model.empty() && options.preset.empty()) {
    fail(StatusCode::invalid_argument, "--model or --preset is required");
  }
  const Findings findings = inspect(options);
  if (options.json) {
    print_json(findings);
  } else {
    print_text(findings);
  }
  if (findings.problem) throw *findings.problem;
}

}  // namespace

void add_info_command(CLI::App& app) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command = app.add_subcommand("info", "Show a model's configuration, parameters and memory, and check it");
  add_model_options(*command, options->model, false);
  command->add_option("--preset", options->preset, "A named configuration; alone, or for a bare weights file")
      ->type_name("NAME")
      ->check(CLI::IsMember(model_preset_names()));
  command->add_flag("--check-finite", options->check_finite, "Also look for NaN and infinite weights");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { run_info(*options); });
}

}  // namespace riverhorse::cli
