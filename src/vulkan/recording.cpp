// How a submission is bounded by time. While recording, commands are cut into segments whose estimated time is a
// quarter of the limit; a segment measures itself with two timestamps whenever it runs. When a recording is
// submitted, neighbouring segments form one group, one vkQueueSubmit, as long as their times (measured if they ran
// before, else estimated) stay below the limit. So the first submission of a recording may be cut too finely, and
// the second one is right, without recording anything again; and what was measured also corrects the estimates of
// recordings to come. A decode step of some milliseconds is one submission.
#include "vulkan/recording.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "vulkan/barrier.h"

namespace riverhorse::vulkan {
namespace {

VkQueryPool make_queries(DeviceCore& core, std::uint32_t count) {
  VkQueryPoolCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
  create.queryType = VK_QUERY_TYPE_TIMESTAMP;
  create.queryCount = count;
  VkQueryPool pool = VK_NULL_HANDLE;
  core.check_device(core.table.vkCreateQueryPool(core.device, &create, core.allocator, &pool),
                    "creating a query pool");
  return pool;
}

}  // namespace

VulkanRecording::VulkanRecording(std::shared_ptr<DeviceCore> core, std::shared_ptr<Pipelines> pipelines,
                                 const RecordOptions& options, std::uint32_t dispatches, std::uint32_t operations,
                                 std::optional<double> frame_scale)
    : core_(std::move(core)),
      pipelines_(std::move(pipelines)),
      options_(options),
      frame_scale_(frame_scale),
      operation_capacity_(operations) {
  VkCommandPoolCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  create.queueFamilyIndex = core_->profile.queue_family;
  core_->check_device(core_->table.vkCreateCommandPool(core_->device, &create, core_->allocator, &pool_),
                      "creating a command pool");
  if (core_->profile.timestamp_bits > 0 && !frame_scale_) {  // frames take their own times
    segment_queries_ = make_queries(*core_, 2 * (dispatches + 1));
    if (options.op_timestamps && operations > 0) operation_queries_ = make_queries(*core_, 2 * operations);
  }
  ++core_->counters.recordings;
  begin_segment();
}

VulkanRecording::~VulkanRecording() {
  core_->wait_quietly(last_ticket_);
  const DeviceFunctions& vk = core_->table;
  for (VkDescriptorPool pool : descriptor_pools_) vk.vkDestroyDescriptorPool(core_->device, pool, core_->allocator);
  if (segment_queries_ != VK_NULL_HANDLE) vk.vkDestroyQueryPool(core_->device, segment_queries_, core_->allocator);
  if (operation_queries_ != VK_NULL_HANDLE)
    vk.vkDestroyQueryPool(core_->device, operation_queries_, core_->allocator);
  vk.vkDestroyCommandPool(core_->device, pool_, core_->allocator);
}

void VulkanRecording::begin_segment() {
  const DeviceFunctions& vk = core_->table;
  VkCommandBufferAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = pool_;
  allocate.level = frame_scale_ ? VK_COMMAND_BUFFER_LEVEL_SECONDARY : VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  VkCommandBuffer commands = VK_NULL_HANDLE;
  core_->check_device(vk.vkAllocateCommandBuffers(core_->device, &allocate, &commands),
                      "allocating a command buffer");
  const auto index = static_cast<std::uint32_t>(commands_.size());
  commands_.push_back(commands);
  segments_.emplace_back();
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT;  // the next step is queued while this one runs
  VkCommandBufferInheritanceInfo inheritance{};
  inheritance.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_INHERITANCE_INFO;
  if (frame_scale_) begin.pInheritanceInfo = &inheritance;  // outside a render pass
  core_->check_device(vk.vkBeginCommandBuffer(commands, &begin), "beginning a command buffer");
  if (index == 0) {
    // Everything submitted before comes first; within the recording the encoder's barriers do it.
    barrier(vk, commands, work_stages, work_writes, work_stages, work_accesses);
    if (operation_queries_ != VK_NULL_HANDLE) {
      vk.vkCmdResetQueryPool(commands, operation_queries_, 0, 2 * operation_capacity_);
    }
  }
  if (segment_queries_ != VK_NULL_HANDLE) {
    vk.vkCmdResetQueryPool(commands, segment_queries_, 2 * index, 2);
    core_->write_timestamp(commands, segment_queries_, 2 * index);
  }
}

void VulkanRecording::end_segment() {
  const DeviceFunctions& vk = core_->table;
  if (segment_queries_ != VK_NULL_HANDLE) {
    const auto index = static_cast<std::uint32_t>(commands_.size()) - 1;
    core_->write_timestamp(commands_.back(), segment_queries_, 2 * index + 1);
  }
  core_->check_device(vk.vkEndCommandBuffer(commands_.back()), "ending a command buffer");
}

bool VulkanRecording::grow(double estimate_ms) {
  Segment& segment = segments_.back();
  const double scale = frame_scale_.value_or(core_->time_scale);
  constexpr double frame_piece_ms = 0.05;
  const double limit_ms = frame_scale_ ? frame_piece_ms : core_->options.submission_limit_ms / 4;
  const bool full = segment.estimate_ms > 0 && (segment.estimate_ms + estimate_ms) * scale > limit_ms;
  if (full) {
    end_segment();
    begin_segment();
  }
  segments_.back().estimate_ms += estimate_ms;
  return full;
}

void VulkanRecording::finish() {
  barrier(core_->table, commands_.back(), work_stages, work_writes, VK_PIPELINE_STAGE_HOST_BIT,
          VK_ACCESS_HOST_READ_BIT);
  end_segment();
  query_values_.resize(4 * segments_.size());
}

VkDescriptorSet VulkanRecording::new_descriptor_set(VkDescriptorSetLayout layout, std::uint32_t binding_count) {
  constexpr std::uint32_t sets = 128;
  const DeviceFunctions& vk = core_->table;
  VkDescriptorSetAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
  allocate.descriptorSetCount = 1;
  allocate.pSetLayouts = &layout;
  VkDescriptorSet set = VK_NULL_HANDLE;
  if (sets_left_ > 0 && descriptors_left_ >= binding_count) {
    allocate.descriptorPool = descriptor_pools_.back();
    if (vk.vkAllocateDescriptorSets(core_->device, &allocate, &set) == VK_SUCCESS) {
      --sets_left_;
      descriptors_left_ -= binding_count;
      return set;
    }
  }
  sets_left_ = sets;
  descriptors_left_ = std::max(sets * 8, binding_count);
  const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, descriptors_left_};
  VkDescriptorPoolCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
  create.maxSets = sets;
  create.poolSizeCount = 1;
  create.pPoolSizes = &size;
  VkDescriptorPool pool = VK_NULL_HANDLE;
  core_->check_device(vk.vkCreateDescriptorPool(core_->device, &create, core_->allocator, &pool),
                      "creating a descriptor pool");
  descriptor_pools_.push_back(pool);
  allocate.descriptorPool = pool;
  core_->check_device(vk.vkAllocateDescriptorSets(core_->device, &allocate, &set), "allocating descriptors");
  --sets_left_;
  descriptors_left_ -= binding_count;
  return set;
}

