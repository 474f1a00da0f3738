// The FFT plans of a device: VkFFT applications by shape, made while preparing, and their compiled form on disk.
//
// A plan owns no memory. VkFFT binds its buffers in descriptor sets of its own, which every recording of the plan
// shares; so all plans work in the device's few FFT workspaces, whose place never changes under a plan. Recordings
// run one after another on the device's one queue, and each is ordered by the encoder's barriers.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "vulkan/encoder.h"
#include "vulkan/vkfft_application.h"

namespace riverhorse::vulkan {

class FftPlan {
 public:
  std::uint32_t size() const { return shape_.size; }
  std::uint32_t row_stride() const { return shape_.size + 2; }  // in floats
  const Tensor& rows() const { return rows_; }                  // (rows, size + 2) f32, in the workspace

  // The first half of each row (real) to its spectrum of size / 2 + 1 complex values, in place; and back, giving the
  // first half only, `size` times too large. Rows that the caller does not use may hold anything.
  void forward(VulkanEncoder& encoder) const { transform(encoder, false); }
  void inverse(VulkanEncoder& encoder) const { transform(encoder, true); }

 private:
  friend class FftPlans;
  void transform(VulkanEncoder& encoder, bool inverse) const;

  FftShape shape_;
  Tensor rows_;
  Tensor temporary_;  // empty: not needed
  std::unique_ptr<VkfftApplication> application_;
};

class FftPlans {
 public:
  // What a plan's rows are: two plans whose rows are needed at once have different roles. Filters go one way only.
  enum class Role { data, filter };

  explicit FftPlans(VulkanDevice& device);
  ~FftPlans();
  FftPlans(const FftPlans&) = delete;
  FftPlans& operator=(const FftPlans&) = delete;

  // The plan for at least `rows` rows of `size` values (a power of two). Made if new: slow, and only while preparing.
  // Thread-safe. Errors: unsupported, out_of_memory; internal when a recording asks for what was not prepared.
  const FftPlan& get(const VulkanEncoder& encoder, Role role, std::uint32_t size, std::uint32_t rows);

  // How many plans came from the disk, and how many were compiled.
  struct Counts {
    std::uint32_t loaded = 0;
    std::uint32_t compiled = 0;
  };
  Counts counts() const;

 private:
  Tensor workspace(std::size_t which, std::uint64_t bytes);
  std::filesystem::path file_of(const FftShape& shape) const;
  std::string header_of(const FftShape& shape) const;
  std::vector<std::byte> read_saved(const FftShape& shape) const;  // empty: none that fits
  void write_saved(const FftShape& shape, std::span<const std::byte> form) const;

  VulkanDevice& device_;
  std::optional<std::filesystem::path> folder_;
  mutable std::mutex mutex_;
  std::shared_ptr<Buffer> workspaces_[3];  // data, filter, temporary
  std::map<std::pair<Role, FftShape>, std::unique_ptr<FftPlan>> plans_;
  Counts counts_;
};

// Twice the smallest power of two that holds `tokens`, and at least 256: few plans serve many lengths.
std::uint32_t fft_size_for(std::uint32_t tokens);

}  // namespace riverhorse::vulkan
