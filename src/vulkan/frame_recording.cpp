#include "vulkan/frame_recording.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "vulkan/barrier.h"
#include "vulkan/device.h"
#include "vulkan/device_impl.h"
#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

namespace {

constexpr std::uint64_t many_bytes = 65536;       // of those copied before a run; also the most of one update
constexpr double likely_share = 0.9;              // of the pieces that took at most what is expected of others
constexpr double other_magnitude = 8;             // of a time, as a factor
constexpr double nothing_known_of_copies_us = 0;  // they are few against a piece

}  // namespace

std::unique_ptr<FrameQueue> VulkanDevice::make_frame_queue() {
  if (impl_->core->profile.timestamp_bits == 0) {
    fail(StatusCode::unsupported, "queue family {} of {} has no timestamps, so work cannot be measured for a budget",
         queue_family(), info().name);
  }
  return std::make_unique<VulkanFrameQueue>(*this);
}

std::shared_ptr<FrameRecording> VulkanDevice::record_for_frames(const RecordFunction& function,
                                                                const std::shared_ptr<Buffer>& workspace,
                                                                const FrameRecording* like) {
  RecordOptions options;
  options.workspace = workspace;
  const auto* known = dynamic_cast<const VulkanFrameRecording*>(like);
  const double scale = known != nullptr ? known->scale() : impl_->core->time_scale;
  return std::make_shared<VulkanFrameRecording>(impl_->core, make_recording(function, options, scale), known);
}

void KnownTime::add(double now) {
  const auto is_odd = [](double time, double known) {
    return time > other_magnitude * known || known > other_magnitude * time;
  };
  const double odd_before = std::exchange(odd_us_, -1);
  if (us_ >= 0 && is_odd(now, us_)) {
    if (odd_before < 0 || is_odd(now, odd_before)) {
      odd_us_ = now;
    } else {
      us_ = std::max(now, odd_before);
    }
    return;
  }
  const double weight = us_ < 0 ? 1 : now > us_ ? 0.5 : 0.1;
  us_ = us_ < 0 ? now : us_ + weight * (now - us_);
}

void Overrun::add(double expected_us, double measured_us, double budget_us) {
  factor_ = 1 + (factor_ - 1) * std::exp2(-1 / frames_to_half);
  if (expected_us > budget_us || measured_us <= budget_us) return;
  factor_ = std::max(factor_, std::min(most, measured_us / expected_us));
}

VulkanFrameRecording::VulkanFrameRecording(std::shared_ptr<DeviceCore> core, std::unique_ptr<VulkanRecording> pieces,
                                           const VulkanFrameRecording* like)
    : core_(std::move(core)),
      recording_(std::move(pieces)),
      likely_scale_(like != nullptr ? like->likely_scale() : core_->time_scale),
      times_(recording_->segment_count()) {
  const bool cut_alike = like != nullptr && like->pieces() == times_.size();
  for (std::uint32_t i = 0; i < times_.size(); ++i) {
    const double estimate_us = recording_->estimate_ms(i) * 1000;
    const double like_us = cut_alike ? like->recording_->estimate_ms(i) * 1000 : 0;
    likely_us_.push_back(like_us > 0 && like->is_known(i) ? like->expected_us(i) * estimate_us / like_us
                                                          : estimate_us * likely_scale_);
  }
}

double VulkanFrameRecording::expected_us(std::uint32_t index) const {
  return times_[index].known() ? times_[index].us() : likely_us_[index];
}

double VulkanFrameRecording::scale() const {
  double known_us = 0, estimate_us = 0;
  for (std::size_t i = 0; i < times_.size(); ++i) {
    if (!times_[i].known()) continue;
    known_us += times_[i].us();
    estimate_us += recording_->estimate_ms(i) * 1000;
  }
  return estimate_us > 0 ? known_us / estimate_us : likely_scale_;
}

