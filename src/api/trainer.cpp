// Training: a device, and trainers on it.
#include <fmt/format.h>

#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "api/guard.h"
#include "api/read_options.h"
#include "base/file.h"
#include "base/log.h"
#include "model/initialization.h"
#include "riverhorse/training.h"
#include "train/core_checkpoint.h"

namespace riverhorse::api {

// Shared by a device's handle and its trainers, so that they may be freed in any order and take turns.
struct TrainingDevice {
  std::mutex mutex;
  std::shared_ptr<Device> device;
};

}  // namespace riverhorse::api

struct riverhorse_device : riverhorse::api::Handle {
  std::shared_ptr<riverhorse::api::TrainingDevice> state;
};

struct riverhorse_trainer : riverhorse::api::Handle {
  std::shared_ptr<riverhorse::api::TrainingDevice> device;
  riverhorse::TrainingCheckpoint checkpoint;  // its tensors are in the core
  std::unique_ptr<riverhorse::TrainerCore> core;
};

using riverhorse::fail;
using riverhorse::StatusCode;
using riverhorse::TrainerOptions;
using riverhorse::TrainingCheckpoint;
using riverhorse::api::guarded;
using riverhorse::api::require;

namespace {

// Zero: the default. Negative: none, which is 0 further down.
void set_number(double given, double& target) {
  if (given != 0) target = given < 0 ? 0 : given;
}

template <typename T>
void set_positive(T given, T& target, const char* name) {
  target = riverhorse::api::positive_or(given, target, name);
}

template <typename Ours, typename Theirs>
Ours read_choice(Theirs value, std::int32_t count, const char* name) {
  if (value < 0 || value >= count) {
    fail(StatusCode::invalid_argument, "options.{} is {}, not one of riverhorse_{}", name,
         static_cast<std::int32_t>(value), name);
  }
  return static_cast<Ours>(value);
}

TrainerOptions read_trainer_options(const riverhorse_trainer_options& given) {
  TrainerOptions options;
  riverhorse::OptimizerOptions& optimizer = options.optimizer;
  riverhorse::ScheduleOptions& schedule = options.schedule;
  options.conv = riverhorse::api::read_conv(given.conv);
  options.dtype = riverhorse::api::read_dtype(given.dtype);
  options.recompute = read_choice<riverhorse::Recompute>(given.recompute, 3, "recompute");
  options.logits = read_choice<riverhorse::LogitBits>(given.logits, 2, "logits");
  if (given.seed > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    fail(StatusCode::invalid_argument, "options.seed is {}; it must be below 2^63", given.seed);
  }
  options.seed = static_cast<std::int64_t>(given.seed);
  set_positive(given.batch, options.batch, "batch");
  set_positive(given.length, options.length, "length");
  set_positive(given.keep_checkpoints, options.keep, "keep_checkpoints");

  optimizer.recipe = read_choice<riverhorse::OptimizerRecipe>(given.recipe, 2, "recipe");
  set_positive(given.learning_rate, optimizer.learning_rate, "learning_rate");
  if (given.ssm_learning_rate != 0) optimizer.ssm_learning_rate = given.ssm_learning_rate;
  set_positive(given.beta1, optimizer.beta1, "beta1");
  set_positive(given.beta2, optimizer.beta2, "beta2");
  set_positive(given.epsilon, optimizer.epsilon, "epsilon");
  set_number(given.weight_decay, optimizer.weight_decay);
  set_number(given.clip_norm, optimizer.clip_norm);
  set_positive(given.skip_above, optimizer.skip_above, "skip_above");

  schedule.kind = read_choice<riverhorse::ScheduleKind>(given.schedule, 4, "schedule");
  if (given.schedule != RIVERHORSE_SCHEDULE_CONSTANT && given.schedule_steps == 0) {
    fail(StatusCode::invalid_argument,
         "options.schedule_steps is 0; a schedule that falls needs the number of steps");
  }
  set_positive(given.schedule_steps, options.steps, "schedule_steps");
  set_positive(given.warmup_steps, schedule.warmup_steps, "warmup_steps");
  set_number(given.final_fraction, schedule.final_fraction);
  set_positive(given.decay_fraction, schedule.decay_fraction, "decay_fraction");
  // Through the form in which they are saved, so that the limits are those of every training.
  return riverhorse::parse_trainer_options(trainer_options_json(options), "options");
}

riverhorse::ModelConfig read_config(const riverhorse_trainer_options& given, std::vector<std::string>& warnings) {
  if (given.preset != nullptr) {
    if (const auto config = riverhorse::model_preset(given.preset)) return *config;
    fail(StatusCode::invalid_argument, "options.preset is \"{}\"; it must be one of {}", given.preset,
         fmt::join(riverhorse::model_preset_names(), ", "));
  }
  try {
    return riverhorse::parse_model_config(given.config_json, "options.config_json", warnings);
  } catch (const riverhorse::Error& error) {
    throw riverhorse::Error(StatusCode::invalid_argument, error.what());
  }
}

TrainingCheckpoint new_training(const riverhorse_trainer_options& given) {
  if ((given.preset != nullptr) + (given.config_json != nullptr) + (given.model_path != nullptr) != 1) {
    fail(StatusCode::invalid_argument, "exactly one of options.preset, config_json and model_path must be set");
  }
  TrainingCheckpoint start;
  start.state.options = read_trainer_options(given);
  if (given.model_path != nullptr) {
    start.model = riverhorse::load_checkpoint(given.model_path, {});
    start.tokenizer_files = riverhorse::read_tokenizer_files(start.model.folder);
  } else {
    std::vector<std::string> warnings;
    start.model = random_checkpoint(read_config(given, warnings), given.seed);
    start.model.warnings = std::move(warnings);
  }
  for (const std::string& warning : start.model.warnings) riverhorse::log_warning(warning);
  return start;
}

TrainingCheckpoint saved_training(const std::string& folder) {
  std::error_code ignored;
  const bool one = std::filesystem::exists(std::filesystem::path(folder) / "trainer_state.json", ignored);
  return one ? riverhorse::load_training_checkpoint(folder) : riverhorse::load_newest_checkpoint(folder);
}

riverhorse_trainer* make_trainer(const riverhorse_device& device, TrainingCheckpoint start) {
  const std::scoped_lock lock(device.state->mutex);
  auto core =
      std::make_unique<riverhorse::TrainerCore>(device.state->device, start.model, core_options(start.state.options));
  restore_core(*core, start);
  return new riverhorse_trainer{{}, device.state, std::move(start), std::move(core)};
}

// Sequences in whole micro-batches; what the caller's do not fill has no targets.
struct Batch {
  std::vector<std::int32_t> ids, targets;
};

Batch read_batch(const riverhorse_trainer& trainer, const int32_t* ids, const int32_t* targets, size_t sequences) {
  require(ids, "ids");
  const TrainerOptions& options = trainer.checkpoint.state.options;
  const auto batch = static_cast<std::size_t>(options.batch), length = static_cast<std::size_t>(options.length);
  if (sequences == 0 || sequences > std::numeric_limits<std::int32_t>::max() / length) {
    fail(StatusCode::invalid_argument, "sequences is {}; it must be from 1 to {}", sequences,
         std::numeric_limits<std::int32_t>::max() / length);
  }
  const std::span<const std::int32_t> given(ids, sequences * length);
  Batch result;
  result.ids.assign(given.begin(), given.end());
  if (targets != nullptr) {
    result.targets.assign(targets, targets + given.size());
  } else {
    result.targets = riverhorse::next_token_targets(given, options.length);
  }
  const std::size_t whole = (sequences + batch - 1) / batch * batch * length;
  result.ids.resize(whole, 0);
  result.targets.resize(whole, -1);
  return result;
}

}  // namespace

