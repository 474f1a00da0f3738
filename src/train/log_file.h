// A log of a training: a row of text for a step, added while it goes.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

namespace riverhorse {

class LogFile {
 public:
  // Goes on after `step` steps: rows of later ones, and one that a crash cut short, are removed; 0 starts anew. The
  // first number of a row is its step; a file without rows begins with `header`, a line or nothing. Errors: io_error.
  LogFile(std::filesystem::path path, std::int64_t step, const std::string& header = {});

  // `row` ends with a new line. Errors: io_error.
  void add(const std::string& row);
  void sync();  // to the disk

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Closer> file_;
};

}  // namespace riverhorse
