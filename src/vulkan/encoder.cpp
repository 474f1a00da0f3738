// dispatch(): pipelines, descriptors, and no more barriers than the data demands. Every tensor that a command reads
// or writes is noted as a byte range; a command whose ranges conflict (read after write, write after read or write)
// with those noted since the last barrier gets a barrier before it, which clears the notes. The barrier is global:
// buffer barriers cost the same on every driver known, and a global one settles all earlier conflicts at once.
#include "vulkan/encoder.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "vulkan/barrier.h"
#include "vulkan/core.h"
#include "vulkan/device_impl.h"
#include "vulkan/memory.h"
#include "vulkan/pipelines.h"
#include "vulkan/recording.h"

namespace riverhorse::vulkan {

struct NotedRange {
  VkBuffer buffer;
  std::uint64_t begin;
  std::uint64_t end;

  bool overlaps(const NotedRange& other) const {
    return buffer == other.buffer && begin < other.end && other.begin < end;
  }
};

struct VulkanEncoder::State {
  // Preparing.
  std::vector<PipelineKey> wanted;
  std::uint32_t dispatches = 0;
  std::uint32_t operations = 0;
  std::function<void(const LinearPart&)> product_watch;
  // Recording.
  std::vector<NotedRange> reads;
  std::vector<NotedRange> writes;
  VkPipelineStageFlags stages_since_barrier = 0;
  VkPipeline bound = VK_NULL_HANDLE;
  int operation_depth = 0;
  bool uses_transfer = false;                                           // some command so far was not a dispatch
  Tensor counters;                                                      // made when first asked for
  std::map<std::pair<std::uint32_t, std::uint32_t>, Tensor> exchanges;  // likewise
};

VulkanEncoder::VulkanEncoder(VulkanDevice& device, VulkanRecording* recording, std::shared_ptr<Buffer> workspace)
    : Encoder(workspace), device_(device), recording_(recording), state_(std::make_unique<State>()) {
  if (recording_ != nullptr && workspace != nullptr) recording_->keep(workspace);
}

VulkanEncoder::~VulkanEncoder() = default;

const VulkanLimits& VulkanEncoder::limits() const { return device_.limits(); }

// More things than these fill the device with a workgroup each: there is no need to share them among several.
std::uint32_t VulkanEncoder::most_counters() const { return limits().compute_units * 8; }

const Tensor& VulkanEncoder::counters() {
  if (!preparing() && !state_->counters) {
    state_->counters = device_.allocate_tensor(DType::i32, {most_counters()});  // zeros
  }
  return state_->counters;
}

void VulkanEncoder::watch_products(std::function<void(const LinearPart&)> watch) {
  state_->product_watch = std::move(watch);
}

void VulkanEncoder::see_product(const LinearPart& part) {
  if (state_->product_watch) state_->product_watch(part);
}

const Tensor& VulkanEncoder::exchange(std::span<const std::uint32_t> control, std::uint32_t words) {
  const auto begin = static_cast<std::uint32_t>(control.size());
  Tensor& tensor = state_->exchanges[{begin, words}];
  if (!preparing() && !tensor) {
    tensor = device_.allocate_tensor(DType::i32, {begin + words});
    device_.upload(tensor.slice(0, begin), std::as_bytes(control));
  }
  return tensor;
}

std::uint32_t VulkanEncoder::dispatch_count() const { return state_->dispatches; }
std::uint32_t VulkanEncoder::operation_count() const { return state_->operations; }
std::span<const PipelineKey> VulkanEncoder::wanted_pipelines() const { return state_->wanted; }

void VulkanEncoder::begin_operation(std::string_view name) {
  if (state_->operation_depth++ > 0) return;
  ++state_->operations;
  if (recording_ == nullptr || !recording_->times_operations()) return;
  recording_->begin_operation(name);
  // The operation's own barrier has settled everything.
  state_->reads.clear();
  state_->writes.clear();
  state_->stages_since_barrier = 0;
}

void VulkanEncoder::end_operation() {
  if (--state_->operation_depth > 0) return;
  if (recording_ != nullptr && recording_->times_operations()) recording_->end_operation();
}

// A barrier if `touched` conflicts with what was recorded since the last one; then notes it.
void VulkanEncoder::order(std::span<const Binding> touched, VkPipelineStageFlags stages) {
  // Barriers so far may have been compute to compute, and cleared notes that matter to the first transfer.
  const bool first_transfer = (stages & VK_PIPELINE_STAGE_TRANSFER_BIT) != 0 && !state_->uses_transfer;
  if (first_transfer) state_->uses_transfer = true;
  bool conflict = first_transfer;
  const auto conflicts_with = [](const std::vector<NotedRange>& noted, const NotedRange& range) {
    return std::any_of(noted.begin(), noted.end(), [&](const NotedRange& each) { return each.overlaps(range); });
  };
  for (const Binding& binding : touched) {
    const VulkanDevice::BufferRange where = device_.range(binding.tensor);
    const NotedRange range{where.buffer, where.offset, where.offset + where.size};
    conflict = conflict || conflicts_with(state_->writes, range) ||
               (binding.access != Access::read && conflicts_with(state_->reads, range));
  }
  if (conflict) {
    const VkPipelineStageFlags from = first_transfer ? work_stages : state_->stages_since_barrier;
    VkAccessFlags written = 0;
    if ((from & VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT) != 0) written |= VK_ACCESS_SHADER_WRITE_BIT;
    if ((from & VK_PIPELINE_STAGE_TRANSFER_BIT) != 0) written |= VK_ACCESS_TRANSFER_WRITE_BIT;
    // Compute to compute, as long as the recording has seen nothing else.
    VkPipelineStageFlags to = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT;
    VkAccessFlags accessed = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
    if (state_->uses_transfer) {
      to = work_stages;
      accessed = work_accesses;
    }
    barrier(device_.table(), recording_->commands(), from, written, to, accessed);
    recording_->count_barrier();
    state_->reads.clear();
    state_->writes.clear();
    state_->stages_since_barrier = 0;
  }
  for (const Binding& binding : touched) {
    const VulkanDevice::BufferRange where = device_.range(binding.tensor);
    const NotedRange range{where.buffer, where.offset, where.offset + where.size};
    (binding.access == Access::read ? state_->reads : state_->writes).push_back(range);
    recording_->keep(binding.tensor.buffer);
  }
  state_->stages_since_barrier |= stages;
}

void VulkanEncoder::dispatch(const Dispatch& dispatch) {
  DeviceCore& core = *device_.impl().core;
  if (dispatch.bindings.size() > core.profile.properties.limits.maxPerStageDescriptorStorageBuffers) {
    fail(StatusCode::unsupported, "shader {} needs {} storage buffers and {} offers {}", dispatch.shader,
         dispatch.bindings.size(), core.info.name,
         core.profile.properties.limits.maxPerStageDescriptorStorageBuffers);
  }
  for (int axis = 0; axis < 3; ++axis) {
    if (dispatch.groups[axis] == 0 || dispatch.groups[axis] > limits().group_count[axis]) {
      fail(StatusCode::internal, "shader {} is dispatched with {} groups along axis {}, of at most {}",
           dispatch.shader, dispatch.groups[axis], axis, limits().group_count[axis]);
    }
  }
  if (dispatch.push.size() > 128) fail(StatusCode::internal, "shader {}: push constants", dispatch.shader);
  PipelineKey key{std::string(dispatch.shader),
                  {dispatch.constants.begin(), dispatch.constants.end()},
                  static_cast<std::uint32_t>(dispatch.bindings.size()),
                  static_cast<std::uint32_t>(dispatch.push.size()),
                  dispatch.required_subgroup_size};
  ++state_->dispatches;
  if (recording_ == nullptr) {
    state_->wanted.push_back(std::move(key));
    if (state_->operation_depth == 0) ++state_->operations;
    return;
  }
  const Pipeline& pipeline = device_.impl().pipelines->get(key);
  const DeviceFunctions& vk = core.table;
  const bool lone = state_->operation_depth == 0;
  if (lone) begin_operation(dispatch.shader.substr(0, dispatch.shader.find('.')));
  const double estimate_ms =
      std::max(dispatch.cost_bytes / core.nominal_bytes_per_ms, dispatch.cost_flops / core.nominal_flops_per_ms) +
      core.nominal_dispatch_ms;
  if (recording_->grow(estimate_ms)) state_->bound = VK_NULL_HANDLE;
  order(dispatch.bindings, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT);
  const VkCommandBuffer commands = recording_->commands();
  if (state_->bound != pipeline.handle) {
    vk.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.handle);
    state_->bound = pipeline.handle;
  }

