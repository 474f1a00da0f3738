#include "formats/pickle_machine.h"

#include <bit>
#include <cstring>
#include <optional>

#include "formats/size_math.h"

namespace riverhorse::pickle {
namespace {

// A checkpoint of 600 tensors takes about 8,000 opcodes and 6,000 objects; these leave room for optimizer states and
// bound the memory of the worst pickle to some tens of MiB.
constexpr std::uint64_t opcode_limit = 1'000'000;
constexpr std::size_t object_limit = 300'000;
constexpr std::size_t item_limit = 2'000'000;
constexpr std::size_t stack_limit = 200'000;
constexpr std::size_t mark_limit = 1'000;
constexpr std::size_t memo_limit = 300'000;
constexpr std::size_t storage_limit = 65'536;
constexpr std::size_t tensor_limit = 65'536;
constexpr std::size_t rank_limit = 8;
constexpr Ref no_object = 0xffffffffu;

// Opcodes by the names that Python's pickletools gives them.
enum Opcode : std::uint8_t {
  MARK = '(',
  STOP = '.',
  POP = '0',
  POP_MARK = '1',
  DUP = '2',
  BINBYTES = 'B',
  SHORT_BINBYTES = 'C',
  BINFLOAT = 'G',
  BININT = 'J',
  BININT1 = 'K',
  BININT2 = 'M',
  NONE = 'N',
  BINPERSID = 'Q',
  REDUCE = 'R',
  BINSTRING = 'T',
  SHORT_BINSTRING = 'U',
  BINUNICODE = 'X',
  EMPTY_LIST = ']',
  APPEND = 'a',
  BUILD = 'b',
  GLOBAL = 'c',
  DICT = 'd',
  APPENDS = 'e',
  BINGET = 'h',
  INST = 'i',
  LONG_BINGET = 'j',
  LIST = 'l',
  OBJ = 'o',
  BINPUT = 'q',
  LONG_BINPUT = 'r',
  SETITEM = 's',
  TUPLE = 't',
  EMPTY_TUPLE = ')',
  SETITEMS = 'u',
  EMPTY_DICT = '}',
  PROTO = 0x80,
  NEWOBJ = 0x81,
  TUPLE1 = 0x85,
  TUPLE2 = 0x86,
  TUPLE3 = 0x87,
  NEWTRUE = 0x88,
  NEWFALSE = 0x89,
  LONG1 = 0x8a,
  LONG4 = 0x8b,
  SHORT_BINUNICODE = 0x8c,
  BINUNICODE8 = 0x8d,
  BINBYTES8 = 0x8e,
  EMPTY_SET = 0x8f,
  ADDITEMS = 0x90,
  FROZENSET = 0x91,
  NEWOBJ_EX = 0x92,
  STACK_GLOBAL = 0x93,
  MEMOIZE = 0x94,
  FRAME = 0x95,
  BYTEARRAY8 = 0x96,
};

std::optional<DType> storage_dtype(std::string_view class_name) {
  if (class_name == "FloatStorage") return DType::f32;
  if (class_name == "HalfStorage") return DType::f16;
  if (class_name == "BFloat16Storage") return DType::bf16;
  if (class_name == "DoubleStorage") return DType::f64;
  if (class_name == "LongStorage") return DType::i64;
  if (class_name == "IntStorage") return DType::i32;
  if (class_name == "ShortStorage") return DType::i16;
  if (class_name == "CharStorage") return DType::i8;
  if (class_name == "ByteStorage" || class_name == "UntypedStorage") return DType::u8;
  if (class_name == "BoolStorage") return DType::boolean;
  return std::nullopt;
}

}  // namespace

Machine::Machine(std::span<const std::byte> bytes, std::string origin) : bytes_(bytes), origin_(std::move(origin)) {}

// ------------------------------------------------------------------------------------------------------ input

std::uint8_t Machine::read_byte() {
  if (position_ >= bytes_.size()) bad("the pickle ends early (truncated?)");
  return std::to_integer<std::uint8_t>(bytes_[position_++]);
}

std::uint64_t Machine::read_unsigned(int byte_count) {
  std::uint64_t value = 0;
  for (int i = 0; i < byte_count; ++i) value |= std::uint64_t{read_byte()} << (8 * i);
  return value;
}

std::string_view Machine::read_text(std::uint64_t size) {
  if (size > bytes_.size() - position_) {
    bad("a string of {} bytes where {} are left", size, bytes_.size() - position_);
  }
  const auto part = bytes_.subspan(position_, static_cast<std::size_t>(size));
  position_ += part.size();
  return {reinterpret_cast<const char*>(part.data()), part.size()};
}

std::string_view Machine::read_line() {
  const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + position_, bytes_.size() - position_);
  const std::size_t end = rest.find('\n');
  if (end == std::string_view::npos) bad("a name without an end");
  position_ += end + 1;
  return rest.substr(0, end);
}

