#include "train/log_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t log_limit_bytes = std::uint64_t{16} << 30;

// A line without a number is the header.
std::int64_t step_of(const std::string& line) {
  const std::size_t digit = line.find_first_of("0123456789");
  return digit == std::string::npos ? 0 : std::strtoll(line.c_str() + digit, nullptr, 10);
}

// The whole lines of at most `step`.
std::string rows_until(const std::string& text, std::int64_t step) {
  std::string kept;
  for (std::size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = text.substr(begin, end + 1 - begin);
    if (step_of(line) <= step) kept += line;
  }
  return kept;
}

}  // namespace

LogFile::LogFile(std::filesystem::path path, std::int64_t step, const std::string& header) : path_(std::move(path)) {
  std::error_code ignored;
  std::string rows;
  if (step > 0 && std::filesystem::exists(path_, ignored)) {
    rows = rows_until(read_text_file(path_, log_limit_bytes), step);
  }
  if (rows.empty()) rows = header;
  AtomicFileWriter writer(path_);
  writer.write(rows);
  writer.commit();
  file_.reset(std::fopen(path_.c_str(), "ae"));
  if (!file_) fail(StatusCode::io_error, "cannot write {}: {}", path_.string(), std::strerror(errno));
}

void LogFile::add(const std::string& row) {
  if (std::fwrite(row.data(), 1, row.size(), file_.get()) != row.size() || std::fflush(file_.get()) != 0) {
    fail(StatusCode::io_error, "cannot write {}: {}", path_.string(), std::strerror(errno));
  }
}

void LogFile::sync() { ::fsync(::fileno(file_.get())); }

}  // namespace riverhorse
