#include <span>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"
#include "base/error.h"
#include "formats/tensor_file.h"
#include "fuzz/fuzz_target.h"

namespace test = riverhorse::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const riverhorse::TensorFile file =
        riverhorse::parse_safetensors(std::as_bytes(std::span(data, size)), nullptr, "input");
    // What was accepted must be consistent, to the last byte.
    for (const auto& [name, tensor] : file.tensors) {
      if (riverhorse::is_floating(tensor.dtype) || riverhorse::is_quantised(tensor.dtype)) {
        if (static_cast<std::int64_t>(riverhorse::to_floats(tensor).size()) != tensor.count()) __builtin_trap();
      } else if (static_cast<std::int64_t>(riverhorse::to_integers(tensor).size()) != tensor.count()) {
        __builtin_trap();
      }
    }
  } catch (const riverhorse::Error&) {
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds = {
      test::safetensors_bytes("{" + test::header_entry("w", "[2,2]", 0, 16) + "}", std::string(16, '\1')),
      test::safetensors_bytes("{\"__metadata__\":{\"format\":\"pt\"}," + test::header_entry("a", "[1]", 0, 4) + "," +
                                  test::header_entry("b", "[]", 4, 8) + "}",
                              std::string(8, '\1')),
      test::safetensors_bytes(
          R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},"h":{"dtype":"BF16","shape":[0],"data_offsets":[8,8]}})",
          std::string(8, '\1')),
      test::safetensors_bytes(
          R"({"__metadata__":{"quantised.a":"q8","quantised.b":"q4"},)"
          R"("a":{"dtype":"U8","shape":[2,48],"data_offsets":[0,96]},"b":{"dtype":"U8","shape":[1,48],"data_offsets":[96,144]}})",
          std::string(144, '\1'))};
  for (const test::BadFile& file : test::bad_safetensors_files()) {
    const std::string bytes = file.make();
    if (bytes.size() < 4096) seeds.push_back(bytes);
  }
  return seeds;
}
