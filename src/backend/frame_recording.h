// Work that is run piece by piece inside command buffers of the host application, which submits them: so much a frame
// as its time allows. For devices that were adopted (adopted_vulkan.h).
//
// A recording is cut into pieces once; a queue appends the pieces of one run after the other, wherever the last
// command buffer ended. What runs next is decided when there is time for it, so that what is to be done may change
// from frame to frame while nothing is recorded again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "backend/backend.h"

namespace riverhorse {

class FrameRecording {
 public:
  virtual ~FrameRecording() = default;
  FrameRecording(const FrameRecording&) = delete;
  FrameRecording& operator=(const FrameRecording&) = delete;

  // Of what was measured so far: a first run may have waited for compilers.
  virtual void forget_times() = 0;

 protected:
  FrameRecording() = default;
};

struct FrameWrite {
  Tensor to;
  std::vector<std::byte> bytes;  // its size, a multiple of 4
};
struct FrameCopy {
  Tensor from;
  Tensor to;
};

struct FrameRun {
  std::shared_ptr<FrameRecording> recording;
  std::vector<FrameWrite> writes;        // before it
  std::vector<FrameCopy> copies_before;  // after the writes
  std::vector<FrameCopy> copies_after;
};

class FrameSource {
 public:
  virtual ~FrameSource() = default;
  // What would run next; no recording: there is nothing to do. Asked when there may be time for it.
  struct Next {
    FrameRecording* recording = nullptr;
    std::uint64_t bytes_before = 0;  // that it would write and copy before
  };
  virtual Next next() = 0;
  // It runs now.
  virtual FrameRun begin() = 0;
};

class FrameQueue {
 public:
  virtual ~FrameQueue() = default;
  FrameQueue(const FrameQueue&) = delete;
  FrameQueue& operator=(const FrameQueue&) = delete;

  struct Appended {
    double expected_us = 0;   // device time, by what the same pieces took before
    std::int64_t pieces = 0;  // 0: nothing was appended
  };
  // Appends pieces to an open command buffer (VkCommandBuffer), outside a render pass, from where the last call
  // ended, as long as they are expected to take no more than `budget_us` together. A single piece that takes longer
  // than the budget is appended alone, after as many calls as its time is worth. Without a source it only goes on
  // with a run that was begun.
  virtual Appended append(void* commands, double budget_us, FrameSource* source) = 0;

  // What has been executed since, one append() a call, oldest first; never waits.
  struct Executed {
    double expected_us = 0;
    double measured_us = 0;          // 0: its clock could not be read
    std::int64_t runs_finished = 0;  // in the order in which they were begun
  };
  virtual std::optional<Executed> poll() = 0;

  virtual std::int64_t appends_in_flight() const = 0;
  // Whether a run was begun and its rest is still to be appended.
  virtual bool is_part_done() const = 0;
  // Whether the device is done with all of it, command buffers that it is in included; never waits. Destroying it
  // waits for that.
  virtual bool is_released() = 0;
  // Keeps a recording that is not run again until the device is done with it.
  virtual void retire(std::shared_ptr<FrameRecording> recording) = 0;

  // One append() without a limit to a command buffer of the device's own, which is submitted and waited for; the
  // result by poll(). False: there was nothing to do.
  virtual bool run_here(FrameSource* source) = 0;

 protected:
  FrameQueue() = default;
};

// A Device that can do it also is one of these.
class FrameDevice {
 public:
  virtual ~FrameDevice() = default;
  FrameDevice(const FrameDevice&) = delete;
  FrameDevice& operator=(const FrameDevice&) = delete;

  // Errors: unsupported on a queue without timestamps.
  virtual std::unique_ptr<FrameQueue> make_frame_queue() = 0;
  // As Device::record. `like` (may be null) has run: until the new one has, it is expected to take, and is cut into
  // pieces by, what estimates and that one's times say.
  virtual std::shared_ptr<FrameRecording> record_for_frames(const RecordFunction& function,
                                                            const std::shared_ptr<Buffer>& workspace,
                                                            const FrameRecording* like) = 0;

 protected:
  FrameDevice() = default;
};

}  // namespace riverhorse
