// Low priority of a device's queue: where the GPU has other work, another program's or a game's own, it does that
// first. Apart from backend.h, as nothing that records or computes needs to know.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace riverhorse {

enum class QueuePriority { normal, low };

// open_device(); with `low`, the queue has low priority where that can be had, and else the usual one.
std::unique_ptr<Device> open_device(const DeviceInfo& info, const DeviceOptions& options, QueuePriority wanted);

// Whether the driver of a listed device has queues of low priority. Errors: not_found, as open_device.
Support low_priority_support(const DeviceInfo& info);

// Whether an opened device has one; if not, why.
Support low_priority_of(const Device& device);

}  // namespace riverhorse
