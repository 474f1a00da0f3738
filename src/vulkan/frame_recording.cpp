#include "vulkan/frame_recording.h"

#include <algorithm>
#include <limits>
#include <span>

#include "base/error.h"
#include "base/log.h"
#include "vulkan/barrier.h"
#include "vulkan/device.h"
#include "vulkan/device_impl.h"
#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

std::unique_ptr<FrameRecording> VulkanDevice::record_for_frames(const RecordFunction& function) {
  if (impl_->core->profile.timestamp_bits == 0) {
    fail(StatusCode::unsupported, "queue family {} of {} has no timestamps, so work cannot be measured for a budget",
         queue_family(), info().name);
  }
  return std::make_unique<VulkanFrameRecording>(impl_->core, make_recording(function, {}, true));
}

VulkanFrameRecording::VulkanFrameRecording(std::shared_ptr<DeviceCore> core, std::unique_ptr<VulkanRecording> pieces)
    : core_(std::move(core)), recording_(std::move(pieces)), measured_us_(recording_->segment_count(), -1) {
  const DeviceFunctions& vk = core_->table;
  for (Append& append : appends_) {
    VkEventCreateInfo event{};
    event.sType = VK_STRUCTURE_TYPE_EVENT_CREATE_INFO;
    core_->check_device(vk.vkCreateEvent(core_->device, &event, core_->allocator, &append.event),
                        "creating an event");
    VkQueryPoolCreateInfo queries{};
    queries.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
    queries.queryType = VK_QUERY_TYPE_TIMESTAMP;
    queries.queryCount = most_pieces + 1;
    core_->check_device(vk.vkCreateQueryPool(core_->device, &queries, core_->allocator, &append.queries),
                        "creating a query pool");
    append.pieces.reserve(most_pieces);
  }
  VkCommandPoolCreateInfo pool{};
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
  pool.queueFamilyIndex = core_->profile.queue_family;
  core_->check_device(vk.vkCreateCommandPool(core_->device, &pool, core_->allocator, &own_pool_),
                      "creating a command pool");
  VkCommandBufferAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = own_pool_;
  allocate.commandBufferCount = 1;
  core_->check_device(vk.vkAllocateCommandBuffers(core_->device, &allocate, &own_commands_),
                      "allocating a command buffer");
}

// Frames that were submitted are waited for, by a submission of nothing behind them. What is not done then never was.
VulkanFrameRecording::~VulkanFrameRecording() {
  if (was_appended_ && !core_->lost()) {
    try {
      core_->wait(core_->submit_final_group({}));
      while (poll()) {
      }
      if (in_flight_ > 0) {
        log_warning(
            fmt::format("{} command buffers with recorded work were not submitted before the end", in_flight_));
      }
    } catch (const Error& error) {
      log_warning(error.what());
    }
  }
  const DeviceFunctions& vk = core_->table;
  for (Append& append : appends_) {
    vk.vkDestroyEvent(core_->device, append.event, core_->allocator);
    vk.vkDestroyQueryPool(core_->device, append.queries, core_->allocator);
  }
  vk.vkDestroyCommandPool(core_->device, own_pool_, core_->allocator);
}

double VulkanFrameRecording::expected_us(std::uint32_t piece) const {
  if (measured_us_[piece] >= 0) return measured_us_[piece];
  return recording_->estimate_ms(piece) * core_->time_scale * 1000;
}

