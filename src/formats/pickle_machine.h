// The stack machine behind read_pickle: turns opcodes into a graph of objects.
#pragma once

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "formats/pickle.h"

namespace riverhorse::pickle {

// Objects live in one array and refer to each other by index: a cycle is harmless, and freeing is flat.
using Ref = std::uint32_t;

enum class Kind : std::uint8_t {
  none,
  boolean,
  integer,
  real,
  string,  // unicode text
  bytes,
  tuple,
  list,
  dictionary,
  function,      // a global that is understood: `integer` is a Function
  storage_type,  // torch.FloatStorage and friends: `integer` is the DType
  storage,       // `integer` indexes Machine::storages
  tensor,        // `integer` indexes Machine::tensors
  opaque,        // anything else; `text` is the name of its class
};

enum class Function : std::uint8_t { ordered_dictionary, rebuild_tensor, rebuild_parameter };

struct Object {
  Kind kind = Kind::none;
  std::int64_t integer = 0;
  double real = 0;
  std::string_view text;   // into the pickle
  std::vector<Ref> items;  // of tuples and lists; of dictionaries: key, value, key, value
};

class Machine {
 public:
  Machine(std::span<const std::byte> bytes, std::string origin);

  // Runs to STOP and returns the root object.
  Ref run();

  const Object& object(Ref ref) const { return objects_[ref]; }
  const std::vector<PickledStorage>& storages() const { return storages_; }
  const std::vector<PickledTensor>& tensors() const { return tensors_; }

  template <typename... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(StatusCode::bad_file, "{}: {} (at byte {} of the pickle)", origin_,
         fmt::format(format, std::forward<Args>(args)...), opcode_position_);
  }

 private:
  // Input.
  std::uint8_t read_byte();
  std::uint64_t read_unsigned(int byte_count);  // little-endian
  std::string_view read_text(std::uint64_t size);
  std::string_view read_line();

  // Objects and the stack.
  Ref make(Object object);
  void count_items(std::size_t count);
  Ref make_integer(std::int64_t value);
  Ref make_text(Kind kind, std::string_view text);
  Ref make_opaque(std::string_view name);
  void push(Ref ref);
  Ref pop();
  Ref top() const;
  std::vector<Ref> pop_to_mark();
  std::vector<Ref> pop_items(int count);
  void remember(std::uint64_t index);  // memo[index] = top
  void recall(std::uint64_t index);

  // Opcodes; false when this opcode is of no such group.
  bool run_scalar(std::uint8_t opcode);
  bool run_text(std::uint8_t opcode);
  bool run_container(std::uint8_t opcode);
  bool run_stack(std::uint8_t opcode);
  bool run_object(std::uint8_t opcode);

  void push_long(std::uint64_t size);
  void set_items(Ref target, const std::vector<Ref>& items);
  void append_items(Ref target, const std::vector<Ref>& items);
  Ref make_global(std::string_view module, std::string_view name);
  Ref call(Ref callable, Ref arguments);
  Ref make_ordered_dictionary(const Object& arguments);
  Ref rebuild_tensor(const Object& arguments);
  Ref load_storage(Ref identifier);
  std::int64_t integer_argument(const Object& arguments, std::size_t index, const char* what) const;
  std::vector<std::int64_t> integer_tuple(const Object& arguments, std::size_t index, const char* what) const;

  std::span<const std::byte> bytes_;
  std::string origin_;
  std::size_t position_ = 0;
  std::size_t opcode_position_ = 0;

  std::deque<Object> objects_;  // references stay valid while it grows
  std::size_t item_count_ = 0;  // of all containers
  std::vector<Ref> stack_;
  std::vector<std::size_t> marks_;  // stack heights
  std::vector<Ref> memo_;
  std::vector<PickledStorage> storages_;
  std::unordered_map<std::string, std::size_t> storage_by_key_;
  std::vector<PickledTensor> tensors_;
};

}  // namespace riverhorse::pickle
