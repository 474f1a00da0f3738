#include <cmath>
#include <vector>

#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

void CpuEncoder::record_rotary(const RotaryArgs& args) {
  require_f32("rotary", {&args.qkv});
  add("rotary", [args] {
    const std::int64_t batch = args.qkv.shape[0];
    const std::int64_t tokens = args.qkv.shape[1];
    const std::int64_t width = args.qkv.shape[2] / 3;
    const std::int64_t head_width = width / args.heads;
    const std::int64_t half = args.rotary_dim / 2;
    if (args.slots) check_positions("rotary", args.slots, args.positions);
#pragma omp parallel for
    for (std::int64_t row = 0; row < batch * tokens; ++row) {
      const std::int64_t first = args.slots ? integers(args.positions)[integers(args.slots)[row / tokens]] : 0;
      const auto position = static_cast<double>(first + row % tokens) * (args.inverse ? -1.0 : 1.0);
      float* q_and_k = floats(args.qkv) + row * 3 * width;
      for (std::int64_t j = 0; j < half; ++j) {
        const double exponent = -2.0 * static_cast<double>(j) / args.rotary_dim;
        const double angle = position * std::pow(10000.0, exponent);
        const double cosine = std::cos(angle), sine = std::sin(angle);
        for (std::int64_t head = 0; head < 2 * args.heads; ++head) {  // of q, then of k
          float* pair = q_and_k + head * head_width + j;
          const double x1 = pair[0], x2 = pair[half];
          pair[0] = static_cast<float>(x1 * cosine - x2 * sine);
          pair[half] = static_cast<float>(x1 * sine + x2 * cosine);
        }
      }
    }
  });
}

}  // namespace riverhorse::cpu
