#include "train/training_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/file.h"

namespace riverhorse {
namespace {

constexpr const char* csv_header =
    "step,loss,perplexity,learning_rate,gradient_norm,tokens_per_second,tokens,skipped,validation_loss\n";
constexpr std::uint64_t log_limit_bytes = std::uint64_t{16} << 30;

// Both kinds of rows begin with the step; a line without a number is the header.
std::int64_t step_of(std::string_view line) {
  const std::size_t digit = line.find_first_of("0123456789");
  return digit == std::string_view::npos ? 0 : std::strtoll(line.data() + digit, nullptr, 10);
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

void write_row(std::FILE* file, const std::string& row, const std::filesystem::path& folder) {
  if (std::fwrite(row.data(), 1, row.size(), file) != row.size() || std::fflush(file) != 0) {
    fail(StatusCode::io_error, "cannot write the log in {}: {}", folder.string(), std::strerror(errno));
  }
}

}  // namespace

double StepReport::perplexity() const { return std::exp(loss); }

TrainingLog::File TrainingLog::open(const std::filesystem::path& path, std::int64_t step) {
  std::error_code ignored;
  std::string rows;
  if (step > 0 && std::filesystem::exists(path, ignored)) {
    rows = rows_until(read_text_file(path, log_limit_bytes), step);
  }
  if (rows.empty() && path.extension() == ".csv") rows = csv_header;
  AtomicFileWriter writer(path);
  writer.write(rows);
  writer.commit();
  File file(std::fopen(path.c_str(), "ae"));
  if (!file) fail(StatusCode::io_error, "cannot write {}: {}", path.string(), std::strerror(errno));
  return file;
}

TrainingLog::TrainingLog(const std::filesystem::path& folder, std::int64_t step)
    : folder_(folder), csv_(open(folder / "train.csv", step)), jsonl_(open(folder / "train.jsonl", step)) {}

// Numbers are written in the fewest digits that give them back exactly.
void TrainingLog::add(const StepReport& report) {
  const std::string validation = report.validation_loss ? fmt::format("{}", *report.validation_loss) : "";
  write_row(csv_.get(),
            fmt::format("{},{},{},{},{},{:.1f},{},{:d},{}\n", report.step, report.loss, report.perplexity(),
                        report.learning_rate, report.gradient_norm, report.tokens_per_second, report.tokens,
                        report.skipped, validation),
            folder_);
  nlohmann::ordered_json row;  // a number that is not finite becomes null
  row["step"] = report.step;
  row["loss"] = report.loss;
  row["perplexity"] = report.perplexity();
  row["learning_rate"] = report.learning_rate;
  row["gradient_norm"] = report.gradient_norm;
  row["tokens_per_second"] = std::round(report.tokens_per_second * 10) / 10;
  row["tokens"] = report.tokens;
  row["skipped"] = report.skipped;
  row["validation_loss"] = nullptr;
  if (report.validation_loss) row["validation_loss"] = *report.validation_loss;
  write_row(jsonl_.get(), row.dump() + "\n", folder_);
}

void TrainingLog::sync() {
  ::fsync(::fileno(csv_.get()));
  ::fsync(::fileno(jsonl_.get()));
}

}  // namespace riverhorse
