// Dropout, residual addition and layer norm, with what the backward pass needs.
//
// For a row x of width D, with z = (x - mean) s, s = 1 / sqrt(var + epsilon), y = z weight + bias and u = d_y weight:
//   d_x = s (u - mean(u) - z mean(u z));  d_weight = sum over rows of d_y z;  d_bias = sum over rows of d_y.
#include "cpu/column_sums.h"
#include "cpu/cpu_encoder.h"
#include "cpu/dropout.h"
#include "cpu/layer_norm.h"

namespace riverhorse::cpu {

void CpuEncoder::record_residual_norm(const ResidualNormArgs& args) {
  require_f32("residual_norm", {&args.x, &args.out});
  add("residual_norm", [args] {
    const std::int64_t width = args.residual.shape[1];
    const float* x = args.x ? floats(args.x) : nullptr;
    const float* residual = floats(args.residual);
    float* residual_out = floats(args.residual_out);
    const DropoutMask mask(args.dropout);
#pragma omp parallel for
    for (std::int64_t row = 0; row < args.residual.shape[0]; ++row) {
      for (std::int64_t i = row * width; i < (row + 1) * width; ++i) {
        const float factor = mask.factor(i);
        residual_out[i] = x != nullptr ? residual[i] + factor * x[i] : factor * residual[i];
      }
      layer_norm_row(residual_out + row * width, width, args.norm, floats(args.out) + row * width,
                     floats(args.statistics) + row * 2);
    }
  });
}

void CpuEncoder::record_residual_norm_backward(const ResidualNormBackwardArgs& args) {
  require_f32("residual_norm_backward", {&args.d_out, &args.d_x});
  add("residual_norm_backward", [args] {
    const std::int64_t rows = args.d_out.shape[0];
    const std::int64_t width = args.d_out.shape[1];
    const float* d_out = floats(args.d_out);
    const float* residual_out = floats(args.residual_out);
    const float* statistics = floats(args.statistics);
    const float* weight = floats(args.norm.weight);
    float* d_residual = floats(args.d_residual);
    float* d_x = args.d_x ? floats(args.d_x) : nullptr;
    const DropoutMask mask(args.dropout);
    const auto normalised = [&](std::int64_t row, std::int64_t column) {
      const double distance = static_cast<double>(residual_out[row * width + column]) - statistics[2 * row];
      return distance * statistics[2 * row + 1];
    };
    const auto d_normalised = [&](std::int64_t row, std::int64_t column) {
      return static_cast<double>(d_out[row * width + column]) * weight[column];
    };
#pragma omp parallel for
    for (std::int64_t row = 0; row < rows; ++row) {
      double mean = 0, projection = 0;
      for (std::int64_t column = 0; column < width; ++column) {
        mean += d_normalised(row, column);
        projection += d_normalised(row, column) * normalised(row, column);
      }
      mean /= static_cast<double>(width);
      projection /= static_cast<double>(width);
      for (std::int64_t column = 0; column < width; ++column) {
        const std::int64_t i = row * width + column;
        const double through_norm =
            statistics[2 * row + 1] * (d_normalised(row, column) - mean - normalised(row, column) * projection);
        const double gradient = (args.overwrite ? 0.0 : d_residual[i]) + through_norm;
        const double dropped = gradient * mask.factor(i);
        d_residual[i] = static_cast<float>(d_x != nullptr ? gradient : dropped);
        if (d_x != nullptr) d_x[i] = static_cast<float>(dropped);
      }
    }
    add_column_sums(rows, width, floats(args.d_weight), [&](std::int64_t row, std::int64_t column) {
      return d_out[row * width + column] * normalised(row, column);
    });
    add_column_sums(rows, width, floats(args.d_bias), [&](std::int64_t row, std::int64_t column) {
      return static_cast<double>(d_out[row * width + column]);
    });
    if (!args.d_x_sum) return;
    add_column_sums(rows, width, floats(args.d_x_sum), [&](std::int64_t row, std::int64_t column) {
      return static_cast<double>(d_x[row * width + column]);
    });
  });
}

}  // namespace riverhorse::cpu
