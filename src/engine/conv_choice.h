// `--conv auto` on CUDA: both ways are timed once on the device, and the faster one is remembered.
#pragma once

#include <string>

#include "backend/backend.h"
#include "model/config.h"

namespace riverhorse {

// For prefills in pieces of `tokens`. `cache_folder` as in DeviceOptions; the answer is kept there under the device,
// its driver, this version and the mixer's sizes. Elsewhere than on CUDA, and where a way fails, it is `automatic`.
ConvAlgorithm choose_conv(Device& device, const ModelConfig& config, DType dtype, std::int64_t tokens,
                          const std::string& cache_folder);

}  // namespace riverhorse
