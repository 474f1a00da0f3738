#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/quantised.h"
#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

void CpuEncoder::record_embed(const EmbedArgs& args) {
  if (!is_quantised(args.table.dtype)) require_f32("embed", {&args.table});
  add("embed", [args] {
    const std::int64_t vocabulary = args.table.shape[0];
    const std::int64_t width = args.table.shape[1];
    const std::int32_t* ids = integers(args.ids);
    const std::byte* table = host_bytes(args.table);
    const DType dtype = args.table.dtype;
    const std::int64_t row_bytes = row_size_bytes(dtype, width);
    float* residual = floats(args.residual);
#pragma omp parallel for
    for (std::int64_t row = 0; row < args.ids.shape[0]; ++row) {
      const std::int64_t id = ids[row];
      float* out = residual + row * width;
      if (id < 0 || id >= vocabulary) {
        std::fill_n(out, width, 0.0f);
      } else if (is_quantised(dtype)) {
        dequantise_row(dtype, table + id * row_bytes, {out, static_cast<std::size_t>(width)});
      } else {
        std::memcpy(out, table + id * row_bytes, static_cast<std::size_t>(row_bytes));
      }
    }
  });
}

void CpuEncoder::record_embed_backward(const EmbedBackwardArgs& args) {
  add("embed_backward", [args] {
    const std::int64_t rows = args.ids.shape[0];
    const std::int64_t vocabulary = args.d_table.shape[0];
    const std::int64_t width = args.d_table.shape[1];
    const std::int32_t* ids = integers(args.ids);
    // The rows of one id stand next to each other and are summed in their order.
    std::vector<std::int64_t> by_id(static_cast<std::size_t>(rows));
    std::iota(by_id.begin(), by_id.end(), 0);
    std::stable_sort(by_id.begin(), by_id.end(), [&](std::int64_t a, std::int64_t b) { return ids[a] < ids[b]; });
    std::vector<std::int64_t> begins;
    for (std::int64_t i = 0; i < rows; ++i) {
      if (i == 0 || ids[by_id[i]] != ids[by_id[i - 1]]) begins.push_back(i);
    }
    begins.push_back(rows);
#pragma omp parallel for schedule(dynamic, 16)
    for (std::size_t group = 0; group < begins.size() - 1; ++group) {
      const std::int64_t id = ids[by_id[begins[group]]];
      if (id < 0 || id >= vocabulary) continue;
      std::vector<double> sums(static_cast<std::size_t>(width), 0.0);
      for (std::int64_t i = begins[group]; i < begins[group + 1]; ++i) {
        const float* row = floats(args.d_residual) + by_id[i] * width;
        for (std::int64_t column = 0; column < width; ++column) sums[column] += row[column];
      }
      float* out = floats(args.d_table) + id * width;
      for (std::int64_t column = 0; column < width; ++column) {
        out[column] = static_cast<float>(out[column] + sums[column]);
      }
    }
  });
}

}  // namespace riverhorse::cpu
