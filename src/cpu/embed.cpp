#include <algorithm>

#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

void CpuEncoder::record_embed(const EmbedArgs& args) {
  require_f32("embed", {&args.table});
  add("embed", [args] {
    const std::int64_t vocabulary = args.table.shape[0];
    const std::int64_t width = args.table.shape[1];
    const std::int32_t* ids = integers(args.ids);
    const float* table = floats(args.table);
    float* residual = floats(args.residual);
#pragma omp parallel for
    for (std::int64_t row = 0; row < args.ids.shape[0]; ++row) {
      const std::int64_t id = ids[row];
      float* out = residual + row * width;
      if (id < 0 || id >= vocabulary) {
        std::fill_n(out, width, 0.0f);
      } else {
        std::copy_n(table + id * width, width, out);
      }
    }
  });
}

}  // namespace riverhorse::cpu
