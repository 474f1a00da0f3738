#include <fmt/core.h>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"

namespace riverhorse::test {
namespace {

using namespace pickle_text;

BadFile archive(const std::string& name, const std::function<std::string()>& make,
                std::vector<std::string> expected) {
  return {name, FileKind::pytorch, make, std::move(expected)};
}

// One tensor "w" of `count` floats.
std::string one_tensor(std::int64_t count) {
  return program(dictionary({{"w", tensor(storage("FloatStorage", "0", count), 0, {count}, {1})}}));
}

std::string good() { return torch_bytes(one_tensor(4), {{"0", std::string(16, '\x01')}}); }

// Overwrites bytes at an offset from `anchor`, the last place where that text stands.
std::string patched(std::string bytes, const std::string& anchor, std::size_t offset, const std::string& with) {
  const std::size_t position = bytes.rfind(anchor);
  return bytes.replace(position + offset, with.size(), with);
}

const std::string directory_entry = "PK\x01\x02";
const std::string local_header = "PK\x03\x04";
const std::string directory_end = "PK\x05\x06";

}  // namespace

std::vector<BadFile> bad_zip_files() {
  std::vector<BadFile> files = {
      archive("empty file", [] { return std::string(); }, {"not a zip archive"}),
      archive("text", [] { return std::string("hello"); }, {"not a zip archive"}),
      archive("a pickle without an archive", [] { return program("}"); }, {"before PyTorch 1.6"}),
      archive("an HTML page", [] { return std::string("<!DOCTYPE html><title>404</title>"); }, {"not a zip archive"}),
      archive("magic only", [] { return local_header; }, {"too short"}),
      archive("no data.pkl",
              [] {
                return zip_bytes({{"archive/version", "3\n"}});
              },
              {"without data.pkl"}),
      archive("two data.pkl",
              [] {
                return zip_bytes({{"a/data.pkl", "x"}, {"b/data.pkl", "x"}});
              },
              {"more than one data.pkl"}),
      archive("a TorchScript program",
              [] {
                return zip_bytes({{"a/data.pkl", program("}")}, {"a/constants.pkl", program(")")}});
              },
              {"TorchScript"}),
      archive("big-endian",
              [] {
                return zip_bytes({{"a/data.pkl", program("}")}, {"a/byteorder", "big"}});
              },
              {"little-endian"}),
      archive("bomb: a pickle of 40 MB",
              [] {
                return zip_bytes({{"archive/data.pkl", std::string(40'000'000, 'N'), true}});
              },
              {"data.pkl", "limit"}),
      archive("bomb: a tensor of 40 MB",
              [] {
                return torch_bytes(one_tensor(10'000'000), {{"0", std::string(40'000'000, '\0')}}, true);
              },
              {"archive/data/0", "zip bomb"}),
      archive("bomb: forty tensors of 4 MB",
              [] {
                std::vector<std::pair<std::string, std::string>> tensors;
                std::map<std::string, std::string> storages;
                for (int i = 0; i < 40; ++i) {
                  const std::string key = std::to_string(i);
                  tensors.emplace_back("w" + key,
                                       tensor(storage("FloatStorage", key, 1'000'000), 0, {1'000'000}, {1}));
                  storages[key] = std::string(4'000'000, '\0');
                }
                return torch_bytes(program(dictionary(tensors)), storages, true);
              },
              {"zip bomb"}),
      archive("deflated data damaged",
              [] {
                std::string bytes = torch_bytes(one_tensor(4096), {{"0", std::string(16384, '\x07')}}, true);
                const std::size_t position = bytes.find("archive/data/0") + 20;
                for (std::size_t i = 0; i < 8; ++i) bytes[position + i] = '\xff';
                return bytes;
              },
              {"archive/data/0", "damaged"}),
      archive("pickle changed after its checksum", [] { return patched(good(), "FloatStorage", 0, "HalfStorage\n"); },
              {"data.pkl", "damaged"}),
      archive("no directory", [] { return replaced(good(), directory_end, "PKxx"); }, {"no directory"}),
      archive("directory outside the file",
              [] { return patched(good(), directory_end, 16, little_endian(0x7fffffff, 4)); }, {"outside the file"}),
      archive("more entries than the directory holds",
              [] { return patched(good(), directory_end, 8, little_endian(60'000, 2) + little_endian(60'000, 2)); },
              {"more entries"}),
      archive("directory entry malformed", [] { return patched(good(), directory_entry, 0, "PKxx"); }, {"malformed"}),
      archive("local header outside the file",
              [] { return patched(good(), directory_entry, 42, little_endian(0x7fffff00, 4)); },
              {"outside the file"}),
      archive("local header that is none", [] { return patched(good(), directory_entry, 42, little_endian(1, 4)); },
              {"no local header"}),
      archive("entry larger than the file",
              [] {
                return patched(good(), directory_entry, 20,
                               little_endian(0x7fffff00, 4) + little_endian(0x7fffff00, 4));
              },
              {"outside the file"}),
      archive("stored entry of two sizes",
              [] { return patched(good(), directory_entry, 24, little_endian(1'000'000, 4)); }, {"two sizes"}),
      archive("encrypted", [] { return patched(good(), directory_entry, 8, little_endian(1, 2)); }, {"encrypted"}),
      archive("compressed by another method",
              [] { return patched(good(), directory_entry, 10, little_endian(12, 2)); }, {"compression method 12"}),
      archive("two entries on the same bytes",
              [] { return patched(good(), directory_entry, 42, little_endian(0, 4)); }, {"damaged zip archive"}),
  };
  for (const double fraction : {0.01, 0.1, 0.3, 0.5, 0.8, 0.95, 0.999}) {
    files.push_back(archive(fmt::format("cut at {}", fraction),
                            [fraction] {
                              const std::string whole = torch_bytes(small_tensors());
                              const double length = fraction * static_cast<double>(whole.size());
                              return whole.substr(0, static_cast<std::size_t>(length));
                            },
                            {"zip archive"}));
  }
  return files;
}

}  // namespace riverhorse::test
