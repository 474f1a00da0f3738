#include "train/trainer_core.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "base/log.h"
#include "train/gradient_reduction.h"

namespace riverhorse {

namespace {

std::int64_t count_scored(std::span<const std::int32_t> targets) {
  return std::count_if(targets.begin(), targets.end(), [](std::int32_t target) { return target >= 0; });
}

double mebibytes(std::uint64_t bytes) { return static_cast<double>(bytes) / 0x1p20; }

// Into how many the moments are divided.
std::int64_t parts_of(const TrainerCoreOptions& options) {
  return options.shard == Shard::none ? 1 : options.ranks.size();
}

bool divides_gradients(const TrainerCoreOptions& options) {
  return options.shard == Shard::gradients && options.ranks.size() > 1;
}

// Memory for a training that fits into what `device` has free.
TrainingMemory fitting_memory(const std::shared_ptr<Device>& device, const ModelConfig& config,
                              const TrainerCoreOptions& options) {
  const MemoryPlan plan = TrainerCore::estimate_memory(device, config, options);
  const std::uint64_t needed = plan.total_bytes(), available = device->memory_free_bytes();
  log_info(fmt::format("memory of the training, recompute {}; {:.1f} MiB of {} are free{}",
                       recompute_name(options.recompute), mebibytes(available), device->info().id(), plan.table()));
  if (needed <= available) return TrainingMemory(device);
  std::string remedy;
  if (options.recompute != Recompute::block) {
    TrainerCoreOptions less = options;
    less.recompute = Recompute::block;
    const std::uint64_t least = TrainerCore::estimate_memory(device, config, less).total_bytes();
    remedy = fmt::format("--recompute block (it needs {:.1f} MiB), ", mebibytes(least));
  }
  fail(StatusCode::out_of_memory,
       "the training of {} sequences of {} tokens at once needs {:.1f} MiB, and {} has {:.1f} MiB free: choose {}a "
       "smaller batch or length, or a smaller model",
       options.micro_batch.batch, options.micro_batch.length, mebibytes(needed), device->info().id(),
       mebibytes(available), remedy);
}

}  // namespace

std::vector<std::int32_t> next_token_targets(std::span<const std::int32_t> ids, std::int64_t length) {
  std::vector<std::int32_t> targets(ids.size(), -1);
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    if ((static_cast<std::int64_t>(i) + 1) % length != 0) targets[i] = ids[i + 1];
  }
  return targets;
}

TrainerCore::TrainerCore(std::shared_ptr<Device> device, const Checkpoint& checkpoint,
                         const TrainerCoreOptions& options)
    : TrainerCore(fitting_memory(device, checkpoint.config, options), checkpoint.config, options) {
  model_.load(checkpoint);
}

TrainerCore::TrainerCore(const TrainingMemory& memory, const ModelConfig& config, const TrainerCoreOptions& options)
    : memory_(memory),
      device_(*memory_.device()),
      model_(memory_, config,
             {options.micro_batch,
              options.dtype,
              options.conv,
              options.recompute,
              options.logits,
              options.ranks.group() * options.micro_batch.batch,
              parts_of(options),
              divides_gradients(options),
              {options.ranks.place(), options.ranks.places, options.ranks.tensors.get()}}),
      optimizer_(memory_, model_.parameters(), options.optimizer, parts_of(options) > 1 ? options.ranks.rank() : 0,
                 parts_of(options)),
      seed_(options.seed),
      accumulates_(options.accumulates),
      ranks_(options.ranks),
      sharded_(parts_of(options) > 1) {
  const ParameterArena& arena = model_.parameters();
  const auto gradients = [&](DType dtype, std::int64_t count) {
    return memory_.allocate(MemoryCategory::gradients, dtype, {count});
  };
  if (divides_gradients(options)) {
    own_ = gradients(DType::f32, arena.values().count() / ranks_.size());
    own_norm_ = gradients(DType::f32, 1);
    all_norms_ = gradients(DType::f32, ranks_.size());
  }
  if (ranks_ && options.reduce_dtype == ReduceDtype::bf16) {
    device_.require_activation(DType::bf16);
    std::int64_t most = own_ ? 0 : arena.values().count();
    for (std::int64_t i = 0; own_ && i < config.n_layer; ++i) {
      most = std::max(most, arena.layer_gradients(i).tensor.count());
    }
    for (const GradientPart& part : arena.other_gradients()) most = std::max(most, part.tensor.count());
    transferred_ = gradients(DType::bf16, most);
  }
  zero_ = memory_.record([&](Encoder& encoder) { encoder.zero({own_ ? own_ : arena.gradients()}); });
  record_gradients();
  update_ = memory_.record([&](Encoder& encoder) { record_update(encoder); });
  if (options.evaluation) record_evaluation();
}

