#include "formats/tensor_file.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/quantised.h"
#include "formats/size_math.h"

namespace riverhorse {
namespace {

template <typename Element, typename Out, typename Convert>
std::vector<Out> convert_elements(const HostTensor& tensor, Convert convert) {
  std::vector<Out> values(tensor.bytes.size() / sizeof(Element));
  for (std::size_t i = 0; i < values.size(); ++i) {
    Element element;  // the bytes of a view may lie at any address
    std::memcpy(&element, tensor.bytes.data() + i * sizeof(Element), sizeof(Element));
    values[i] = convert(element);
  }
  return values;
}

template <typename Element>
std::vector<std::int64_t> widen(const HostTensor& tensor) {
  return convert_elements<Element, std::int64_t>(tensor, [](Element value) { return std::int64_t{value}; });
}

template <typename Element>
HostTensor copy_values(DType dtype, std::span<const Element> values, std::vector<std::int64_t> shape) {
  HostTensor tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  if (tensor.count() != static_cast<std::int64_t>(values.size())) {
    fail(StatusCode::invalid_argument, "{} values do not fill a tensor of shape {}", values.size(),
         shape_text(tensor.shape));
  }
  auto memory = std::make_shared<std::vector<Element>>(values.begin(), values.end());
  tensor.bytes = std::as_bytes(std::span<const Element>(*memory));
  tensor.owner = std::move(memory);
  return tensor;
}

std::vector<float> dequantise(const HostTensor& matrix) {
  std::vector<float> values(static_cast<std::size_t>(matrix.count()));
  const auto width = static_cast<std::size_t>(matrix.shape.back());
  const auto row_bytes = static_cast<std::size_t>(row_size_bytes(matrix.dtype, matrix.shape.back()));
  for (std::size_t row = 0; row * width < values.size(); ++row) {
    dequantise_row(matrix.dtype, matrix.bytes.data() + row * row_bytes,
                   std::span(values).subspan(row * width, width));
  }
  return values;
}

}  // namespace

bool is_floating(DType dtype) { return dtype == DType::f32 || is_half(dtype) || dtype == DType::f64; }

std::int64_t HostTensor::count() const {
  const auto product = checked_count(shape);
  if (!product) fail(StatusCode::bad_file, "a tensor of shape {} is too large", shape_text(shape));
  return *product;
}

std::uint64_t HostTensor::size_bytes() const {
  const auto elements = static_cast<std::uint64_t>(count());
  if (!is_quantised(dtype)) return elements * static_cast<std::uint64_t>(dtype_size_bytes(dtype));
  const std::int64_t width = shape.back();
  return width == 0 ? 0
                    : elements / static_cast<std::uint64_t>(width) *
                          static_cast<std::uint64_t>(row_size_bytes(dtype, width));
}

void TensorFile::drop_pages(const HostTensor& tensor) const {
  if (mapping) mapping->drop_pages(tensor.bytes);
}

const HostTensor& TensorFile::at(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found == tensors.end()) {
    fail(StatusCode::bad_file, "{}: there is no tensor \"{}\" in it", path.string(), name);
  }
  return found->second;
}

std::vector<float> to_floats(const HostTensor& tensor) {
  switch (tensor.dtype) {
    case DType::f32: return convert_elements<float, float>(tensor, [](float value) { return value; });
    case DType::f16: return convert_elements<std::uint16_t, float>(tensor, f16_to_float);
    case DType::bf16: return convert_elements<std::uint16_t, float>(tensor, bf16_to_float);
    case DType::f64:
      return convert_elements<double, float>(tensor, [](double value) { return static_cast<float>(value); });
    case DType::q8:
    case DType::q4: return dequantise(tensor);
    default: break;
  }
  fail(StatusCode::bad_file, "a tensor of {} where floating point is needed", dtype_name(tensor.dtype));
}

std::vector<std::int64_t> to_integers(const HostTensor& tensor) {
  switch (tensor.dtype) {
    case DType::i64: return widen<std::int64_t>(tensor);
    case DType::i32: return widen<std::int32_t>(tensor);
    case DType::i16: return widen<std::int16_t>(tensor);
    case DType::i8: return widen<std::int8_t>(tensor);
    case DType::u8:
    case DType::boolean: return widen<std::uint8_t>(tensor);
    default: break;
  }
  fail(StatusCode::bad_file, "a tensor of {} where integers are needed", dtype_name(tensor.dtype));
}

