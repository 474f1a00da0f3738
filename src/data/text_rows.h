// Files of many texts, a row each, read one row at a time from memory that somebody has mapped.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace riverhorse {

struct TextRow {
  std::size_t line = 0;  // where the row starts, from 1
  std::string text;
  std::string problem;  // why the row cannot be used; empty when it can
};

class TextRows {
 public:
  virtual ~TextRows() = default;
  // False at the end. Errors: bad_file where nothing that follows could be trusted.
  virtual bool next(TextRow& row) = 0;
  virtual std::size_t bytes_read() const = 0;
};

// `bytes`: the whole file, alive as long as the rows are. `name`: of the file, for messages.

// CSV as RFC 4180 has it: fields between commas, in double quotes where they hold commas, line breaks or (doubled)
// quotes; the first row names the columns. Lines end with LF or CRLF; empty ones are skipped.
// Errors: bad_file when there is no such column.
std::unique_ptr<TextRows> make_csv_rows(std::string_view bytes, const std::string& name, const std::string& column);
// One array of objects, which have the text in `field`, or of strings. Errors: bad_file when it is no array.
std::unique_ptr<TextRows> make_json_rows(std::string_view bytes, const std::string& name, const std::string& field);
// An object or a string a line; empty lines are skipped.
std::unique_ptr<TextRows> make_json_line_rows(std::string_view bytes, const std::string& field);

}  // namespace riverhorse
