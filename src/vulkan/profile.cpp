#include "vulkan/profile.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"

namespace riverhorse::vulkan {
namespace {

// The optional feature structs, chained in one fixed order: the same chain asks what there is and enables it.
struct FeatureChain {
  VkPhysicalDeviceFeatures2 features2{};
  VkPhysicalDevice16BitStorageFeatures storage16{};
  VkPhysicalDeviceShaderFloat16Int8Features float16{};
  VkPhysicalDeviceTimelineSemaphoreFeatures timeline{};
  VkPhysicalDeviceSubgroupSizeControlFeatures subgroup_size{};
  VkPhysicalDeviceVulkanMemoryModelFeatures memory_model{};
  VkPhysicalDeviceCooperativeMatrixFeaturesKHR cooperative_matrix{};
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executable{};
  VkPhysicalDeviceMemoryPriorityFeaturesEXT memory_priority{};

  FeatureChain() {
    features2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
    float16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_FLOAT16_INT8_FEATURES;
    timeline.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_TIMELINE_SEMAPHORE_FEATURES;
    subgroup_size.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES;
    memory_model.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_MEMORY_MODEL_FEATURES;
    cooperative_matrix.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
    executable.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR;
    memory_priority.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PRIORITY_FEATURES_EXT;
  }
  FeatureChain(const FeatureChain&) = delete;
  FeatureChain& operator=(const FeatureChain&) = delete;

