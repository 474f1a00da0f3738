#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "train/core_checkpoint.h"

namespace riverhorse {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::ceil(seconds));
  if (whole >= 3600) return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
  if (whole >= 60) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} s", whole);
}

}  // namespace

std::string report_line(const StepReport& report) {
  std::string line =
      fmt::format("step {}/{}  loss {:.4f}  ppl {:.2f}  lr {:.2e}  norm {:.2f}  {:.0f} tokens/s  {} left",
                  report.step, report.steps, report.loss, report.perplexity(), report.learning_rate,
                  report.gradient_norm, report.tokens_per_second, duration_text(report.seconds_left));
  if (report.skipped) line += "  (left out: the gradient norm is too large or not finite)";
  if (report.validation_loss) {
    line += fmt::format("  validation loss {:.4f}  ppl {:.2f}", *report.validation_loss,
                        std::exp(*report.validation_loss));
  }
  return line;
}

Trainer::Trainer(std::shared_ptr<Device> device, TrainingCheckpoint start, const TokenSource& data,
                 const TokenSource* validation, std::filesystem::path run)
    : checkpoint_(std::move(start)),
      core_(std::move(device), checkpoint_.model, core_options(checkpoint_.state.options)),
      batches_(data, checkpoint_.state.options.length, static_cast<std::uint64_t>(checkpoint_.state.options.seed)),
      validation_(validation),
      run_(std::move(run)) {
  if (validation_ != nullptr && validation_->size() < 2) {
    fail(StatusCode::invalid_argument, "the validation data has {} tokens; it needs at least 2", validation_->size());
  }
  TrainerState& state = checkpoint_.state;
  if (state.step > 0 && data.size() != state.data_tokens) {
    fail(StatusCode::invalid_argument,
         "the data has {} tokens, and the checkpoint of step {} was trained on data of {}; going on needs the same",
         data.size(), state.step, state.data_tokens);
  }
  state.data_tokens = data.size();
  restore_core(core_, checkpoint_);
}

StepReport Trainer::step() {
  TrainerState& state = checkpoint_.state;
  const TrainerOptions& options = state.options;
  const auto count = static_cast<std::size_t>(options.samples_per_step() * options.length);
  std::vector<std::int32_t> ids(count), targets(count);
  const Clock::time_point start = Clock::now();
  batches_.read(state.samples, ids, targets);
  const double factor = schedule_factor(options.schedule, options.steps, state.step + 1);
  const StepResult result = core_.step(ids, targets, factor);
  state.step = core_.steps_done();
  state.micro_batches = core_.micro_batches_done();
  state.samples += options.samples_per_step();
  StepReport report;
  report.step = state.step;
  report.steps = options.steps;
  report.loss = result.loss;
  report.learning_rate = options.optimizer.learning_rate * factor;
  report.gradient_norm = result.gradient_norm;
  report.skipped = result.skipped;
  report.tokens = state.samples * options.length;
  report.tokens_per_second = static_cast<double>(count) / seconds_since(start);
  return report;
}

std::optional<double> Trainer::validate() {
  if (validation_ == nullptr) return std::nullopt;
  const TrainerOptions& options = checkpoint_.state.options;
  const std::int64_t most = options.validation_tokens > 0 ? options.validation_tokens : validation_->size();
  const std::int64_t scored = std::min(validation_->size() - 1, most);
  const auto length = static_cast<std::size_t>(options.length);
  std::vector<std::int32_t> ids, targets, piece(length + 1);
  EvaluationResult sum;
  for (std::int64_t begin = 0; begin < scored;) {
    // What the data does not fill of the micro-batch is not scored.
    ids.assign(static_cast<std::size_t>(options.batch) * length, 0);
    targets.assign(ids.size(), -1);
    for (std::size_t row = 0; row < ids.size() && begin < scored; row += length, begin += options.length) {
      const auto tokens = static_cast<std::size_t>(std::min(options.length, scored - begin));
      validation_->read(begin, std::span(piece).first(tokens + 1));
      std::copy_n(piece.begin(), tokens, ids.begin() + static_cast<std::ptrdiff_t>(row));
      std::copy_n(piece.begin() + 1, tokens, targets.begin() + static_cast<std::ptrdiff_t>(row));
    }
    const EvaluationResult result = core_.evaluate(ids, targets);
    sum.loss_sum += result.loss_sum;
    sum.scored += result.scored;
  }
  return sum.loss_sum / static_cast<double>(sum.scored);
}

void Trainer::save(const std::optional<double>& validation_loss) {
  TrainerState& state = checkpoint_.state;
  state.validation_loss = validation_loss;
  if (validation_loss && std::isfinite(*validation_loss) &&
      (!state.best_loss || *validation_loss < *state.best_loss)) {
    state.best_loss = validation_loss;
    state.best_step = state.step;
  }
  save_training_checkpoint(run_, with_core(checkpoint_, core_));
}

bool Trainer::run(const StopFunction& stop, const ReportFunction& report) {
  const TrainerState& state = checkpoint_.state;
  const TrainerOptions& options = state.options;
  make_folder(run_);
  const FolderLock lock(run_);
  TrainingLog log(run_, state.step);
  const Clock::time_point start = Clock::now();
  const std::int64_t first = state.step;
  bool stopped = false;
  while (state.step < options.steps && !stopped) {
    StepReport now = step();
    stopped = stop && stop();
    const bool save_now = state.step == options.steps || state.step % options.checkpoint_every == 0;
    const bool validate_now = options.validate_every > 0 && state.step % options.validate_every == 0;
    if (save_now || validate_now) now.validation_loss = validate();
    now.seconds_left = seconds_since(start) / static_cast<double>(state.step - first) *
                       static_cast<double>(options.steps - state.step);
    log.add(now);
    if (save_now || stopped) {
      log.sync();
      save(now.validation_loss);
    }
    if (report) report(now);
  }
  return state.step >= options.steps;
}

}  // namespace riverhorse
