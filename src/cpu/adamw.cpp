// The norm of all gradients, and AdamW (Loshchilov and Hutter 2019) with clipping by that norm: formulae in
// backend/training_ops.h. What is stored is rounded to f32 once an operation.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

void CpuEncoder::record_grad_norm(const GradNormArgs& args) {
  add("grad_norm", [args] {
    constexpr std::int64_t block = 4096;  // summed by one thread, so that the order of additions is fixed
    const std::int64_t count = args.gradients.shape[0];
    const float* gradients = floats(args.gradients);
    std::vector<double> squares(static_cast<std::size_t>((count + block - 1) / block), 0.0);
#pragma omp parallel for
    for (std::size_t index = 0; index < squares.size(); ++index) {
      const std::int64_t begin = static_cast<std::int64_t>(index) * block;
      for (std::int64_t i = begin; i < std::min(begin + block, count); ++i) {
        squares[index] += static_cast<double>(gradients[i]) * gradients[i];
      }
    }
    floats(args.norm)[0] = static_cast<float>(std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0)));
  });
}

void CpuEncoder::record_adamw(const AdamwArgs& args) {
  require_f32("adamw", {&args.rounded});
  add("adamw", [args] {
    AdamwRow row;
    std::memcpy(static_cast<void*>(&row), integers(args.row), sizeof(row));
    const double norm = static_cast<double>(floats(args.norm)[0]) * row.gradient_scale;
    if (!std::isfinite(norm) || (row.skip_above > 0 && norm > row.skip_above)) return;
    const double clip = row.max_norm > 0 ? std::min(1.0, row.max_norm / (norm + 1e-6)) : 1.0;
    const double gradient_scale = row.gradient_scale * clip;
    const double decay = 1.0 - static_cast<double>(row.learning_rate) * row.weight_decay;

    const float* gradients = floats(args.gradients);
    float* parameters = floats(args.parameters);
    float* m = floats(args.m);
    float* v = floats(args.v);
    float* rounded = args.rounded ? floats(args.rounded) : nullptr;
#pragma omp parallel for
    for (std::int64_t i = 0; i < args.parameters.shape[0]; ++i) {
      const double gradient = gradient_scale * gradients[i];
      const double mean = row.beta1 * static_cast<double>(m[i]) + (1.0 - row.beta1) * gradient;
      const double square = row.beta2 * static_cast<double>(v[i]) + (1.0 - row.beta2) * gradient * gradient;
      const double step = mean / row.correction1 / (std::sqrt(square / row.correction2) + row.epsilon);
      m[i] = static_cast<float>(mean);
      v[i] = static_cast<float>(square);
      parameters[i] = static_cast<float>(decay * parameters[i] - row.learning_rate * step);
      if (rounded != nullptr) rounded[i] = parameters[i];
    }
  });
}

}  // namespace riverhorse::cpu
