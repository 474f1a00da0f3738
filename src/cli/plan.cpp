// riverhorse plan: how a model could be trained on so many GPUs, before there are any.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "formats/json.h"
#include "model/checkpoint.h"
#include "train/layout_plan.h"
#include "train/training_flops.h"

namespace riverhorse::cli {
namespace {

constexpr std::uint64_t rows_limit_bytes = std::uint64_t{64} << 20;

struct PlanCommand {
  std::string preset = "125m";
  std::vector<std::string> rows;  // files
  PlanOptions plan;
  std::uint64_t memory_bytes = 0, bandwidth = 0;
  std::int64_t batch = 0, length = 1024;
  bool json = false;
};

struct Row {
  std::string shape;
  MeasuredStep step;
  double distance = 0;
};

// What a row's step made again, as its shape says ("1.3b, 8 x 1024 tokens, recompute mixer"), in operations a token;
// nothing where it says so of a model that is no preset.
std::optional<double> recomputed_of(const std::string& shape) {
  for (const Recompute level : {Recompute::mixer, Recompute::block}) {
    if (shape.find(fmt::format("recompute {}", recompute_name(level))) == std::string::npos) continue;
    const std::optional<ModelConfig> config = model_preset(shape.substr(0, shape.find(',')));
    return config ? std::optional(recomputed_flops_per_token(*config, level)) : std::nullopt;
  }
  return 0;
}

// Of one device's training steps in `report` and before the one that is nearest in size: of the preset where there
// are such, and of these one that made nothing again.
void find_nearest_row(const PlanCommand& command, const nlohmann::json& report, std::optional<Row>& best) {
  const double wanted = training_flops_per_token(command.plan.config, command.length);
  for (const nlohmann::json& row : report.at("rows")) {
    const std::string name = row.value("name", ""), shape = row.value("shape", "");
    const bool steps = name == "train" || (name == "scaling" && row.value("ranks", 0) == 1);
    const std::optional<double> recomputed = recomputed_of(shape);
    if (!steps || !recomputed || shape.find("left out") != std::string::npos || row.contains("implementation") ||
        row.contains("skipped"))
      continue;
    if (row.value("dtype", "") != dtype_name(command.plan.dtype)) continue;
    if ((shape.find("logits of 16 bits") != std::string::npos) != (command.plan.logits == LogitBits::half)) continue;
    const auto ms = row.value("wall_ms", 0.0), flops = row.value("flops", 0.0), tokens = row.value("tokens", 0.0);
    if (ms <= 0 || flops <= 0 || tokens <= 0) continue;
    const double distance = std::abs(std::log(flops / tokens / wanted)) +
                            (shape.starts_with(command.preset + ",") ? 0 : 100) + (*recomputed > 0 ? 10 : 0);
    if (best && distance >= best->distance) continue;
    best = Row{shape, {ms, flops + tokens * *recomputed}, distance};
  }
}

Row read_nearest_row(const PlanCommand& command) {
  std::optional<Row> best;
  for (const std::string& path : command.rows) {
    const std::string origin = "--rows " + path;
    const nlohmann::json report =
        parse_json(read_text_file(path, rows_limit_bytes), origin, {.size_bytes = rows_limit_bytes});
    std::string reason = "its schema is not riverhorse-bench-1";
    try {
      if (report.at("schema") == "riverhorse-bench-1") {
        find_nearest_row(command, report, best);
        continue;
      }
    } catch (const nlohmann::json::exception& error) {
      reason = json_error_text(error);
    }
    fail(StatusCode::bad_file, "{}: this is not what riverhorse bench train --json writes: {}", origin, reason);
  }
  if (!best) {
    fail(StatusCode::invalid_argument, "--rows {}: no row of training steps in {} with logits of {} bits",
         fmt::join(command.rows, " "), dtype_name(command.plan.dtype),
         command.plan.logits == LogitBits::half ? 16 : 32);
  }
  return *best;
}

std::string_view shard_name(Shard shard) {
  return shard == Shard::none ? "none" : shard == Shard::optimizer ? "optimizer" : "gradients";
}

std::string flags(const PlannedLayout& layout) {
  return fmt::format("--shard {} --sequence-parallel {} --recompute {}", shard_name(layout.shard), layout.places,
                     recompute_name(layout.recompute));
}

double gibibytes(double bytes) { return bytes / 0x1p30; }

void print_table(const PlanCommand& command, const std::vector<PlannedLayout>& fitting, const Row* row) {
  const PlanOptions& plan = command.plan;
  fmt::print("{}, {} GPUs of {:.1f} GiB, {} x {} tokens a step, {}; times are predicted {}\n", command.preset,
             plan.ranks, gibibytes(static_cast<double>(command.memory_bytes)), plan.batch.batch, plan.batch.length,
             dtype_name(plan.dtype),
             row == nullptr ? "where --rows says how long a step takes on one" : "from the row " + row->shape);
  fmt::print("{:<64} {:>10} {:>10} {:>10} {:>12}\n", "", "GiB a rank", "MB sent", "step, ms", "tokens/s");
  const auto tokens = static_cast<double>(plan.batch.rows());
  for (const PlannedLayout& layout : fitting) {
    const double sent = layout.traffic.summed + layout.traffic.moved;
    const std::string ms = layout.step_ms ? fmt::format("{:.1f}", *layout.step_ms) : "-";
    const std::string rate = layout.step_ms ? fmt::format("{:.0f}", tokens / *layout.step_ms * 1e3) : "-";
    fmt::print("{:<64} {:>10.2f} {:>10.1f} {:>10} {:>12}\n", flags(layout),
               gibibytes(static_cast<double>(layout.memory.total_bytes())), sent * 1e-6, ms, rate);
  }
}

void print_json(const PlanCommand& command, const std::vector<PlannedLayout>& fitting, std::size_t others,
                const Row* row) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const PlannedLayout& layout : fitting) {
    nlohmann::ordered_json memory;
    for (const MemoryCategory category : memory_categories) {
      memory[std::string(memory_category_name(category))] = layout.memory.bytes(category);
    }
    rows.push_back({{"shard", shard_name(layout.shard)},
                    {"sequence_parallel", layout.places},
                    {"recompute", recompute_name(layout.recompute)},
                    {"memory_bytes", layout.memory.total_bytes()},
                    {"memory", memory},
                    {"sent_bytes", layout.traffic.summed + layout.traffic.moved},
                    {"step_ms", layout.step_ms ? nlohmann::ordered_json(*layout.step_ms) : nullptr}});
  }
  const nlohmann::ordered_json report = {
      {"schema", "riverhorse-plan-1"},
      {"preset", command.preset},
      {"gpus", command.plan.ranks},
      {"batch", command.plan.batch.batch},
      {"length", command.plan.batch.length},
      {"dtype", dtype_name(command.plan.dtype)},
      {"row", row == nullptr ? nlohmann::ordered_json() : nlohmann::ordered_json(row->shape)},
      {"layouts_that_do_not_fit", others},
      {"layouts", rows}};
  fmt::print("{}\n", report.dump(2));
}

