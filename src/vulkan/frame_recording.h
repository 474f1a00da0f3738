// Pieces are secondary command buffers, recorded once and executed by the host's primary ones; between them the
// primary takes timestamps, so that the time of each piece is known however many frames are in flight. What a run
// writes and copies goes into the primary itself. An event at the end of an append tells the host, without waiting,
// that its results are there.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "backend/frame_recording.h"
#include "vulkan/core.h"
#include "vulkan/device.h"
#include "vulkan/one_time_commands.h"
#include "vulkan/recording.h"

namespace riverhorse::vulkan {

// Microseconds of something that is done again and again. Longer times count at once, shorter ones slowly: a budget
// is kept rather than filled. But a time of quite another magnitude, as when another program has the device for a
// while, counts when it comes twice in a row: else a short piece that was interrupted once would seem longer than the
// budget, and be done so seldom that this is not put right for seconds.
class KnownTime {
 public:
  bool known() const { return us_ >= 0; }
  double us() const { return us_; }
  void add(double now);
  void forget() { us_ = odd_us_ = -1; }

 private:
  double us_ = -1;
  double odd_us_ = -1;  // the last time, when it was of another magnitude
};

// How much longer than expected frames that ran over their budget have taken of late, at least 1: what else the
// device does lengthens them. It follows an overrun at once and half of it is forgotten in half a minute of 60 frames
// a second, so that few frames in a thousand go beyond their budget. Beyond `most`, something was in the way that is
// no measure of others; frames that were expected to take more than their budget are none either.
class Overrun {
 public:
  static constexpr double most = 2;
  static constexpr double frames_to_half = 2000;

  double factor() const { return factor_; }
  void add(double expected_us, double measured_us, double budget_us);

 private:
  double factor_ = 1;
};

class VulkanFrameRecording final : public FrameRecording {
 public:
  // Until times are known, pieces are expected to take as long as those of `like` did, in proportion to the
  // estimates: each as its counterpart, where both are cut into as many. Null: as estimated, by the device's own
  // scale.
  VulkanFrameRecording(std::shared_ptr<DeviceCore> core, std::unique_ptr<VulkanRecording> pieces,
                       const VulkanFrameRecording* like);

  void forget_times() override;

  const DeviceCore* core() const { return core_.get(); }
  std::uint32_t pieces() const { return static_cast<std::uint32_t>(times_.size()); }
  VkCommandBuffer piece(std::uint32_t index) const { return recording_->segment(index); }
  double expected_us(std::uint32_t index) const;
  void add_time(std::uint32_t index, double now_us) { times_[index].add(now_us); }
  bool is_known(std::uint32_t index) const { return times_[index].known(); }
  double likely_scale() const;  // as measured: few pieces take more
  double scale() const;         // as measured, of all together

 private:
  std::shared_ptr<DeviceCore> core_;
  std::unique_ptr<VulkanRecording> recording_;
  double likely_scale_;            // from estimates to times
  std::vector<double> likely_us_;  // of each piece, while its time is not known
  std::vector<KnownTime> times_;   // of each piece
};

class VulkanFrameQueue final : public FrameQueue {
 public:
  explicit VulkanFrameQueue(const VulkanDevice& device);
  ~VulkanFrameQueue() override;

  Appended append(void* commands, double budget_us, FrameSource* source) override;
  std::optional<Executed> poll() override;
  std::int64_t appends_in_flight() const override { return in_flight_; }
  bool is_part_done() const override { return current_ != nullptr; }
  bool is_released() override;
  void retire(std::shared_ptr<FrameRecording> recording) override;
  bool run_here(FrameSource* source) override;

 private:
  static constexpr int most_appends = 8;             // in flight
  static constexpr std::uint32_t most_pieces = 512;  // an append

  struct Piece {
    std::shared_ptr<VulkanFrameRecording> recording;
    std::uint32_t index;
    KnownTime* before = nullptr;  // instead: of what is written and copied before a run
  };
  struct Append {
    VkEvent event = VK_NULL_HANDLE;
    VkQueryPool queries = VK_NULL_HANDLE;
    std::vector<Piece> pieces;
    bool is_known = true;  // what each takes
    double budget_us = 0;
    Executed executed;
  };
  void begin_run(VkCommandBuffer primary, FrameSource& source);
  void record_copies(VkCommandBuffer primary, const std::vector<FrameCopy>& copies);
  void measure(Append& append);
  KnownTime& time_before(std::uint64_t bytes);

  const VulkanDevice& device_;
  std::shared_ptr<DeviceCore> core_;
  std::array<Append, most_appends> appends_;  // a ring
  int oldest_ = 0;
  int in_flight_ = 0;
  std::shared_ptr<VulkanFrameRecording> current_;  // of the run that was begun; null: none
  std::vector<FrameCopy> copies_after_;            // it
  std::uint32_t next_piece_ = 0;
  bool was_appended_ = false;
  std::uint64_t release_ticket_ = 0;  // of an empty submission behind the last append; 0: none since
  double saved_us_ = 0;               // for a piece longer than the budget
  Overrun overrun_;
  KnownTime before_, long_before_;  // of what is written and copied before a run: words, or states
  std::vector<std::shared_ptr<FrameRecording>> retired_;
  OneTimeCommands own_commands_;
};

}  // namespace riverhorse::vulkan
