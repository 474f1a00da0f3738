// A model as found on disk: configuration, checked and renamed host tensors, tokenizer files.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/memory_file.h"
#include "formats/tensor_file.h"
#include "model/config.h"

namespace riverhorse {

// One parameter that a configuration demands, by today's name.
struct ParameterSpec {
  std::string name;  // "backbone.layers.0.mixer.q_proj.weight"
  std::vector<std::int64_t> shape;
  bool matrix = false;  // may be stored and used in the model's dtype; all else is fp32 in use
};

std::vector<ParameterSpec> parameter_table(const ModelConfig& config);
std::int64_t parameter_count(const ModelConfig& config);  // the tied embedding counted once

struct Checkpoint {
  ModelConfig config;
  TensorFile file;                    // today's names; exactly the parameters of the table
  std::filesystem::path folder;       // where tokenizer files are looked for
  std::vector<std::string> warnings;  // unknown fields, ignored tensors, renamed keys
  std::string content_hash;  // hex; of the configuration and the tensors' bytes (a fast 64-bit or wider hash)
};

struct CheckpointOptions {
  std::filesystem::path config_path;  // empty: config.json beside the weights
  std::optional<ModelConfig> config;  // used instead of any file: a preset
  bool check_finite = false;          // refuse NaN and infinite weights
  bool read_weights = true;           // false: names and shapes only; no content_hash, and check_finite finds nothing
};

// Every parameter as a model with quantised weights has it: matrices as `weights` (q8 or q4), but the embedding and
// the head as q8, since 4 bits cost them more than other matrices of their size; all else f32. Errors: bad_file,
// those of quantise() and convert_floats().
std::map<std::string, HostTensor> quantise_parameters(const Checkpoint& checkpoint, DType weights);

// The files that `path` means. Errors: not_found.
struct CheckpointFiles {
  std::filesystem::path weights;
  std::filesystem::path config;  // empty when options.config is given
  std::filesystem::path folder;
};
CheckpointFiles find_checkpoint_files(const std::filesystem::path& path, const CheckpointOptions& options);

// `path` is a model folder, a .safetensors or a .pt file. Old key names and Lightning wrapping are undone.
// Errors: not_found, bad_file (file, tensor and reason: missing, extra, wrong shape or dtype).
Checkpoint load_checkpoint(const std::filesystem::path& path, const CheckpointOptions& options);
// The same from memory, which must outlive what is returned: config.json (unless options.config is given) and
// model.safetensors or model.pt are read where they are, by these names, which errors tell. `folder` stays empty.
Checkpoint parse_checkpoint(std::span<const MemoryFile> files, const CheckpointOptions& options);

}  // namespace riverhorse