MemoryPlan TrainerCore::estimate_memory(const std::shared_ptr<Device>& device, const ModelConfig& config,
                                        const TrainerCoreOptions& options) {
  MemoryPlan plan;
  const TrainerCore estimated(TrainingMemory(device, plan), config, options);
  return plan;
}

void TrainerCore::resume_at(std::int64_t steps, std::int64_t micro_batches, const LossScale& loss_scale) {
  steps_done_ = steps;
  micro_batches_done_ = micro_batches;
  loss_scale_ = loss_scale;
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
}

std::int64_t TrainerCore::count_all_scored(std::span<const std::int32_t> targets) const {
  const auto scored = static_cast<std::int64_t>(ranks_.sum(static_cast<double>(count_scored(targets))));
  if (scored == 0) fail(StatusCode::invalid_argument, "no token of the batch has a target");
  return scored;
}

double TrainerCore::joined_loss(double loss_sum) const {
  if (!ranks_) return loss_sum;
  const RankResult own{loss_sum, optimizer_.norm()};
  std::vector<RankResult> all(static_cast<std::size_t>(ranks_.size()));
  ranks_.host->all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all)));
  double sum = 0;
  for (const RankResult& each : all) {
    sum += each.loss_sum;
    if (each.norm == all.front().norm || (std::isnan(each.norm) && std::isnan(all.front().norm))) continue;
    fail(StatusCode::internal,
         "step {}: the norm of the gradients' sum is {} on rank 0 and {} on rank {}; their models would part ways",
         steps_done_ + 1, all.front().norm, each.norm, &each - all.data());
  }
  return sum;
}

void TrainerCore::write_micro_batch(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets) {
  std::copy(ids.begin(), ids.end(), device_.mapped_as<std::int32_t>(model_.ids()).begin());
  std::copy(targets.begin(), targets.end(), device_.mapped_as<std::int32_t>(model_.targets()).begin());
  const std::span<std::uint32_t> random = device_.mapped_as<std::uint32_t>(model_.random());
  random[0] = static_cast<std::uint32_t>(seed_);
  random[1] = static_cast<std::uint32_t>(seed_ >> 32);
  random[2] = static_cast<std::uint32_t>(micro_batches_done_);
}

