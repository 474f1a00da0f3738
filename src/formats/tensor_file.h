// Named host tensors read from a file: what safetensors and PyTorch checkpoints have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace riverhorse {

class MappedFile;

// Contiguous, row-major, little-endian, at any address; quantised matrices as in base/quantised.h. `owner` keeps the
// bytes alive (a mapping, or memory of its own; null: the caller does).
struct HostTensor {
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;

  std::int64_t count() const;
  std::uint64_t size_bytes() const;  // that the shape needs
};

struct TensorFile {
  std::filesystem::path path;
  std::map<std::string, HostTensor> tensors;
  std::map<std::string, std::string> metadata;
  std::shared_ptr<const MappedFile> mapping;  // that tensors point into; null for bytes in memory

  // Once a tensor was read and is not needed soon: its pages of the mapping, if it has any, take no memory then.
  void drop_pages(const HostTensor& tensor) const;

  // Errors: bad_file, naming file and tensor.
  const HostTensor& at(const std::string& name) const;
};

bool is_floating(DType dtype);

// Elements as fp32 (from f32, f16, bf16, f64, and quantised ones) or as i64 (from any integer type). Errors:
// bad_file.
std::vector<float> to_floats(const HostTensor& tensor);
std::vector<std::int64_t> to_integers(const HostTensor& tensor);

// The same values in another dtype, f32, f16 or bf16, rounded to nearest even; shares the bytes when nothing changes.
// Errors: bad_file, beginning with `name`, for a tensor of integers and for a finite value that becomes infinite.
HostTensor convert_floats(const HostTensor& tensor, DType dtype, const std::string& name);

// A matrix of floating point, quantised (q8 or q4). Errors: bad_file, beginning with `name`, where it has another
// rank, a width that is no multiple of 32, is quantised already, or holds what a block cannot: NaN, infinity, beyond
// 4e5.
HostTensor quantise(const HostTensor& tensor, DType dtype, const std::string& name);

// A tensor that owns a copy of `values`.
HostTensor make_host_tensor(std::span<const float> values, std::vector<std::int64_t> shape);
HostTensor make_host_tensor(std::span<const std::int64_t> values, std::vector<std::int64_t> shape);

// Memory-maps and checks the whole header before anything else; tensors point into the mapping.
//
// safetensors knows no quantised dtypes: such a matrix (rows, width) is stored as U8 (rows, bytes of a row), and
// "__metadata__" has "quantised.<its name>": "q8" or "q4". Reading turns both back into the matrix; a file whose
// metadata and tensors do not agree is refused.
TensorFile read_safetensors(const std::filesystem::path& path);
// The same from bytes in memory, which `owner` keeps alive (null: the caller does); `origin` names them in errors.
TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::shared_ptr<const void>& owner,
                             const std::filesystem::path& origin);
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, HostTensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

// torch.save files (zip, pickle protocol 2): tensors and plain containers only, nothing is executed. Keys of
// nested dictionaries are joined by '.'. Non-contiguous views are made contiguous; shared storages stay shared.
TensorFile read_pytorch(const std::filesystem::path& path);
TensorFile parse_pytorch(std::span<const std::byte> bytes, const std::shared_ptr<const void>& owner,
                         const std::filesystem::path& origin);

// Either, by what the file begins with. Errors: as above, and bad_file for anything else.
TensorFile read_tensor_file(const std::filesystem::path& path);

}  // namespace riverhorse
