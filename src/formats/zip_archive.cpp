#include "formats/zip_archive.h"

#include <zip.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t entry_limit = 100'000;
constexpr std::uint64_t name_limit = 1024;
constexpr std::uint32_t directory_end_signature = 0x06054b50;
constexpr std::uint32_t directory_end_64_signature = 0x06064b50;
constexpr std::uint32_t locator_64_signature = 0x07064b50;
constexpr std::uint32_t directory_entry_signature = 0x02014b50;
constexpr std::uint32_t local_header_signature = 0x04034b50;
constexpr std::uint64_t directory_end_size = 22;
constexpr std::uint64_t locator_64_size = 20;
constexpr std::uint64_t directory_end_64_size = 56;
constexpr std::uint64_t directory_entry_size = 46;
constexpr std::uint64_t local_header_size = 30;
constexpr std::uint16_t zip64_extra_id = 1;
constexpr std::uint32_t in_zip64 = 0xffffffffu;  // "the real value is in the zip64 field"

// Little-endian fields of an archive, every access checked.
class Fields {
 public:
  Fields(std::span<const std::byte> bytes, const std::string& origin) : bytes_(bytes), origin_(origin) {}

  [[noreturn]] void bad(const std::string& reason) const {
    fail(StatusCode::bad_file, "{}: damaged zip archive: {}", origin_, reason);
  }
  void need(std::uint64_t offset, std::uint64_t size, const char* what) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset) bad(fmt::format("{} lies outside the file", what));
  }
  template <typename Value>
  Value get(std::uint64_t offset, const char* what) const {
    need(offset, sizeof(Value), what);
    Value value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(Value));
    return value;
  }
  std::string text(std::uint64_t offset, std::uint64_t size, const char* what) const {
    need(offset, size, what);
    return {reinterpret_cast<const char*>(bytes_.data()) + offset, static_cast<std::size_t>(size)};
  }
  std::uint64_t size() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
  const std::string& origin_;
};

struct Directory {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::uint64_t count = 0;
};

// The end record is the last thing in the file but for a comment of at most 65535 bytes.
Directory find_directory(const Fields& fields) {
  if (fields.size() < directory_end_size) fields.bad("too short");
  std::uint64_t end = fields.size() - directory_end_size;
  const std::uint64_t first = end > 0xffff ? end - 0xffff : 0;
  while (fields.get<std::uint32_t>(end, "the end") != directory_end_signature ||
         fields.get<std::uint16_t>(end + 20, "the end") != fields.size() - end - directory_end_size) {
    if (end == first) fields.bad("no directory at its end (truncated?)");
    --end;
  }
  Directory directory;
  directory.count = fields.get<std::uint16_t>(end + 10, "the end");
  directory.size = fields.get<std::uint32_t>(end + 12, "the end");
  directory.offset = fields.get<std::uint32_t>(end + 16, "the end");
  const bool has_locator =
      end >= locator_64_size && fields.get<std::uint32_t>(end - locator_64_size, "the end") == locator_64_signature;
  if (has_locator) {
    const auto end_64 = fields.get<std::uint64_t>(end - locator_64_size + 8, "the zip64 locator");
    fields.need(end_64, directory_end_64_size, "the zip64 end record");
    if (fields.get<std::uint32_t>(end_64, "the zip64 end record") != directory_end_64_signature) {
      fields.bad("the zip64 end record is not where it should be");
    }
    directory.count = fields.get<std::uint64_t>(end_64 + 32, "the zip64 end record");
    directory.size = fields.get<std::uint64_t>(end_64 + 40, "the zip64 end record");
    directory.offset = fields.get<std::uint64_t>(end_64 + 48, "the zip64 end record");
  }
  fields.need(directory.offset, directory.size, "the directory");
  if (directory.count > entry_limit) {
    fields.bad(fmt::format("{} entries, more than the limit of {}", directory.count, entry_limit));
  }
  if (directory.count * directory_entry_size > directory.size) fields.bad("more entries than the directory can hold");
  return directory;
}

// Replaces the fields that are all ones by those of the zip64 extra field, which holds them in this order.
void apply_zip64(const Fields& fields, std::uint64_t extra, std::uint64_t extra_size, std::uint64_t& size,
                 std::uint64_t& packed, std::uint64_t& header) {
  const std::uint64_t extra_end = extra + extra_size;
  while (extra_end - extra >= 4) {
    const auto id = fields.get<std::uint16_t>(extra, "an extra field");
    const auto length = fields.get<std::uint16_t>(extra + 2, "an extra field");
    extra += 4;
    if (length > extra_end - extra) fields.bad("an extra field is too long");
    if (id == zip64_extra_id) {
      std::uint64_t position = extra;
      for (std::uint64_t* value : {&size, &packed, &header}) {
        if (*value != in_zip64) continue;
        if (position + 8 > extra + length) fields.bad("a zip64 field is too short");
        *value = fields.get<std::uint64_t>(position, "a zip64 field");
        position += 8;
      }
      return;
    }
    extra += length;
  }
}

}  // namespace

ZipArchive::ZipArchive(std::span<const std::byte> bytes, std::string origin)
    : bytes_(bytes), origin_(std::move(origin)) {
  walk_directory();
  open_with_libzip();
}

ZipArchive::~ZipArchive() {
  if (handle_ != nullptr) zip_discard(handle_);
}

