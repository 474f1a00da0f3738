#include "model/content_hash.h"

#include <fmt/core.h>

#include <span>

#include "base/hash.h"

namespace riverhorse {

std::string content_hash(const ModelConfig& config, const TensorFile& file) {
  const auto hash_text = [](const std::string& text, std::uint64_t seed) {
    return hash_bytes(std::as_bytes(std::span(text)), seed);
  };
  std::uint64_t state = hash_text(model_config_json(config), 0);
  for (const auto& [name, tensor] : file.tensors) {
    state = hash_text(name, state);
    state = hash_text(std::string(dtype_name(tensor.dtype)), state);
    state = hash_bytes(std::as_bytes(std::span(tensor.shape)), state);
    state = hash_bytes(tensor.bytes, state);
    file.drop_pages(tensor);
  }
  return fmt::format("{:016x}", state);
}

}  // namespace riverhorse