double TrainerCore::loss_sum() const {
  const std::span<const float> losses = device_.mapped_as<float>(model_.loss());
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

StepResult TrainerCore::step(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets,
                             double rate_factor) {
  const auto rows = static_cast<std::size_t>(model_.shape().rows());
  begin_gradients(ids.size() > rows);  // meanwhile the rest of what the host does first
  check(ids, targets, false);
  StepResult result;
  result.scored = count_all_scored(targets);
  if (scaled()) result.loss_scale = loss_scale_.value;
  device_.mapped_as<float>(model_.scale())[0] =
      static_cast<float>(result.loss_scale / static_cast<double>(result.scored));
  optimizer_.set_step(steps_done_ + 1, rate_factor, result.loss_scale);
  std::uint64_t last = 0;
  for (std::size_t begin = 0; begin < ids.size(); begin += rows) {
    write_micro_batch(ids.subspan(begin, rows), targets.subspan(begin, rows));
    const std::uint64_t ticket = device_.submit(*gradients_);
    ++micro_batches_done_;
    if (begin + rows == ids.size()) {
      if (reduction_) device_.submit(*reduction_);
      last = device_.submit(*update_);
    }
    device_.wait(ticket);  // for the losses, and as the next micro-batch is written over this one
    result.loss += loss_sum();
  }
  device_.wait(last);
  result.loss = joined_loss(result.loss);
  result.loss /= static_cast<double>(result.scored);
  result.gradient_norm = optimizer_.norm();
  result.skipped = optimizer_.was_skipped();
  ++steps_done_;
  const bool finite = std::isfinite(result.gradient_norm);
  if (scaled()) {
    update_loss_scale(finite);
  } else if (!finite && last_finite_) {
    report_bad_gradients();
  }
  last_finite_ = finite;
  return result;
}

void TrainerCore::report_bad_gradients() const {
  constexpr int most_names = 3;
  std::string names;
  int bad = 0;
  for (const auto& [name, gradient] : unscaled_gradients()) {
    const std::vector<float> values = to_floats(gradient);
    const auto first =
        std::find_if_not(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    if (first == values.end()) continue;
    if (++bad <= most_names) names += fmt::format(" {}[{}]", name, first - values.begin());
  }
  log_warning(fmt::format("step {}: gradients that are not finite, and the step is left out; {} parameters:{}{}",
                          steps_done_, bad, names, bad > most_names ? " ..." : ""));
}

void TrainerCore::update_loss_scale(bool finite) {
  const double before = loss_scale_.value;
  loss_scale_.update(finite);
  if (loss_scale_.value < before) {
    log_warning(
        fmt::format("step {}: the gradients are beyond f16, and the step is left out; loss scale {} instead of {}",
                    steps_done_, loss_scale_.value, before));
  } else if (loss_scale_.value > before) {
    log_info(fmt::format("step {}: loss scale {} instead of {}", steps_done_, loss_scale_.value, before));
  }
}

double TrainerCore::gradients(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets) {
  check(ids, targets, true);
  const auto scored = static_cast<double>(count_all_scored(targets));
  const double scale = scaled() ? loss_scale_.value : 1.0;
  device_.mapped_as<float>(model_.scale())[0] = static_cast<float>(scale / scored);
  begin_gradients(false);
  write_micro_batch(ids, targets);
  device_.wait(device_.submit(*gradients_));
  if (reduction_) device_.wait(device_.submit(*reduction_));
  return ranks_.sum(loss_sum()) / scored;
}

std::map<std::string, HostTensor> TrainerCore::unscaled_gradients() const {
  const ParameterArena& arena = model_.parameters();
  std::map<std::string, HostTensor> gradients;
  if (!own_) {
    gradients = arena.download(arena.gradients());
  } else if (const std::vector<float> whole = gathered(own_); ranks_.first()) {
    gradients = arena.named(whole);
  }
  if (!scaled() || loss_scale_.value == 1) return gradients;
  const auto factor = static_cast<float>(1 / loss_scale_.value);  // a power of two
  for (auto& [name, gradient] : gradients) {
    std::vector<float> values = to_floats(gradient);
    for (float& value : values) value *= factor;
    gradient = make_host_tensor(std::span<const float>(values), gradient.shape);
  }
  return gradients;
}

// Of divided gradients each rank's norm, and the norm of these.
void TrainerCore::record_norm(Encoder& encoder) const {
  const Tensor& norm = optimizer_.norm_tensor();
  if (!own_) return encoder.grad_norm({model_.parameters().gradients(), norm});
  encoder.grad_norm({own_, own_norm_});
  encoder.communicate({Collective::all_gather, ranks_.tensors.get(), own_norm_, all_norms_});
  encoder.await_ranks({ranks_.tensors.get()});
  encoder.grad_norm({all_norms_, norm});
}

void TrainerCore::record_update(Encoder& encoder) const {
  record_norm(encoder);
  optimizer_.record(encoder, own_ ? own_ : optimizer_.part_of(model_.parameters().gradients()));
  record_gather(encoder);
}

void TrainerCore::record_gather(Encoder& encoder) const {
  if (!sharded_) return;
  const ParameterArena& arena = model_.parameters();
  encoder.communicate(
      {Collective::all_gather, ranks_.tensors.get(), optimizer_.part_of(arena.values()), arena.values()});
  encoder.await_ranks({ranks_.tensors.get()});
  if (arena.operands()) encoder.copy({arena.values(), arena.operands()});
}

TrainerCore::Moments TrainerCore::download_moments() {
  const ParameterArena& arena = model_.parameters();
  const auto download = [&](const Tensor& moments) -> std::map<std::string, HostTensor> {
    if (sharded_) {
      const std::vector<float> whole = gathered(moments);
      return ranks_.first() ? arena.named(whole) : std::map<std::string, HostTensor>();
    }
    return ranks_.first() ? arena.download(moments) : std::map<std::string, HostTensor>();
  };
  Moments moments;
  moments.first = download(optimizer_.first_moments());
  moments.second = download(optimizer_.second_moments());
  return moments;
}

MomentShard TrainerCore::download_own_moments() const {
  const ParameterArena& arena = model_.parameters();
  const std::int64_t whole = arena.values().count(), ranks = ranks_.size();
  const std::int64_t part = (whole + ranks - 1) / ranks;  // of sharded moments exactly
  const std::int64_t begin = std::min(ranks_.rank() * part, whole), count = std::min(part, whole - begin);
  const auto download = [&](const Tensor& moments) {
    const auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(count));
    if (count > 0) {
      device_.download(sharded_ ? moments : moments.slice(begin, count), std::as_writable_bytes(std::span(*values)));
    }
    return arena.named_part(values, begin);
  };
  MomentShard shard;
  for (auto& [name, piece] : download(optimizer_.first_moments())) {
    shard[name] = {piece.begin, std::move(piece.values), {}};
  }
  for (auto& [name, piece] : download(optimizer_.second_moments())) shard[name].second = std::move(piece.values);
  return shard;
}

void TrainerCore::upload_moments(const Moments& moments) {
  const ParameterArena& arena = model_.parameters();
  const auto upload = [&](const std::map<std::string, HostTensor>& tensors, const Tensor& own) {
    if (!sharded_) return arena.upload(own, tensors);
    arena.upload_part(own, ranks_.rank() * own.count(), tensors);
  };
  upload(moments.first, optimizer_.first_moments());
  upload(moments.second, optimizer_.second_moments());
}

std::vector<float> TrainerCore::gathered(const Tensor& part) const {
  const Tensor& memory = model_.parameters().gradient_memory();
  const std::int64_t ranks = ranks_.size(), most = memory.count() / ranks;
  std::vector<float> whole(ranks_.first() ? static_cast<std::size_t>(part.count() * ranks) : 0);
  std::vector<float> received(ranks_.first() ? static_cast<std::size_t>(most * ranks) : 0);
  for (std::int64_t begin = 0; begin < part.count(); begin += most) {
    const std::int64_t count = std::min(most, part.count() - begin);
    const Tensor all = memory.slice(0, count * ranks);
    device_.run([&](Encoder& encoder) {
      encoder.communicate({Collective::all_gather, ranks_.tensors.get(), part.slice(begin, count), all});
      encoder.await_ranks({ranks_.tensors.get()});
    });
    if (!ranks_.first()) continue;
    device_.download(all, std::as_writable_bytes(std::span(received).first(static_cast<std::size_t>(all.count()))));
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      std::copy_n(received.begin() + rank * count, count, whole.begin() + rank * part.count() + begin);
    }
  }
  return whole;
}

