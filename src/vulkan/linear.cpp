// linear: chooses between the shader families by the number of rows and cuts the work into parts that a device's
// storage range allows. Few rows read quantised weights as they are; for many these are made plain in scratch memory.
#include "vulkan/linear.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/quantised.h"

namespace riverhorse::vulkan {

namespace {

// From here on a norm is an operation of its own. By outputs, not by rows of x, so that a row keeps its bits whatever
// rows it is computed with.
constexpr std::int64_t wide_outputs = 16384;

// How many rows of `row_bytes` fit `limit`, as a multiple of `step` rows.
std::int64_t rows_that_fit(std::uint64_t row_bytes, std::uint64_t limit, std::uint64_t step) {
  const std::uint64_t rows = limit / row_bytes / step * step;
  if (rows == 0) {
    fail(StatusCode::unsupported, "linear: {} rows of {} bytes exceed the device's storage range of {} bytes", step,
         row_bytes, limit);
  }
  return static_cast<std::int64_t>(rows);
}

// The least number of rows whose offsets are multiples of `alignment`.
std::uint64_t aligned_step(std::uint64_t row_bytes, std::uint64_t alignment) {
  return alignment / std::gcd(alignment, row_bytes);
}

std::uint64_t row_bytes(const Tensor& tensor) {
  return tensor.size_bytes() / static_cast<std::uint64_t>(tensor.shape[0]);
}

void linear_parts(VulkanEncoder& encoder, const LinearArgs& args, DType activation, const Tensor& x, const Tensor& y,
                  std::int64_t rows) {
  const VulkanLimits& limits = encoder.limits();
  const std::int64_t outputs = args.weight.shape[0];
  const std::int64_t inputs = args.weight.shape[1];
  const bool dequantise = is_quantised(args.weight.dtype) && rows > linear_gemv_rows;
  std::int64_t step = outputs;
  const std::uint64_t bytes = row_bytes(args.weight);
  const std::uint64_t product_bytes =
      dequantise ? static_cast<std::uint64_t>(row_size_bytes(activation, inputs)) : bytes;
  if (product_bytes * static_cast<std::uint64_t>(outputs) > limits.storage_range_bytes) {
    step = rows_that_fit(std::max(bytes, product_bytes), limits.storage_range_bytes,
                         aligned_step(bytes, limits.offset_alignment));
  }
  for (std::int64_t begin = 0; begin < outputs; begin += step) {
    const ScratchScope scope(encoder);
    LinearPart part{args, x, args.weight.slice(begin, std::min(step, outputs - begin)), y, activation};
    if (dequantise) {
      const Tensor plain = encoder.scratch(activation, part.weight.shape);
      encoder.copy({part.weight, plain});
      part.weight = plain;
    }
    part.rows = static_cast<std::uint32_t>(rows);
    part.inputs = static_cast<std::uint32_t>(args.weight.shape[1]);
    part.outputs = static_cast<std::uint32_t>(outputs);
    part.column = static_cast<std::uint32_t>(begin);
    if (rows <= linear_gemv_rows) {
      linear_gemv(encoder, part);
    } else {
      linear_gemm(encoder, part);
    }
  }
}

}  // namespace

bool rows_aligned(const Tensor& tensor, std::int64_t row_elements, std::uint32_t bytes) {
  const std::uint64_t row = static_cast<std::uint64_t>(row_elements) * dtype_size_bytes(tensor.dtype);
  return row % bytes == 0 && tensor.offset_bytes % bytes == 0;
}

std::uint32_t linear_flags(const LinearPart& part) {
  const LinearArgs& args = part.args;
  std::uint32_t flags = 0;
  if (args.norm) flags |= norm_flag;
  if (part.x.dtype == DType::f32) flags |= x_is_f32;
  if (args.x_transposed) flags |= x_transposed_flag;
  if (part.y.dtype == DType::f32) flags |= y_is_f32;
  if (args.y_transposed) flags |= y_transposed_flag;
  if (args.bias) flags |= bias_flag;
  if (args.activation == Activation::gelu_tanh) flags |= gelu_flag;
  if (args.accumulate) flags |= accumulate_flag;
  return flags;
}

LinearPush linear_push(const LinearPart& part) {
  LinearPush push;
  push.inputs = part.inputs;
  push.part_outputs = part.part_outputs();
  push.rows = part.rows;
  push.outputs = part.outputs;
  push.column = part.column;
  push.epsilon = part.args.norm ? part.args.norm->epsilon : 0.0f;
  return push;
}

double linear_bytes(const LinearPart& part) {
  const double y_bytes = static_cast<double>(part.rows) * part.part_outputs() * dtype_size_bytes(part.y.dtype);
  return static_cast<double>(part.x.size_bytes() + part.weight.size_bytes()) +
         y_bytes * (part.args.accumulate ? 2 : 1);
}

double linear_flops(const LinearPart& part) { return 2.0 * part.rows * part.inputs * part.part_outputs(); }

void VulkanEncoder::record_linear(const LinearArgs& args) {
  const OperationScope operation(*this, "linear");
  record_product(args, activation_dtype(args));
}

void VulkanEncoder::record_product(const LinearArgs& args, DType activation) {
  const std::int64_t rows = args.x.shape[args.x_transposed ? 1 : 0];
  const std::int64_t outputs = args.weight.shape[0];
  const std::int64_t inputs = args.weight.shape[1];
  if (rows == 0 || outputs == 0) return;
  if (inputs == 0) fail(StatusCode::invalid_argument, "linear: a weight of no columns");

  // Every workgroup normalises the rows again, which hides behind the weights while those are few. Not in a tiled
  // product, nor in a classifier: on an H100 50264 x 768 (f16) took 121 us with the norm inside, 93 to 99 without.
  const bool tiled = rows > linear_gemv_rows;
  if (args.norm && (tiled || outputs >= wide_outputs)) {
    ScratchScope scope(*this);
    LinearArgs plain = args;
    plain.x = scratch(tiled ? activation : DType::f32, {rows, inputs});
    plain.norm.reset();
    add_layer_norm({.x = {}, .residual = args.x, .norm = *args.norm, .out = plain.x});
    record_product(plain, activation);
    return;
  }

  const std::uint64_t range = limits().storage_range_bytes;
  const std::uint64_t largest = std::max(args.x.size_bytes(), args.y.size_bytes());
  if (largest <= range) {
    linear_parts(*this, args, activation, args.x, args.y, rows);
    return;
  }
  if (args.x_transposed || args.y_transposed) {
    fail(StatusCode::unsupported,
         "linear: a transposed tensor of {} bytes exceeds the device's storage range of {} bytes; use fewer tokens",
         largest, range);
  }
  const std::uint64_t alignment = limits().offset_alignment;
  const std::uint64_t x_bytes = row_bytes(args.x);
  const std::uint64_t y_bytes = row_bytes(args.y);
  const std::int64_t step =
      rows_that_fit(std::max(x_bytes, y_bytes), range,
                    std::lcm(aligned_step(x_bytes, alignment), aligned_step(y_bytes, alignment)));
  for (std::int64_t begin = 0; begin < rows; begin += step) {
    const std::int64_t length = std::min(step, rows - begin);
    linear_parts(*this, args, activation, args.x.slice(begin, length), args.y.slice(begin, length), length);
  }
}

}  // namespace riverhorse::vulkan
