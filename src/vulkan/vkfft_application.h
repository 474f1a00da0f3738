// One VkFFT application: in-place, batched, one-dimensional real transforms, compiled for one device. vkFFT.h itself
// is seen by vkfft_application.cpp only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "vulkan/device.h"
#include "vulkan/functions.h"

namespace riverhorse::vulkan {

struct FftShape {
  std::uint32_t size = 0;         // N real values, a power of two; a row is N / 2 + 1 complex values
  std::uint32_t rows = 0;         // transformed together
  std::uint32_t used_inputs = 0;  // values from here to N are taken as zero, whatever the row holds
  bool forward_only = false;
  auto operator<=>(const FftShape&) const = default;
};

class VkfftApplication {
 public:
  // Where the rows lie, and, if the transform is too long for one pass, twice as much to reorder through; asked for
  // when VkFFT writes its descriptors, and the same every time.
  struct Memory {
    std::function<VulkanDevice::BufferRange()> rows;
    std::function<VulkanDevice::BufferRange()> temporary;
  };

  // Compiles with glslang, or takes the result of an earlier saved_form() if `saved` is not empty. Slow; thread-safe.
  // Errors: unsupported with VkFFT's error number, out_of_memory.
  VkfftApplication(VulkanDevice& device, const FftShape& shape, const Memory& memory,
                   std::span<const std::byte> saved);
  ~VkfftApplication();
  VkfftApplication(const VkfftApplication&) = delete;
  VkfftApplication& operator=(const VkfftApplication&) = delete;

  // Records the transform of all rows; the inverse is not scaled (N times too large).
  void append(VkCommandBuffer commands, bool inverse);

  // What another construction of the same shape on the same device and driver can be made from; empty when this one
  // was. Valid while this lives.
  std::span<const std::byte> saved_form() const;

  static std::uint32_t version();  // 10304 is 1.3.4

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace riverhorse::vulkan