FrameRecording::Appended VulkanFrameRecording::append(void* commands, double budget_us, std::int64_t most_runs) {
  Appended result;
  if (in_flight_ == most_appends) return result;
  const DeviceFunctions& vk = core_->table;
  auto* const primary = static_cast<VkCommandBuffer>(commands);
  Append& append = appends_[static_cast<std::size_t>((oldest_ + in_flight_) % most_appends)];
  append.pieces.clear();
  while (append.pieces.size() < most_pieces) {
    if (next_piece_ == 0 && result.runs_begun >= most_runs) break;
    const double cost_us = expected_us(next_piece_);
    if (result.expected_us + cost_us > budget_us) {
      if (!append.pieces.empty()) break;
      saved_us_ += budget_us;
      if (saved_us_ < cost_us) break;
    }
    if (append.pieces.empty()) {
      vk.vkCmdResetQueryPool(primary, append.queries, 0, most_pieces + 1);
      vk.vkCmdWriteTimestamp(primary, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, append.queries, 0);
    }
    saved_us_ = 0;
    if (next_piece_ == 0) ++result.runs_begun;
    const VkCommandBuffer piece = recording_->segment(next_piece_);
    vk.vkCmdExecuteCommands(primary, 1, &piece);
    append.pieces.push_back(next_piece_);
    vk.vkCmdWriteTimestamp(primary, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, append.queries,
                           static_cast<std::uint32_t>(append.pieces.size()));
    result.expected_us += cost_us;
    next_piece_ = (next_piece_ + 1) % static_cast<std::uint32_t>(recording_->segment_count());
    if (next_piece_ == 0) ++result.runs_finished;
  }
  result.pieces = static_cast<std::int64_t>(append.pieces.size());
  if (append.pieces.empty()) return result;
  barrier(vk, primary, work_stages, work_writes, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
  vk.vkCmdSetEvent(primary, append.event, VK_PIPELINE_STAGE_ALL_COMMANDS_BIT);
  append.executed = {result.expected_us, 0, result.runs_finished};
  ++in_flight_;
  was_appended_ = true;
  release_ticket_ = 0;
  return result;
}

// An event says that our commands are done, not that the command buffer is, which the host may have filled further. A
// submission of nothing is: what it signals comes after all that was submitted before.
bool VulkanFrameRecording::is_released() {
  if (!was_appended_ || core_->lost()) return true;
  if (in_flight_ > 0) return false;
  if (release_ticket_ == 0) release_ticket_ = core_->submit_final_group({});
  return core_->finished(release_ticket_);
}

std::optional<FrameRecording::Executed> VulkanFrameRecording::poll() {
  if (in_flight_ == 0) return std::nullopt;
  const DeviceFunctions& vk = core_->table;
  Append& append = appends_[static_cast<std::size_t>(oldest_)];
  const VkResult status = vk.vkGetEventStatus(core_->device, append.event);
  if (status == VK_EVENT_RESET) return std::nullopt;
  if (status != VK_EVENT_SET) core_->check_device(status, "reading an event");
  measure(append);
  core_->check_device(vk.vkResetEvent(core_->device, append.event), "resetting an event");
  oldest_ = (oldest_ + 1) % most_appends;
  --in_flight_;
  return append.executed;
}

// Longer times count at once, shorter ones slowly: a budget is kept rather than filled.
void VulkanFrameRecording::measure(Append& append) {
  const auto count = static_cast<std::uint32_t>(append.pieces.size()) + 1;
  std::vector<std::uint64_t> values(2 * std::size_t{count});
  const VkResult result = core_->table.vkGetQueryPoolResults(
      core_->device, append.queries, 0, count, values.size() * sizeof(std::uint64_t), values.data(),
      2 * sizeof(std::uint64_t), VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WITH_AVAILABILITY_BIT);
  if (result == VK_NOT_READY) return;
  core_->check_device(result, "reading timestamps");
  for (std::size_t i = 0; i < count; ++i) {
    if (values[2 * i + 1] == 0) return;
  }
  const auto between_us = [&](std::size_t begin, std::size_t end) {
    std::uint64_t ticks = values[2 * end] - values[2 * begin];
    const std::uint32_t bits = core_->profile.timestamp_bits;
    if (bits < 64) ticks &= (1ull << bits) - 1;
    return static_cast<double>(ticks) * core_->profile.timestamp_period_ns * 1e-3;
  };
  append.executed.measured_us = between_us(0, count - 1);
  for (std::size_t i = 0; i + 1 < count; ++i) {
    double& known = measured_us_[append.pieces[i]];
    const double now = between_us(i, i + 1);
    const double weight = known < 0 ? 1 : now > known ? 0.5 : 0.1;
    known = known < 0 ? now : known + weight * (now - known);
  }
}

void VulkanFrameRecording::forget_times() { std::fill(measured_us_.begin(), measured_us_.end(), -1); }

void VulkanFrameRecording::run_here(std::int64_t more_runs) {
  const DeviceFunctions& vk = core_->table;
  while (more_runs > 0 || next_piece_ != 0) {
    if (in_flight_ == most_appends) {
      fail(StatusCode::invalid_argument, "{} command buffers with recorded work have not been executed: submit them",
           in_flight_);
    }
    VkCommandBufferBeginInfo begin{};
    begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
    begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
    core_->check_device(vk.vkBeginCommandBuffer(own_commands_, &begin), "beginning a command buffer");
    const Appended done = append(own_commands_, std::numeric_limits<double>::infinity(), more_runs);
    core_->check_device(vk.vkEndCommandBuffer(own_commands_), "ending a command buffer");
    more_runs -= done.runs_begun;
    core_->wait(core_->submit_final_group(std::span(&own_commands_, 1)));
  }
}

}  // namespace riverhorse::vulkan
