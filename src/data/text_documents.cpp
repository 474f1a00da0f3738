#include "data/text_documents.h"

#include <glob.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "data/utf8.h"

namespace riverhorse {
namespace {

constexpr std::uint64_t kMostWarnings = 20;

std::string extension_of(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& letter : extension) letter = letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter;
  return extension;
}

std::vector<std::string> matches_of(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> result(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (status != 0 && status != GLOB_NOMATCH) {
    fail(StatusCode::io_error, "cannot look for files that fit {}", pattern);
  }
  std::sort(result.begin(), result.end());  // by bytes: the same order in every language
  return result;
}

std::string_view without_byte_order_mark(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  return text;
}

void check_utf8(std::string_view text, const std::filesystem::path& path) {
  const std::size_t valid = valid_utf8_length(text, 0);
  if (valid == text.size()) return;
  const auto line = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(valid), '\n') + 1;
  fail(StatusCode::bad_file, "{}:{}: byte {} ({:#04x}) is not valid UTF-8; convert the file to UTF-8", path.string(),
       line, valid, static_cast<unsigned char>(text[valid]));
}

}  // namespace

bool is_text_file(const std::filesystem::path& path) {
  const std::string extension = extension_of(path);
  return extension == ".txt" || extension == ".csv" || extension == ".json" || extension == ".jsonl";
}

std::vector<std::filesystem::path> find_text_files(const std::vector<std::string>& paths) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    std::error_code error;
    if (std::filesystem::exists(path, error)) {
      files.emplace_back(path);
      continue;
    }
    const std::vector<std::string> matches = matches_of(path);
    if (matches.empty()) fail(StatusCode::not_found, "there is no file {}", path);
    files.insert(files.end(), matches.begin(), matches.end());
  }
  for (const std::filesystem::path& file : files) {
    if (std::filesystem::is_directory(file)) {
      fail(StatusCode::invalid_argument, "{} is a folder; name its files, as in {}", file.string(),
           (file / "*.txt").string());
    }
    if (!is_text_file(file)) {
      fail(StatusCode::invalid_argument, "{}: text is read from .txt, .csv, .json and .jsonl files", file.string());
    }
  }
  return files;
}

TextDocuments::TextDocuments(const TextInputs& inputs) : inputs_(inputs), files_(find_text_files(inputs.paths)) {
  if (files_.empty()) fail(StatusCode::invalid_argument, "there is no file to read text from");
  for (const std::filesystem::path& file : files_) {
    std::error_code error;
    const std::uintmax_t size = std::filesystem::file_size(file, error);
    if (!error) bytes_total_ += size;  // opening it will say what is wrong
  }
}

std::uint64_t TextDocuments::bytes_read() const { return bytes_before_ + (rows_ ? rows_->bytes_read() : 0); }

void TextDocuments::leave_out(std::size_t line, const std::string& why) {
  ++rows_left_out_;
  if (!inputs_.warn || rows_left_out_ > kMostWarnings) return;
  log_warning(fmt::format("{}:{}: left out: {}", file_->path().string(), line, why));
  if (rows_left_out_ == kMostWarnings) log_warning("more rows that are left out are only counted");
}

void TextDocuments::open_file() {
  const std::filesystem::path& path = files_[next_file_++];
  file_ = std::make_shared<const MappedFile>(path);
  const std::string extension = extension_of(path);
  const std::string_view bytes = without_byte_order_mark(file_->bytes());
  rows_.reset();
  if (extension == ".csv") rows_ = make_csv_rows(bytes, path.string(), inputs_.column);
  if (extension == ".json") rows_ = make_json_rows(bytes, path.string(), inputs_.field);
  if (extension == ".jsonl") rows_ = make_json_line_rows(bytes, inputs_.field);
}

bool TextDocuments::next(TextDocument& document) {
  while (true) {
    if (rows_) {
      TextRow row;
      while (rows_->next(row)) {
        if (row.problem.empty() && row.text.empty()) row.problem = "the text is empty";
        if (!row.problem.empty()) {
          leave_out(row.line, row.problem);
          continue;
        }
        const auto text = std::make_shared<const std::string>(std::move(row.text));
        document = {*text, text};
        return true;
      }
      rows_.reset();
      bytes_before_ += file_->bytes().size();
    }
    if (next_file_ == files_.size()) return false;
    open_file();
    if (rows_) continue;
    bytes_before_ += file_->bytes().size();
    const std::string_view text = without_byte_order_mark(file_->bytes());
    check_utf8(text, file_->path());
    if (text.empty()) {
      leave_out(1, "the file is empty");
      continue;
    }
    document = {text, file_};
    return true;
  }
}

}  // namespace riverhorse