// ---------------------------------------------------------------------------------------- objects and the stack

Ref Machine::make(Object object) {
  if (objects_.size() >= object_limit) bad("more than {} objects", object_limit);
  count_items(object.items.size());
  objects_.push_back(std::move(object));
  return static_cast<Ref>(objects_.size() - 1);
}

void Machine::count_items(std::size_t count) {
  item_count_ += count;
  if (item_count_ > item_limit) bad("more than {} items in containers", item_limit);
}

Ref Machine::make_integer(std::int64_t value) {
  Object object;
  object.kind = Kind::integer;
  object.integer = value;
  return make(std::move(object));
}

Ref Machine::make_text(Kind kind, std::string_view text) {
  Object object;
  object.kind = kind;
  object.text = text;
  return make(std::move(object));
}

Ref Machine::make_opaque(std::string_view name) { return make_text(Kind::opaque, name); }

void Machine::push(Ref ref) {
  if (stack_.size() >= stack_limit) bad("a stack deeper than {}", stack_limit);
  stack_.push_back(ref);
}

Ref Machine::pop() {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) bad("the stack is empty (stack underflow)");
  const Ref ref = stack_.back();
  stack_.pop_back();
  return ref;
}

Ref Machine::top() const {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() <= floor) bad("the stack is empty (stack underflow)");
  return stack_.back();
}

