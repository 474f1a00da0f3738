// Files: mapping for reading, and writing that leaves either the old file or the new one, never half of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace riverhorse {

// A whole file mapped read-only. Immutable and movable; the bytes live as long as the object.
class MappedFile {
 public:
  // Errors: not_found, io_error. An empty file maps to an empty span.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

  // Takes the whole pages of `part`, which may be of other memory too, out of this process's memory; they come back
  // from the file when they are read again.
  void drop_pages(std::span<const std::byte> part) const;

 private:
  std::filesystem::path path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Reads a text file whole. Errors: not_found, io_error, bad_file when larger than `limit_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t limit_bytes);

// Makes a folder, and those it is in, where they are absent. Errors: io_error.
void make_folder(const std::filesystem::path& folder);

// Keeps a folder to this process while it lives; the system lets go of it however the process ends. Where the file
// system has no locks, it is none.
class FolderLock {
 public:
  explicit FolderLock(const std::filesystem::path& folder);  // io_error when another process has it
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

// Makes what was renamed or made in a folder survive a power cut; a file system that cannot is not an error.
void sync_folder(const std::filesystem::path& folder);

// Writes to `<path>.tmp-<pid>-<n>`, syncs, and renames to `path` in commit(). Destroyed without commit(), it
// removes the temporary file and leaves what was at `path`.
class AtomicFileWriter {
 public:
  explicit AtomicFileWriter(std::filesystem::path path);  // io_error when the folder cannot be written
  ~AtomicFileWriter();
  AtomicFileWriter(const AtomicFileWriter&) = delete;
  AtomicFileWriter& operator=(const AtomicFileWriter&) = delete;

  void write(std::span<const std::byte> bytes);  // io_error, the disk-full case included
  void write(std::string_view text);
  // Replaces bytes written before: headers with sizes that are known last. The next write() goes on at the end.
  void overwrite(std::uint64_t offset, std::span<const std::byte> bytes);
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_path_;
  int descriptor_ = -1;
};

}  // namespace riverhorse
