#include "model/parameter_arena.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>

#include "base/error.h"
#include "model/upload.h"

namespace riverhorse {

namespace {

constexpr std::string_view layer_prefix = "backbone.layers.";  // then the layer's number

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
                               std::int64_t parts, bool windows)
    : device_(memory.device()), layers_(static_cast<std::size_t>(config.n_layer)) {
  const std::vector<ParameterSpec> table = parameter_table(config);
  std::int64_t end = 0;
  const auto add = [&](ParameterGroup group, bool matrices) {
    for (const ParameterSpec& spec : table) {
      if (parameter_group(spec.name) != group || spec.matrix != matrices) continue;
      const bool follows = config.ssm_gating && follows_projection(spec.name);
      const Place place{follows ? end : aligned(end), spec.shape, spec.matrix};
      end = place.begin + place.count();
      places_.emplace(spec.name, place);
      if (!spec.matrix || !spec.name.starts_with(layer_prefix)) continue;
      auto& [first, behind] = layers_[std::stoul(spec.name.substr(layer_prefix.size()))];
      if (behind == 0) first = place.begin;
      behind = end;
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
  // In the order of the table.
  for (std::size_t i = 0; i + 1 < layers_.size(); ++i) layers_[i].second = layers_[i + 1].first;
  values_ = memory.allocate(MemoryCategory::parameters, DType::f32, {end});
  if (windows) {
    allocate_windows(memory, end, parts);
  } else {
    gradients_ = memory.allocate(MemoryCategory::gradients, DType::f32, {end});
  }
  if (operands != DType::f32) operands_ = memory.allocate(MemoryCategory::operands, operands, {end});
}

void ParameterArena::allocate_windows(const TrainingMemory& memory, std::int64_t count, std::int64_t parts) {
  std::array<std::int64_t, 2> sizes{};
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    sizes[i % 2] = std::max(sizes[i % 2], layers_[i].second - layers_[i].first);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    if (sizes[i] > 0) windows_[i] = memory.allocate(MemoryCategory::gradients, DType::f32, {sizes[i]});
  }
  // At least an element of each part, as it holds such where parts are gathered.
  const std::int64_t others = count - (layers_.back().second - layers_.front().first);
  other_gradients_ = memory.allocate(MemoryCategory::gradients, DType::f32, {std::max(others, parts)});
}

Tensor ParameterArena::gradients_in(const Range& range) const {
  const auto& [begin, end] = range;
  if (gradients_) return gradients_.slice(begin, end - begin);
  const std::int64_t first = layers_.front().first, behind = layers_.back().second;
  if (end <= first) return other_gradients_.slice(begin, end - begin);
  if (begin >= behind) return other_gradients_.slice(first + begin - behind, end - begin);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    if (begin < layers_[i].first || end > layers_[i].second) continue;
    return windows_[i % 2].slice(begin - layers_[i].first, end - begin);
  }
  fail(StatusCode::internal, "the gradients from {} to {} do not lie together", begin, end);
}

Tensor ParameterArena::joined_gradient(const std::vector<std::string>& names) const {
  if (gradients_) return view(gradients_, names);
  const Tensor value = view(values_, names);
  const auto begin = static_cast<std::int64_t>((value.offset_bytes - values_.offset_bytes) / sizeof(float));
  return gradients_in({begin, begin + value.count()}).reshape(value.shape);
}

std::vector<Tensor> ParameterArena::gradients_without_matrices() const {
  std::vector<Tensor> pieces;
  for (const Range& range : rests_) pieces.push_back(gradients_in(range));
  return pieces;
}

GradientPart ParameterArena::layer_gradients(std::int64_t layer) const {
  const Range& range = layers_[static_cast<std::size_t>(layer)];
  return {range.first, gradients_in(range)};
}

std::vector<Tensor> ParameterArena::between_layer_gradients(std::int64_t layer) const {
  if (gradients_) return {};  // they have been zero since the start
  const auto& [begin, end] = layers_[static_cast<std::size_t>(layer)];
  std::map<std::int64_t, std::int64_t> matrices;
  for (const auto& [name, place] : places_) {
    if (place.begin >= begin && place.begin < end) matrices.emplace(place.begin, place.begin + place.count());
  }
  matrices.emplace(end, end);
  std::vector<Tensor> pieces;
  std::int64_t behind = begin;
  for (const auto& [first, last] : matrices) {
    if (first > behind) pieces.push_back(gradients_in({behind, first}));
    behind = last;
  }
  return pieces;
}

std::vector<GradientPart> ParameterArena::other_gradients() const {
  std::vector<GradientPart> parts;
  for (const auto& [begin, end] : {Range(0, layers_.front().first), Range(layers_.back().second, values_.count())}) {
    if (begin < end) parts.push_back({begin, gradients_in({begin, end})});
  }
  return parts;
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
  return named(values);
}

std::map<std::string, HostTensor> ParameterArena::named(std::span<const float> whole) const {
  std::map<std::string, HostTensor> tensors;
  for (const auto& [name, place] : places_) {
    const std::span<const float> part =
        whole.subspan(static_cast<std::size_t>(place.begin), static_cast<std::size_t>(place.count()));
    tensors.emplace(name, make_host_tensor(part, place.shape));
  }
  return tensors;
}

std::map<std::string, ParameterArena::Piece> ParameterArena::named_part(
    const std::shared_ptr<const std::vector<float>>& part, std::int64_t begin) const {
  const std::int64_t end = begin + static_cast<std::int64_t>(part->size());
  std::map<std::string, Piece> pieces;
  for (const auto& [name, place] : places_) {
    const std::int64_t first = std::max(begin, place.begin), last = std::min(end, place.begin + place.count());
    if (first >= last) continue;
    const auto values =
        std::span(*part).subspan(static_cast<std::size_t>(first - begin), static_cast<std::size_t>(last - first));
    pieces.emplace(name, Piece{first - place.begin, {DType::f32, {last - first}, std::as_bytes(values), part}});
  }
  return pieces;
}

void ParameterArena::upload(const Tensor& whole, const std::map<std::string, HostTensor>& tensors) const {
  for (const auto& [name, place] : places_) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) fail(StatusCode::bad_file, "the parameter {} is missing", name);
    upload_converted(*device_, found->second, whole.slice(place.begin, place.count()), name);
  }
}

void ParameterArena::upload_part(const Tensor& part, std::int64_t begin,
                                 const std::map<std::string, HostTensor>& tensors) const {
  const std::int64_t end = begin + part.count();
  for (const auto& [name, place] : places_) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) fail(StatusCode::bad_file, "the parameter {} is missing", name);
    const std::int64_t first = std::max(begin, place.begin), last = std::min(end, place.begin + place.count());
    if (first >= last) continue;
    const std::vector<float> values = to_floats(found->second);
    const std::span<const float> own = std::span(values).subspan(static_cast<std::size_t>(first - place.begin),
                                                                 static_cast<std::size_t>(last - first));
    device_->upload(part.slice(first - begin, last - first), std::as_bytes(own));
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
