#include "model/parameter_arena.h"

#include <functional>
#include <numeric>
#include <span>

#include "base/error.h"
#include "model/upload.h"

namespace riverhorse {

namespace {

constexpr std::int64_t alignment = 64;  // elements: 256 bytes, enough for every device's buffer offsets

std::int64_t aligned(std::int64_t offset) { return (offset + alignment - 1) / alignment * alignment; }

// Whether a tensor is used as one with the projection before it. Within a group, the table has them as neighbours.
bool follows_projection(const std::string& name) {
  return name.find(".k_proj.") != std::string::npos || name.find(".v_proj.") != std::string::npos;
}

}  // namespace

ParameterGroup parameter_group(const std::string& name) {
  const auto ends = [&](const char* suffix) { return name.ends_with(suffix); };
  if (ends("kernel.kernel.log_dt") || ends("kernel.kernel.inv_A_real") || ends("kernel.kernel.A_imag") ||
      ends("kernel.kernel.B")) {
    return ParameterGroup::dynamics;  // ssm_k_kernel.kernel.B too
  }
  const bool norm = name.find(".norm") != std::string::npos || name.find(".ln_f.") != std::string::npos;
  if (ends(".bias") || norm || ends("word_embeddings.weight")) return ParameterGroup::vectors;
  return ParameterGroup::weights;
}

std::int64_t ParameterArena::Place::count() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

ParameterArena::ParameterArena(const TrainingMemory& memory, const ModelConfig& config, DType operands,
                               std::int64_t parts)
    : device_(memory.device()) {
  const std::vector<ParameterSpec> table = parameter_table(config);
  std::int64_t end = 0;
  const auto add = [&](ParameterGroup group, bool matrices) {
    for (const ParameterSpec& spec : table) {
      if (parameter_group(spec.name) != group || spec.matrix != matrices) continue;
      const bool follows = config.ssm_gating && follows_projection(spec.name);
      const Place place{follows ? end : aligned(end), spec.shape, spec.matrix};
      end = place.begin + place.count();
      places_.emplace(spec.name, place);
    }
  };
  for (std::size_t i = 0; i < parameter_groups.size(); ++i) {
    end = aligned(end);
    ranges_[i].first = end;
    // The matrices of the first group come first and the embedding last, so that what is between them is one piece.
    const ParameterGroup group = parameter_groups[i];
    if (group != ParameterGroup::vectors) add(group, true);
    const std::int64_t begin = aligned(end);
    add(group, false);
    if (end > begin && !rests_.empty() && aligned(rests_.back().second) == begin) {
      rests_.back().second = end;
    } else if (end > begin) {
      rests_.emplace_back(begin, end);
    }
    if (group == ParameterGroup::vectors) add(group, true);
    ranges_[i].second = end;
  }
  if (parts > 1) end = (end + parts * alignment - 1) / (parts * alignment) * (parts * alignment);
  values_ = memory.allocate(MemoryCategory::parameters, DType::f32, {end});
  gradients_ = memory.allocate(MemoryCategory::gradients, DType::f32, {end});
  if (operands != DType::f32) operands_ = memory.allocate(MemoryCategory::operands, operands, {end});
}

Tensor ParameterArena::view(const Tensor& whole, const std::vector<std::string>& names) const {
  Place joined;
  for (const std::string& name : names) {
    const auto found = places_.find(name);
    if (found == places_.end()) fail(StatusCode::internal, "no parameter is called {}", name);
    const Place& place = found->second;
    if (joined.shape.empty()) {
      joined = place;
      continue;
    }
    if (place.begin != joined.begin + joined.count()) fail(StatusCode::internal, "{} does not follow", name);
    joined.shape[0] += place.shape[0];
  }
  return whole.slice(joined.begin, joined.count()).reshape(Shape(std::span<const std::int64_t>(joined.shape)));
}

Tensor ParameterArena::group(const Tensor& whole, ParameterGroup group) const {
  const auto& [begin, end] = ranges_[static_cast<std::size_t>(group)];
  return begin == end ? Tensor{} : whole.slice(begin, end - begin);
}

std::vector<Tensor> ParameterArena::without_matrices(const Tensor& whole) const {
  std::vector<Tensor> pieces;
  for (const auto& [begin, end] : rests_) pieces.push_back(whole.slice(begin, end - begin));
  return pieces;
}

std::map<std::string, HostTensor> ParameterArena::download(const Tensor& whole) const {
  std::vector<float> values(static_cast<std::size_t>(whole.count()));
  device_->download(whole, std::as_writable_bytes(std::span(values)));
  std::map<std::string, HostTensor> tensors;
  for (const auto& [name, place] : places_) {
    const std::span<const float> part(values.data() + place.begin, static_cast<std::size_t>(place.count()));
    tensors.emplace(name, make_host_tensor(part, place.shape));
  }
  return tensors;
}

void ParameterArena::upload(const Tensor& whole, const std::map<std::string, HostTensor>& tensors) const {
  for (const auto& [name, place] : places_) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) fail(StatusCode::bad_file, "the parameter {} is missing", name);
    upload_converted(*device_, found->second, whole.slice(place.begin, place.count()), name);
  }
}

void ParameterArena::load(const std::map<std::string, HostTensor>& parameters) const {
  upload(values_, parameters);
  if (!operands_) return;
  for (const auto& [name, place] : places_) {
    if (!place.matrix) continue;
    upload_converted(*device_, parameters.at(name), operands_.slice(place.begin, place.count()), name);
  }
  // Beyond what 16 bits hold these become infinite, as they would wherever they are rounded.
  const std::vector<Tensor> values = without_matrices(values_), rounded = without_matrices(operands_);
  device_->run([&](Encoder& encoder) {
    for (std::size_t i = 0; i < values.size(); ++i) encoder.copy({values[i], rounded[i]});
  });
}

}  // namespace riverhorse