double VulkanFrameRecording::likely_scale() const {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < times_.size(); ++i) {
    const double estimate_us = recording_->estimate_ms(i) * 1000;
    if (times_[i].known() && estimate_us > 0) ratios.push_back(times_[i].us() / estimate_us);
  }
  if (ratios.empty()) return likely_scale_;
  std::sort(ratios.begin(), ratios.end());
  return ratios[static_cast<std::size_t>(likely_share * static_cast<double>(ratios.size() - 1))];
}

void VulkanFrameRecording::forget_times() {
  for (KnownTime& time : times_) time.forget();
}

VulkanFrameQueue::VulkanFrameQueue(const VulkanDevice& device) : device_(device), core_(device.impl().core) {
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
  own_commands_.make(core_);
}

// Frames that were submitted are waited for, by a submission of nothing behind them. What is not done then never was.
VulkanFrameQueue::~VulkanFrameQueue() {
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
}

KnownTime& VulkanFrameQueue::time_before(std::uint64_t bytes) { return bytes > many_bytes ? long_before_ : before_; }

void VulkanFrameQueue::record_copies(VkCommandBuffer primary, const std::vector<FrameCopy>& copies) {
  for (const FrameCopy& copy : copies) {
    const VulkanDevice::BufferRange from = device_.range(copy.from);
    const VulkanDevice::BufferRange to = device_.range(copy.to);
    const VkBufferCopy region{from.offset, to.offset, copy.from.size_bytes()};
    core_->table.vkCmdCopyBuffer(primary, from.buffer, to.buffer, 1, &region);
  }
}

void VulkanFrameQueue::begin_run(VkCommandBuffer primary, FrameSource& source) {
  const DeviceFunctions& vk = core_->table;
  FrameRun run = source.begin();
  barrier(vk, primary, work_stages, work_writes, work_stages, work_accesses);
  for (const FrameWrite& write : run.writes) {
    const VulkanDevice::BufferRange to = device_.range(write.to);
    for (std::uint64_t done = 0; done < write.bytes.size(); done += many_bytes) {
      const std::uint64_t size = std::min(many_bytes, write.bytes.size() - done);
      vk.vkCmdUpdateBuffer(primary, to.buffer, to.offset + done, size, write.bytes.data() + done);
    }
  }
  if (!run.copies_before.empty()) {
    barrier(vk, primary, VK_PIPELINE_STAGE_TRANSFER_BIT, VK_ACCESS_TRANSFER_WRITE_BIT, VK_PIPELINE_STAGE_TRANSFER_BIT,
            VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT);
    record_copies(primary, run.copies_before);
  }
  current_ = std::dynamic_pointer_cast<VulkanFrameRecording>(run.recording);
  if (current_ == nullptr || current_->core() != core_.get()) {
    fail(StatusCode::internal, "a frame recording of another device");
  }
  copies_after_ = std::move(run.copies_after);
}