  template <typename T>
  void chain(T& feature) {
    feature.pNext = features2.pNext;
    features2.pNext = &feature;
  }
};

std::set<std::string> device_extensions(const Instance& instance, VkPhysicalDevice physical_device) {
  const auto enumerate = instance.functions().enumerate_device_extensions;
  std::uint32_t count = 0;
  check(enumerate(physical_device, nullptr, &count, nullptr), "listing a device's extensions");
  std::vector<VkExtensionProperties> extensions(count);
  if (enumerate(physical_device, nullptr, &count, extensions.data()) < 0) return {};
  std::set<std::string> names;
  for (std::uint32_t i = 0; i < count; ++i) names.insert(extensions[i].extensionName);
  return names;
}

std::vector<VkQueueFamilyProperties> queue_families(const Instance& instance, VkPhysicalDevice physical_device) {
  std::uint32_t count = 0;
  instance.functions().get_queue_families(physical_device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  instance.functions().get_queue_families(physical_device, &count, families.data());
  return families;
}

// A compute queue beside the graphics queue lets a desktop or a game go on drawing while a long submission runs, so
// it is preferred where it has timestamps, which bound submissions; else the first family that computes.
void choose_queue_family(const Instance& instance, DeviceProfile& profile) {
  const std::vector<VkQueueFamilyProperties> families = queue_families(instance, profile.physical_device);
  int best = -1;
  int best_score = -1;
  for (std::size_t i = 0; i < families.size(); ++i) {
    const VkQueueFamilyProperties& family = families[i];
    if ((family.queueFlags & VK_QUEUE_COMPUTE_BIT) == 0 || family.queueCount == 0) continue;
    const bool dedicated = (family.queueFlags & VK_QUEUE_GRAPHICS_BIT) == 0;
    const int score = (family.timestampValidBits > 0 ? 2 : 0) + (dedicated ? 1 : 0);
    if (score > best_score) {
      best = static_cast<int>(i);
      best_score = score;
    }
  }
  if (best < 0) {
    fail(StatusCode::unsupported, "Vulkan device {} has no compute queue", profile.properties.deviceName);
  }
  profile.queue_family = static_cast<std::uint32_t>(best);
  profile.timestamp_bits = families[profile.queue_family].timestampValidBits;
  profile.timestamp_period_ns = profile.properties.limits.timestampPeriod;
}

void query_cooperative_matrix(const Instance& instance, DeviceProfile& profile) {
  const auto get = instance.functions().get_cooperative_matrix_properties;
  if (get == nullptr) return;
  std::uint32_t count = 0;
  if (get(profile.physical_device, &count, nullptr) != VK_SUCCESS) return;
  VkCooperativeMatrixPropertiesKHR blank{};
  blank.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
  std::vector<VkCooperativeMatrixPropertiesKHR> found(count, blank);
  if (get(profile.physical_device, &count, found.data()) < 0) return;
  for (const VkCooperativeMatrixPropertiesKHR& each : found) {
    if (each.AType != VK_COMPONENT_TYPE_FLOAT16_KHR || each.BType != VK_COMPONENT_TYPE_FLOAT16_KHR) continue;
    if (each.scope != VK_SCOPE_SUBGROUP_KHR || each.CType != each.ResultType || each.saturatingAccumulation) continue;
    if (each.CType != VK_COMPONENT_TYPE_FLOAT16_KHR && each.CType != VK_COMPONENT_TYPE_FLOAT32_KHR) continue;
    profile.limits.cooperative_matrix.push_back(
        {each.MSize, each.NSize, each.KSize, each.CType == VK_COMPONENT_TYPE_FLOAT32_KHR});
  }
}

}  // namespace

void use_queue_family(const Instance& instance, DeviceProfile& profile, std::uint32_t family) {
  const std::vector<VkQueueFamilyProperties> families = queue_families(instance, profile.physical_device);
  if (family >= families.size() || (families[family].queueFlags & VK_QUEUE_COMPUTE_BIT) == 0) {
    fail(StatusCode::unsupported, "queue family {} of {} does not compute; {} would do", family,
         profile.properties.deviceName, profile.queue_family);
  }
  profile.queue_family = family;
  profile.timestamp_bits = families[family].timestampValidBits;
}

DeviceProfile query_profile(const Instance& instance, VkPhysicalDevice physical_device, bool minimal) {
  const InstanceFunctions& vk = instance.functions();
  DeviceProfile profile;
  profile.physical_device = physical_device;
  vk.get_properties(physical_device, &profile.properties);
  profile.api_version = std::min(instance.api_version(), profile.properties.apiVersion);
  if (profile.api_version < VK_API_VERSION_1_1) {
    fail(StatusCode::unsupported, "Vulkan device {} offers Vulkan 1.0 only; 1.1 is needed: update its driver",
         profile.properties.deviceName);
  }
  const std::set<std::string> names = device_extensions(instance, physical_device);
  const auto has = [&](const char* name) { return names.contains(name); };
  const bool core12 = profile.api_version >= VK_API_VERSION_1_2;
  const bool core13 = profile.api_version >= VK_API_VERSION_1_3;

  VkPhysicalDeviceSubgroupProperties subgroup{};
  subgroup.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_PROPERTIES;
  VkPhysicalDeviceIDProperties id{};
  id.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_ID_PROPERTIES;
  VkPhysicalDeviceMaintenance3Properties maintenance{};
  maintenance.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES;
  VkPhysicalDeviceSubgroupSizeControlProperties sizes{};
  sizes.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES;
  VkPhysicalDeviceDriverProperties driver{};
  driver.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_DRIVER_PROPERTIES;
  VkPhysicalDevicePCIBusInfoPropertiesEXT pci{};
  pci.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PCI_BUS_INFO_PROPERTIES_EXT;
  VkPhysicalDeviceShaderSMBuiltinsPropertiesNV multiprocessors{};
  multiprocessors.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV;
  VkPhysicalDeviceShaderCorePropertiesAMD compute_units{};
  compute_units.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_CORE_PROPERTIES_AMD;
  VkPhysicalDeviceProperties2 properties2{};
  properties2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
  const auto chain = [&](auto& properties) {
    properties.pNext = properties2.pNext;
    properties2.pNext = &properties;
  };
  chain(subgroup);
  chain(id);
  chain(maintenance);
  const bool has_size_control = core13 || has(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  if (has_size_control) chain(sizes);
  const bool has_driver = core12 || has(VK_KHR_DRIVER_PROPERTIES_EXTENSION_NAME);
  if (has_driver) chain(driver);
  if (has(VK_EXT_PCI_BUS_INFO_EXTENSION_NAME)) chain(pci);
  if (has(VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME)) chain(multiprocessors);
  if (has(VK_AMD_SHADER_CORE_PROPERTIES_EXTENSION_NAME)) chain(compute_units);
  vk.get_properties2(physical_device, &properties2);

  FeatureChain found;
  found.chain(found.storage16);
  const bool has_float16 = core12 || has(VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME);
  if (has_float16) found.chain(found.float16);
  const bool has_timeline = core12 || has(VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME);
  if (has_timeline) found.chain(found.timeline);
  if (has_size_control) found.chain(found.subgroup_size);
  const bool has_memory_model = core12 || has(VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME);
  if (has_memory_model) found.chain(found.memory_model);
  // A validation layer from before the extension takes its shaders for invalid ones: then do without.
  const bool layer_too_old = instance.validation_layer_version() != 0 &&
                             instance.validation_layer_version() < VK_MAKE_API_VERSION(0, 1, 3, 255);
  const bool has_cooperative = has(VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME) && !layer_too_old;
  if (has_cooperative) found.chain(found.cooperative_matrix);
  const bool has_executable = has(VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
  if (has_executable) found.chain(found.executable);
  const bool has_priority = has(VK_EXT_MEMORY_PRIORITY_EXTENSION_NAME);
  if (has_priority) found.chain(found.memory_priority);
  vk.get_features2(physical_device, &found.features2);

  VkPhysicalDeviceMemoryProperties2 memory2{};
  memory2.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  vk.get_memory_properties2(physical_device, &memory2);
  profile.memory = memory2.memoryProperties;

  std::memcpy(profile.uuid.data(), id.deviceUUID, profile.uuid.size());
  profile.has_pci = has(VK_EXT_PCI_BUS_INFO_EXTENSION_NAME);
  profile.pci[0] = pci.pciDomain;
  profile.pci[1] = pci.pciBus;
  profile.pci[2] = pci.pciDevice;
  profile.pci[3] = pci.pciFunction;
  const std::uint32_t version = profile.properties.driverVersion;
  profile.driver = has_driver && driver.driverName[0] != '\0'
                       ? fmt::format("{} {}", driver.driverName, driver.driverInfo)
                       : fmt::format("version {}.{}.{}", VK_API_VERSION_MAJOR(version), VK_API_VERSION_MINOR(version),
                                     VK_API_VERSION_PATCH(version));
  while (!profile.driver.empty() && profile.driver.back() == ' ') profile.driver.pop_back();
  profile.max_allocation_bytes = maintenance.maxMemoryAllocationSize;
  choose_queue_family(instance, profile);
  profile.low_priority = query_low_priority(instance, physical_device, names, profile.queue_family);
  profile.memory_budget = has(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);

  const VkPhysicalDeviceLimits& device_limits = profile.properties.limits;
  VulkanLimits& limits = profile.limits;
  limits.offset_alignment =
      std::max<std::uint32_t>(4, static_cast<std::uint32_t>(device_limits.minStorageBufferOffsetAlignment));
  limits.storage_range_bytes = device_limits.maxStorageBufferRange;
  if (minimal) {
    limits.offset_alignment = std::max(limits.offset_alignment, 256u);
    if (profile.memory_budget) profile.extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    return profile;  // everything else as VulkanLimits begins
  }
  limits.shared_bytes = device_limits.maxComputeSharedMemorySize;
  limits.invocations =
      std::min(device_limits.maxComputeWorkGroupInvocations, device_limits.maxComputeWorkGroupSize[0]);
  std::copy(std::begin(device_limits.maxComputeWorkGroupCount), std::end(device_limits.maxComputeWorkGroupCount),
            std::begin(limits.group_count));
  if ((subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
      (subgroup.supportedOperations & VK_SUBGROUP_FEATURE_BASIC_BIT) != 0) {
    limits.subgroup_size = subgroup.subgroupSize;
    limits.subgroup_vote = (subgroup.supportedOperations & VK_SUBGROUP_FEATURE_VOTE_BIT) != 0;
    limits.subgroup_arithmetic = (subgroup.supportedOperations & VK_SUBGROUP_FEATURE_ARITHMETIC_BIT) != 0;
  }
  limits.min_subgroup_size = limits.max_subgroup_size = limits.subgroup_size;
  if (has_size_control && found.subgroup_size.subgroupSizeControl != 0 &&
      found.subgroup_size.computeFullSubgroups != 0 &&
      (sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0) {
    limits.subgroup_size_control = true;
    limits.min_subgroup_size = sizes.minSubgroupSize;
    limits.max_subgroup_size = sizes.maxSubgroupSize;
  }
  // With the count of multiprocessors, which shares of work go by, and which GPUs from Volta on tell.
  limits.groups_may_wait = has_driver && driver.driverID == VK_DRIVER_ID_NVIDIA_PROPRIETARY &&
                           profile.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU &&
                           multiprocessors.shaderSMCount > 0;
  limits.f16_storage = found.storage16.storageBuffer16BitAccess != 0;
  limits.f16_arithmetic = has_float16 && found.float16.shaderFloat16 != 0;
  // With the model on, plain atomics need its device scope too: all or nothing.
  limits.vulkan_memory_model = has_memory_model && found.memory_model.vulkanMemoryModel != 0 &&
                               found.memory_model.vulkanMemoryModelDeviceScope != 0;
  profile.timeline_semaphore = has_timeline && found.timeline.timelineSemaphore != 0;
  profile.push_descriptor = has(VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME);
  profile.pipeline_executable_properties = has_executable && found.executable.pipelineExecutableInfo != 0;
  profile.memory_priority = has_priority && found.memory_priority.memoryPriority != 0;
  if (has_cooperative && found.cooperative_matrix.cooperativeMatrix != 0 && limits.vulkan_memory_model &&
      limits.f16_storage && limits.f16_arithmetic) {
    query_cooperative_matrix(instance, profile);
    constexpr std::uint32_t amd = 0x1002;
    limits.wide_matrix_operands = profile.properties.vendorID == amd;
  }
  if (multiprocessors.shaderSMCount > 0) limits.compute_units = multiprocessors.shaderSMCount;
  const std::uint32_t amd_units = compute_units.shaderEngineCount * compute_units.shaderArraysPerEngineCount *
                                  compute_units.computeUnitsPerShaderArray;
  if (amd_units > 0) limits.compute_units = amd_units;  // 0 on drivers without hardware

  const auto enable = [&](bool wanted, const char* name) {
    if (wanted) profile.extensions.push_back(name);
  };
  enable(profile.memory_budget, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  enable(profile.memory_priority, VK_EXT_MEMORY_PRIORITY_EXTENSION_NAME);
  enable(profile.push_descriptor, VK_KHR_PUSH_DESCRIPTOR_EXTENSION_NAME);
  enable(profile.pipeline_executable_properties, VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME);
  enable(!limits.cooperative_matrix.empty(), VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME);
  enable(limits.subgroup_size_control && !core13, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  if (!core12) {
    enable(limits.f16_arithmetic, VK_KHR_SHADER_FLOAT16_INT8_EXTENSION_NAME);
    enable(profile.timeline_semaphore, VK_KHR_TIMELINE_SEMAPHORE_EXTENSION_NAME);
    enable(limits.vulkan_memory_model, VK_KHR_VULKAN_MEMORY_MODEL_EXTENSION_NAME);
  }
  return profile;
}

MemoryBudget query_memory_budget(const Instance& instance, const DeviceProfile& profile) {
  VkPhysicalDeviceMemoryBudgetPropertiesEXT budget{};
  budget.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT;
  VkPhysicalDeviceMemoryProperties2 memory{};
  memory.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2;
  if (profile.memory_budget) memory.pNext = &budget;
  instance.functions().get_memory_properties2(profile.physical_device, &memory);
  MemoryBudget sum;
  for (std::uint32_t i = 0; i < memory.memoryProperties.memoryHeapCount; ++i) {
    const VkMemoryHeap& heap = memory.memoryProperties.memoryHeaps[i];
    if ((heap.flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) == 0) continue;
    sum.total_bytes += heap.size;
    std::uint64_t free_bytes = heap.size;
    if (profile.memory_budget && budget.heapBudget[i] > 0) {
      free_bytes = budget.heapBudget[i] > budget.heapUsage[i] ? budget.heapBudget[i] - budget.heapUsage[i] : 0;
    }
    sum.free_bytes += std::min<std::uint64_t>(free_bytes, heap.size);
  }
  return sum;
}

VkDevice create_logical_device(const Instance& instance, const DeviceProfile& profile, QueuePriority wanted_priority,
                               Support& low_priority) {
  FeatureChain wanted;
  const VulkanLimits& limits = profile.limits;
  if (limits.f16_storage) {
    wanted.storage16.storageBuffer16BitAccess = VK_TRUE;
    wanted.chain(wanted.storage16);
  }
  if (limits.f16_arithmetic) {
    wanted.float16.shaderFloat16 = VK_TRUE;
    wanted.chain(wanted.float16);
  }
  if (profile.timeline_semaphore) {
    wanted.timeline.timelineSemaphore = VK_TRUE;
    wanted.chain(wanted.timeline);
  }
  if (limits.subgroup_size_control) {
    wanted.subgroup_size.subgroupSizeControl = VK_TRUE;
    wanted.subgroup_size.computeFullSubgroups = VK_TRUE;
    wanted.chain(wanted.subgroup_size);
  }
  if (limits.vulkan_memory_model) {
    wanted.memory_model.vulkanMemoryModel = VK_TRUE;
    wanted.memory_model.vulkanMemoryModelDeviceScope = VK_TRUE;
    wanted.chain(wanted.memory_model);
  }
  if (!limits.cooperative_matrix.empty()) {
    wanted.cooperative_matrix.cooperativeMatrix = VK_TRUE;
    wanted.chain(wanted.cooperative_matrix);
  }
  if (profile.pipeline_executable_properties) {
    wanted.executable.pipelineExecutableInfo = VK_TRUE;
    wanted.chain(wanted.executable);
  }
  if (profile.memory_priority) {
    wanted.memory_priority.memoryPriority = VK_TRUE;
    wanted.chain(wanted.memory_priority);
  }
  const float priority = 0.5f;
  VkDeviceQueueCreateInfo queue{};
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = profile.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  VkDeviceCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  create.pNext = &wanted.features2;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = static_cast<std::uint32_t>(profile.extensions.size());
  create.ppEnabledExtensionNames = profile.extensions.data();
  const LowPriority low =
      wanted_priority == QueuePriority::low ? profile.low_priority : LowPriority{nullptr, "it was not asked for"};
  VkDevice device = VK_NULL_HANDLE;
  check(create_with_low_priority(instance.functions().create_device, profile.physical_device, create, low, &device,
                                 low_priority),
        fmt::format("opening device {}", profile.properties.deviceName));
  return device;
}

DeviceInfo describe(const Instance& instance, const DeviceProfile& profile) {
  DeviceInfo info;
  info.backend = BackendKind::vulkan;
  info.name = profile.properties.deviceName;
  switch (profile.properties.deviceType) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU: info.type = DeviceType::discrete_gpu; break;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU: info.type = DeviceType::integrated_gpu; break;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU: info.type = DeviceType::virtual_gpu; break;
    case VK_PHYSICAL_DEVICE_TYPE_CPU: info.type = DeviceType::software; break;
    default: info.type = DeviceType::other; break;
  }
  info.driver = profile.driver;
  const std::uint32_t version = profile.properties.apiVersion;
  info.api = fmt::format("Vulkan {}.{}.{}", VK_API_VERSION_MAJOR(version), VK_API_VERSION_MINOR(version),
                         VK_API_VERSION_PATCH(version));
  info.uuid = profile.uuid;
  const MemoryBudget budget = query_memory_budget(instance, profile);
  info.memory_total_bytes = budget.total_bytes;
  info.memory_free_bytes = budget.free_bytes;
  return info;
}

}  // namespace riverhorse::vulkan