riverhorse_status riverhorse_device_open(const riverhorse_device_options* options, riverhorse_device** device) {
  return guarded(__func__, [&] {
    require(device, "device");
    const riverhorse_device_options given = riverhorse::api::read_options(options, "options");
    auto state = std::make_shared<riverhorse::api::TrainingDevice>();
    state->device = riverhorse::open_checked_training_device(riverhorse::api::read_device(given));
    *device = new riverhorse_device{{}, std::move(state)};
  });
}

void riverhorse_device_free(riverhorse_device* device) {
  if (riverhorse::api::may_free(__func__, device)) delete device;
}

riverhorse_status riverhorse_trainer_create(riverhorse_device* device, const riverhorse_trainer_options* options,
                                            riverhorse_trainer** trainer) {
  return guarded(__func__, [&] {
    require(device, "device");
    require(options, "options");
    require(trainer, "trainer");
    *trainer = make_trainer(*device, new_training(riverhorse::api::read_options(options, "options")));
  });
}

riverhorse_status riverhorse_trainer_resume(riverhorse_device* device, const char* folder,
                                            riverhorse_trainer** trainer) {
  return guarded(__func__, [&] {
    require(device, "device");
    require(folder, "folder");
    require(trainer, "trainer");
    *trainer = make_trainer(*device, saved_training(folder));
  });
}

