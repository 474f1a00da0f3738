#include "model/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/quantised.h"
#include "formats/size_math.h"
#include "model/content_hash.h"
#include "model/key_names.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t config_limit_bytes = std::uint64_t{1} << 20;
constexpr std::size_t names_shown = 10;
constexpr const char* weights_names[] = {"model.safetensors", "model.pt"};  // in a folder; the first there is
constexpr const char* embedding_name = "backbone.embeddings.word_embeddings.weight";
constexpr const char* head_name = "lm_head.weight";

// A tied model's head is the embedding once more, and state dictionaries hold it under both names.
void drop_tied_head(TensorFile& file, const ModelConfig& config, const std::string& config_origin) {
  const auto head = file.tensors.find(head_name);
  const auto embedding = file.tensors.find(embedding_name);
  if (!config.tie_word_embeddings || head == file.tensors.end() || embedding == file.tensors.end()) return;
  const HostTensor& a = head->second;
  const HostTensor& b = embedding->second;
  const bool same_memory = a.bytes.data() == b.bytes.data();
  const bool equal = a.dtype == b.dtype && a.shape == b.shape && a.bytes.size() == b.bytes.size() &&
                     (same_memory || std::memcmp(a.bytes.data(), b.bytes.data(), a.bytes.size()) == 0);
  if (!equal) {
    fail(StatusCode::bad_file,
         "{}: tensor \"{}\" differs from the embedding, but {} says they are one (\"tie_word_embeddings\": false "
         "keeps both)",
         file.path.string(), head_name, config_origin);
  }
  file.tensors.erase(head);
}

// One kind of complaint about several tensors: the first ten of them, then a count.
std::string complaint(const std::string& what, const std::vector<std::string>& tensors) {
  if (tensors.empty()) return "";
  std::string text = fmt::format("; {} {}: ", tensors.size(), what);
  for (std::size_t i = 0; i < std::min(tensors.size(), names_shown); ++i) text += (i == 0 ? "" : ", ") + tensors[i];
  if (tensors.size() > names_shown) text += fmt::format(" and {} more", tensors.size() - names_shown);
  return text;
}

void check_against_table(const TensorFile& file, const ModelConfig& config, const std::string& config_origin) {
  std::vector<std::string> missing, extra, wrong_shape, wrong_dtype;
  std::set<std::string> expected;
  for (const ParameterSpec& parameter : parameter_table(config)) {
    expected.insert(parameter.name);
    const auto found = file.tensors.find(parameter.name);
    if (found == file.tensors.end()) {
      missing.push_back(parameter.name);
      continue;
    }
    const HostTensor& tensor = found->second;
    if (tensor.shape != parameter.shape) {
      wrong_shape.push_back(fmt::format("{} is {} and must be {}", parameter.name, shape_text(tensor.shape),
                                        shape_text(parameter.shape)));
    } else if (!is_floating(tensor.dtype) && !(parameter.matrix && is_quantised(tensor.dtype))) {
      wrong_dtype.push_back(fmt::format("{} is {}", parameter.name, dtype_name(tensor.dtype)));
    }
  }
  for (const auto& [name, tensor] : file.tensors) {
    if (!expected.contains(name)) extra.push_back(name);
  }
  const std::string complaints = complaint("missing", missing) + complaint("not part of the model", extra) +
                                 complaint("of wrong shape", wrong_shape) +
                                 complaint("not floating point", wrong_dtype);
  if (!complaints.empty()) {
    fail(StatusCode::bad_file, "{}: the tensors do not fit {}{}", file.path.string(), config_origin, complaints);
  }
}

// Index of the first element whose exponent bits are all ones (infinite or NaN), or -1.
template <typename Bits>
std::int64_t find_not_finite(std::span<const std::byte> bytes, Bits exponent_mask) {
  const std::size_t count = bytes.size() / sizeof(Bits);
  for (std::size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + i * sizeof(Bits), sizeof(Bits));
    if ((bits & exponent_mask) == exponent_mask) return static_cast<std::int64_t>(i);
  }
  return -1;
}

// Likewise, the first weight of a block whose scale is not finite.
std::int64_t find_not_finite_scale(const HostTensor& matrix) {
  const std::int64_t width = matrix.shape[1];
  const std::int64_t row_bytes = row_size_bytes(matrix.dtype, width);
  for (std::int64_t row = 0; row < matrix.shape[0]; ++row) {
    const std::int64_t index = find_not_finite(matrix.dtype, matrix.bytes.data() + row * row_bytes, width);
    if (index >= 0) return row * width + index;
  }
  return -1;
}

std::int64_t find_not_finite(const HostTensor& tensor) {
  switch (tensor.dtype) {
    case DType::f32: return find_not_finite<std::uint32_t>(tensor.bytes, 0x7f800000u);
    case DType::f16: return find_not_finite<std::uint16_t>(tensor.bytes, 0x7c00u);
    case DType::bf16: return find_not_finite<std::uint16_t>(tensor.bytes, 0x7f80u);
    case DType::f64: return find_not_finite<std::uint64_t>(tensor.bytes, 0x7ff0000000000000u);
    case DType::q8:
    case DType::q4: return find_not_finite_scale(tensor);
    default: return -1;
  }
}

