// The report of a benchmark, for machines and for people.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/bench.h"
#include "cli/device_json.h"

namespace riverhorse::cli {
namespace {

using Json = nlohmann::ordered_json;

double per_second(double amount, double ms) { return ms > 0 ? amount / (ms * 1e-3) : 0; }

Json positive_or_null(double value) { return value > 0 ? Json(value) : Json(nullptr); }

double percent(double rate, double ceiling) { return ceiling > 0 ? 100.0 * rate / ceiling : 0; }

// Of the run, or measured directly before the row.
double copy_rate(const BenchRow& row, const BenchCeilings& ceilings) {
  return row.copy_bytes_per_second > 0 ? row.copy_bytes_per_second : ceilings.copy_bytes_per_second;
}

// The ways that a convolution took: "chunked", or "chunked + recurrence" where its backward pass took another.
std::string ways_of(const BenchRow& row) {
  const std::string_view operation = row.conv.empty() ? "fft_conv" : "h3_mixer";
  std::set<std::string> ways;
  for (const std::string& part : row.parts) {
    const std::size_t dot = part.find('.');
    if (part.rfind(operation, 0) == 0 && dot != std::string::npos) ways.insert(part.substr(dot + 1));
  }
  return fmt::format("{}", fmt::join(ways, " + "));
}

double worst_error(const BenchRow& row) {
  double worst = 0;
  for (const CaseResult::Output& output : row.errors) worst = std::max(worst, output.relative_error);
  return worst;
}

void add_convolution(Json& json, const BenchRow& row) {
  const auto sizes = [&](const ConvolutionShape& shape) {
    Json each = {{"batch", shape.batch}, {"length", shape.tokens}, {"width", shape.width}};
    if (shape.state > 0) each["state"] = shape.state;
    return each;
  };
  json.update(sizes(*row.convolution));
  if (!row.conv.empty()) json["conv"] = row.conv;
  if (!row.skipped.empty()) return;
  if (const std::string ways = ways_of(row); !ways.empty()) json["ran"] = ways;
  if (row.errors.empty()) return;
  json["relative_error"] = worst_error(row);
  if (!row.implementation.empty()) return;
  Json errors = Json::object();
  for (const CaseResult::Output& output : row.errors) errors[output.name] = output.relative_error;
  json["relative_errors"] = errors;
  json["compared"] = sizes(row.compared);
}

void add_scaling(Json& json, const ScalingFigures& scaling) {
  const auto percent_or_null = [](const std::optional<double>& part) {
    return part ? Json(100 * *part) : Json(nullptr);
  };
  json["ranks"] = scaling.ranks;
  json["sequence_parallel"] = scaling.sequence_parallel;
  json["efficiency_percent"] = percent_or_null(scaling.efficiency);
  json["sent_bytes"] = scaling.sent_bytes;
  json["compute_ms"] = scaling.compute_ms;
  json["communication_ms"] = positive_or_null(scaling.communication_ms);
  json["hidden_percent"] = percent_or_null(scaling.hidden);
}

void add_frames(Json& json, const FrameFigures& frames) {
  json["budget_us"] = frames.budget_us;
  json["tokens"] = frames.tokens;
  json["tokens_per_second_60_frames"] = frames.tokens_per_second;
  json["p50_us"] = frames.p50_us;
  json["p99_us"] = frames.p99_us;
  json["p999_us"] = frames.p999_us;
  json["longest_us"] = frames.longest_us;
}

Json row_json(const BenchRow& row, const BenchCeilings& ceilings) {
  Json json = Json::object();
  if (!row.implementation.empty()) json["implementation"] = row.implementation;
  if (!row.operation.empty()) json["operation"] = row.operation;
  json.update({{"name", row.name}, {"dtype", dtype_name(row.dtype)}, {"shape", row.shape}});
  if (row.convolution) add_convolution(json, row);
  if (!row.skipped.empty()) {
    json["skipped"] = row.skipped;
    return json;
  }
  const double bytes_rate = per_second(row.bytes, row.best_ms()), flops_rate = per_second(row.flops, row.best_ms());
  json["repetitions"] = row.repetitions;
  json["device_ms"] = positive_or_null(row.device_ms);
  json["wall_ms"] = positive_or_null(row.wall_ms);
  json["bytes"] = row.bytes;
  json["flops"] = row.flops;
  json["bytes_per_second"] = positive_or_null(bytes_rate);
  json["percent_of_copy"] = positive_or_null(percent(bytes_rate, copy_rate(row, ceilings)));
  if (row.copy_bytes_per_second > 0) json["copy_bytes_per_second"] = row.copy_bytes_per_second;
  json["flops_per_second"] = positive_or_null(flops_rate);
  json["percent_of_gemm"] = positive_or_null(percent(flops_rate, ceilings.gemm_flops(row.dtype)));
  json["ceiling"] = row.gemm_bound ? "gemm" : "copy";
  if (row.tokens > 0) {
    const auto tokens = static_cast<double>(row.tokens);
    json["tokens"] = row.tokens;
    json["tokens_per_second_device"] = positive_or_null(per_second(tokens, row.device_ms));
    json["tokens_per_second_wall"] = positive_or_null(per_second(tokens, row.wall_ms));
  }
  if (row.memory_bytes > 0) json["memory_bytes"] = row.memory_bytes;
  if (row.scaling) add_scaling(json, *row.scaling);
  if (row.frames) add_frames(json, *row.frames);
  return json;
}

std::string number(double value, int decimals) { return value > 0 ? fmt::format("{:.{}f}", value, decimals) : "-"; }

}  // namespace

std::string bench_json(const BenchOptions& options, const BenchReport& report) {
  const BenchCeilings& ceilings = report.ceilings;
  Json rows = Json::array();
  for (const BenchRow& row : report.rows) rows.push_back(row_json(row, ceilings));
  const Json root = {{"schema", "riverhorse-bench-1"},
                     {"version", RIVERHORSE_VERSION},
                     {"benchmark", options.what},
                     {"seconds", positive_or_null(options.seconds)},
                     {"device", device_json(report.device)},
                     {"ceilings",
                      {{"copy_bytes_per_second", ceilings.copy_bytes_per_second},
                       {"copy_tensor_bytes", ceilings.copy_tensor_bytes},
                       {"copy_method", ceilings.copy_method},
                       {"gemm_size", ceilings.gemm_size},
                       {"gemm_f32_flops_per_second", positive_or_null(ceilings.gemm_f32_flops)},
                       {"gemm_f16_flops_per_second", positive_or_null(ceilings.gemm_f16_flops)},
                       {"gemm_bf16_flops_per_second", positive_or_null(ceilings.gemm_bf16_flops)}}},
                     {"rows", rows}};
  return root.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string bench_table(const BenchOptions& options, const BenchReport& report) {
  const BenchCeilings& ceilings = report.ceilings;
  std::string text = fmt::format("{}  {}  {}  {}\n", report.device.id(), report.device.name, report.device.driver,
                                 report.device.api);
  text += fmt::format("ceilings of this run: copy {:.1f} GB/s ({} MiB, {})", ceilings.copy_bytes_per_second * 1e-9,
                      ceilings.copy_tensor_bytes >> 20, ceilings.copy_method);
  text += fmt::format("; GEMM {}^3: f32 {:.1f} GFLOP/s", ceilings.gemm_size, ceilings.gemm_f32_flops * 1e-9);
  if (ceilings.gemm_f16_flops > 0) text += fmt::format(", f16 {:.1f} GFLOP/s", ceilings.gemm_f16_flops * 1e-9);
  if (ceilings.gemm_bf16_flops > 0) text += fmt::format(", bf16 {:.1f} GFLOP/s", ceilings.gemm_bf16_flops * 1e-9);
  text += "\n\n";

  std::size_t width = 4;
  const auto label = [](const BenchRow& row) {
    const std::string who = row.implementation.empty() ? "" : row.implementation + ": ";
    return who + (row.shape.empty() ? row.name : row.name + " (" + row.shape + ")");
  };
  for (const BenchRow& row : report.rows) width = std::max(width, label(row).size());
  text += fmt::format("{:<{}} {:<5} {:>10} {:>10} {:>9} {:>9} {:>7} {:>9} {:>7}", "", width, "dtype", "device ms",
                      "wall ms", "MB", "GB/s", "% copy", "GFLOP/s", "% GEMM");
  const bool convolves = options.what == "mixer" || options.what == "fft_conv";
  if (convolves) text += fmt::format(" {:>11} {:>8}  {}", "repetitions", "error", "ran");
  if (!convolves && options.what != "ops") text += fmt::format(" {:>12} {:>12}", "tok/s device", "tok/s wall");
  if (options.what == "scaling") {
    text +=
        fmt::format(" {:>9} {:>9} {:>10} {:>10} {:>8}", "% of N", "MB sent", "compute ms", "comm. ms", "% hidden");
  }
  if (options.what == "frames") {
    text += fmt::format(" {:>11} {:>9} {:>9} {:>9} {:>9} {:>8}", "tok/s at 60", "p50 us", "p99 us", "p99.9 us",
                        "longest", "frames");
  }
  text += "\n";
  for (const BenchRow& row : report.rows) {
    text += fmt::format("{:<{}} {:<5} ", label(row), width, dtype_name(row.dtype));
    if (!row.skipped.empty()) {
      text += "skipped: " + row.skipped + "\n";
      continue;
    }
    const double bytes_rate = per_second(row.bytes, row.best_ms()), flops_rate = per_second(row.flops, row.best_ms());
    text += fmt::format("{:>10} {:>10} {:>9} {:>9} {:>7} {:>9} {:>7}", number(row.device_ms, 4),
                        number(row.wall_ms, 3), number(row.bytes * 1e-6, 1), number(bytes_rate * 1e-9, 2),
                        number(percent(bytes_rate, copy_rate(row, ceilings)), 1), number(flops_rate * 1e-9, 1),
                        number(percent(flops_rate, ceilings.gemm_flops(row.dtype)), 1));
    if (row.tokens > 0) {
      const auto tokens = static_cast<double>(row.tokens);
      text += fmt::format(" {:>12} {:>12}", number(per_second(tokens, row.device_ms), 1),
                          number(per_second(tokens, row.wall_ms), 1));
    }
    if (row.convolution) {
      const std::string error = row.errors.empty() ? "-" : fmt::format("{:.1e}", worst_error(row));
      text += fmt::format(" {:>11} {:>8}  {}", row.repetitions, error, ways_of(row));
    }
    if (row.frames) {
      const FrameFigures& frames = *row.frames;
      text += fmt::format(" {:>12} {:>12} {:>11} {:>9} {:>9} {:>9} {:>9} {:>8}", "-", "-",
                          number(frames.tokens_per_second, 1), number(frames.p50_us, 1), number(frames.p99_us, 1),
                          number(frames.p999_us, 1), number(frames.longest_us, 1), row.repetitions);
    }
    if (row.scaling) {
      const ScalingFigures& scaling = *row.scaling;
      const auto share = [](const std::optional<double>& part) {
        return part ? fmt::format("{:.1f}", 100 * *part) : "-";
      };
      text += fmt::format(" {:>9} {:>9} {:>10} {:>10} {:>8}", share(scaling.efficiency),
                          number(scaling.sent_bytes * 1e-6, 1), number(scaling.compute_ms, 3),
                          number(scaling.communication_ms, 3), share(scaling.hidden));
    }
    text += "\n";
  }
  return text;
}

}  // namespace riverhorse::cli
