// A recording: command buffers ("segments") that are submitted again and again, in groups bounded by measured time.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "backend/backend.h"
#include "vulkan/core.h"
#include "vulkan/functions.h"
#include "vulkan/pipelines.h"

namespace riverhorse::vulkan {

class VulkanRecording final : public Recording {
 public:
  // `dispatches` and `operations`: how many there will be at most, as counted while preparing.
  // With a `frame_scale`, from estimates to times: in small secondary command buffers, which are not submitted but
  // executed (frame_recording.h).
  VulkanRecording(std::shared_ptr<DeviceCore> core, std::shared_ptr<Pipelines> pipelines,
                  const RecordOptions& options, std::uint32_t dispatches, std::uint32_t operations,
                  std::optional<double> frame_scale);
  ~VulkanRecording() override;

  std::vector<OpTiming> timings() override;
  double total_time_ms() override;

  // While recording. The open command buffer; a new segment starts when the estimates say so.
  VkCommandBuffer commands() const { return commands_.back(); }
  bool grow(double estimate_ms);  // true when that began a new segment: nothing is bound any more
  void keep(const std::shared_ptr<Buffer>& buffer) { kept_.insert(buffer); }
  VkDescriptorSet new_descriptor_set(VkDescriptorSetLayout layout, std::uint32_t binding_count);
  void begin_operation(std::string_view name);
  void end_operation();
  bool times_operations() const { return options_.op_timestamps && operation_queries_ != VK_NULL_HANDLE; }
  void finish();

  std::uint64_t submit();
  const DeviceCore* core() const { return core_.get(); }
  std::size_t segment_count() const { return commands_.size(); }
  VkCommandBuffer segment(std::size_t index) const { return commands_[index]; }
  double estimate_ms(std::size_t index) const { return segments_[index].estimate_ms; }
  std::uint64_t groups_of_last_submission() const { return last_groups_; }
  void count_barrier() { ++barriers_; }
  std::uint64_t barriers() const { return barriers_; }  // that the data demanded

 private:
  struct Segment {
    double estimate_ms = 0;   // by the device's nominal rates
    double measured_ms = -1;  // by its timestamps, once it has run
  };
  void begin_segment();
  void end_segment();
  void measure();
  double expected_ms(const Segment& segment) const;
  bool read_queries(VkQueryPool pool, std::uint32_t count, std::vector<std::uint64_t>& values) const;
  double ticks_to_ms(std::uint64_t begin, std::uint64_t end) const;

  std::shared_ptr<DeviceCore> core_;
  std::shared_ptr<Pipelines> pipelines_;
  RecordOptions options_;
  std::optional<double> frame_scale_;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  std::vector<VkCommandBuffer> commands_;  // one a segment
  std::vector<Segment> segments_;
  VkQueryPool segment_queries_ = VK_NULL_HANDLE;    // begin and end of each segment
  VkQueryPool operation_queries_ = VK_NULL_HANDLE;  // begin and end of each operation
  std::vector<std::string> operations_;
  std::vector<VkDescriptorPool> descriptor_pools_;
  std::unordered_set<std::shared_ptr<Buffer>> kept_;
  std::vector<std::uint64_t> query_values_;  // room for one reading of segment_queries_
  std::uint32_t operation_capacity_ = 0;
  std::uint32_t sets_left_ = 0;
  std::uint32_t descriptors_left_ = 0;
  std::chrono::steady_clock::time_point submitted_;
  std::uint64_t last_ticket_ = 0;
  std::uint64_t measured_ticket_ = 0;
  std::uint64_t last_groups_ = 0;
  std::uint64_t submissions_ = 0;
  std::uint64_t measurements_ = 0;
  std::uint64_t barriers_ = 0;
};

}  // namespace riverhorse::vulkan