void ZipArchive::walk_directory() {
  const Fields fields(bytes_, origin_);
  const Directory directory = find_directory(fields);
  struct Range {
    std::uint64_t begin, end;
    bool operator<(const Range& other) const { return begin < other.begin; }
  };
  std::vector<Range> ranges;
  std::uint64_t at = directory.offset;
  for (std::uint64_t index = 0; index < directory.count; ++index) {
    constexpr const char* what = "a directory entry";
    if (fields.get<std::uint32_t>(at, what) != directory_entry_signature)
      fields.bad("a directory entry is malformed");
    const auto flags = fields.get<std::uint16_t>(at + 8, what);
    const auto method = fields.get<std::uint16_t>(at + 10, what);
    ZipEntry entry;
    entry.index = index;
    entry.packed_bytes = fields.get<std::uint32_t>(at + 20, what);
    entry.size_bytes = fields.get<std::uint32_t>(at + 24, what);
    const auto name_size = fields.get<std::uint16_t>(at + 28, what);
    const auto extra_size = fields.get<std::uint16_t>(at + 30, what);
    const auto comment_size = fields.get<std::uint16_t>(at + 32, what);
    std::uint64_t header = fields.get<std::uint32_t>(at + 42, what);
    if (name_size > name_limit) fields.bad(fmt::format("an entry name of {} bytes", name_size));
    const std::string name = fields.text(at + directory_entry_size, name_size, what);
    fields.need(at + directory_entry_size + name_size, extra_size, what);
    apply_zip64(fields, at + directory_entry_size + name_size, extra_size, entry.size_bytes, entry.packed_bytes,
                header);
    at += directory_entry_size + name_size + extra_size + comment_size;

    if ((flags & 1u) != 0) fields.bad(fmt::format("entry {} is encrypted", name));
    if (method != ZIP_CM_STORE && method != ZIP_CM_DEFLATE) {
      fields.bad(fmt::format("entry {} uses compression method {}, which is not supported", name, method));
    }
    entry.stored = method == ZIP_CM_STORE;
    fields.need(header, local_header_size, "a local header");
    if (fields.get<std::uint32_t>(header, "a local header") != local_header_signature) {
      fields.bad(fmt::format("entry {} has no local header", name));
    }
    entry.data_offset = header + local_header_size + fields.get<std::uint16_t>(header + 26, "a local header") +
                        fields.get<std::uint16_t>(header + 28, "a local header");
    fields.need(entry.data_offset, entry.packed_bytes, "an entry's data");
    if (entry.stored && entry.size_bytes != entry.packed_bytes) {
      fields.bad(fmt::format("stored entry {} has two sizes, {} and {}", name, entry.size_bytes, entry.packed_bytes));
    }
    ranges.push_back({header, entry.data_offset + entry.packed_bytes});
    if (!entries_.emplace(name, entry).second) fields.bad(fmt::format("two entries are named {}", name));
  }
  // Entries that share bytes are how small archives claim to be huge.
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].begin < ranges[i - 1].end) fields.bad("two entries overlap");
  }
}

void ZipArchive::open_with_libzip() {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(bytes_.data(), bytes_.size(), 0, &error);
  if (source != nullptr) {
    handle_ = zip_open_from_source(source, ZIP_RDONLY, &error);
    if (handle_ == nullptr) zip_source_free(source);
  }
  const std::string reason = handle_ == nullptr ? zip_error_strerror(&error) : "";
  zip_error_fini(&error);
  if (handle_ == nullptr) fail(StatusCode::bad_file, "{}: damaged zip archive: {}", origin_, reason);

  bool agreed = static_cast<std::uint64_t>(zip_get_num_entries(handle_, 0)) == entries_.size();
  for (auto entry = entries_.begin(); agreed && entry != entries_.end(); ++entry) {
    zip_stat_t status;
    zip_stat_init(&status);
    agreed = zip_stat_index(handle_, entry->second.index, ZIP_FL_ENC_RAW, &status) == 0 &&
             entry->first == status.name && entry->second.size_bytes == status.size &&
             entry->second.packed_bytes == status.comp_size;
  }
  if (!agreed) {
    zip_discard(std::exchange(handle_, nullptr));
    fail(StatusCode::bad_file, "{}: damaged zip archive: its directory is ambiguous", origin_);
  }
}

std::span<const std::byte> ZipArchive::stored_bytes(const ZipEntry& entry) const {
  return bytes_.subspan(static_cast<std::size_t>(entry.data_offset), static_cast<std::size_t>(entry.size_bytes));
}

std::vector<std::byte> ZipArchive::read(const std::string& name, const ZipEntry& entry) const {
  zip_file_t* file = zip_fopen_index(handle_, entry.index, 0);
  if (file == nullptr) {
    fail(StatusCode::bad_file, "{}: entry {} cannot be read: {}", origin_, name, zip_strerror(handle_));
  }
  std::vector<std::byte> data(static_cast<std::size_t>(entry.size_bytes));
  // One byte more is asked for at the end: that is when libzip compares length and checksum.
  std::uint64_t done = 0;
  std::string reason;
  while (done < data.size()) {
    const zip_int64_t count = zip_fread(file, data.data() + done, data.size() - done);
    if (count <= 0) {
      reason = count < 0 ? zip_file_strerror(file) : "it ends early";
      break;
    }
    done += static_cast<std::uint64_t>(count);
  }
  std::byte extra;
  if (reason.empty()) {
    const zip_int64_t count = zip_fread(file, &extra, 1);
    if (count < 0) reason = zip_file_strerror(file);
    if (count > 0) reason = "it is longer than declared";
  }
  zip_fclose(file);
  if (!reason.empty()) fail(StatusCode::bad_file, "{}: entry {} is damaged: {}", origin_, name, reason);
  return data;
}

}  // namespace riverhorse
