#include "vulkan/pipelines.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <set>
#include <system_error>
#include <thread>

#include "base/cache_folder.h"
#include "base/error.h"
#include "base/log.h"
#include "vulkan/pipeline_cache_file.h"
#include "vulkan/shaders.h"

namespace riverhorse::vulkan {

Pipelines::Pipelines(std::shared_ptr<DeviceCore> core, std::string cache_key)
    : core_(std::move(core)), cache_key_(std::move(cache_key)) {
  std::vector<std::byte> blob;
  if (const auto folder = resolve_cache_folder(core_->options.cache_folder)) {
    // One file a device and driver kind; its header says whether it fits exactly.
    const VkPhysicalDeviceProperties& properties = core_->profile.properties;
    cache_path_ = *folder / fmt::format("pipelines-{:04x}-{:04x}{}.bin", properties.vendorID, properties.deviceID,
                                        core_->options.minimal_features ? "-minimal" : "");
    blob = read_pipeline_cache(cache_path_, cache_key_);
    loaded_bytes_ = blob.size();
  }
  VkPipelineCacheCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  create.initialDataSize = blob.size();
  create.pInitialData = blob.data();
  core_->check_device(core_->table.vkCreatePipelineCache(core_->device, &create, core_->allocator, &cache_),
                      "creating a pipeline cache");
}

Pipelines::~Pipelines() {
  const DeviceFunctions& vk = core_->table;
  for (const auto& [key, pipeline] : pipelines_)
    vk.vkDestroyPipeline(core_->device, pipeline.handle, core_->allocator);
  for (const auto& [key, layout] : layouts_) {
    vk.vkDestroyPipelineLayout(core_->device, layout.pipeline, core_->allocator);
    vk.vkDestroyDescriptorSetLayout(core_->device, layout.set, core_->allocator);
  }
  vk.vkDestroyPipelineCache(core_->device, cache_, core_->allocator);
}

const Pipelines::Layout& Pipelines::layout(std::uint32_t binding_count, std::uint32_t push_bytes) {
  const auto [entry, is_new] = layouts_.try_emplace({binding_count, push_bytes});
  Layout& layout = entry->second;
  if (!is_new) return layout;
  std::vector<VkDescriptorSetLayoutBinding> bindings(binding_count);
  for (std::uint32_t i = 0; i < binding_count; ++i) {
    bindings[i] = {i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
  }
  VkDescriptorSetLayoutCreateInfo set{};
  set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
  set.flags = core_->profile.push_descriptor ? VK_DESCRIPTOR_SET_LAYOUT_CREATE_PUSH_DESCRIPTOR_BIT_KHR : 0;
  set.bindingCount = binding_count;
  set.pBindings = bindings.data();
  core_->check_device(core_->table.vkCreateDescriptorSetLayout(core_->device, &set, core_->allocator, &layout.set),
                      "creating a descriptor set layout");
  const VkPushConstantRange range{VK_SHADER_STAGE_COMPUTE_BIT, 0, push_bytes};
  VkPipelineLayoutCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  create.setLayoutCount = 1;
  create.pSetLayouts = &layout.set;
  create.pushConstantRangeCount = push_bytes > 0 ? 1 : 0;
  create.pPushConstantRanges = &range;
  core_->check_device(core_->table.vkCreatePipelineLayout(core_->device, &create, core_->allocator, &layout.pipeline),
                      "creating a pipeline layout");
  return layout;
}

const Pipeline& Pipelines::get(const PipelineKey& key) {
  std::scoped_lock lock(mutex_);
  const auto found = pipelines_.find(key);
  if (found != pipelines_.end()) return found->second;
  const Pipeline pipeline = make(key, layout(key.binding_count, key.push_bytes));
  changed_ = true;
  return pipelines_.emplace(key, pipeline).first->second;
}

void Pipelines::get_all(std::span<const PipelineKey> keys, unsigned threads) {
  std::scoped_lock lock(mutex_);
  std::vector<std::pair<PipelineKey, Pipeline>> missing;
  for (const PipelineKey& key : std::set<PipelineKey>(keys.begin(), keys.end())) {
    if (!pipelines_.contains(key)) missing.emplace_back(key, Pipeline{});
    layout(key.binding_count, key.push_bytes);
  }
  std::atomic<std::size_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
  const auto work = [&] {
    for (std::size_t i = next++; i < missing.size(); i = next++) {
      auto& [key, pipeline] = missing[i];
      try {
        pipeline = make(key, layouts_.at({key.binding_count, key.push_bytes}));
      } catch (...) {
        std::scoped_lock error_lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  };
  std::vector<std::thread> workers;
  try {
    for (unsigned i = 1; i < std::min<std::size_t>(threads, missing.size()); ++i) workers.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads: those that there are do it
  }
  work();
  for (std::thread& worker : workers) worker.join();
  for (auto& [key, pipeline] : missing) {
    if (pipeline.handle == VK_NULL_HANDLE) continue;
    pipelines_.emplace(std::move(key), pipeline);
    changed_ = true;
  }
  if (error) std::rethrow_exception(error);
}

Pipeline Pipelines::make(const PipelineKey& key, const Layout& shape) const {
  const DeviceFunctions& vk = core_->table;
  const EmbeddedShader& shader = find_shader(key.shader);
  VkShaderModuleCreateInfo module_create{};
  module_create.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  module_create.codeSize = shader.words.size_bytes();
  module_create.pCode = shader.words.data();
  VkShaderModule module = VK_NULL_HANDLE;
  core_->check_device(vk.vkCreateShaderModule(core_->device, &module_create, core_->allocator, &module),
                      fmt::format("loading shader {}", key.shader));

  std::vector<VkSpecializationMapEntry> entries(key.constants.size());
  for (std::uint32_t i = 0; i < entries.size(); ++i) entries[i] = {i, i * 4, 4};
  VkSpecializationInfo constants{};
  constants.mapEntryCount = static_cast<std::uint32_t>(entries.size());
  constants.pMapEntries = entries.data();
  constants.dataSize = key.constants.size() * 4;
  constants.pData = key.constants.data();
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup{};
  subgroup.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO;
  subgroup.requiredSubgroupSize = key.required_subgroup_size;
  VkComputePipelineCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  create.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  create.stage.module = module;
  create.stage.pName = "main";
  create.stage.pSpecializationInfo = &constants;
  if (key.required_subgroup_size != 0) {
    create.stage.pNext = &subgroup;
    create.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
  }
  create.layout = shape.pipeline;
  if (capture_statistics_) create.flags |= VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR;
  Pipeline pipeline{VK_NULL_HANDLE, shape.pipeline, shape.set};
  const VkResult result =
      vk.vkCreateComputePipelines(core_->device, cache_, 1, &create, core_->allocator, &pipeline.handle);
  vk.vkDestroyShaderModule(core_->device, module, core_->allocator);
  core_->check_device(result, fmt::format("compiling shader {}", key.shader));
  ++core_->counters.pipelines_created;
  return pipeline;
}

void Pipelines::capture_statistics() {
  std::scoped_lock lock(mutex_);
  if (!core_->profile.pipeline_executable_properties) {
    fail(StatusCode::unsupported, "{} has no VK_KHR_pipeline_executable_properties", core_->info.name);
  }
  capture_statistics_ = true;
}

std::vector<PipelineStatistics> Pipelines::statistics() const {
  std::scoped_lock lock(mutex_);
  const DeviceFunctions& vk = core_->table;
  std::vector<PipelineStatistics> list;
  if (!capture_statistics_) return list;
  for (const auto& [key, pipeline] : pipelines_) {
    PipelineStatistics entry{key.shader, key.constants, {}};
    VkPipelineInfoKHR which{};
    which.sType = VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR;
    which.pipeline = pipeline.handle;
    std::uint32_t executables = 0;
    core_->check_device(vk.vkGetPipelineExecutablePropertiesKHR(core_->device, &which, &executables, nullptr),
                        "reading pipeline statistics");
    for (std::uint32_t i = 0; i < executables; ++i) {
      VkPipelineExecutableInfoKHR executable{};
      executable.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR;
      executable.pipeline = pipeline.handle;
      executable.executableIndex = i;
      std::uint32_t count = 0;
      core_->check_device(vk.vkGetPipelineExecutableStatisticsKHR(core_->device, &executable, &count, nullptr),
                          "reading pipeline statistics");
      VkPipelineExecutableStatisticKHR blank{};
      blank.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
      std::vector<VkPipelineExecutableStatisticKHR> found(count, blank);
      core_->check_device(vk.vkGetPipelineExecutableStatisticsKHR(core_->device, &executable, &count, found.data()),
                          "reading pipeline statistics");
      for (const VkPipelineExecutableStatisticKHR& each : found) {
        double value = 0;
        switch (each.format) {
          case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR: value = each.value.b32; break;
          case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_INT64_KHR: value = static_cast<double>(each.value.i64); break;
          case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_UINT64_KHR: value = static_cast<double>(each.value.u64); break;
          case VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_FLOAT64_KHR: value = each.value.f64; break;
          default: continue;
        }
        entry.values.emplace_back(each.name, value);
      }
    }
    list.push_back(std::move(entry));
  }
  return list;
}

void Pipelines::save_cache() {
  std::scoped_lock lock(mutex_);
  if (!changed_ || cache_path_.empty() || core_->lost()) return;
  changed_ = false;
  try {
    std::size_t size = 0;
    const DeviceFunctions& vk = core_->table;
    core_->check_device(vk.vkGetPipelineCacheData(core_->device, cache_, &size, nullptr), "reading a pipeline cache");
    std::vector<std::byte> blob(size);
    core_->check_device(vk.vkGetPipelineCacheData(core_->device, cache_, &size, blob.data()),
                        "reading a pipeline cache");
    blob.resize(size);
    write_pipeline_cache(cache_path_, cache_key_, blob);
  } catch (const Error& error) {
    log_debug(fmt::format("the pipeline cache was not saved: {}", error.what()));
  }
}

}  // namespace riverhorse::vulkan
