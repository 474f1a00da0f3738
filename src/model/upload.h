// Host tensors to device tensors, converting piece by piece: a model never needs twice its size in host memory.
#pragma once

#include <string_view>

#include "backend/backend.h"
#include "formats/tensor_file.h"
#include "model/config.h"

namespace riverhorse {

// Writes all elements of `source` (f32, f16, bf16 or f64) to `target` (f32, f16 or bf16, equal count), through at
// most 4 MiB of staging on the host, none where the dtypes agree; or a quantised matrix to one of that dtype and
// width. `name` is for errors.
// Errors: bad_file for another dtype, or a finite value that the target cannot hold; internal when the counts differ.
void upload_converted(Device& device, const HostTensor& source, const Tensor& target, std::string_view name);

// Writes `value` to all elements of `target` (f32, f16 or bf16).
void upload_constant(Device& device, float value, const Tensor& target);

// The shift SSM of a model without one (ssm_gating off): its filter lets the keys through as they are.
void set_identity_shift(Device& device, const ModelConfig& config, H3Parameters& parameters);

}  // namespace riverhorse
