#include "vulkan/pipeline_cache_file.h"

#include <array>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"

namespace riverhorse::vulkan {
namespace {

struct Header {
  std::array<char, 8> magic = {'R', 'I', 'V', 'E', 'R', 'P', 'S', 'O'};
  std::uint32_t version = 1;
  std::uint32_t key_bytes = 0;
  std::uint64_t key_hash = 0;  // of the key, which follows the header as text
  std::uint64_t blob_bytes = 0;
  std::uint64_t blob_hash = 0;
};
static_assert(sizeof(Header) == 40);

std::span<const std::byte> key_bytes(std::string_view key) {
  return std::as_bytes(std::span(key.data(), key.size()));
}

}  // namespace

std::vector<std::byte> read_pipeline_cache(const std::filesystem::path& path, std::string_view key) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return {};
  try {
    const MappedFile file(path);
    const std::span<const std::byte> bytes = file.bytes();
    Header header;
    const Header expected;
    if (bytes.size() < sizeof(header) + key.size()) return {};
    std::memcpy(&header, bytes.data(), sizeof(header));
    const std::span<const std::byte> found_key = bytes.subspan(sizeof(header), key.size());
    const std::span<const std::byte> blob = bytes.subspan(sizeof(header) + key.size());
    const bool right = header.magic == expected.magic && header.version == expected.version &&
                       header.key_bytes == key.size() && header.key_hash == hash_bytes(key_bytes(key)) &&
                       std::memcmp(found_key.data(), key.data(), key.size()) == 0 &&
                       header.blob_bytes == blob.size() && header.blob_hash == hash_bytes(blob);
    if (!right) return {};
    return {blob.begin(), blob.end()};
  } catch (const Error&) {
    return {};  // unreadable: as good as none
  }
}

void write_pipeline_cache(const std::filesystem::path& path, std::string_view key, std::span<const std::byte> blob) {
  Header header;
  header.key_bytes = static_cast<std::uint32_t>(key.size());
  header.key_hash = hash_bytes(key_bytes(key));
  header.blob_bytes = blob.size();
  header.blob_hash = hash_bytes(blob);
  AtomicFileWriter writer(path);
  writer.write(std::as_bytes(std::span(&header, 1)));
  writer.write(key_bytes(key));
  writer.write(blob);
  writer.commit();
}

}  // namespace riverhorse::vulkan