FrameQueue::Appended VulkanFrameQueue::append(void* commands, double budget_us, FrameSource* source) {
  Appended result;
  if (in_flight_ == most_appends) return result;
  const DeviceFunctions& vk = core_->table;
  auto* const primary = static_cast<VkCommandBuffer>(commands);
  Append& append = appends_[static_cast<std::size_t>((oldest_ + in_flight_) % most_appends)];
  append.pieces.clear();
  append.is_known = true;
  append.budget_us = budget_us;
  const double limit_us = budget_us / overrun_.factor();
  std::int64_t runs_finished = 0;
  const auto took = [&](Piece piece, double expected_us) {
    append.pieces.push_back(std::move(piece));
    core_->write_timestamp(primary, append.queries, static_cast<std::uint32_t>(append.pieces.size()));
    result.expected_us += expected_us;
  };
  while (append.pieces.size() + 2 <= most_pieces) {
    const VulkanFrameRecording* recording = current_.get();
    double before_us = 0;
    KnownTime* before = nullptr;
    if (recording == nullptr) {
      const FrameSource::Next next = source == nullptr ? FrameSource::Next{} : source->next();
      recording = dynamic_cast<VulkanFrameRecording*>(next.recording);
      if (recording == nullptr) break;
      before = &time_before(next.bytes_before);
      before_us = before->known() ? before->us() : nothing_known_of_copies_us;
    }
    const double cost_us = before_us + recording->expected_us(next_piece_);
    if (result.expected_us + cost_us > limit_us) {
      if (!append.pieces.empty()) break;
      saved_us_ += limit_us;
      if (saved_us_ < cost_us) break;
    }
    if (append.pieces.empty()) {
      vk.vkCmdResetQueryPool(primary, append.queries, 0, most_pieces + 1);
      core_->write_timestamp(primary, append.queries, 0);
    }
    saved_us_ = 0;
    if (before != nullptr) {
      begin_run(primary, *source);
      took({nullptr, 0, before}, before_us);
    }
    append.is_known = append.is_known && current_->is_known(next_piece_) && (before == nullptr || before->known());
    const VkCommandBuffer piece = current_->piece(next_piece_);
    vk.vkCmdExecuteCommands(primary, 1, &piece);
    ++result.pieces;
    const std::uint32_t index = next_piece_++;
    const bool finished = next_piece_ == current_->pieces();
    if (finished && !copies_after_.empty()) {
      barrier(vk, primary, work_stages, work_writes, VK_PIPELINE_STAGE_TRANSFER_BIT,
              VK_ACCESS_TRANSFER_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT);
      record_copies(primary, copies_after_);
    }
    took({current_, index, nullptr}, current_->expected_us(index));
    if (!finished) continue;
    ++runs_finished;
    next_piece_ = 0;
    current_.reset();
  }
  if (append.pieces.empty()) return result;
  barrier(vk, primary, work_stages, work_writes, VK_PIPELINE_STAGE_HOST_BIT, VK_ACCESS_HOST_READ_BIT);
  vk.vkCmdSetEvent(primary, append.event, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT);
  append.executed = {result.expected_us, 0, runs_finished};
  ++in_flight_;
  was_appended_ = true;
  release_ticket_ = 0;
  return result;
}

// An event says that our commands are done, not that the command buffer is, which the host may have filled further. A
// submission of nothing is: what it signals comes after all that was submitted before.
bool VulkanFrameQueue::is_released() {
  if (!was_appended_ || core_->lost()) return true;
  if (in_flight_ > 0) return false;
  if (release_ticket_ == 0) release_ticket_ = core_->submit_final_group({});
  return core_->finished(release_ticket_);
}

void VulkanFrameQueue::retire(std::shared_ptr<FrameRecording> recording) {
  retired_.push_back(std::move(recording));
  if (is_released()) retired_.clear();
}

std::optional<FrameQueue::Executed> VulkanFrameQueue::poll() {
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

void VulkanFrameQueue::measure(Append& append) {
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
  if (append.is_known) overrun_.add(append.executed.expected_us, append.executed.measured_us, append.budget_us);
  for (std::size_t i = 0; i + 1 < count; ++i) {
    const Piece& piece = append.pieces[i];
    const double now_us = between_us(i, i + 1);
    if (piece.before != nullptr) {
      piece.before->add(now_us);
    } else {
      piece.recording->add_time(piece.index, now_us);
    }
  }
}

bool VulkanFrameQueue::run_here(FrameSource* source) {
  if (in_flight_ == most_appends) {
    fail(StatusCode::invalid_argument, "{} command buffers with recorded work have not been executed: submit them",
         in_flight_);
  }
  const Appended done = append(own_commands_.begin(), std::numeric_limits<double>::infinity(), source);
  const VkCommandBuffer& commands = own_commands_.end();
  if (done.pieces == 0) return false;
  core_->wait(core_->submit_final_group(std::span(&commands, 1)));
  return true;
}

}  // namespace riverhorse::vulkan
