#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "train/core_checkpoint.h"
#include "train/training_flops.h"

namespace riverhorse {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::int64_t smallest_factor(std::int64_t number) {
  for (std::int64_t factor = 2; factor * factor <= number; ++factor) {
    if (number % factor == 0) return factor;
  }
  return number;
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::ceil(seconds));
  if (whole >= 3600) return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
  if (whole >= 60) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} s", whole);
}

}  // namespace

std::string report_line(const StepReport& report) {
  std::string line = fmt::format("step {}/{}  loss {:.4f}  ppl {:.2f}  lr {:.2e}  norm {:.2f}  {:.0f} tokens/s",
                                 report.step, report.steps, report.loss, report.perplexity(), report.learning_rate,
                                 report.gradient_norm, report.tokens_per_second);
  if (report.mfu) line += fmt::format("  MFU {:.1f}%", 100 * *report.mfu);
  line += fmt::format("  {:.1f} MB  {} left", static_cast<double>(report.memory_bytes) / 1e6,
                      duration_text(report.seconds_left));
  if (report.skipped) line += "  (left out: the gradient norm is too large or not finite)";
  if (report.validation_loss) {
    line += fmt::format("  validation loss {:.4f}  ppl {:.2f}", *report.validation_loss,
                        std::exp(*report.validation_loss));
  }
  return line;
}

Trainer::Trainer(std::shared_ptr<Device> device, TrainingCheckpoint start, const TokenSource& data,
                 const TokenSource* validation, std::filesystem::path run, const Ranks& ranks)
    : checkpoint_(std::move(start)),
      core_(std::move(device), checkpoint_.model,
            core_options(checkpoint_.state.options, validation != nullptr,
                         ranks.with_places(checkpoint_.state.options.sequence_parallel))),
      batches_(data, checkpoint_.state.options.length, static_cast<std::uint64_t>(checkpoint_.state.options.seed),
               checkpoint_.state.options.reset_state_at_documents),
      validation_(validation),
      run_(std::move(run)),
      ranks_(core_.ranks()),
      flops_per_token_(training_flops_per_token(checkpoint_.model.config, checkpoint_.state.options.length)) {
  TrainerState& state = checkpoint_.state;
  if (validation_ != nullptr) {
    if (validation_->size() < 2) {
      fail(StatusCode::invalid_argument, "the validation data has {} tokens; it needs at least 2",
           validation_->size());
    }
    if (state.options.reset_state_at_documents) validation_documents_.emplace(*validation_, state.options.length);
    if (validation_documents_ && validation_documents_->count() == 0) {
      fail(StatusCode::invalid_argument, "the validation data has no document of two tokens or more");
    }
  }
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
  const std::int64_t part = ranks_.part_of(options.batch);
  const auto count = static_cast<std::size_t>(part * options.length);  // of a micro-batch, sequences whole
  std::vector<std::int32_t> ids(static_cast<std::size_t>(options.accumulation) * count), targets(ids.size());
  const Clock::time_point start = Clock::now();
  for (std::int64_t i = 0; i < options.accumulation; ++i) {
    const std::size_t begin = static_cast<std::size_t>(i) * count;
    batches_.read(state.samples + i * options.batch + ranks_.group() * part, std::span(ids).subspan(begin, count),
                  std::span(targets).subspan(begin, count));
  }
  const double factor = schedule_factor(options.schedule, options.steps, state.step + 1);
  const StepResult result =
      core_.step(ranks_.own_tokens(ids, options.length), ranks_.own_tokens(targets, options.length), factor);
  state.step = core_.steps_done();
  state.micro_batches = core_.micro_batches_done();
  state.samples += options.samples_per_step();
  state.tokens += result.scored;
  return next_report(result, factor, seconds_since(start));
}

StepReport Trainer::next_report(const StepResult& result, double rate_factor, double seconds) const {
  const TrainerState& state = checkpoint_.state;
  const TrainerOptions& options = state.options;
  StepReport report;
  report.step = state.step;
  report.steps = options.steps;
  report.loss = result.loss;
  report.learning_rate = options.optimizer.learning_rate * rate_factor;
  report.gradient_norm = result.gradient_norm;
  report.skipped = result.skipped;
  report.tokens = state.tokens;
  report.tokens_per_second = static_cast<double>(result.scored) / seconds;
  if (options.peak_tflops > 0) {
    report.mfu = report.tokens_per_second * flops_per_token_ / (options.peak_tflops * 1e12);
  }
  report.memory_bytes = core_.model().device().memory_usage().used_bytes;
  return report;
}

