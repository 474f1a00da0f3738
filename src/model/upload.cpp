#include "model/upload.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace riverhorse {

namespace {

constexpr std::int64_t piece_elements = std::int64_t{1} << 20;

template <typename T>
T load(const std::byte* bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, bytes + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

float load_float(DType dtype, const std::byte* bytes, std::int64_t index) {
  switch (dtype) {
    case DType::f32: return load<float>(bytes, index);
    case DType::f16:
    case DType::bf16: return half_to_float(load<std::uint16_t>(bytes, index), dtype);
    default: return static_cast<float>(load<double>(bytes, index));
  }
}

}  // namespace

void upload_converted(Device& device, const HostTensor& source, const Tensor& target, std::string_view name) {
  const std::int64_t count = target.count();
  if (source.count() != count) {
    fail(StatusCode::internal, "{}: {} elements in the file for {} on the device", name, source.count(), count);
  }
  if (is_quantised(target.dtype)) {
    if (source.dtype != target.dtype || source.shape.back() != target.shape[target.shape.rank() - 1]) {
      fail(StatusCode::internal, "{}: a matrix of {} for one of {}", name, dtype_name(source.dtype),
           dtype_name(target.dtype));
    }
    device.upload(target, source.bytes);
    return;
  }
  if (is_quantised(source.dtype)) {
    fail(StatusCode::bad_file, "{}: it is {}, which is not trained: riverhorse convert --dtype f32 makes f32 of it",
         name, dtype_name(source.dtype));
  }
  if (!is_floating(source.dtype)) {
    fail(StatusCode::bad_file, "{}: a weight must be f32, f16, bf16 or f64, not {}", name, dtype_name(source.dtype));
  }
  const Tensor flat = target.reshape({count});
  const auto source_size = static_cast<std::size_t>(dtype_size_bytes(source.dtype));
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
  for (std::int64_t begin = 0; begin < count; begin += piece_elements) {
    const std::int64_t length = std::min(piece_elements, count - begin);
    const std::span<const std::byte> bytes = source.bytes.subspan(static_cast<std::size_t>(begin) * source_size,
                                                                  static_cast<std::size_t>(length) * source_size);
    const Tensor piece = flat.slice(begin, length);
    if (source.dtype == target.dtype) {
      device.upload(piece, bytes);
      continue;
    }
    if (target.dtype == DType::f32) {
      floats.resize(static_cast<std::size_t>(length));
      for (std::int64_t i = 0; i < length; ++i) {
        floats[static_cast<std::size_t>(i)] = load_float(source.dtype, bytes.data(), i);
      }
      device.upload(piece, std::as_bytes(std::span(floats)));
      continue;
    }
    halves.resize(static_cast<std::size_t>(length));
    for (std::int64_t i = 0; i < length; ++i) {
      const float value = load_float(source.dtype, bytes.data(), i);
      const std::uint16_t half = float_to_half(value, target.dtype);
      if (std::isfinite(value) && !std::isfinite(half_to_float(half, target.dtype))) {
        fail(StatusCode::bad_file, "{}: element {} is {}, too large for {}; use --dtype f32", name, begin + i, value,
             dtype_name(target.dtype));
      }
      halves[static_cast<std::size_t>(i)] = half;
    }
    device.upload(piece, std::as_bytes(std::span(halves)));
  }
}

void upload_constant(Device& device, float value, const Tensor& target) {
  const Tensor flat = target.reshape({target.count()});
  const std::vector<float> values(static_cast<std::size_t>(std::min(piece_elements, flat.count())), value);
  for (std::int64_t begin = 0; begin < flat.count(); begin += piece_elements) {
    const std::int64_t length = std::min(piece_elements, flat.count() - begin);
    const HostTensor piece = make_host_tensor(std::span(values).first(static_cast<std::size_t>(length)), {length});
    upload_converted(device, piece, flat.slice(begin, length), "a constant");
  }
}

void set_identity_shift(Device& device, const ModelConfig& config, H3Parameters& parameters) {
  parameters.shift_b = device.allocate_tensor(DType::f32, {config.n_embd, config.ssm_d_state});  // zero-filled
  parameters.shift_c = device.allocate_tensor(DType::f32, {config.n_embd, config.ssm_d_state});
  parameters.shift_d = device.allocate_tensor(DType::f32, {config.n_embd});
  upload_constant(device, 1.0f, parameters.shift_d);
}

}  // namespace riverhorse
