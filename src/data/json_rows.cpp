// Rows of JSON. The text of a row is found by a parser of events, so that what surrounds it takes no memory.
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "data/text_rows.h"

namespace riverhorse {
namespace {

using Json = nlohmann::json;
constexpr int kDeepest = 64;

// Takes the string itself, or the string that is `field` of the outermost object.
class FieldFinder final : public nlohmann::json_sax<Json> {
 public:
  FieldFinder(const std::string& field, TextRow& row) : field_(field), row_(row) {}

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("true or false"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary"); }
  bool string(string_t& text) override {
    if (depth_ > 0 && !wanted_) return true;
    if (found_) return problem(fmt::format("the field \"{}\" is there twice", field_));
    row_.text = std::move(text);
    found_ = true;
    wanted_ = false;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0 && wanted_) return other("an object");
    return open();
  }
  bool key(string_t& name) override {
    wanted_ = depth_ == 1 && name == field_;
    return true;
  }
  bool start_array(std::size_t) override {
    if (depth_ == 0 || wanted_) return other("an array");
    return open();
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    // What the parser says goes on about the input's line, which is not the file's.
    const std::string_view what = error.what();
    const bool utf8 = what.find("UTF-8") != std::string_view::npos;
    return problem(fmt::format("{} at byte {} of the row", utf8 ? "not valid UTF-8" : "not valid JSON", position));
  }

  void finish() {
    if (row_.problem.empty() && !found_) problem(fmt::format("there is no field \"{}\"", field_));
  }

 private:
  bool problem(std::string what) {
    row_.problem = std::move(what);
    return false;
  }
  bool other(std::string_view type) {
    if (depth_ == 0) return problem(fmt::format("{}, not an object or a string", type));
    if (wanted_) return problem(fmt::format("the field \"{}\" is {}, not a string", field_, type));
    return true;
  }
  bool open() { return ++depth_ <= kDeepest || problem(fmt::format("nested more than {} deep", kDeepest)); }
  bool close() {
    --depth_;
    return true;
  }

  const std::string& field_;
  TextRow& row_;
  int depth_ = 0;
  bool wanted_ = false;  // the value that comes is the field's
  bool found_ = false;
};

void read_row(std::string_view bytes, const std::string& field, TextRow& row) {
  row.text.clear();
  row.problem.clear();
  FieldFinder finder(field, row);
  Json::sax_parse(bytes.begin(), bytes.end(), &finder);
  finder.finish();
}

bool is_space(char letter) { return letter == ' ' || letter == '\n' || letter == '\r' || letter == '\t'; }

class JsonLineRows final : public TextRows {
 public:
  JsonLineRows(std::string_view bytes, std::string field) : bytes_(bytes), field_(std::move(field)) {}

  bool next(TextRow& row) override {
    while (offset_ < bytes_.size()) {
      const std::size_t end = std::min(bytes_.find('\n', offset_), bytes_.size());
      std::string_view line = bytes_.substr(offset_, end - offset_);
      offset_ = std::min(end + 1, bytes_.size());
      ++line_;
      while (!line.empty() && is_space(line.back())) line.remove_suffix(1);
      if (line.empty()) continue;
      row.line = line_;
      read_row(line, field_, row);
      return true;
    }
    return false;
  }

  std::size_t bytes_read() const override { return offset_; }

 private:
  std::string_view bytes_;
  std::string field_;
  std::size_t offset_ = 0;
  std::size_t line_ = 0;
};

// Finds where each element of the array ends by its quotes and brackets alone; the element is then parsed by itself,
// so that a bad one does not spoil the others.
class JsonRows final : public TextRows {
 public:
  JsonRows(std::string_view bytes, std::string name, std::string field)
      : bytes_(bytes), name_(std::move(name)), field_(std::move(field)) {
    skip_space();
    if (offset_ == bytes_.size() || bytes_[offset_] != '[') {
      bad("not an array of objects or strings (one object a line is .jsonl)");
    }
    ++offset_;
    skip_space();
    if (offset_ < bytes_.size() && bytes_[offset_] == ']') finish();
  }

  bool next(TextRow& row) override {
    if (finished_) return false;
    skip_space();
    row.line = line_;
    const std::size_t begin = offset_;
    skip_element();
    read_row(bytes_.substr(begin, offset_ - begin), field_, row);
    if (bytes_[offset_] == ']') {
      finish();
    } else {
      ++offset_;
    }
    return true;
  }

  std::size_t bytes_read() const override { return offset_; }

 private:
  [[noreturn]] void bad(std::string_view what) const { fail(StatusCode::bad_file, "{}:{}: {}", name_, line_, what); }

  void step() {
    if (bytes_[offset_] == '\n') ++line_;
    ++offset_;
  }

  void skip_space() {
    while (offset_ < bytes_.size() && is_space(bytes_[offset_])) step();
  }

  // To the comma or the bracket behind the element.
  void skip_element() {
    std::size_t depth = 0;
    bool in_string = false;
    for (; offset_ < bytes_.size(); step()) {
      const char letter = bytes_[offset_];
      if (in_string) {
        if (letter == '\\' && offset_ + 1 < bytes_.size()) {
          step();  // and the character behind it
        } else if (letter == '"') {
          in_string = false;
        }
      } else if (letter == '"') {
        in_string = true;
      } else if (letter == '[' || letter == '{') {
        ++depth;
      } else if (depth == 0 && (letter == ',' || letter == ']')) {
        return;
      } else if (letter == ']' || letter == '}') {
        if (depth == 0) bad("a closing bracket that nothing opened");
        --depth;
      }
    }
    bad(in_string ? "the file ends inside a string" : "the file ends before the array does");
  }

  void finish() {
    ++offset_;
    skip_space();
    if (offset_ != bytes_.size()) bad("there is something behind the array");
    finished_ = true;
  }

  std::string_view bytes_;
  std::string name_, field_;
  std::size_t offset_ = 0;
  std::size_t line_ = 1;
  bool finished_ = false;
};

}  // namespace

std::unique_ptr<TextRows> make_json_rows(std::string_view bytes, const std::string& name, const std::string& field) {
  return std::make_unique<JsonRows>(bytes, name, field);
}

std::unique_ptr<TextRows> make_json_line_rows(std::string_view bytes, const std::string& field) {
  return std::make_unique<JsonLineRows>(bytes, field);
}

}  // namespace riverhorse
