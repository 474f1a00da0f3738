// The diagonal SSM's kernel, row by row.
#pragma once

#include <cstdint>

#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

// rows[r * row_stride + l] = K_l of head first_head + r for r < heads, l < lags, D added to lag 0 if asked for; zeros
// for lags <= l < padded_lags.
void record_ssm_rows(VulkanEncoder& encoder, const H3Filter& filter, const Tensor& rows, std::uint32_t first_head,
                     std::uint32_t heads, std::uint32_t lags, std::uint32_t padded_lags, std::uint32_t row_stride,
                     bool skip_in_lag_zero);

}  // namespace riverhorse::vulkan