void riverhorse_trainer_free(riverhorse_trainer* trainer) {
  if (!riverhorse::api::may_free(__func__, trainer)) return;
  const std::shared_ptr<riverhorse::api::TrainingDevice> device = trainer->device;
  const std::scoped_lock lock(device->mutex);
  delete trainer;
}

riverhorse_status riverhorse_trainer_get_info(const riverhorse_trainer* trainer, riverhorse_trainer_info* info) {
  return guarded(__func__, [&] {
    require(trainer, "trainer");
    const std::scoped_lock lock(trainer->device->mutex);
    const riverhorse::TrainerState& state = trainer->checkpoint.state;
    const riverhorse::ModelConfig& config = trainer->checkpoint.model.config;
    riverhorse_trainer_info value{};
    value.dtype = riverhorse::api::to_api(state.options.dtype);
    value.batch = state.options.batch;
    value.length = state.options.length;
    value.step = state.step;
    value.sequences = state.samples;
    value.parameter_count = riverhorse::parameter_count(config);
    value.vocab_size = config.vocab_size;
    value.padded_vocab_size = config.padded_vocab_size();
    riverhorse::api::copy_text(value.device_id, trainer->device->device->info().id());
    riverhorse::api::write_info(info, value, "info");
  });
}

riverhorse_status riverhorse_trainer_step(riverhorse_trainer* trainer, const int32_t* ids, const int32_t* targets,
                                          size_t sequences, riverhorse_step_result* result) {
  return guarded(__func__, [&] {
    require(trainer, "trainer");
    if (result != nullptr) riverhorse::api::check_struct_size(*result, "result");  // before any work
    const std::scoped_lock lock(trainer->device->mutex);
    const Batch batch = read_batch(*trainer, ids, targets, sequences);
    riverhorse::TrainerState& state = trainer->checkpoint.state;
    const double factor = schedule_factor(state.options.schedule, state.options.steps, state.step + 1);
    const riverhorse::StepResult done = trainer->core->step(batch.ids, batch.targets, factor);
    state.step = trainer->core->steps_done();
    state.micro_batches = trainer->core->micro_batches_done();
    state.samples += static_cast<std::int64_t>(sequences);
    if (result == nullptr) return;
    riverhorse_step_result value{};
    value.skipped = done.skipped ? 1 : 0;
    value.step = state.step;
    value.scored = done.scored;
    value.loss = done.loss;
    value.gradient_norm = done.gradient_norm;
    value.loss_scale = done.loss_scale;
    value.learning_rate = state.options.optimizer.learning_rate * factor;
    riverhorse::api::write_info(result, value, "result");
  });
}

riverhorse_status riverhorse_trainer_evaluate(riverhorse_trainer* trainer, const int32_t* ids, const int32_t* targets,
                                              size_t sequences, riverhorse_evaluation* result) {
  return guarded(__func__, [&] {
    require(trainer, "trainer");
    require(result, "result");
    riverhorse::api::check_struct_size(*result, "result");
    const std::scoped_lock lock(trainer->device->mutex);
    const Batch batch = read_batch(*trainer, ids, targets, sequences);
    const riverhorse::EvaluationResult done = trainer->core->evaluate(batch.ids, batch.targets);
    riverhorse_evaluation value{};
    value.loss_sum = done.loss_sum;
    value.scored = done.scored;
    value.correct = done.correct;
    riverhorse::api::write_info(result, value, "result");
  });
}

riverhorse_status riverhorse_trainer_save(riverhorse_trainer* trainer, const char* folder) {
  return guarded(__func__, [&] {
    require(trainer, "trainer");
    require(folder, "folder");
    const std::scoped_lock lock(trainer->device->mutex);
    riverhorse::make_folder(folder);
    const riverhorse::FolderLock folder_lock(folder);
    save_training_checkpoint(folder, with_core(trainer->checkpoint, *trainer->core));
  });
}
