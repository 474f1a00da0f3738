#include "cli/eval_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/device_json.h"

namespace riverhorse::cli {
namespace {

using Json = nlohmann::ordered_json;

Json finite_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// How much there was to do, and how fast it went.
void add_speed(std::vector<EvalMetric>& metrics, std::int64_t tokens_scored, std::int64_t tokens_read,
               double seconds) {
  metrics.push_back({"tokens_scored", "tokens scored", tokens_scored});
  metrics.push_back({"tokens_read", "tokens read", tokens_read});
  metrics.push_back({"seconds", "seconds", seconds, 2});
  metrics.push_back({"tokens_per_second", "tokens/s", finite_or_null(static_cast<double>(tokens_read) / seconds), 1});
}

std::string text_of(const EvalMetric& metric) {
  if (metric.value.is_null()) return "-";
  if (metric.value.is_number_float()) return fmt::format("{:.{}f}", metric.value.get<double>(), metric.decimals);
  return metric.value.dump();
}

Json row_json(const EvalRow& row) {
  Json json = Json::object();
  if (!row.file.empty()) json["file"] = row.file;
  for (const EvalMetric& metric : row.metrics) json[metric.key] = metric.value;
  return json;
}

}  // namespace

std::vector<EvalMetric> metrics_of(const TextLoss& loss, double seconds) {
  const std::optional<double> bits = loss.bits_per_byte();
  std::vector<EvalMetric> metrics = {
      {"documents", "documents", loss.documents},
      {"loss", "loss", finite_or_null(loss.loss()), 4},
      {"perplexity", "perplexity", finite_or_null(loss.perplexity()), 3},
      {"bits_per_byte", "bits/byte", bits ? Json(*bits) : Json(nullptr), 4},
      {"bytes", "bytes", loss.bytes ? Json(*loss.bytes) : Json(nullptr)},
  };
  add_speed(metrics, loss.tokens_scored, loss.tokens_read, seconds);
  return metrics;
}

std::vector<EvalMetric> metrics_of(const LastWordResult& result, double seconds) {
  std::vector<EvalMetric> metrics = {
      {"rows", "rows", result.rows},
      {"right", "right", result.right},
      {"accuracy", "accuracy", finite_or_null(result.accuracy()), 4},
      {"perplexity", "perplexity", finite_or_null(result.perplexity()), 3},
  };
  add_speed(metrics, result.tokens_scored, result.tokens_read, seconds);
  return metrics;
}

std::vector<EvalMetric> metrics_of(const ChoiceResult& result, double seconds) {
  std::vector<EvalMetric> metrics = {
      {"rows", "rows", result.rows},
      {"right", "right", result.right},
      {"accuracy", "accuracy", finite_or_null(result.accuracy()), 4},
      {"right_by_byte", "right by byte", result.right_by_byte},
      {"accuracy_by_byte", "accuracy by byte", finite_or_null(result.accuracy_by_byte()), 4},
  };
  add_speed(metrics, result.tokens_scored, result.tokens_read, seconds);
  return metrics;
}

std::string eval_json(const EvalReport& report) {
  Json files = Json::array();
  for (const EvalRow& row : report.files) files.push_back(row_json(row));
  const Json root = {{"schema", "riverhorse-eval-1"},
                     {"version", RIVERHORSE_VERSION},
                     {"task", report.task},
                     {"model", report.model},
                     {"device", device_json(report.device)},
                     {"dtype", dtype_name(report.dtype)},
                     {"files", files},
                     {"total", row_json(report.total)},
                     {"rows_left_out", report.rows_left_out},
                     {"notes", report.notes}};
  return root.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string eval_table(const EvalReport& report) {
  std::vector<EvalRow> rows = report.files;
  if (rows.size() > 1) {
    rows.push_back(report.total);
    rows.back().file = "all";
  }
  std::size_t name_width = 0;
  for (const EvalRow& row : rows) name_width = std::max(name_width, row.file.size());
  std::string header = std::string(name_width, ' ');
  std::vector<std::string> lines;
  for (const EvalRow& row : rows) lines.push_back(fmt::format("{:<{}}", row.file, name_width));
  for (std::size_t column = 0; column < report.total.metrics.size(); ++column) {
    const std::string heading = report.total.metrics[column].heading;
    std::size_t width = heading.size();
    for (const EvalRow& row : rows) width = std::max(width, text_of(row.metrics[column]).size());
    header += fmt::format("  {:>{}}", heading, width);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      lines[i] += fmt::format("  {:>{}}", text_of(rows[i].metrics[column]), width);
    }
  }
  std::string text = header + "\n";
  for (const std::string& line : lines) text += line + "\n";
  text += fmt::format("{} on {} ({}), {}\n", report.model, report.device.id(), report.device.name,
                      dtype_name(report.dtype));
  for (const std::string& note : report.notes) text += note + "\n";
  if (report.rows_left_out > 0) text += fmt::format("{} bad rows were left out\n", report.rows_left_out);
  return text;
}

}  // namespace riverhorse::cli