void TrainerCore::record_gradients() {
  using Gradients = TrainingModel::Gradients;
  const Gradients gradients = accumulates_ && !own_ ? Gradients::added : Gradients::written;
  // Whole gradients of several micro-batches are reduced after the last of them.
  const bool at_once = ranks_ && (own_ || !accumulates_);
  const auto record_with = [&](Encoder& encoder, auto reduction) {
    model_.record_gradients(encoder, gradients, [&](const GradientPart& part) {
      gradient_parts_.push_back(part);
      reduction.add(part);
    });
    reduction.finish();
  };
  gradients_ = memory_.record([&](Encoder& encoder) {
    gradient_parts_.clear();
    if (!at_once) return model_.record_gradients(encoder, gradients);
    if (own_) return record_with(encoder, GradientPartition(encoder, *ranks_.tensors, own_, transferred_));
    record_with(encoder, GradientReduction(encoder, *ranks_.tensors, model_.parameters().gradients(), transferred_));
  });
  if (!ranks_ || at_once) return;
  gradient_parts_ = {{0, model_.parameters().gradients()}};
  reduction_ = memory_.record([&](Encoder& encoder) { record_reduction(encoder); });
}

void TrainerCore::record_reduction(Encoder& encoder) const {
  const auto record_with = [&](auto reduction) {
    for (const GradientPart& part : gradient_parts_) reduction.add(part);
    reduction.finish();
  };
  if (own_) return record_with(GradientPartition(encoder, *ranks_.tensors, own_, transferred_));
  record_with(GradientReduction(encoder, *ranks_.tensors, model_.parameters().gradients(), transferred_));
}

