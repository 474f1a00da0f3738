// Raw pickles, and whole .pt archives. A pickle inside an archive is protected by a checksum that mutations do not
// renew, hence both.
#include <span>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"
#include "base/error.h"
#include "formats/pickle.h"
#include "formats/tensor_file.h"
#include "fuzz/fuzz_target.h"

namespace test = riverhorse::test;
namespace text = riverhorse::test::pickle_text;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    if (size >= 2 && data[0] == 'P' && data[1] == 'K') {
      const riverhorse::TensorFile file = riverhorse::parse_pytorch(bytes, nullptr, "input");
      for (const auto& [name, tensor] : file.tensors) {
        const auto needed = static_cast<std::uint64_t>(tensor.count()) * riverhorse::dtype_size_bytes(tensor.dtype);
        if (tensor.bytes.size() != needed) __builtin_trap();
        std::uint8_t sum = 0;  // every byte can be read
        for (const std::byte byte : tensor.bytes) sum = static_cast<std::uint8_t>(sum ^ std::to_integer<int>(byte));
        volatile std::uint8_t sink = sum;
        static_cast<void>(sink);
      }
    } else {
      riverhorse::read_pickle(bytes, "input");
    }
  } catch (const riverhorse::Error&) {
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  const std::string floats = text::storage("FloatStorage", "0", 4);
  const std::string pickle = text::program(
      text::dictionary({{"a", text::tensor(floats, 0, {2, 2}, {2, 1})},
                        {"b", text::tensor(floats, 1, {2}, {2})},
                        {"n", text::dictionary({{"i", text::integer(3)}, {"l", text::list({text::integer(1)})}})},
                        {"o", text::call(text::global("argparse", "Namespace"), {}) + text::dictionary({}) + "b"}}));
  const std::map<std::string, std::string> storages = {{"0", std::string(16, '\1')}};
  std::vector<std::string> seeds = {pickle, test::torch_bytes(pickle, storages),
                                    test::torch_bytes(pickle, storages, true)};
  for (const test::BadFile& file : test::bad_zip_files()) {
    if (file.name.starts_with("bomb")) continue;
    const std::string bytes = file.make();
    if (bytes.size() < 4096) seeds.push_back(bytes);
  }
  return seeds;
}
