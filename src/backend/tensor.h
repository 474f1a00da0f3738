// Tensors: contiguous row-major views of device memory. A view owns a share of its buffer, so a recording that
// captured it stays valid.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "base/dtype.h"

namespace riverhorse {

// Device memory. Each backend derives its own; made by Device::allocate only.
class Buffer {
 public:
  explicit Buffer(std::uint64_t size_bytes) : size_bytes_(size_bytes) {}
  virtual ~Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::uint64_t size_bytes() const { return size_bytes_; }

 private:
  std::uint64_t size_bytes_;
};

// Up to four dimensions, row-major, no strides: a layout that differs has a name of its own in the operation.
class Shape {
 public:
  static constexpr int max_rank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dimensions);  // invalid_argument for more than four
  explicit Shape(std::span<const std::int64_t> dimensions);

  int rank() const { return rank_; }
  std::int64_t operator[](int index) const { return dimensions_[static_cast<std::size_t>(index)]; }
  std::int64_t count() const;  // product of the dimensions; 1 for rank 0
  bool operator==(const Shape& other) const = default;
  std::string text() const;  // "(2, 48, 17)"

 private:
  std::array<std::int64_t, max_rank> dimensions_{};
  int rank_ = 0;
};

struct Tensor {
  std::shared_ptr<Buffer> buffer;
  std::uint64_t offset_bytes = 0;
  DType dtype = DType::f32;
  Shape shape;

  explicit operator bool() const { return buffer != nullptr; }
  std::int64_t count() const { return shape.count(); }
  std::uint64_t size_bytes() const;

  // Rows [begin, begin + length) of the first dimension. Errors: invalid_argument when out of range.
  Tensor slice(std::int64_t begin, std::int64_t length) const;
  // The same elements under another shape. Errors: invalid_argument when the counts differ, or of a quantised matrix
  // the widths.
  Tensor reshape(Shape new_shape) const;
};

}  // namespace riverhorse