void VulkanRecording::begin_operation(std::string_view name) {
  operations_.emplace_back(name);
  const auto index = static_cast<std::uint32_t>(operations_.size()) - 1;
  barrier(core_->table, commands_.back(), work_stages, work_writes, work_stages, work_accesses);
  core_->write_timestamp(commands_.back(), operation_queries_, 2 * index);
}

void VulkanRecording::end_operation() {
  const auto index = static_cast<std::uint32_t>(operations_.size()) - 1;
  core_->write_timestamp(commands_.back(), operation_queries_, 2 * index + 1);
}

double VulkanRecording::expected_ms(const Segment& segment) const {
  return segment.measured_ms >= 0 ? segment.measured_ms : segment.estimate_ms * core_->time_scale;
}

std::uint64_t VulkanRecording::submit() {
  measure();
  const double limit_ms = core_->options.submission_limit_ms;
  std::size_t begin = 0;
  double group_ms = 0;
  last_groups_ = 1;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    const double segment_ms = expected_ms(segments_[i]);
    if (i > begin && group_ms + segment_ms > limit_ms) {
      core_->submit_group(std::span(commands_).subspan(begin, i - begin), VK_NULL_HANDLE);
      begin = i;
      group_ms = 0;
      ++last_groups_;
    }
    group_ms += segment_ms;
  }
  submitted_ = std::chrono::steady_clock::now();
  last_ticket_ = core_->submit_final_group(std::span(commands_).subspan(begin));
  ++submissions_;
  return last_ticket_;
}

