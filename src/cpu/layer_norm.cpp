#include "cpu/layer_norm.h"

#include <cmath>

#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

void layer_norm_row(const float* x, std::int64_t width, const NormWeights& norm, float* out, float* statistics) {
  const float* weight = floats(norm.weight);
  const float* bias = floats(norm.bias);
  double sum = 0;
  for (std::int64_t i = 0; i < width; ++i) sum += x[i];
  const double mean = sum / static_cast<double>(width);
  double squares = 0;  // of the distances from the mean, in a second pass: no cancellation
  for (std::int64_t i = 0; i < width; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + norm.epsilon);
  for (std::int64_t i = 0; i < width; ++i) {
    out[i] = static_cast<float>((x[i] - mean) * scale * weight[i] + bias[i]);
  }
  if (statistics == nullptr) return;
  statistics[0] = static_cast<float>(mean);
  statistics[1] = static_cast<float>(scale);
}

void CpuEncoder::record_add_layer_norm(const AddLayerNormArgs& args) {
  require_f32("add_layer_norm", {&args.x, &args.out});
  add("add_layer_norm", [args] {
    const std::int64_t width = args.residual.shape[1];
    const float* x = args.x ? floats(args.x) : nullptr;
    float* residual = floats(args.residual);
    float* out = floats(args.out);
#pragma omp parallel for
    for (std::int64_t row = 0; row < args.residual.shape[0]; ++row) {
      float* sum = residual + row * width;
      if (x != nullptr) {
        for (std::int64_t i = 0; i < width; ++i) sum[i] += x[row * width + i];
      }
      layer_norm_row(sum, width, args.norm, out + row * width);
    }
  });
}

}  // namespace riverhorse::cpu
