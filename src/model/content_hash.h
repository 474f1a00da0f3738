// A fast 64-bit hash of a model's content, to tell models apart; not for security.
#pragma once

#include <string>

#include "formats/tensor_file.h"
#include "model/config.h"

namespace riverhorse {

// Sixteen hex digits: the configuration, and each tensor's name, dtype, shape and bytes.
std::string content_hash(const ModelConfig& config, const TensorFile& file);

}  // namespace riverhorse