HostTensor convert_floats(const HostTensor& tensor, DType dtype, const std::string& name) {
  if (tensor.dtype == dtype) return tensor;
  if (dtype != DType::f32 && !is_half(dtype)) {
    fail(StatusCode::invalid_argument, "{}: conversion to {} is not possible", name, dtype_name(dtype));
  }
  if (!is_floating(tensor.dtype) && !is_quantised(tensor.dtype)) {
    fail(StatusCode::bad_file, "{}: a tensor of {} where floating point is needed", name, dtype_name(tensor.dtype));
  }
  const std::vector<float> values = to_floats(tensor);
  if (dtype == DType::f32) return make_host_tensor(values, tensor.shape);
  auto memory = std::make_shared<std::vector<std::uint16_t>>(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t bits = float_to_half(values[i], dtype);
    if (std::isfinite(values[i]) && !std::isfinite(half_to_float(bits, dtype))) {
      fail(StatusCode::bad_file, "{}: element {} is {}, which {} cannot hold", name, i, values[i], dtype_name(dtype));
    }
    (*memory)[i] = bits;
  }
  HostTensor converted;
  converted.dtype = dtype;
  converted.shape = tensor.shape;
  converted.bytes = std::as_bytes(std::span<const std::uint16_t>(*memory));
  converted.owner = std::move(memory);
  return converted;
}

HostTensor quantise(const HostTensor& tensor, DType dtype, const std::string& name) {
  if (!is_quantised(dtype))
    fail(StatusCode::invalid_argument, "{}: {} is no quantised dtype", name, dtype_name(dtype));
  if (is_quantised(tensor.dtype)) {
    fail(StatusCode::bad_file, "{}: it is {} already; quantise the original", name, dtype_name(tensor.dtype));
  }
  if (tensor.shape.size() != 2 || tensor.shape[1] % quantised_block != 0) {
    fail(StatusCode::bad_file, "{}: shape {} cannot be {}: it takes matrices whose rows are multiples of {}", name,
         shape_text(tensor.shape), dtype_name(dtype), quantised_block);
  }
  const std::vector<float> values = to_floats(tensor);
  const auto rows = static_cast<std::size_t>(tensor.shape[0]);
  const auto width = static_cast<std::size_t>(tensor.shape[1]);
  HostTensor quantised;
  quantised.dtype = dtype;
  quantised.shape = tensor.shape;
  auto memory = std::make_shared<std::vector<std::byte>>(quantised.size_bytes());
  const std::size_t row_bytes = rows == 0 ? 0 : memory->size() / rows;
  std::atomic<std::size_t> next_row = 0, refused_row = rows;  // refused: the first, or `rows`
  const auto take_rows = [&] {
    for (std::size_t row = next_row++; row < rows; row = next_row++) {
      const std::span<const float> from = std::span(values).subspan(row * width, width);
      if (quantise_row(dtype, from, std::span(*memory).subspan(row * row_bytes, row_bytes))) continue;
      std::size_t first = refused_row;
      while (row < first && !refused_row.compare_exchange_weak(first, row)) {
      }
    }
  };
  {
    std::vector<std::jthread> others(std::max(1u, std::thread::hardware_concurrency()) - 1);
    for (std::jthread& other : others) other = std::jthread(take_rows);
    take_rows();
  }
  if (refused_row < rows) {
    fail(StatusCode::bad_file, "{}: row {} holds a weight that is not finite or too large for {}", name,
         refused_row.load(), dtype_name(dtype));
  }
  quantised.bytes = *memory;
  quantised.owner = std::move(memory);
  return quantised;
}

HostTensor make_host_tensor(std::span<const float> values, std::vector<std::int64_t> shape) {
  return copy_values(DType::f32, values, std::move(shape));
}

HostTensor make_host_tensor(std::span<const std::int64_t> values, std::vector<std::int64_t> shape) {
  return copy_values(DType::i64, values, std::move(shape));
}

}  // namespace riverhorse
