// The part of Python's pickle format that torch.save produces, read without running anything.
//
// A pickle is a program for a small stack machine. This machine knows tensors, their storages, dictionaries, lists,
// tuples, numbers and strings. Every other class or function becomes an opaque object: it may be created, called and
// filled, and all of that does nothing. Limits on opcodes, stack, memo and objects bound time and memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace riverhorse {

// A typed run of elements kept outside the pickle, in the archive entry `data/<key>`.
struct PickledStorage {
  std::string key;
  DType dtype = DType::f32;
  std::int64_t count = 0;  // elements
};

// A strided view of a storage. All of it lies inside: checked.
struct PickledTensor {
  std::string name;         // keys of nested dictionaries joined by '.'
  std::size_t storage = 0;  // index into PickledModel::storages
  std::int64_t offset = 0;  // elements
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // elements, at least zero
};

struct PickledModel {
  std::vector<PickledStorage> storages;
  std::vector<PickledTensor> tensors;           // reachable through dictionaries, in file order
  std::map<std::string, std::string> metadata;  // numbers and short strings reachable the same way, as text
};

// Reads one pickle whose root is a dictionary. Errors: bad_file, with `origin` and the byte.
PickledModel read_pickle(std::span<const std::byte> bytes, const std::string& origin);

}  // namespace riverhorse
