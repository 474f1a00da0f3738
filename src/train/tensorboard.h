// Scalars for TensorBoard: event files, written by hand.
//
// An event file is a row of TFRecords (u64 length, masked CRC-32C of it, the bytes, masked CRC-32C of them; all
// little-endian) whose bytes are Event messages of protocol buffers. Three kinds are written: the version, which
// comes first; the start of a session, which makes TensorBoard forget what it saw of that step and later ones; and
// summaries of simple values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "train/log_file.h"

namespace riverhorse {

// CRC-32 with the polynomial of Castagnoli (RFC 3720, B.4).
std::uint32_t crc32c(std::span<const std::byte> bytes);

// One scalar of a step.
struct Scalar {
  std::string_view tag;  // "loss/train"
  double value = 0;
};

class TensorboardWriter {
 public:
  // A new file in `folder`, which is made if absent; goes on after `step` steps. 0 starts anew: the event files that
  // lie there are removed. Errors: io_error.
  TensorboardWriter(const std::filesystem::path& folder, std::int64_t step);

  void add(std::int64_t step, std::span<const Scalar> scalars);  // io_error
  void sync() { file_->sync(); }

 private:
  void write(const std::string& event);

  std::unique_ptr<LogFile> file_;
};

}  // namespace riverhorse
