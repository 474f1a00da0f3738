// The parts of a VulkanDevice.
#pragma once

#include <memory>
#include <mutex>

#include "vulkan/core.h"
#include "vulkan/device.h"
#include "vulkan/memory.h"
#include "vulkan/pipelines.h"
#include "vulkan/tile_times.h"
#include "vulkan/transfer.h"

namespace riverhorse::vulkan {

struct VulkanDevice::Impl {
  std::shared_ptr<DeviceCore> core;
  std::shared_ptr<MemoryPool> memory;
  std::shared_ptr<Pipelines> pipelines;
  std::unique_ptr<Transfer> transfer;
  std::unique_ptr<TileTimes> tile_times;
  std::mutex fft_mutex;
  std::shared_ptr<FftPlans> fft_plans;  // made at the first use
};

}  // namespace riverhorse::vulkan