bool VulkanRecording::read_queries(VkQueryPool pool, std::uint32_t count, std::vector<std::uint64_t>& values) const {
  values.resize(2 * static_cast<std::size_t>(count));
  const VkResult result = core_->table.vkGetQueryPoolResults(
      core_->device, pool, 0, count, values.size() * sizeof(std::uint64_t), values.data(), 2 * sizeof(std::uint64_t),
      VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WITH_AVAILABILITY_BIT);
  if (result == VK_NOT_READY) return false;
  core_->check_device(result, "reading timestamps");
  for (std::uint32_t i = 0; i < count; ++i) {
    if (values[2 * i + 1] == 0) return false;
    values[i] = values[2 * i];
  }
  return true;
}

double VulkanRecording::ticks_to_ms(std::uint64_t begin, std::uint64_t end) const {
  std::uint64_t ticks = end - begin;
  const std::uint32_t bits = core_->profile.timestamp_bits;
  if (bits < 64) ticks &= (1ull << bits) - 1;
  return static_cast<double>(ticks) * core_->profile.timestamp_period_ns * 1e-6;
}

// Takes the times of the last submission, if it has finished, for the first few submissions and now and then later.
void VulkanRecording::measure() {
  if (segment_queries_ == VK_NULL_HANDLE || last_ticket_ == 0 || measured_ticket_ == last_ticket_) return;
  if (measurements_ >= 4 && submissions_ % 64 != 0) return;
  if (!core_->finished(last_ticket_)) return;
  if (!read_queries(segment_queries_, static_cast<std::uint32_t>(2 * segments_.size()), query_values_)) return;
  measured_ticket_ = last_ticket_;
  ++measurements_;
  double estimated = 0;
  double measured = 0;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    segments_[i].measured_ms = ticks_to_ms(query_values_[2 * i], query_values_[2 * i + 1]);
    estimated += segments_[i].estimate_ms;
    measured += segments_[i].measured_ms;
  }
  if (estimated > 0.1)
    core_->time_scale = std::clamp(0.5 * core_->time_scale + 0.5 * measured / estimated, 1e-4, 1e4);
}

std::vector<OpTiming> VulkanRecording::timings() {
  std::vector<OpTiming> list;
  if (operations_.empty() || last_ticket_ == 0) return list;
  core_->wait(last_ticket_);
  std::vector<std::uint64_t> values;
  if (!read_queries(operation_queries_, static_cast<std::uint32_t>(2 * operations_.size()), values)) return list;
  for (std::size_t i = 0; i < operations_.size(); ++i) {
    list.push_back(
        {operations_[i], ticks_to_ms(values[2 * i], values[2 * i + 1]), ticks_to_ms(values[0], values[2 * i])});
  }
  return list;
}

double VulkanRecording::total_time_ms() {
  if (last_ticket_ == 0) return 0;
  core_->wait(last_ticket_);
  const auto count = static_cast<std::uint32_t>(2 * segments_.size());
  if (segment_queries_ != VK_NULL_HANDLE && read_queries(segment_queries_, count, query_values_)) {
    return ticks_to_ms(query_values_[0], query_values_[count - 1]);
  }
  // No clock on the device: from the submission to now, which is right when the caller waited just before.
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - submitted_).count();
}

}  // namespace riverhorse::vulkan
