// The rows of the tasks, from .jsonl files.
#include <algorithm>
#include <functional>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/evaluation_tasks.h"
#include "formats/json.h"

namespace riverhorse {
namespace {

using Json = nlohmann::json;
constexpr std::int64_t kMostWarnings = 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Errors name the field; for_each_row puts file and line before them.
const Json& field_of(const Json& row, const char* name) {
  if (!row.is_object()) fail(StatusCode::bad_file, "the row is {}, not an object", row.type_name());
  const auto found = row.find(name);
  if (found == row.end()) fail(StatusCode::bad_file, "there is no field \"{}\"", name);
  return *found;
}

std::string text_field(const Json& row, const char* name) {
  const Json& value = field_of(row, name);
  if (!value.is_string()) fail(StatusCode::bad_file, "the field \"{}\" is {}, not a string", name, value.type_name());
  return value.get<std::string>();
}

// Calls use(row, "file:line") for the first rows of the file; what it throws with bad_file is what is wrong with one.
void for_each_row(const std::filesystem::path& path, std::int64_t limit,
                  const std::function<void(const Json&, const std::string& place)>& use) {
  const MappedFile file(path);
  std::string_view rest(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (rest.starts_with(kByteOrderMark)) rest.remove_prefix(kByteOrderMark.size());
  std::int64_t rows = 0, bad = 0;
  for (std::int64_t line = 1; !rest.empty() && (limit == 0 || rows < limit); ++line) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(text.size() + 1, rest.size()));
    if (text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    ++rows;
    const std::string place = fmt::format("{}:{}", path.string(), line);
    try {
      use(parse_json(text, "the row"), place);
    } catch (const Error& error) {
      if (error.code() != StatusCode::bad_file) throw;
      if (++bad <= kMostWarnings) log_warning(fmt::format("{}: {}", place, error.what()));
    }
  }
  if (rows == 0) fail(StatusCode::bad_file, "{}: there is no row in it", path.string());
  if (bad > 0) {
    fail(StatusCode::bad_file, "{}: {} of {} rows cannot be used; correct or remove them", path.string(), bad, rows);
  }
}

LastWordRow last_word_row(const Json& row, const std::string& place) {
  const std::string text = text_field(row, "text");
  const std::size_t space = text.rfind(' ');
  if (space == std::string::npos || space == 0) {
    fail(StatusCode::bad_file,
         "the field \"text\" has no space with a text before it, and so no last word to split off");
  }
  if (space + 1 == text.size()) fail(StatusCode::bad_file, "the field \"text\" ends with a space, not with a word");
  return {place, text.substr(0, space), text.substr(space)};
}

ChoiceRow choice_row(const Json& row, const std::string& place) {
  ChoiceRow result{place, text_field(row, "context"), {}, 0};
  const Json& choices = field_of(row, "choices");
  if (!choices.is_array() || choices.size() < 2) {
    fail(StatusCode::bad_file, "the field \"choices\" is not an array of at least two strings");
  }
  for (const Json& choice : choices) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty()) {
      fail(StatusCode::bad_file, "the field \"choices\": element {} is no string with a text in it",
           result.choices.size());
    }
    result.choices.push_back(choice.get<std::string>());
  }
  const Json& answer = field_of(row, "answer");
  if (!answer.is_number_unsigned() || answer.get<std::uint64_t>() >= choices.size()) {
    fail(StatusCode::bad_file, "the field \"answer\" is {}, not the index of a choice, 0 to {}",
         answer.dump(-1, ' ', true).substr(0, 40), choices.size() - 1);
  }
  result.answer = answer.get<std::size_t>();
  return result;
}

}  // namespace

std::vector<LastWordRow> read_last_word_rows(const std::filesystem::path& path, std::int64_t limit) {
  std::vector<LastWordRow> rows;
  for_each_row(path, limit,
               [&](const Json& row, const std::string& place) { rows.push_back(last_word_row(row, place)); });
  return rows;
}

std::vector<ChoiceRow> read_choice_rows(const std::filesystem::path& path, std::int64_t limit) {
  std::vector<ChoiceRow> rows;
  for_each_row(path, limit,
               [&](const Json& row, const std::string& place) { rows.push_back(choice_row(row, place)); });
  return rows;
}

}  // namespace riverhorse
