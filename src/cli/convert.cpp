// riverhorse convert: any checkpoint that can be read, written as a model folder.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/quantised.h"
#include "cli/commands.h"
#include "model/checkpoint.h"

namespace riverhorse::cli {
namespace {

constexpr std::uint64_t tokenizer_limit_bytes = std::uint64_t{256} << 20;

struct ConvertOptions {
  std::string input;
  std::string config;
  std::string preset;
  std::string output;
  std::string dtype;    // empty: as stored
  std::string weights;  // quantised: "q8" or "q4"; empty: not
  bool check_finite = false;
};

DType dtype_from_option(const std::string& name) {
  if (name == "f16") return DType::f16;
  return name == "bf16" ? DType::bf16 : DType::f32;
}

// Matrices become `dtype`; everything else is used in f32 and stored so.
std::map<std::string, HostTensor> convert_tensors(const Checkpoint& checkpoint, DType dtype) {
  std::map<std::string, HostTensor> converted;
  for (const ParameterSpec& parameter : parameter_table(checkpoint.config)) {
    const std::string origin = fmt::format("{}: tensor \"{}\"", checkpoint.file.path.string(), parameter.name);
    converted.emplace(parameter.name, convert_floats(checkpoint.file.at(parameter.name),
                                                     parameter.matrix ? dtype : DType::f32, origin));
  }
  return converted;
}

void write_text(const std::filesystem::path& path, std::string_view text) {
  AtomicFileWriter writer(path);
  writer.write(text);
  writer.commit();
}

void run_convert(const ConvertOptions& options) {
  CheckpointOptions load;
  load.config_path = options.config;
  load.check_finite = options.check_finite;
  if (!options.preset.empty()) load.config = model_preset(options.preset);
  const Checkpoint checkpoint = load_checkpoint(options.input, load);
  for (const std::string& warning : checkpoint.warnings) log_warning(warning);

  const auto tensors = !options.weights.empty() ? quantise_parameters(checkpoint, *quantised_dtype(options.weights))
                       : !options.dtype.empty() ? convert_tensors(checkpoint, dtype_from_option(options.dtype))
                                                : checkpoint.file.tensors;
  const std::filesystem::path folder = options.output;
  make_folder(folder);
  write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  write_text(folder / "config.json", model_config_json(checkpoint.config));
  std::string written = "config.json, model.safetensors";
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt"}) {
    const std::filesystem::path source = checkpoint.folder / name;
    std::error_code ignored;
    if (!std::filesystem::exists(source, ignored)) continue;
    write_text(folder / name, read_text_file(source, tokenizer_limit_bytes));
    written += fmt::format(", {}", name);
  }
  fmt::print("{}: {} parameters in {} tensors; wrote {}\n", folder.string(), parameter_count(checkpoint.config),
             tensors.size(), written);
}

}  // namespace

void add_convert_command(CLI::App& app) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = app.add_subcommand("convert", "Write a checkpoint as a model folder");
  command->add_option("-i,--input", options->input, "A PyTorch .pt or a .safetensors file, or a model folder")
      ->type_name("PATH")
      ->required();
  CLI::Option* config =
      command->add_option("--config", options->config, "Its config.json (default: beside the weights)")
          ->type_name("FILE");
  command->add_option("--preset", options->preset, "A named configuration instead: 125m, 355m, 1.3b, 2.7b, ...")
      ->type_name("NAME")
      ->check(CLI::IsMember(model_preset_names()))
      ->excludes(config);
  command->add_option("-o,--output", options->output, "The folder to write; made if absent")
      ->type_name("FOLDER")
      ->required();
  CLI::Option* dtype =
      command
          ->add_option("--dtype", options->dtype,
                       "Type of the matrices: f32, f16 or bf16; all else becomes f32 (default: everything as stored)")
          ->type_name("TYPE")
          ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  command
      ->add_option("--weights", options->weights,
                   "Quantise the matrices: q8 (8.5 bits a weight) or q4 (4.5, but embedding and head q8); all else "
                   "becomes f32")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"q8", "q4"}))
      ->excludes(dtype);
  command->add_flag("--check-finite", options->check_finite, "Refuse weights that are NaN or infinite");
  command->callback([options] { run_convert(*options); });
}

}  // namespace riverhorse::cli
