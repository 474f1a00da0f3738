// Which devices there are, which one to take, and opening it. This room alone knows every backend.
#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "backend/adopted_vulkan.h"
#include "backend/backend.h"
#include "backend/cuda_library.h"
#include "backend/frame_loop.h"
#include "backend/queue_priority.h"
#include "base/error.h"
#include "base/log.h"
#include "cpu/cpu_device.h"
#ifdef RIVERHORSE_WITH_VULKAN
#include "vulkan/device.h"
#include "vulkan/frame_loop.h"
#endif

namespace riverhorse {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& letter : result) letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
  return result;
}

std::optional<BackendKind> backend_by_name(std::string_view name) {
  for (BackendKind kind : {BackendKind::cpu, BackendKind::vulkan, BackendKind::cuda}) {
    if (name == backend_name(kind)) return kind;
  }
  return std::nullopt;
}

// As `riverhorse devices` writes it, 32 hexadecimal digits; the hyphens may be left out.
std::optional<std::array<std::uint8_t, 16>> parse_uuid(std::string_view text) {
  std::array<std::uint8_t, 16> uuid{};
  std::size_t digits = 0;
  for (const char letter : text) {
    if (letter == '-') continue;
    unsigned value = 0;
    if (std::from_chars(&letter, &letter + 1, value, 16).ec != std::errc() || digits == 32) return std::nullopt;
    uuid[digits / 2] = static_cast<std::uint8_t>(uuid[digits / 2] << 4 | value);
    ++digits;
  }
  if (digits != 32) return std::nullopt;
  return uuid;
}

std::string listed(const std::vector<const DeviceInfo*>& devices) {
  std::string text;
  for (const DeviceInfo* each : devices)
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", each->id(), each->name);
  return text;
}

[[noreturn]] void fail_absent(const DeviceList& list, BackendKind kind) {
  for (const BackendAbsence& absence : list.absences) {
    if (absence.backend == kind) fail(StatusCode::not_found, "no {} device: {}", backend_name(kind), absence.reason);
  }
  fail(StatusCode::not_found, "no {} device was found", backend_name(kind));
}

// Of the backends that ask no driver for it.
Support no_queue_priority(BackendKind kind) {
  return {false, kind == BackendKind::cuda
                     ? "CUDA has no priorities between programs, and within one its stream has the lowest already"
                     : "the cpu backend has no queue, and its threads have the program's priority"};
}

}  // namespace

DeviceList list_devices() {
  DeviceList list;
  std::string reason;
  if (const CudaLibrary* cuda = cuda_library(reason)) list.devices = cuda->list_devices(reason);
  if (list.devices.empty()) list.absences.push_back({BackendKind::cuda, reason});
#ifdef RIVERHORSE_WITH_VULKAN
  const std::vector<DeviceInfo> vulkan_devices = vulkan::list_vulkan_devices(reason);
  list.devices.insert(list.devices.end(), vulkan_devices.begin(), vulkan_devices.end());
  if (vulkan_devices.empty()) list.absences.push_back({BackendKind::vulkan, reason});
#else
  list.absences.push_back({BackendKind::vulkan, "this build has no Vulkan backend (RIVERHORSE_VULKAN was off)"});
#endif
  list.devices.push_back(cpu_device_info());
  return list;
}

DeviceInfo choose_device(const DeviceList& list, std::string_view backend, std::string_view device) {
  std::optional<BackendKind> kind;
  if (!backend.empty() && backend != "auto") {
    kind = backend_by_name(backend);
    if (!kind) fail(StatusCode::invalid_argument, "there is no backend \"{}\": auto, cpu, vulkan or cuda", backend);
  }
  std::string_view name = device;
  std::optional<int> index;
  if (const std::size_t colon = device.find(':'); colon != std::string_view::npos) {
    if (const std::optional<BackendKind> named = backend_by_name(device.substr(0, colon))) {
      if (kind && *kind != *named) {
        fail(StatusCode::invalid_argument, "device {} is not of backend {}", device, backend);
      }
      kind = named;
      name = device.substr(colon + 1);
    }
  }
  int number = 0;
  const auto parsed = std::from_chars(name.data(), name.data() + name.size(), number);
  if (!name.empty() && parsed.ec == std::errc() && parsed.ptr == name.data() + name.size()) index = number;

  std::vector<const DeviceInfo*> candidates;
  for (const DeviceInfo& each : list.devices) {
    if (!kind || each.backend == *kind) candidates.push_back(&each);
  }
  if (kind && candidates.empty()) fail_absent(list, *kind);

  if (name.empty()) {
    // Nobody named a device: software ones only when they are all that an explicitly chosen backend has.
    const auto hardware = std::find_if(candidates.begin(), candidates.end(),
                                       [](const DeviceInfo* each) { return each->type != DeviceType::software; });
    if (hardware != candidates.end()) return **hardware;
    if (kind && !candidates.empty()) return *candidates.front();
    fail(StatusCode::not_found, "no device was found");
  }
  if (const std::optional<std::array<std::uint8_t, 16>> uuid = parse_uuid(name)) {
    const auto found = std::find_if(candidates.begin(), candidates.end(),
                                    [&](const DeviceInfo* each) { return each->uuid == *uuid; });
    if (found == candidates.end() || *uuid == std::array<std::uint8_t, 16>{}) {  // zeros: of devices without one
      fail(StatusCode::not_found, "no device has the UUID {}; there are: {}", name, listed(candidates));
    }
    return **found;  // of two backends' the better one, which is listed first
  }
  std::vector<const DeviceInfo*> matches;
  for (const DeviceInfo* each : candidates) {
    if (index ? each->index == *index : lower(each->name).find(lower(name)) != std::string::npos)
      matches.push_back(each);
  }
  if (matches.empty()) {
    fail(StatusCode::not_found, "no device matches \"{}\"; there are: {}", device, listed(candidates));
  }
  const bool alike = std::all_of(matches.begin(), matches.end(), [&](const DeviceInfo* each) {
    return each->name == matches.front()->name && each->backend == matches.front()->backend;
  });
  if (!alike) {
    fail(StatusCode::invalid_argument, "device \"{}\" could be any of {}: name one as backend:index", device,
         listed(matches));
  }
  return *matches.front();
}