  constexpr std::size_t most = 32;
  if (dispatch.bindings.size() > most) fail(StatusCode::internal, "shader {}: too many bindings", dispatch.shader);
  VkDescriptorBufferInfo buffers[most];
  VkWriteDescriptorSet writes[most];
  const auto count = static_cast<std::uint32_t>(dispatch.bindings.size());
  const VkDescriptorSet set = core.profile.push_descriptor || count == 0
                                  ? VK_NULL_HANDLE
                                  : recording_->new_descriptor_set(pipeline.set_layout, count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const VulkanDevice::BufferRange where = device_.range(dispatch.bindings[i].tensor);
    if (where.offset % limits().offset_alignment != 0) {
      fail(StatusCode::invalid_argument, "shader {}: binding {} starts at byte {}, not at a multiple of {}",
           dispatch.shader, i, where.offset, limits().offset_alignment);
    }
    if (where.size > limits().storage_range_bytes) {
      fail(StatusCode::unsupported,
           "a tensor of {} bytes is bound, and {} allows {}: use shorter pieces or a smaller batch", where.size,
           core.info.name, limits().storage_range_bytes);
    }
    buffers[i] = {where.buffer, where.offset, where.size};
    writes[i] = {};
    writes[i].sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    writes[i].dstSet = set;
    writes[i].dstBinding = i;
    writes[i].descriptorCount = 1;
    writes[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    writes[i].pBufferInfo = &buffers[i];
  }
  if (count > 0 && core.profile.push_descriptor) {
    vk.vkCmdPushDescriptorSetKHR(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.layout, 0, count, writes);
  } else if (count > 0) {
    vk.vkUpdateDescriptorSets(core.device, count, writes, 0, nullptr);
    vk.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline.layout, 0, 1, &set, 0, nullptr);
  }
  if (!dispatch.push.empty()) {
    vk.vkCmdPushConstants(commands, pipeline.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                          static_cast<std::uint32_t>(dispatch.push.size()), dispatch.push.data());
  }
  vk.vkCmdDispatch(commands, dispatch.groups[0], dispatch.groups[1], dispatch.groups[2]);
  if (lone) end_operation();
}

void VulkanEncoder::external(std::span<const Binding> touched, double cost_bytes,
                             const std::function<void(VkCommandBuffer)>& record) {
  ++state_->dispatches;
  if (recording_ == nullptr) {
    if (state_->operation_depth == 0) ++state_->operations;
    return;
  }
  const DeviceCore& core = *device_.impl().core;
  const bool lone = state_->operation_depth == 0;
  if (lone) begin_operation("external");
  recording_->grow(cost_bytes / core.nominal_bytes_per_ms + core.nominal_dispatch_ms);
  order(touched, work_stages);
  record(recording_->commands());
  state_->bound = VK_NULL_HANDLE;  // whatever they bound
  if (lone) end_operation();
}

}  // namespace riverhorse::vulkan