void TrainerCore::exchange() {
  if (!ranks_) return;
  if (!gradients_) record_gradients();
  if (!exchange_) {
    exchange_ = memory_.record([&](Encoder& encoder) {
      record_reduction(encoder);
      record_gather(encoder);
    });
    device_.submit(*zero_);  // sums of sums would grow with every call
  }
  device_.wait(device_.submit(*exchange_));
}

// A sum that every rank gets passes each rank's connection twice but for its own part, one that one rank gets once,
// and so does a gathering.
double TrainerCore::exchanged_bytes() const {
  if (!ranks_) return 0;
  const auto count = static_cast<double>(model_.parameters().values().count());
  const double summed = (own_ ? 1 : 2) * count * (transferred_ ? sizeof(std::uint16_t) : sizeof(float));
  const double gathered = sharded_ ? count * sizeof(float) : 0;
  return (summed + gathered) * (ranks_.size() - 1) / ranks_.size();
}

void TrainerCore::begin_gradients(bool several) {
  if (several && !accumulates_ && !own_) {
    gradients_.reset();  // its memory first
    accumulates_ = true;
  }
  if (!gradients_) record_gradients();
  if (accumulates_ || own_) device_.submit(*zero_);
}

void TrainerCore::record_evaluation() {
  evaluation_ = memory_.record([&](Encoder& encoder) { model_.record_evaluation(encoder); });
}

EvaluationResult TrainerCore::evaluate(std::span<const std::int32_t> ids, std::span<const std::int32_t> targets) {
  check(ids, targets, false);
  if (!evaluation_) record_evaluation();
  const auto rows = static_cast<std::size_t>(model_.shape().rows());
  EvaluationResult sum;
  sum.scored = count_all_scored(targets);
  for (std::size_t begin = 0; begin < ids.size(); begin += rows) {
    write_micro_batch(ids.subspan(begin, rows), targets.subspan(begin, rows));
    device_.wait(device_.submit(*evaluation_));
    sum.loss_sum += loss_sum();
    // Of a token that is not scored it is 0.
    const std::span<const std::int32_t> correct = device_.mapped_as<std::int32_t>(model_.correct());
    sum.correct += std::accumulate(correct.begin(), correct.end(), std::int64_t{0});
  }
  if (!ranks_) return sum;
  sum.loss_sum = ranks_.sum(sum.loss_sum);
  sum.correct = static_cast<std::int64_t>(ranks_.sum(static_cast<double>(sum.correct)));
  return sum;
}

}  // namespace riverhorse
