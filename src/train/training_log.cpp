#include "train/training_log.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace riverhorse {
namespace {

constexpr const char* csv_header =
    "step,loss,perplexity,learning_rate,gradient_norm,tokens_per_second,mfu,memory_bytes,seconds_left,tokens,skipped,"
    "validation_loss\n";

double to_tenths(double value) { return std::round(value * 10) / 10; }

std::string text_of(const std::optional<double>& value) { return value ? fmt::format("{}", *value) : ""; }

nlohmann::ordered_json json_of(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
}

// Numbers are written in the fewest digits that give them back exactly.
std::string csv_row(const StepReport& report) {
  return fmt::format("{},{},{},{},{},{:.1f},{},{},{:.1f},{},{:d},{}\n", report.step, report.loss, report.perplexity(),
                     report.learning_rate, report.gradient_norm, report.tokens_per_second, text_of(report.mfu),
                     report.memory_bytes, report.seconds_left, report.tokens, report.skipped,
                     text_of(report.validation_loss));
}

std::string jsonl_row(const StepReport& report) {
  nlohmann::ordered_json row;  // a number that is not finite becomes null
  row["step"] = report.step;
  row["loss"] = report.loss;
  row["perplexity"] = report.perplexity();
  row["learning_rate"] = report.learning_rate;
  row["gradient_norm"] = report.gradient_norm;
  row["tokens_per_second"] = to_tenths(report.tokens_per_second);
  row["mfu"] = json_of(report.mfu);
  row["memory_bytes"] = report.memory_bytes;
  row["seconds_left"] = to_tenths(report.seconds_left);
  row["tokens"] = report.tokens;
  row["skipped"] = report.skipped;
  row["validation_loss"] = json_of(report.validation_loss);
  return row.dump() + "\n";
}

}  // namespace

double StepReport::perplexity() const { return std::exp(loss); }

TrainingLog::TrainingLog(const std::filesystem::path& folder, std::int64_t step, bool tensorboard)
    : csv_(folder / "train.csv", step, csv_header), jsonl_(folder / "train.jsonl", step) {
  if (tensorboard) tensorboard_.emplace(folder / "tensorboard", step);
}

void TrainingLog::add(const StepReport& report) {
  csv_.add(csv_row(report));
  jsonl_.add(jsonl_row(report));
  if (!tensorboard_) return;
  std::vector<Scalar> scalars = {{"loss/train", report.loss},
                                 {"learning_rate", report.learning_rate},
                                 {"gradient_norm", report.gradient_norm},
                                 {"tokens_per_second", report.tokens_per_second}};
  if (report.validation_loss) scalars.push_back({"loss/validation", *report.validation_loss});
  tensorboard_->add(report.step, scalars);
}

void TrainingLog::sync() {
  csv_.sync();
  jsonl_.sync();
  if (tensorboard_) tensorboard_->sync();
}

}  // namespace riverhorse
