#include "train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace riverhorse {

void check_optimizer(const OptimizerOptions& options) {
  const auto require = [](bool good, const char* field, double value, const char* limit) {
    if (!good) fail(StatusCode::invalid_argument, "{} is {}; it must be {}", field, value, limit);
  };
  const auto rate = [&](const char* field, double value) {
    require(std::isfinite(value) && value >= 0 && value <= 10, field, value, "from 0 to 10");
  };
  rate("learning_rate", options.learning_rate);
  if (options.ssm_learning_rate) rate("ssm_learning_rate", *options.ssm_learning_rate);
  require(options.beta1 >= 0 && options.beta1 < 1, "beta1", options.beta1, "from 0 to less than 1");
  require(options.beta2 >= 0 && options.beta2 < 1, "beta2", options.beta2, "from 0 to less than 1");
  require(options.epsilon > 0 && options.epsilon <= 1, "epsilon", options.epsilon, "above 0, at most 1");
  require(options.weight_decay >= 0 && options.weight_decay <= 10, "weight_decay", options.weight_decay,
          "from 0 to 10");
  require(std::isfinite(options.clip_norm) && options.clip_norm >= 0, "clip_norm", options.clip_norm,
          "0 (never) or above");
  require(std::isfinite(options.skip_above) && options.skip_above >= 0, "skip_above", options.skip_above,
          "0 (never) or above");
}

Optimizer::Optimizer(const TrainingMemory& memory, const ParameterArena& arena, const OptimizerOptions& options,
                     std::int64_t part, std::int64_t parts)
    : device_(memory.device()), arena_(arena), options_(options) {
  const std::int64_t count = arena_.values().count() / parts;
  part_ = {part * count, (part + 1) * count};
  check_optimizer(options_);
  const auto state = [&](DType dtype, Shape shape, MemoryUse use = MemoryUse::device) {
    return memory.allocate(MemoryCategory::optimizer, dtype, shape, use);
  };
  m_ = state(DType::f32, {count});
  v_ = state(DType::f32, {count});
  norm_ = state(DType::f32, {1}, MemoryUse::readback);
  rows_ = state(DType::i32, {parameter_groups.size(), sizeof(AdamwRow) / 4}, MemoryUse::upload);
}

double Optimizer::learning_rate(ParameterGroup group) const {
  if (group != ParameterGroup::dynamics) return options_.learning_rate;
  if (options_.ssm_learning_rate) return *options_.ssm_learning_rate;
  return options_.recipe == OptimizerRecipe::safari ? std::min(options_.learning_rate, 1e-3) : options_.learning_rate;
}

double Optimizer::weight_decay(ParameterGroup group) const {
  if (group == ParameterGroup::weights) return options_.weight_decay;
  if (group == ParameterGroup::dynamics) return 0;
  return options_.recipe == OptimizerRecipe::safari ? options_.weight_decay : 0;
}

void Optimizer::set_step(std::int64_t step, double rate_factor, double loss_scale) {
  const std::span<AdamwRow> rows = device_->mapped_as<AdamwRow>(rows_);
  for (const ParameterGroup group : parameter_groups) {
    AdamwRow& row = rows[static_cast<std::size_t>(group)] = AdamwRow();
    row.learning_rate = static_cast<float>(learning_rate(group) * rate_factor);
    row.beta1 = static_cast<float>(options_.beta1);
    row.beta2 = static_cast<float>(options_.beta2);
    row.epsilon = static_cast<float>(options_.epsilon);
    row.weight_decay = static_cast<float>(weight_decay(group));
    row.correction1 = static_cast<float>(1 - std::pow(options_.beta1, static_cast<double>(step)));
    row.correction2 = static_cast<float>(1 - std::pow(options_.beta2, static_cast<double>(step)));
    row.gradient_scale = static_cast<float>(1 / loss_scale);
    row.max_norm = static_cast<float>(options_.clip_norm);
    row.skip_above = static_cast<float>(options_.skip_above);
  }
}

void Optimizer::record(Encoder& encoder, const Tensor& gradients) const {
  for (const ParameterGroup group : parameter_groups) {
    const auto [group_begin, group_end] = arena_.range(group);
    const std::int64_t begin = std::max(group_begin, part_.first);
    const std::int64_t count = std::min(group_end, part_.second) - begin;
    if (count <= 0) continue;  // no H3 layer, no dynamics; or they are in other parts
    AdamwArgs args;
    args.parameters = arena_.values().slice(begin, count);
    args.gradients = gradients.slice(begin - part_.first, count);
    args.m = m_.slice(begin - part_.first, count);
    args.v = v_.slice(begin - part_.first, count);
    args.norm = norm_;
    if (arena_.operands()) args.rounded = arena_.operands().slice(begin, count);
    args.row = rows_.slice(static_cast<std::int64_t>(group), 1).reshape({sizeof(AdamwRow) / 4});
    encoder.adamw(args);
  }
}

double Optimizer::norm() const {
  const double scaled = device_->mapped_as<float>(norm_)[0];
  return scaled * device_->mapped_as<AdamwRow>(rows_)[0].gradient_scale;
}

bool Optimizer::was_skipped() const {
  const double value = norm();
  return !std::isfinite(value) || (options_.skip_above > 0 && value > options_.skip_above);
}

}  // namespace riverhorse
