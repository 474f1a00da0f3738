#include "train/trainer_core.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace riverhorse {

namespace {

template <typename T>
void write(Device& device, const Tensor& tensor, std::span<const T> values) {
  std::memcpy(device.mapped(tensor).data(), values.data(), values.size_bytes());
}

std::int64_t count_scored(std::span<const std::int32_t> targets) {
  return std::count_if(targets.begin(), targets.end(), [](std::int32_t target) { return target >= 0; });
}

}  // namespace

TrainerCore::TrainerCore(std::shared_ptr<Device> device, const Checkpoint& checkpoint,
                         const TrainerCoreOptions& options)
    : device_(std::move(device)),
      model_(device_, checkpoint, options.micro_batch, options.conv),
      optimizer_(device_, model_.parameters(), options.optimizer),
      seed_(options.seed) {
  zero_ = device_->record([&](Encoder& encoder) { encoder.zero({model_.parameters().gradients()}); }, {});
  gradients_ = device_->record([&](Encoder& encoder) { model_.record_gradients(encoder); }, {});
  update_ = device_->record([&](Encoder& encoder) { optimizer_.record(encoder); }, {});
}

void TrainerCore::resume_at(std::int64_t steps, std::int64_t micro_batches) {
  steps_done_ = steps;
  micro_batches_done_ = micro_batches;
}

void TrainerCore::check(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets, bool one) const {
  const auto rows = static_cast<std::size_t>(model_.shape().rows());
  if (ids.size() != targets.size() || ids.empty() || ids.size() % rows != 0 || (one && ids.size() != rows)) {
    fail(StatusCode::invalid_argument, "{} ids and {} targets; a micro-batch has {} sequences of {} tokens",
         ids.size(), targets.size(), model_.shape().batch, model_.shape().length);
  }
  const std::int64_t vocabulary = model_.config().padded_vocab_size();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocabulary) {
      fail(StatusCode::invalid_argument, "token {} of {} has id {}; the vocabulary is 0 to {}", i, ids.size(), ids[i],
           vocabulary - 1);
    }
    if (targets[i] >= vocabulary) {
      fail(StatusCode::invalid_argument, "target {} of {} is {}; the vocabulary is 0 to {}", i, targets.size(),
           targets[i], vocabulary - 1);
    }
  }
  if (count_scored(targets) == 0) fail(StatusCode::invalid_argument, "no token of the batch has a target");
}

EvaluationResult TrainerCore::run(Recording& recording, std::span<const std::int32_t> ids,
                                  std::span<const std::int32_t> targets) {
  write(*device_, model_.ids(), ids);
  write(*device_, model_.targets(), targets);
  const std::int32_t random[] = {static_cast<std::int32_t>(static_cast<std::uint32_t>(seed_)),
                                 static_cast<std::int32_t>(static_cast<std::uint32_t>(seed_ >> 32)),
                                 static_cast<std::int32_t>(micro_batches_done_)};
  write(*device_, model_.random(), std::span<const std::int32_t>(random));
  device_->wait(device_->submit(recording));
  EvaluationResult result;
  result.scored = count_scored(targets);
  std::vector<float> losses(ids.size());
  std::memcpy(losses.data(), device_->mapped(model_.loss()).data(), losses.size() * sizeof(float));
  for (const float loss : losses) result.loss_sum += loss;
  std::vector<std::int32_t> correct(ids.size());
  std::memcpy(correct.data(), device_->mapped(model_.correct()).data(), correct.size() * sizeof(std::int32_t));
  for (std::size_t i = 0; i < correct.size(); ++i) result.correct += targets[i] >= 0 ? correct[i] : 0;
  return result;
}

StepResult TrainerCore::step(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets,
                             double rate_factor) {
  check(ids, targets, false);
  const auto rows = static_cast<std::size_t>(model_.shape().rows());
  StepResult result;
  result.scored = count_scored(targets);
  const float scale = 1.0f / static_cast<float>(result.scored);
  write(*device_, model_.scale(), std::span<const float>(&scale, 1));
  device_->submit(*zero_);
  for (std::size_t begin = 0; begin < ids.size(); begin += rows) {
    result.loss += run(*gradients_, ids.subspan(begin, rows), targets.subspan(begin, rows)).loss_sum;
    ++micro_batches_done_;
  }
  result.loss /= static_cast<double>(result.scored);
  optimizer_.set_step(steps_done_ + 1, rate_factor);
  device_->wait(device_->submit(*update_));
  result.gradient_norm = optimizer_.norm();
  result.skipped = optimizer_.was_skipped();
  ++steps_done_;
  return result;
}

double TrainerCore::gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets) {
  check(ids, targets, true);
  const auto scored = static_cast<double>(count_scored(targets));
  const auto scale = static_cast<float>(1 / scored);
  write(*device_, model_.scale(), std::span<const float>(&scale, 1));
  device_->submit(*zero_);
  return run(*gradients_, ids, targets).loss_sum / scored;
}

EvaluationResult TrainerCore::evaluate(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets) {
  check(ids, targets, true);
  if (!evaluation_) evaluation_ = device_->record([&](Encoder& encoder) { model_.record_evaluation(encoder); }, {});
  return run(*evaluation_, ids, targets);
}

}  // namespace riverhorse
