// Zip archives that are not trusted, read from memory.
//
// The directory is walked here, because the place of stored data in the file (needed for zero-copy views) is not
// something libzip tells; libzip then opens the same bytes, must agree with the walk on every entry, and does the
// reading with its checksum test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

struct zip;

namespace riverhorse {

struct ZipEntry {
  std::uint64_t index = 0;  // in the directory
  std::uint64_t size_bytes = 0;
  std::uint64_t packed_bytes = 0;
  std::uint64_t data_offset = 0;  // in the archive
  bool stored = false;            // else deflated
};

class ZipArchive {
 public:
  // `bytes` must outlive the archive. Errors: bad_file, beginning with `origin`.
  ZipArchive(std::span<const std::byte> bytes, std::string origin);
  ~ZipArchive();
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;

  const std::map<std::string, ZipEntry>& entries() const { return entries_; }

  // The data of a stored entry, in place; its checksum is not looked at.
  std::span<const std::byte> stored_bytes(const ZipEntry& entry) const;
  // The data of any entry, checksum verified. The entry's size is allocated: the caller has judged it.
  std::vector<std::byte> read(const std::string& name, const ZipEntry& entry) const;

 private:
  void walk_directory();
  void open_with_libzip();

  std::span<const std::byte> bytes_;
  std::string origin_;
  std::map<std::string, ZipEntry> entries_;
  zip* handle_ = nullptr;
};

}  // namespace riverhorse