std::vector<Ref> Machine::pop_to_mark() {
  if (marks_.empty()) bad("no mark on the stack (stack underflow)");
  std::vector<Ref> items(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return items;
}

std::vector<Ref> Machine::pop_items(int count) {
  std::vector<Ref> items(static_cast<std::size_t>(count));
  for (std::size_t i = items.size(); i > 0; --i) items[i - 1] = pop();
  return items;
}

void Machine::remember(std::uint64_t index) {
  const Ref ref = top();
  if (index >= memo_limit) bad("memo entry {}; the limit is {}", index, memo_limit);
  if (index >= memo_.size()) memo_.resize(static_cast<std::size_t>(index) + 1, no_object);
  memo_[static_cast<std::size_t>(index)] = ref;
}

void Machine::recall(std::uint64_t index) {
  if (index >= memo_.size() || memo_[static_cast<std::size_t>(index)] == no_object) {
    bad("memo entry {} is used before it is set", index);
  }
  push(memo_[static_cast<std::size_t>(index)]);
}

// ---------------------------------------------------------------------------------------------------- opcodes

Ref Machine::run() {
  for (std::uint64_t count = 0;; ++count) {
    if (count >= opcode_limit) bad("more than {} opcodes", opcode_limit);
    opcode_position_ = position_;
    const std::uint8_t opcode = read_byte();
    if (opcode == STOP) return pop();
    if (!run_scalar(opcode) && !run_text(opcode) && !run_container(opcode) && !run_stack(opcode) &&
        !run_object(opcode)) {
      bad("opcode 0x{:02x} is not supported", static_cast<unsigned>(opcode));
    }
  }
}

bool Machine::run_scalar(std::uint8_t opcode) {
  Object object;
  switch (opcode) {
    case NONE: break;
    case NEWTRUE:
    case NEWFALSE:
      object.kind = Kind::boolean;
      object.integer = opcode == NEWTRUE ? 1 : 0;
      break;
    case BININT1:
    case BININT2:
      object.kind = Kind::integer;
      object.integer = static_cast<std::int64_t>(read_unsigned(opcode == BININT1 ? 1 : 2));
      break;
    case BININT:
      object.kind = Kind::integer;
      object.integer = static_cast<std::int32_t>(static_cast<std::uint32_t>(read_unsigned(4)));
      break;
    case BINFLOAT: {  // the one big-endian number of the format
      std::uint64_t bits = 0;
      for (int i = 0; i < 8; ++i) bits = bits << 8 | read_byte();
      object.kind = Kind::real;
      object.real = std::bit_cast<double>(bits);
      break;
    }
    case LONG1: push_long(read_byte()); return true;
    case LONG4: {
      const auto size = static_cast<std::int32_t>(static_cast<std::uint32_t>(read_unsigned(4)));
      if (size < 0) bad("an integer of {} bytes", size);
      push_long(static_cast<std::uint64_t>(size));
      return true;
    }
    default: return false;
  }
  push(make(std::move(object)));
  return true;
}

// Two's complement, little-endian. Beyond 64 bits nothing that a tensor needs can follow: opaque.
void Machine::push_long(std::uint64_t size) {
  const std::string_view digits = read_text(size);
  if (size > 8) {
    push(make_opaque("int"));
    return;
  }
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    bits |= std::uint64_t{static_cast<unsigned char>(digits[i])} << (8 * i);
  }
  const bool negative = !digits.empty() && (static_cast<unsigned char>(digits.back()) & 0x80u) != 0;
  if (negative && size < 8) bits |= ~std::uint64_t{0} << (8 * size);
  push(make_integer(static_cast<std::int64_t>(bits)));
}

bool Machine::run_text(std::uint8_t opcode) {
  switch (opcode) {
    case SHORT_BINUNICODE: push(make_text(Kind::string, read_text(read_unsigned(1)))); return true;
    case BINUNICODE: push(make_text(Kind::string, read_text(read_unsigned(4)))); return true;
    case BINUNICODE8: push(make_text(Kind::string, read_text(read_unsigned(8)))); return true;
    case SHORT_BINSTRING: push(make_text(Kind::string, read_text(read_unsigned(1)))); return true;
    case BINSTRING: push(make_text(Kind::string, read_text(read_unsigned(4)))); return true;
    case SHORT_BINBYTES: push(make_text(Kind::bytes, read_text(read_unsigned(1)))); return true;
    case BINBYTES: push(make_text(Kind::bytes, read_text(read_unsigned(4)))); return true;
    case BINBYTES8:
    case BYTEARRAY8: push(make_text(Kind::bytes, read_text(read_unsigned(8)))); return true;
    default: return false;
  }
}

bool Machine::run_container(std::uint8_t opcode) {
  Object object;
  switch (opcode) {
    case EMPTY_TUPLE: object.kind = Kind::tuple; break;
    case EMPTY_LIST: object.kind = Kind::list; break;
    case EMPTY_DICT: object.kind = Kind::dictionary; break;
    case EMPTY_SET: push(make_opaque("set")); return true;
    case FROZENSET:
      pop_to_mark();
      push(make_opaque("frozenset"));
      return true;
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
      object.kind = Kind::tuple;
      object.items = pop_items(opcode - TUPLE1 + 1);
      break;
    case TUPLE:
    case LIST:
      object.kind = opcode == TUPLE ? Kind::tuple : Kind::list;
      object.items = pop_to_mark();
      break;
    case DICT:
      object.kind = Kind::dictionary;
      object.items = pop_to_mark();
      if (object.items.size() % 2 != 0) bad("a dictionary with a key and no value");
      break;
    case APPEND: {
      const std::vector<Ref> items = pop_items(1);
      append_items(top(), items);
      return true;
    }
    case APPENDS:
    case ADDITEMS: {
      const std::vector<Ref> items = pop_to_mark();
      append_items(top(), items);
      return true;
    }
    case SETITEM: {
      const std::vector<Ref> items = pop_items(2);
      set_items(top(), items);
      return true;
    }
    case SETITEMS: {
      const std::vector<Ref> items = pop_to_mark();
      set_items(top(), items);
      return true;
    }
    default: return false;
  }
  push(make(std::move(object)));
  return true;
}

