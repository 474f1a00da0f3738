#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "data/text_rows.h"
#include "data/utf8.h"

namespace riverhorse {
namespace {

class CsvRows final : public TextRows {
 public:
  CsvRows(std::string_view bytes, const std::string& name, const std::string& column) : bytes_(bytes), name_(name) {
    std::vector<std::string> names;
    skip_empty_lines();
    const std::string problem = read_record([&](std::size_t) {
      names.emplace_back();
      return &names.back();
    });
    if (!problem.empty()) fail(StatusCode::bad_file, "{}: the names of the columns: {}", name_, problem);
    const auto found = std::find(names.begin(), names.end(), column);
    if (found == names.end()) {
      fail(StatusCode::bad_file, "{}: there is no column \"{}\"; the first row names {}", name_, column,
           listing(names));
    }
    if (std::find(found + 1, names.end(), column) != names.end()) {
      fail(StatusCode::bad_file, "{}: two columns are called \"{}\"", name_, column);
    }
    column_ = static_cast<std::size_t>(found - names.begin());
    columns_ = names.size();
  }

  bool next(TextRow& row) override {
    skip_empty_lines();
    if (offset_ == bytes_.size()) return false;
    row.line = line_;
    row.text.clear();
    std::size_t fields = 0;
    row.problem = read_record([&](std::size_t index) {
      fields = index + 1;
      return index == column_ ? &row.text : nullptr;
    });
    if (row.problem.empty() && fields != columns_) {
      row.problem = fmt::format("{} fields where the first row has {}", fields, columns_);
    }
    if (row.problem.empty() && valid_utf8_length(row.text, 0) != row.text.size()) row.problem = "not valid UTF-8";
    return true;
  }

  std::size_t bytes_read() const override { return offset_; }

 private:
  static std::string listing(const std::vector<std::string>& names) {
    constexpr std::size_t kMost = 20, kLongest = 40;
    std::string result;
    for (std::size_t i = 0; i < std::min(names.size(), kMost); ++i) {
      std::string name = names[i].substr(0, kLongest);
      std::replace_if(
          name.begin(), name.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
      result += fmt::format("{}\"{}\"", i == 0 ? "" : ", ", name);
    }
    return result + (names.size() > kMost ? ", ..." : "");
  }

  char at(std::size_t offset) const { return offset < bytes_.size() ? bytes_[offset] : '\0'; }

  // Bytes of the line break at `offset`: 0, 1 or 2.
  std::size_t line_break(std::size_t offset) const {
    if (at(offset) == '\n') return 1;
    return at(offset) == '\r' && at(offset + 1) == '\n' ? 2 : 0;
  }

  void skip_empty_lines() {
    while (const std::size_t length = line_break(offset_)) {
      offset_ += length;
      ++line_;
    }
  }

  // Reads one record and its line break. `target(index)` says where the field goes, null for nowhere. Returns what is
  // wrong with the record, which is then skipped up to the end of its line.
  template <typename Target>
  std::string read_record(const Target& target) {
    std::string problem;
    for (std::size_t index = 0;; ++index) {
      std::string* field = target(index);
      if (at(offset_) == '"') {
        read_quoted(field);
        if (problem.empty() && offset_ < bytes_.size() && at(offset_) != ',' && line_break(offset_) == 0) {
          problem = fmt::format("field {} goes on after its closing quote", index + 1);
        }
      }
      const std::size_t begin = offset_;
      while (offset_ < bytes_.size() && bytes_[offset_] != ',' && line_break(offset_) == 0) {
        if (problem.empty() && bytes_[offset_] == '"') {
          problem = fmt::format("field {} has a quote inside but is not in quotes", index + 1);
        }
        ++offset_;
      }
      if (field != nullptr) field->append(bytes_.substr(begin, offset_ - begin));
      if (at(offset_) != ',' || offset_ == bytes_.size()) break;
      ++offset_;
    }
    if (const std::size_t length = line_break(offset_)) {
      offset_ += length;
      ++line_;
    }
    return problem;
  }

  void read_quoted(std::string* field) {
    const std::size_t first_line = line_;
    for (++offset_;; ++offset_) {
      const std::size_t quote = bytes_.find('"', offset_);
      if (quote == std::string_view::npos) {
        fail(StatusCode::bad_file, "{}:{}: a quoted field is never closed", name_, first_line);
      }
      const std::string_view part = bytes_.substr(offset_, quote - offset_);
      line_ += static_cast<std::size_t>(std::count(part.begin(), part.end(), '\n'));
      if (field != nullptr) field->append(part);
      offset_ = quote + 1;
      if (at(offset_) != '"') return;
      if (field != nullptr) field->push_back('"');  // a doubled quote
    }
  }

  std::string_view bytes_;
  std::string name_;
  std::size_t offset_ = 0;
  std::size_t line_ = 1;
  std::size_t column_ = 0;
  std::size_t columns_ = 0;
};

}  // namespace

std::unique_ptr<TextRows> make_csv_rows(std::string_view bytes, const std::string& name, const std::string& column) {
  return std::make_unique<CsvRows>(bytes, name, column);
}

}  // namespace riverhorse
