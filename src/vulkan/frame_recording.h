// Pieces are secondary command buffers, recorded once and executed by the host's primary ones; between them the
// primary takes timestamps, so that the time of each piece is known however many frames are in flight. An event at
// the end of an append tells the host, without waiting, that its results are there.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "backend/frame_recording.h"
#include "vulkan/core.h"
#include "vulkan/recording.h"

namespace riverhorse::vulkan {

class VulkanFrameRecording final : public FrameRecording {
 public:
  VulkanFrameRecording(std::shared_ptr<DeviceCore> core, std::unique_ptr<VulkanRecording> pieces);
  ~VulkanFrameRecording() override;

  Appended append(void* commands, double budget_us, std::int64_t most_runs) override;
  std::optional<Executed> poll() override;
  std::int64_t appends_in_flight() const override { return in_flight_; }
  bool is_released() override;
  bool is_part_done() const override { return next_piece_ != 0; }
  void run_here(std::int64_t more_runs) override;
  void forget_times() override;

 private:
  static constexpr int most_appends = 8;             // in flight
  static constexpr std::uint32_t most_pieces = 512;  // an append

  struct Append {
    VkEvent event = VK_NULL_HANDLE;
    VkQueryPool queries = VK_NULL_HANDLE;
    std::vector<std::uint32_t> pieces;
    Executed executed;
  };

  double expected_us(std::uint32_t piece) const;
  void measure(Append& append);

  std::shared_ptr<DeviceCore> core_;
  std::unique_ptr<VulkanRecording> recording_;
  std::array<Append, most_appends> appends_;  // a ring
  int oldest_ = 0;
  int in_flight_ = 0;
  std::uint32_t next_piece_ = 0;
  bool was_appended_ = false;
  std::uint64_t release_ticket_ = 0;  // of an empty submission behind the last append; 0: none since
  double saved_us_ = 0;               // for a piece longer than the budget
  std::vector<double> measured_us_;   // of each piece; negative: not yet
  VkCommandPool own_pool_ = VK_NULL_HANDLE;
  VkCommandBuffer own_commands_ = VK_NULL_HANDLE;
};

}  // namespace riverhorse::vulkan