void Machine::append_items(Ref target, const std::vector<Ref>& items) {
  Object& object = objects_[target];
  if (object.kind == Kind::opaque) return;
  if (object.kind != Kind::list) bad("items are appended to something that is not a list");
  count_items(items.size());
  object.items.insert(object.items.end(), items.begin(), items.end());
}

void Machine::set_items(Ref target, const std::vector<Ref>& items) {
  Object& object = objects_[target];
  if (items.size() % 2 != 0) bad("a dictionary with a key and no value");
  if (object.kind == Kind::opaque) return;
  if (object.kind != Kind::dictionary) bad("items are set in something that is not a dictionary");
  count_items(items.size());
  object.items.insert(object.items.end(), items.begin(), items.end());
}

bool Machine::run_stack(std::uint8_t opcode) {
  switch (opcode) {
    case PROTO: {
      const unsigned protocol = read_byte();
      if (protocol < 2 || protocol > 5) bad("pickle protocol {} is not supported", protocol);
      return true;
    }
    case FRAME: read_unsigned(8); return true;  // a hint for buffered reading
    case MARK:
      if (marks_.size() >= mark_limit) bad("more than {} marks on the stack", mark_limit);
      marks_.push_back(stack_.size());
      return true;
    case POP:
      // Python lets POP remove a mark that lies on top.
      if (!marks_.empty() && stack_.size() == marks_.back()) {
        marks_.pop_back();
      } else {
        pop();
      }
      return true;
    case POP_MARK: pop_to_mark(); return true;
    case DUP: push(top()); return true;
    case BINGET: recall(read_unsigned(1)); return true;
    case LONG_BINGET: recall(read_unsigned(4)); return true;
    case BINPUT: remember(read_unsigned(1)); return true;
    case LONG_BINPUT: remember(read_unsigned(4)); return true;
    case MEMOIZE: remember(memo_.size()); return true;
    default: return false;
  }
}

bool Machine::run_object(std::uint8_t opcode) {
  switch (opcode) {
    case GLOBAL: {
      const std::string_view module = read_line();
      const std::string_view name = read_line();
      push(make_global(module, name));
      return true;
    }
    case STACK_GLOBAL: {
      const Ref name = pop();
      const Ref module = pop();
      if (object(name).kind != Kind::string || object(module).kind != Kind::string) {
        bad("a class whose name is not a string");
      }
      push(make_global(object(module).text, object(name).text));
      return true;
    }
    case REDUCE:
    case NEWOBJ: {
      const Ref arguments = pop();
      const Ref callable = pop();
      push(call(callable, arguments));
      return true;
    }
    case NEWOBJ_EX: {
      pop();  // keyword arguments: nothing that is understood takes any
      const Ref arguments = pop();
      const Ref callable = pop();
      push(call(callable, arguments));
      return true;
    }
    case INST: {
      read_line();
      const std::string_view name = read_line();
      pop_to_mark();
      push(make_opaque(name));
      return true;
    }
    case OBJ:
      if (pop_to_mark().empty()) bad("an object without a class");
      push(make_opaque("object"));
      return true;
    case BUILD: {
      pop();  // the state: `_metadata` of a state_dict, attributes of opaque objects
      const Kind kind = object(top()).kind;
      if (kind != Kind::dictionary && kind != Kind::opaque && kind != Kind::tensor) {
        bad("attributes are set on something that has none");
      }
      return true;
    }
    case BINPERSID: push(load_storage(pop())); return true;
    default: return false;
  }
}

