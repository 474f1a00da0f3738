// The frequency domain's part of a convolution, and how much is done at once.
#pragma once

#include <cstdint>

#include "vulkan/encoder.h"
#include "vulkan/fft_plans.h"

namespace riverhorse::vulkan {

// Rows at once: `group_filters` filters, each with `rows_per_filter` rows of each of `group_batch` sequences, so that
// the data's rows fill no more than 32 MiB and the filters' no more than 16 MiB (one of each always goes).
struct FftGroups {
  std::uint32_t group_filters;
  std::uint32_t group_batch;

  FftGroups(std::uint32_t size, std::uint32_t filters, std::uint32_t rows_per_filter, std::uint32_t batch);
};

// rows *= filters in the frequency domain, the inverse transform's factor 1 / size included. The rows are
// (sequence, filter, row of the filter).
void record_spectrum_product(VulkanEncoder& encoder, const FftPlan& data, const FftPlan& filters,
                             std::uint32_t row_count, std::uint32_t group_rows, std::uint32_t rows_per_filter);

}  // namespace riverhorse::vulkan
