// A recording that is run piece by piece inside command buffers of the host application, which submits them: so much
// a frame as its time allows. For devices that were adopted (adopted_vulkan.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "backend/backend.h"

namespace riverhorse {

class FrameRecording {
 public:
  virtual ~FrameRecording() = default;
  FrameRecording(const FrameRecording&) = delete;
  FrameRecording& operator=(const FrameRecording&) = delete;

  struct Appended {
    double expected_us = 0;       // device time, by what the same pieces took before
    std::int64_t pieces = 0;      // 0: nothing was appended
    std::int64_t runs_begun = 0;  // of the whole recording
    std::int64_t runs_finished = 0;
  };
  // Appends pieces to an open command buffer (VkCommandBuffer), outside a render pass, from where the last call
  // ended, as long as they are expected to take no more than `budget_us` together; begins at most `most_runs` runs. A
  // single piece that takes longer than the budget is appended alone, after as many calls as its time is worth.
  virtual Appended append(void* commands, double budget_us, std::int64_t most_runs) = 0;

  // What has been executed since, one append() a call, oldest first; never waits.
  struct Executed {
    double expected_us = 0;
    double measured_us = 0;  // 0: its clock could not be read
    std::int64_t runs_finished = 0;
  };
  virtual std::optional<Executed> poll() = 0;

  virtual std::int64_t appends_in_flight() const = 0;
  // Whether the device is done with all of it, command buffers that it is in included; never waits. Destroying it
  // waits for that.
  virtual bool is_released() = 0;
  // Whether a run was begun and its rest is still to be appended.
  virtual bool is_part_done() const = 0;

  // Appends what is left of a begun run, and `more_runs` more, to a command buffer of the device's own, submits it
  // and waits. Results by poll().
  virtual void run_here(std::int64_t more_runs) = 0;
  // Of what was measured so far: a first run may have waited for compilers.
  virtual void forget_times() = 0;

 protected:
  FrameRecording() = default;
};

// A Device that can do it also is one of these.
class FrameDevice {
 public:
  virtual ~FrameDevice() = default;
  FrameDevice(const FrameDevice&) = delete;
  FrameDevice& operator=(const FrameDevice&) = delete;

  // As Device::record. Errors: unsupported on a queue without timestamps.
  virtual std::unique_ptr<FrameRecording> record_for_frames(const RecordFunction& function) = 0;

 protected:
  FrameDevice() = default;
};

}  // namespace riverhorse