void run(PlanCommand command) {
  PlanOptions& plan = command.plan;
  plan.config = *model_preset(command.preset);
  if (command.batch == 0) command.batch = plan.ranks;
  plan.batch = {command.batch, command.length};
  plan.bandwidth = static_cast<double>(command.bandwidth);
  std::optional<Row> row;
  if (!command.rows.empty()) {
    if (plan.ranks > 1 && command.bandwidth == 0) {
      fail(StatusCode::invalid_argument,
           "the time of a step on {} GPUs needs --bandwidth: what one can send a second", plan.ranks);
    }
    row = read_nearest_row(command);
    plan.measured = row->step;
  }
  const std::vector<PlannedLayout> all = plan_layouts(plan);
  if (all.empty()) {
    fail(StatusCode::invalid_argument, "{} sequences of {} tokens (--batch, --length) do not divide among {} GPUs",
         command.batch, command.length, plan.ranks);
  }
  std::vector<PlannedLayout> fitting;
  const PlannedLayout* least = nullptr;
  for (const PlannedLayout& layout : all) {
    if (layout.memory.total_bytes() <= command.memory_bytes) fitting.push_back(layout);
    if (least == nullptr || layout.memory.total_bytes() < least->memory.total_bytes()) least = &layout;
  }
  if (fitting.empty()) {
    fail(StatusCode::out_of_memory,
         "{} with {} sequences of {} tokens on {} GPUs fits none of {:.2f} GiB: at least {:.2f} GiB are needed ({}); "
         "choose more --gpus, a smaller --batch or --length, or a smaller model",
         command.preset, command.batch, command.length, plan.ranks,
         gibibytes(static_cast<double>(command.memory_bytes)),
         gibibytes(static_cast<double>(least->memory.total_bytes())), flags(*least));
  }
  if (command.json) return print_json(command, fitting, all.size() - fitting.size(), row ? &*row : nullptr);
  print_table(command, fitting, row ? &*row : nullptr);
  if (fitting.size() < all.size()) fmt::print("{} other layouts do not fit\n", all.size() - fitting.size());
}

}  // namespace

void add_plan_command(CLI::App& app) {
  auto options = std::make_shared<PlanCommand>();
  CLI::App* command =
      app.add_subcommand("plan", "How a model could be trained on so many GPUs: memory, traffic, time of a step");
  command->add_option("--preset", options->preset, "The model: 125m, 355m, ... (default: 125m)")
      ->type_name("NAME")
      ->check(CLI::IsMember(model_preset_names()));
  command->add_option("--gpus", options->plan.ranks, "How many GPUs, a rank each")
      ->required()
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 16));
  add_size_option(*command, "--memory", options->memory_bytes, "Of each GPU, like 80GiB")->required();
  add_size_option(*command, "--bandwidth", options->bandwidth,
                  "What a GPU can send to the others a second, like 50GB");
  command->add_option("--batch", options->batch, "Sequences of a step, of all GPUs together (default: one for each)")
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--length", options->length, "Tokens of a sequence (default: 1024)")
      ->check(CLI::Range(1, 1 << 24));
  add_dtype_option(*command, options->plan.dtype);
  add_logits_option(*command, options->plan.logits);
  command
      ->add_option(
          "--rows", options->rows,
          "What bench train --json wrote on one such GPU, for the time of a step: of several the row that is "
          "nearest")
      ->type_name("FILES");
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { run(*options); });
}

}  // namespace riverhorse::cli