// ---------------------------------------------------------------------------------------- classes and functions

Ref Machine::make_global(std::string_view module, std::string_view name) {
  Object object;
  object.kind = Kind::function;
  object.text = name;
  if (module == "collections" && name == "OrderedDict") {
    object.integer = static_cast<std::int64_t>(Function::ordered_dictionary);
  } else if (module == "torch._utils" && name == "_rebuild_tensor_v2") {
    object.integer = static_cast<std::int64_t>(Function::rebuild_tensor);
  } else if (module == "torch._utils" && name == "_rebuild_parameter") {
    object.integer = static_cast<std::int64_t>(Function::rebuild_parameter);
  } else if (const auto dtype = storage_dtype(name);
             dtype && (module == "torch" || module == "torch.cuda" || module == "torch.storage")) {
    object.kind = Kind::storage_type;
    object.integer = static_cast<std::int64_t>(*dtype);
  } else {
    object.kind = Kind::opaque;
  }
  return make(std::move(object));
}

Ref Machine::call(Ref callable_ref, Ref arguments_ref) {
  const Object& callable = object(callable_ref);
  const Object& arguments = object(arguments_ref);
  if (arguments.kind != Kind::tuple) bad("a call whose arguments are not a tuple");
  if (callable.kind == Kind::opaque || callable.kind == Kind::storage_type) return make_opaque(callable.text);
  if (callable.kind != Kind::function) bad("a call of something that is not a class or function");
  switch (static_cast<Function>(callable.integer)) {
    case Function::ordered_dictionary: return make_ordered_dictionary(arguments);
    case Function::rebuild_tensor: return rebuild_tensor(arguments);
    case Function::rebuild_parameter:
      if (arguments.items.empty()) bad("a parameter without a tensor");
      return arguments.items[0];
  }
  bad("an unknown function");
}

// OrderedDict() or, as Python 2 wrote it, OrderedDict([[key, value], ...]).
Ref Machine::make_ordered_dictionary(const Object& arguments) {
  Object dictionary;
  dictionary.kind = Kind::dictionary;
  if (!arguments.items.empty()) {
    const Object& pairs = object(arguments.items[0]);
    if (pairs.kind != Kind::list && pairs.kind != Kind::tuple) bad("an OrderedDict made of something unexpected");
    for (const Ref pair : pairs.items) {
      const Object& key_value = object(pair);
      const bool is_pair =
          (key_value.kind == Kind::list || key_value.kind == Kind::tuple) && key_value.items.size() == 2;
      if (!is_pair) bad("an OrderedDict made of something unexpected");
      dictionary.items.insert(dictionary.items.end(), key_value.items.begin(), key_value.items.end());
    }
  }
  return make(std::move(dictionary));
}

std::int64_t Machine::integer_argument(const Object& arguments, std::size_t index, const char* what) const {
  if (index >= arguments.items.size() || object(arguments.items[index]).kind != Kind::integer) {
    bad("{} is not an integer", what);
  }
  return object(arguments.items[index]).integer;
}

