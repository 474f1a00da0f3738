#include <fmt/core.h>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"

namespace riverhorse::test {
namespace {

using namespace pickle_text;

// A .pt whose data.pkl is `pickle` and whose storage "0" has four floats.
BadFile raw(const std::string& name, const std::string& pickle, std::vector<std::string> expected) {
  return {name, FileKind::pytorch,
          [pickle] {
            return torch_bytes(pickle, {{"0", std::string(16, '\x01')}});
          },
          std::move(expected)};
}

BadFile body(const std::string& name, const std::string& opcodes, std::vector<std::string> expected) {
  return raw(name, program(opcodes), std::move(expected));
}

// {"w": tensor}
BadFile with_tensor(const std::string& name, const std::string& tensor_opcodes, std::vector<std::string> expected) {
  return body(name, dictionary({{"w", tensor_opcodes}}), std::move(expected));
}

const std::string floats = storage("FloatStorage", "0", 4);

std::string repeat(const std::string& text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

// d1 = {"a": d0, "b": d0}, d2 = {"a": d1, "b": d1}, ...: 2^levels paths through few objects.
std::string doubling_dictionaries(int levels) {
  std::string opcodes = dictionary({}) + "q" + little_endian(0, 1) + "0";
  for (int i = 0; i < levels; ++i) {
    const std::string previous = "h" + little_endian(static_cast<std::uint64_t>(i), 1);
    const std::string next = "q" + little_endian(static_cast<std::uint64_t>(i) + 1, 1);
    opcodes += dictionary({{"a", previous}, {"b", previous}}) + next + "0";
  }
  return opcodes + "h" + little_endian(static_cast<std::uint64_t>(levels), 1);
}

// {"1": {"2": ... }}
std::string nested_dictionaries(int levels) {
  std::string opcodes = "}";
  for (int i = 0; i < levels; ++i) opcodes = "}" + text("k") + opcodes + "s";
  return opcodes;
}

std::vector<BadFile> hostile() {
  return {
      // What unpickling would run. Here it makes an opaque object, and that is not a dictionary of tensors.
      body("os.system", call(global("os", "system"), {text("touch /tmp/riverhorse-was-here")}),
           {"not a dictionary of tensors"}),
      body("os.system inside a dictionary",
           dictionary({{"w", call(global("posix", "system"), {text("touch /tmp/riverhorse-was-here")})}}),
           {"missing"}),
      body("builtins.eval through NEWOBJ", global("builtins", "eval") + tuple({text("1/0")}) + "\x81",
           {"not a dictionary of tensors"}),
      body("INST of os.system", "(" + text("id") + "ios\nsystem\n", {"not a dictionary of tensors"}),
      body("a call of a string", text("system") + tuple({}) + "R", {"not a class or function"}),
      body("a call without a tuple", global("os", "system") + text("id") + "R", {"not a tuple"}),
      body("attributes on a number", integer(1) + "}" + "b", {"has none"}),
      body("lists nested a million deep", repeat("]", 250'000) + repeat("a", 249'999), {"stack deeper than"}),
      body("marks without end", repeat("(", 5'000), {"marks on the stack"}),
      body("dictionaries nested deep", nested_dictionaries(100), {"nested deeper than 16"}),
      body("a dictionary in itself", "}q" + little_endian(0, 1) + text("me") + "h" + little_endian(0, 1) + "s",
           {"containing themselves"}),
      body("a list in itself", dictionary({{"l", "]q" + little_endian(0, 1) + "h" + little_endian(0, 1) + "a"}}),
           {"missing"}),
      body("exponential sharing", doubling_dictionaries(15), {"missing"}),
      body("exponential sharing, wider",
           doubling_dictionaries(15) + "q" + little_endian(99, 1) + "0" +
               [] {
                 std::vector<std::pair<std::string, std::string>> items;
                 for (int i = 0; i < 10; ++i) items.emplace_back(std::to_string(i), "h" + little_endian(99, 1));
                 return dictionary(items);
               }(),
           {"dictionary entries"}),
      body("memo entry four billion", "}r" + little_endian(0xffffffffu, 4), {"memo entry 4294967295"}),
      body("memo entry never set", "h" + little_endian(7, 1), {"memo entry 7 is used before it is set"}),
      body("memo of nothing", "q" + little_endian(0, 1), {"stack underflow"}),
      body("more objects than allowed", repeat("]0", 400'000), {"objects"}),
      body("more opcodes than allowed", "N" + repeat("20", 600'000), {"opcodes"}),
      body("an ordered dictionary copied and copied",
           [] {
             std::vector<std::string> pairs;
             for (int i = 0; i < 2'000; ++i) pairs.push_back(tuple({text("k"), "N"}));
             std::string opcodes = list(pairs) + "q" + little_endian(0, 1) + "0";
             opcodes += global("collections", "OrderedDict") + "q" + little_endian(1, 1) + "0";
             const std::string copy = "h" + little_endian(1, 1) + "h" + little_endian(0, 1) + "\x85" + "R0";
             return opcodes + repeat(copy, 1'000) + "}";
           }(),
           {"items in containers"}),
  };
}

std::vector<BadFile> malformed() {
  return {
      raw("empty pickle", "", {"ends early"}),
      raw("only STOP", ".", {"stack underflow"}),
      raw("no STOP", "\x80\x02}", {"ends early"}),
      raw("protocol 0", "(dp0\n.", {"opcode"}),
      raw("protocol 9", "\x80\x09}.", {"protocol 9"}),
      body("unknown opcode", "\xff", {"opcode 0xff"}),
      body("extension registry opcode", "\x82\x01", {"opcode 0x82"}),
      body("a string of four gigabytes", "X" + little_endian(0xfffffff0u, 4) + "abc", {"string of 4294967280 bytes"}),
      body("a string of 2^64 bytes", "\x8d" + little_endian(~std::uint64_t{0}, 8) + "abc", {"string of"}),
      body("an integer of two gigabytes", "\x8b" + little_endian(0x7fffffffu, 4) + "abc", {"2147483647"}),
      body("an integer of negative size", "\x8b" + little_endian(0x80000000u, 4) + "abc", {"integer of -"}),
      body("a name without an end", "ctorch", {"without an end"}),
      body("pop from nothing", "0", {"stack underflow"}),
      body("tuple without a mark", "Nt", {"no mark"}),
      body("pop through a mark", "N(\x85", {"stack underflow"}),
      body("append to a number", integer(1) + integer(2) + "a", {"not a list"}),
      body("set item in a list", "]" + text("a") + "N" + "s", {"not a dictionary"}),
      body("odd number of dictionary items", "}(" + text("a") + "u", {"no value"}),
      body("root is a list", "]", {"not a dictionary of tensors"}),
      body("root is a tensor", tensor(floats, 0, {4}, {1}), {"not a dictionary of tensors"}),
      body("class name is a number", integer(1) + integer(2) + "\x93", {"name is not a string"}),
      body(
          "two tensors of one joined name",
          dictionary({{"a.b", tensor(floats, 0, {4}, {1})}, {"a", dictionary({{"b", tensor(floats, 0, {4}, {1})}})}}),
          {"two tensors are named \"a.b\""}),
      body("a tensor name that is not UTF-8", dictionary({{"\xc3\x28", tensor(floats, 0, {4}, {1})}}), {"not UTF-8"}),
      body("a tensor name of a kilobyte", dictionary({{std::string(1024, 'n'), tensor(floats, 0, {4}, {1})}}),
           {"at most 512"}),
      body("a tensor without a name", dictionary({{"", tensor(floats, 0, {4}, {1})}}), {"empty"}),
  };
}

std::vector<BadFile> bad_tensors() {
  const std::string rebuild = global("torch._utils", "_rebuild_tensor_v2");
  return {
      with_tensor("storage read beyond its end", tensor(floats, 0, {5}, {1}), {"beyond storage \"0\"", "4 elements"}),
      with_tensor("offset beyond the storage", tensor(floats, 4, {1}, {1}), {"beyond storage"}),
      with_tensor("offset negative", tensor(floats, -1, {2}, {1}), {"beyond storage", "-1"}),
      with_tensor("strides beyond the storage", tensor(floats, 0, {2, 2}, {3, 1}), {"beyond storage"}),
      with_tensor("stride negative", tensor(floats, 3, {4}, {-1}), {"strides holds -1"}),
      with_tensor("dimension negative", tensor(floats, 0, {-4}, {1}), {"shape holds -4"}),
      with_tensor("shape overflows", tensor(floats, 0, {INT64_MAX, INT64_MAX}, {0, 0}), {"beyond storage"}),
      with_tensor("stride overflows", tensor(floats, 0, {3, 2}, {INT64_MAX, 1}), {"beyond storage"}),
      with_tensor("one element repeated to a terabyte", tensor(floats, 0, {1'000'000, 1'000'000}, {0, 0}),
                  {"\"w\"", "out of all proportion"}),
      with_tensor("shape and strides of different rank", tensor(floats, 0, {2, 2}, {1}),
                  {"2 dimensions with 1 strides"}),
      with_tensor("nine dimensions",
                  tensor(floats, 0, std::vector<std::int64_t>(9, 1), std::vector<std::int64_t>(9, 1)),
                  {"9 dimensions"}),
      with_tensor("tensor of a string", call(rebuild, {text("x"), integer(0), tuple({}), tuple({})}),
                  {"storage is something else"}),
      with_tensor("tensor of two arguments", call(rebuild, {floats, integer(0)}), {"2 arguments"}),
      with_tensor("offset is a string", call(rebuild, {floats, text("0"), tuple({}), tuple({})}),
                  {"offset is not an integer"}),
      with_tensor("shape is a number", call(rebuild, {floats, integer(0), integer(4), tuple({})}),
                  {"shape is not a tuple"}),
      with_tensor("shape holds a string",
                  call(rebuild, {floats, integer(0), tuple({text("4")}), tuple({integer(1)})}),
                  {"shape is not an integer"}),
      with_tensor("parameter of nothing", call(global("torch._utils", "_rebuild_parameter"), {}),
                  {"parameter without a tensor"}),
      with_tensor("storage of negative size", tensor(storage("FloatStorage", "0", -4), 0, {0}, {1}), {"impossible"}),
      with_tensor("storage of 2^62 elements",
                  tensor(storage("FloatStorage", "0", std::int64_t{1} << 62), 0, {4}, {1}), {"impossible"}),
      with_tensor("storage that is not there", tensor(storage("FloatStorage", "7", 4), 0, {4}, {1}),
                  {"\"w\"", "archive/data/7 is not in the archive"}),
      with_tensor("storage outside the folder", tensor(storage("FloatStorage", "../../x", 4), 0, {4}, {1}),
                  {"\"w\"", "not in the archive"}),
      with_tensor("storage declared larger than its entry", tensor(storage("FloatStorage", "0", 400), 0, {400}, {1}),
                  {"\"w\"", "16 bytes instead of 1600"}),
      with_tensor("storage declared smaller than its entry", tensor(storage("FloatStorage", "0", 2), 0, {2}, {1}),
                  {"\"w\"", "16 bytes instead of 8"}),
      with_tensor("storage without a key", tensor(storage("FloatStorage", "", 4), 0, {4}, {1}), {"usable key"}),
      with_tensor("external object that is a string", text("0") + "Q", {"not a storage"}),
      with_tensor("external object of another kind",
                  tuple({text("module"), global("torch", "FloatStorage"), text("0"), text("cpu"), integer(4)}) + "Q",
                  {"not a storage"}),
      body("one storage, two types",
           dictionary(
               {{"a", tensor(floats, 0, {4}, {1})}, {"b", tensor(storage("LongStorage", "0", 2), 0, {2}, {1})}}),
           {"storage \"0\" is 2 elements of i64 here and 4 of f32 before"}),
  };
}

}  // namespace

std::vector<BadFile> bad_pickle_files() {
  std::vector<BadFile> files = hostile();
  for (auto& group : {malformed(), bad_tensors()}) files.insert(files.end(), group.begin(), group.end());
  return files;
}

}  // namespace riverhorse::test
