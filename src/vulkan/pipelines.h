// Compute pipelines, keyed by shader, constants and layout; made once, shared by all recordings of a device.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "vulkan/core.h"
#include "vulkan/functions.h"

namespace riverhorse::vulkan {

struct PipelineKey {
  std::string shader;
  std::vector<std::uint32_t> constants;
  std::uint32_t binding_count = 0;
  std::uint32_t push_bytes = 0;
  std::uint32_t required_subgroup_size = 0;
  auto operator<=>(const PipelineKey&) const = default;
};

struct Pipeline {
  VkPipeline handle = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  VkDescriptorSetLayout set_layout = VK_NULL_HANDLE;
};

// What a driver says about a compiled pipeline (VK_KHR_pipeline_executable_properties): registers, spills, ...
struct PipelineStatistics {
  std::string shader;
  std::vector<std::uint32_t> constants;
  std::vector<std::pair<std::string, double>> values;  // by the driver's own names
};

class Pipelines {
 public:
  // `cache_key`: VulkanDevice::cache_key().
  Pipelines(std::shared_ptr<DeviceCore> core, std::string cache_key);
  ~Pipelines();
  Pipelines(const Pipelines&) = delete;
  Pipelines& operator=(const Pipelines&) = delete;

  // Made if new; thread-safe. Errors: internal (no such shader), unsupported (the driver refuses it).
  const Pipeline& get(const PipelineKey& key);
  // The same for many, on several threads at once.
  void get_all(std::span<const PipelineKey> keys, unsigned threads);

  // From here on pipelines are made so that statistics() knows about them; some drivers compile a little slower then.
  // Errors: unsupported without VK_KHR_pipeline_executable_properties.
  void capture_statistics();
  std::vector<PipelineStatistics> statistics() const;

  // Writes the driver's pipeline cache to disk if it has grown since; quiet about folders that cannot be written.
  void save_cache();
  const std::filesystem::path& cache_path() const { return cache_path_; }
  std::size_t loaded_bytes() const { return loaded_bytes_; }  // of a driver's cache from disk; 0: none was right

 private:
  struct Layout {
    VkDescriptorSetLayout set = VK_NULL_HANDLE;
    VkPipelineLayout pipeline = VK_NULL_HANDLE;
  };
  const Layout& layout(std::uint32_t binding_count, std::uint32_t push_bytes);
  Pipeline make(const PipelineKey& key, const Layout& shape) const;  // by any number of threads

  std::shared_ptr<DeviceCore> core_;
  mutable std::mutex mutex_;
  std::map<PipelineKey, Pipeline> pipelines_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Layout> layouts_;
  VkPipelineCache cache_ = VK_NULL_HANDLE;
  std::string cache_key_;
  std::filesystem::path cache_path_;  // empty: none
  std::size_t loaded_bytes_ = 0;
  bool capture_statistics_ = false;
  bool changed_ = false;  // since the cache was read or written
};

}  // namespace riverhorse::vulkan
