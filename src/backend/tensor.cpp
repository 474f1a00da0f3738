#include "backend/tensor.h"

#include <algorithm>

#include "base/error.h"
#include "base/quantised.h"

namespace riverhorse {

Shape::Shape(std::initializer_list<std::int64_t> dimensions)
    : Shape(std::span(dimensions.begin(), dimensions.size())) {}

Shape::Shape(std::span<const std::int64_t> dimensions) : rank_(static_cast<int>(dimensions.size())) {
  if (dimensions.size() > max_rank) {
    fail(StatusCode::invalid_argument, "a shape of {} dimensions; the limit is {}", dimensions.size(), max_rank);
  }
  std::copy(dimensions.begin(), dimensions.end(), dimensions_.begin());
}

std::int64_t Shape::count() const {
  std::int64_t product = 1;
  for (int i = 0; i < rank_; ++i) product *= (*this)[i];
  return product;
}

std::string Shape::text() const {
  std::string text = "(";
  for (int i = 0; i < rank_; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", (*this)[i]);
  return text + ")";
}

std::uint64_t Tensor::size_bytes() const {
  if (!is_quantised(dtype)) {
    return static_cast<std::uint64_t>(count()) * static_cast<std::uint64_t>(dtype_size_bytes(dtype));
  }
  const std::int64_t width = shape.rank() == 0 ? 0 : shape[shape.rank() - 1];
  return width == 0 ? 0 : static_cast<std::uint64_t>(count() / width * row_size_bytes(dtype, width));
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t length) const {
  if (shape.rank() == 0 || begin < 0 || length < 0 || begin + length > shape[0]) {
    fail(StatusCode::invalid_argument, "rows {} to {} of a tensor of shape {}", begin, begin + length, shape.text());
  }
  const std::uint64_t bytes = shape[0] == 0 ? 0 : size_bytes() / static_cast<std::uint64_t>(shape[0]);
  Tensor view = *this;
  view.offset_bytes += static_cast<std::uint64_t>(begin) * bytes;
  switch (shape.rank()) {
    case 1: view.shape = {length}; break;
    case 2: view.shape = {length, shape[1]}; break;
    case 3: view.shape = {length, shape[1], shape[2]}; break;
    default: view.shape = {length, shape[1], shape[2], shape[3]}; break;
  }
  return view;
}

Tensor Tensor::reshape(Shape new_shape) const {
  const auto width = [](const Shape& of) { return of.rank() == 0 ? 0 : of[of.rank() - 1]; };
  if (new_shape.count() != count() || (is_quantised(dtype) && width(new_shape) != width(shape))) {
    fail(StatusCode::invalid_argument, "a tensor of shape {} cannot be seen as {}", shape.text(), new_shape.text());
  }
  Tensor view = *this;
  view.shape = new_shape;
  return view;
}

}  // namespace riverhorse