void check_finite(const TensorFile& file) {
  std::vector<std::string> bad;
  for (const auto& [name, tensor] : file.tensors) {
    const std::int64_t index = find_not_finite(tensor);
    if (index >= 0) bad.push_back(fmt::format("{} (element {})", name, index));
  }
  if (bad.empty()) return;
  fail(StatusCode::bad_file, "{}: weights that are not finite{}", file.path.string(),
       complaint("tensors with NaN or infinity", bad));
}

// What is the same wherever the configuration and the tensors came from.
void complete(Checkpoint& checkpoint, const std::string& config_origin, const CheckpointOptions& options) {
  if (options.config) checkpoint.config = *options.config;
  const std::string origin = options.config ? "the given configuration" : config_origin;
  modernize_names(checkpoint.file, checkpoint.warnings);
  drop_tied_head(checkpoint.file, checkpoint.config, origin);
  check_against_table(checkpoint.file, checkpoint.config, origin);
  if (!options.read_weights) return;
  if (options.check_finite) check_finite(checkpoint.file);
  checkpoint.content_hash = content_hash(checkpoint.config, checkpoint.file);
}

}  // namespace

CheckpointFiles find_checkpoint_files(const std::filesystem::path& path, const CheckpointOptions& options) {
  std::error_code ignored;
  CheckpointFiles files;
  if (std::filesystem::is_directory(path, ignored)) {
    files.folder = path;
    for (const char* name : weights_names) {
      if (files.weights.empty() && std::filesystem::exists(path / name, ignored)) files.weights = path / name;
    }
    if (files.weights.empty()) {
      fail(StatusCode::not_found, "{}: the folder has neither model.safetensors nor model.pt", path.string());
    }
  } else {
    if (!std::filesystem::exists(path, ignored)) {
      fail(StatusCode::not_found, "{}: there is no such file or folder", path.string());
    }
    files.weights = path;
    files.folder = path.parent_path();
  }
  if (options.config) return files;
  files.config = options.config_path.empty() ? files.folder / "config.json" : options.config_path;
  if (!std::filesystem::exists(files.config, ignored)) {
    fail(StatusCode::not_found, "{}: there is no such file; a model needs its configuration (--config)",
         files.config.string());
  }
  return files;
}

std::map<std::string, HostTensor> quantise_parameters(const Checkpoint& checkpoint, DType weights) {
  std::map<std::string, HostTensor> quantised;
  for (const ParameterSpec& parameter : parameter_table(checkpoint.config)) {
    const std::string origin = fmt::format("{}: tensor \"{}\"", checkpoint.file.path.string(), parameter.name);
    const HostTensor& tensor = checkpoint.file.at(parameter.name);
    const bool vocabulary = parameter.name == embedding_name || parameter.name == head_name;
    quantised.emplace(parameter.name, parameter.matrix ? quantise(tensor, vocabulary ? DType::q8 : weights, origin)
                                                       : convert_floats(tensor, DType::f32, origin));
  }
  return quantised;
}

Checkpoint load_checkpoint(const std::filesystem::path& path, const CheckpointOptions& options) {
  const CheckpointFiles files = find_checkpoint_files(path, options);
  Checkpoint checkpoint;
  checkpoint.folder = files.folder;
  const std::string config_origin = files.config.string();
  if (!options.config) {
    checkpoint.config =
        parse_model_config(read_text_file(files.config, config_limit_bytes), config_origin, checkpoint.warnings);
  }
  checkpoint.file = read_tensor_file(files.weights);
  complete(checkpoint, config_origin, options);
  return checkpoint;
}

Checkpoint parse_checkpoint(std::span<const MemoryFile> files, const CheckpointOptions& options) {
  Checkpoint checkpoint;
  const std::string config_name = "config.json";
  const MemoryFile* const config = find_memory_file(files, config_name);
  if (!options.config && config == nullptr) {
    fail(StatusCode::not_found, "config.json is not among the files: a model needs its configuration");
  }
  const MemoryFile* weights = nullptr;
  for (const char* name : weights_names) {
    if (weights == nullptr) weights = find_memory_file(files, name);
  }
  if (weights == nullptr) {
    fail(StatusCode::not_found, "neither model.safetensors nor model.pt is among the files");
  }
  if (!options.config) {
    checkpoint.config = parse_model_config(config->text(), config_name, checkpoint.warnings);
  }
  checkpoint.file = weights->name == weights_names[0] ? parse_safetensors(weights->bytes, nullptr, weights->name)
                                                      : parse_pytorch(weights->bytes, nullptr, weights->name);
  complete(checkpoint, config_name, options);
  return checkpoint;
}

}  // namespace riverhorse