Checkpoint Trainer::model() const {
  Checkpoint model = checkpoint_.model;
  const ParameterArena& arena = core_.model().parameters();
  model.file.tensors = arena.download(arena.values());
  return model;
}

Sample Trainer::validation_sample(std::int64_t index) const {
  if (validation_documents_) return validation_documents_->at(index);
  const std::int64_t length = checkpoint_.state.options.length;
  return {index * length, std::min(length, validation_->size() - 1 - index * length)};
}

std::optional<double> Trainer::validate() {
  if (validation_ == nullptr) return std::nullopt;
  const TrainerOptions& options = checkpoint_.state.options;
  const std::int64_t samples =
      validation_documents_ ? validation_documents_->count() : (validation_->size() - 2) / options.length + 1;
  std::int64_t left = options.validation_tokens > 0 ? options.validation_tokens : validation_->size();
  const auto length = static_cast<std::size_t>(options.length);
  const std::int64_t part = ranks_.part_of(options.batch);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(part) * length), targets(ids.size());
  EvaluationResult sum;
  for (std::int64_t index = 0; index < samples && left > 0;) {
    // What the data does not fill of the micro-batch is not scored.
    for (std::int64_t i = 0; i < options.batch; ++i) {
      Sample sample;
      if (index < samples && left > 0) sample = validation_sample(index++);
      sample.targets = std::min(sample.targets, left);
      left -= sample.targets;
      if (i / part != ranks_.group()) continue;
      const std::size_t row = static_cast<std::size_t>(i % part) * length;
      read_sample(*validation_, sample, std::span(ids).subspan(row, length), std::span(targets).subspan(row, length));
    }
    const EvaluationResult result =
        core_.evaluate(ranks_.own_tokens(ids, options.length), ranks_.own_tokens(targets, options.length));
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
  if (state.options.sharded_save) {
    save_sharded_checkpoint(run_, with_weights(checkpoint_, core_), core_.download_own_moments(), ranks_);
    return;
  }
  const TrainingCheckpoint whole = with_core(checkpoint_, core_);
  if (ranks_.first()) save_training_checkpoint(run_, whole);
}

bool Trainer::run(const StopFunction& stop, const ReportFunction& report) {
  const TrainerState& state = checkpoint_.state;
  const TrainerOptions& options = state.options;
  std::optional<FolderLock> lock;
  std::optional<TrainingLog> log;
  if (ranks_.first()) {
    make_folder(run_);
    lock.emplace(run_);
    log.emplace(run_, state.step, options.tensorboard);
  }
  const Clock::time_point start = Clock::now();
  const std::int64_t first = state.step;
  bool stopped = false;
  while (state.step < options.steps && !stopped) {
    StepReport now = step();
    stopped = ranks_.any(stop && stop());
    const bool save_now = state.step == options.steps || state.step % options.checkpoint_every == 0;
    const bool validate_now = options.validate_every > 0 && state.step % options.validate_every == 0;
    if (save_now || validate_now) now.validation_loss = validate();
    now.seconds_left = seconds_since(start) / static_cast<double>(state.step - first) *
                       static_cast<double>(options.steps - state.step);
    if (log) log->add(now);
    if (save_now || stopped) {
      if (log) log->sync();
      save(now.validation_loss);
    }
    if (report) report(now);
  }
  return state.step >= options.steps;
}

std::unique_ptr<Trainer> make_trainer(const std::shared_ptr<Device>& device, TrainingCheckpoint start,
                                      const TokenSource& data, const TokenSource* validation,
                                      const std::filesystem::path& run, const Ranks& ranks) {
  TrainerOptions& options = start.state.options;
  const Ranks groups = ranks.with_places(options.sequence_parallel);
  while (true) {
    std::unique_ptr<Trainer> trainer;
    std::string reason = "on another rank";
    try {
      trainer = std::make_unique<Trainer>(device, start, data, validation, run, ranks);
    } catch (const Error& error) {
      if (error.code() != StatusCode::out_of_memory || !options.auto_batch || options.batch == groups.groups()) throw;
      reason = error.what();
    }
    if (!ranks.any(!trainer)) return trainer;
    trainer.reset();
    const std::int64_t factor = smallest_factor(groups.part_of(options.batch));
    options.batch /= factor;
    options.accumulation *= factor;
    log_warning(fmt::format("a micro-batch of {} sequences does not fit ({}); --batch {} --accumulation {} instead",
                            options.batch * factor, reason, options.batch, options.accumulation));
  }
}

}  // namespace riverhorse
