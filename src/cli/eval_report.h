// What an evaluation found, for machines and for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine/evaluation.h"
#include "engine/evaluation_tasks.h"

namespace riverhorse::cli {

// One figure: a column of the table, a field of the JSON.
struct EvalMetric {
  const char* key;
  const char* heading;
  nlohmann::ordered_json value;  // a number, or null: not known
  int decimals = 0;              // in the table
};

struct EvalRow {
  std::string file;
  std::vector<EvalMetric> metrics;  // the same columns in all rows
};

struct EvalReport {
  std::string task, model;
  DeviceInfo device;
  DType dtype = DType::f32;
  std::vector<EvalRow> files;
  EvalRow total;
  std::uint64_t rows_left_out = 0;  // of texts; a bad row of a task is an error
  std::vector<std::string> notes;   // how the figures came about
};

std::vector<EvalMetric> metrics_of(const TextLoss& loss, double seconds);
std::vector<EvalMetric> metrics_of(const LastWordResult& result, double seconds);
std::vector<EvalMetric> metrics_of(const ChoiceResult& result, double seconds);

std::string eval_json(const EvalReport& report);
std::string eval_table(const EvalReport& report);

}  // namespace riverhorse::cli