std::vector<std::int64_t> Machine::integer_tuple(const Object& arguments, std::size_t index, const char* what) const {
  const bool exists = index < arguments.items.size();
  const Object* tuple = exists ? &object(arguments.items[index]) : nullptr;
  if (tuple == nullptr || (tuple->kind != Kind::tuple && tuple->kind != Kind::list)) bad("{} is not a tuple", what);
  if (tuple->items.size() > rank_limit) {
    bad("{} has {} dimensions; the limit is {}", what, tuple->items.size(), rank_limit);
  }
  std::vector<std::int64_t> values;
  for (std::size_t i = 0; i < tuple->items.size(); ++i) {
    const std::int64_t value = integer_argument(*tuple, i, what);
    if (value < 0) bad("{} holds {}, which is negative", what, value);
    values.push_back(value);
  }
  return values;
}

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, backward_hooks)
Ref Machine::rebuild_tensor(const Object& arguments) {
  if (arguments.items.size() < 4) bad("a tensor made of {} arguments instead of 6", arguments.items.size());
  const Object& storage = object(arguments.items[0]);
  if (storage.kind == Kind::opaque) return make_opaque(storage.text);
  if (storage.kind != Kind::storage) bad("a tensor whose storage is something else");
  PickledTensor tensor;
  tensor.storage = static_cast<std::size_t>(storage.integer);
  tensor.offset = integer_argument(arguments, 1, "a tensor's offset");
  tensor.shape = integer_tuple(arguments, 2, "a tensor's shape");
  tensor.strides = integer_tuple(arguments, 3, "a tensor's strides");
  if (tensor.strides.size() != tensor.shape.size()) {
    bad("a tensor of {} dimensions with {} strides", tensor.shape.size(), tensor.strides.size());
  }
  const auto count = checked_count(tensor.shape);
  std::optional<std::int64_t> last = tensor.offset < 0 ? std::nullopt : std::optional(tensor.offset);
  for (std::size_t i = 0; i < tensor.shape.size() && last && count && *count != 0; ++i) {
    const auto reach = checked_multiply(tensor.shape[i] - 1, tensor.strides[i]);
    last = reach ? checked_add(*last, *reach) : std::nullopt;
  }
  const PickledStorage& elements = storages_[tensor.storage];
  if (!count || !last || (*count != 0 && *last >= elements.count) || *last > elements.count) {
    bad("a tensor of shape {}, strides {}, offset {} reaches beyond storage \"{}\" of {} elements",
        shape_text(tensor.shape), shape_text(tensor.strides), tensor.offset, elements.key, elements.count);
  }
  if (tensors_.size() >= tensor_limit) bad("more than {} tensors", tensor_limit);
  Object object;
  object.kind = Kind::tensor;
  object.integer = static_cast<std::int64_t>(tensors_.size());
  tensors_.push_back(std::move(tensor));
  return make(std::move(object));
}

// ('storage', torch.FloatStorage, '12', 'cpu', 768)
Ref Machine::load_storage(Ref identifier_ref) {
  const Object& identifier = object(identifier_ref);
  if (identifier.kind != Kind::tuple || identifier.items.size() < 5 ||
      object(identifier.items[0]).kind != Kind::string || object(identifier.items[0]).text != "storage") {
    bad("an external object that is not a storage");
  }
  const Object& type = object(identifier.items[1]);
  const Object& key = object(identifier.items[2]);
  if (type.kind == Kind::opaque) return make_opaque(type.text);
  if (type.kind != Kind::storage_type) bad("a storage whose type is not a class");
  if (key.kind != Kind::string || key.text.empty() || key.text.size() > 64) bad("a storage without a usable key");
  PickledStorage storage;
  storage.key = key.text;
  storage.dtype = static_cast<DType>(type.integer);
  storage.count = integer_argument(identifier, 4, "a storage's element count");
  if (!checked_multiply(storage.count, dtype_size_bytes(storage.dtype))) {
    bad("storage \"{}\" has {} elements, which is impossible", storage.key, storage.count);
  }
  const auto [known, added] = storage_by_key_.emplace(storage.key, storages_.size());
  if (added) {
    if (storages_.size() >= storage_limit) bad("more than {} storages", storage_limit);
    storages_.push_back(std::move(storage));
  } else if (const PickledStorage& first = storages_[known->second];
             first.dtype != storage.dtype || first.count != storage.count) {
    bad("storage \"{}\" is {} elements of {} here and {} of {} before", storage.key, storage.count,
        dtype_name(storage.dtype), first.count, dtype_name(first.dtype));
  }
  Object object;
  object.kind = Kind::storage;
  object.integer = static_cast<std::int64_t>(known->second);
  return make(std::move(object));
}

}  // namespace riverhorse::pickle
