// Documents from text files, one after the other:
//   .txt          the file is a document; UTF-8
//   .csv          a document a row, from one column
//   .json         an array of objects, with the text in one field, or of strings
//   .jsonl        an object or a string a line
// A byte order mark at the start of a file is dropped. A row that cannot be used (no such field, no text, not valid
// UTF-8, ...) is left out, counted, and named in a warning with file and line; after many of them the warnings stop.
// A .txt file that is not valid UTF-8, and a file whose rest cannot be trusted, are errors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "data/text_rows.h"

namespace riverhorse {

struct TextInputs {
  std::vector<std::string> paths;  // files or patterns (*, ?, [...]), whose matches come sorted by name
  std::string column = "text";     // of .csv files
  std::string field = "text";      // of .json and .jsonl files
  bool warn = true;                // of rows left out; a second pass over the same files need not
};

struct TextDocument {
  std::string_view text;              // valid UTF-8, not empty
  std::shared_ptr<const void> owner;  // keeps the text alive
};

// A .txt, .csv, .json or .jsonl file, by its name.
bool is_text_file(const std::filesystem::path& path);

// The files that `paths` stand for. A name that is a file is that file, whatever characters it has.
// Errors: not_found when nothing fits; invalid_argument for a folder and for a kind of file that is not known.
std::vector<std::filesystem::path> find_text_files(const std::vector<std::string>& paths);

// One pass over the files, which are mapped one at a time. Not for several threads at once.
class TextDocuments {
 public:
  // Errors: as find_text_files; invalid_argument when there is no path.
  explicit TextDocuments(const TextInputs& inputs);

  // False at the end. Errors: not_found, io_error, bad_file.
  bool next(TextDocument& document);

  std::uint64_t bytes_read() const;
  std::uint64_t bytes_total() const { return bytes_total_; }
  std::uint64_t rows_left_out() const { return rows_left_out_; }

 private:
  void open_file();
  void leave_out(std::size_t line, const std::string& why);

  TextInputs inputs_;
  std::vector<std::filesystem::path> files_;
  std::size_t next_file_ = 0;
  std::shared_ptr<const MappedFile> file_;  // null between files
  std::unique_ptr<TextRows> rows_;          // null for .txt
  std::uint64_t bytes_before_ = 0;          // of the files done
  std::uint64_t bytes_total_ = 0;
  std::uint64_t rows_left_out_ = 0;
};

}  // namespace riverhorse