DeviceInfo choose_training_device(const DeviceList& list, std::string_view backend, std::string_view device,
                                  const std::function<Support(const DeviceInfo&)>& training) {
  if (!device.empty() || !(backend.empty() || backend == "auto")) return choose_device(list, backend, device);
  for (const DeviceInfo& each : list.devices) {
    if (each.type == DeviceType::software) continue;
    const Support support = training(each);
    if (support.supported) return each;
    log_info(fmt::format("{} ({}) is passed over: {}", each.id(), each.name, support.reason));
  }
  fail(StatusCode::unsupported, "there is no device that trains");
}

std::unique_ptr<Device> open_device(const DeviceInfo& info, const DeviceOptions& options) {
  return open_device(info, options, QueuePriority::normal);
}

std::unique_ptr<Device> open_device(const DeviceInfo& info, const DeviceOptions& options,
                                    [[maybe_unused]] QueuePriority wanted) {
  switch (info.backend) {
    case BackendKind::cpu: return open_cpu_device(info, options);
    case BackendKind::vulkan:
#ifdef RIVERHORSE_WITH_VULKAN
      return std::make_unique<vulkan::VulkanDevice>(info, options, wanted);
#else
      fail(StatusCode::unsupported, "this build has no Vulkan backend");
#endif
    case BackendKind::cuda: {
      std::string reason;
      const CudaLibrary* cuda = cuda_library(reason);
      if (cuda == nullptr) fail(StatusCode::unsupported, "no cuda device: {}", reason);
      return cuda->open_device(info);
    }
  }
  fail(StatusCode::invalid_argument, "an unknown backend");
}

Support low_priority_support(const DeviceInfo& info) {
#ifdef RIVERHORSE_WITH_VULKAN
  if (info.backend == BackendKind::vulkan) return vulkan::low_priority_support(info);
#endif
  return no_queue_priority(info.backend);
}

Support low_priority_of(const Device& device) {
#ifdef RIVERHORSE_WITH_VULKAN
  if (const auto* const found = dynamic_cast<const vulkan::VulkanDevice*>(&device)) return found->low_priority();
#endif
  return no_queue_priority(device.info().backend);
}

std::unique_ptr<Device> open_adopted_device([[maybe_unused]] std::shared_ptr<AdoptedVulkan> adopted,
                                            [[maybe_unused]] const DeviceOptions& options) {
#ifdef RIVERHORSE_WITH_VULKAN
  return std::make_unique<vulkan::VulkanDevice>(std::move(adopted), options);
#else
  fail(StatusCode::unsupported, "this build has no Vulkan backend");
#endif
}

void check_adopted_device([[maybe_unused]] const AdoptedVulkan& adopted) {
#ifdef RIVERHORSE_WITH_VULKAN
  vulkan::check_adoptable(adopted.handles());
#else
  fail(StatusCode::unsupported, "this build has no Vulkan backend");
#endif
}

std::unique_ptr<FrameLoop> make_frame_loop(Device& device) {
#ifdef RIVERHORSE_WITH_VULKAN
  if (const auto* const found = dynamic_cast<const vulkan::VulkanDevice*>(&device)) {
    return std::make_unique<vulkan::VulkanFrameLoop>(*found);
  }
#endif
  fail(StatusCode::unsupported, "{} ({}) has no command buffers of a program's frames: use the vulkan backend",
       device.info().name, device.info().id());
}

VulkanRequirements vulkan_requirements([[maybe_unused]] const VulkanHandles& handles) {
#ifdef RIVERHORSE_WITH_VULKAN
  return vulkan::requirements_of(handles);
#else
  fail(StatusCode::unsupported, "this build has no Vulkan backend");
#endif
}

}  // namespace riverhorse
