// What AMD's shader compiler makes of every pipeline, without an AMD GPU. A program of its own, because the driver is
// chosen by environment variables, which tests/radv.cmake sets for one process each:
//
//   radv_pipelines compile   through Mesa's null device (RADV_FORCE_FAMILY): prepares every operation of the case
//                            table and prints registers, shared memory, spills and waves of each pipeline
//   radv_pipelines record M  on Mesa's no-op kernel (LD_PRELOAD of its shim, AMDGPU_GPU_ID): the whole engine loads
//                            the model M, reads a prompt and draws tokens; commands are recorded and submitted, and
//                            nothing is computed
//
// Exit status 77: something is missing, and the last line says what; ctest shows the test as skipped.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>
#include <string>

#include "backend/op_cases.h"
#include "base/error.h"
#include "engine/engine.h"
#include "model/checkpoint.h"
#include "vulkan/device_impl.h"

namespace riverhorse {
namespace {

constexpr int skipped = 77;

int skip(const std::string& reason) {
  fmt::print("SKIPPED: {}\n", reason);
  return skipped;
}

// Memory that is never touched: preparing looks at shapes only.
class NoMemory final : public Buffer {
 public:
  using Buffer::Buffer;
};

std::unique_ptr<vulkan::VulkanDevice> open_radv(std::string& reason) {
  for (const DeviceInfo& info : vulkan::list_vulkan_devices(reason)) {
    if (info.name.find("RADV") == std::string::npos) continue;
    DeviceOptions options;
    options.cache_folder = "none";
    fmt::print("device: {}, {}\n", info.name, info.driver);
    return std::make_unique<vulkan::VulkanDevice>(info, options);
  }
  if (reason.empty()) reason = "the Vulkan drivers here show no RADV device (mesa-vulkan-drivers, mesa-drm-shim)";
  return nullptr;
}

struct Row {
  double registers = 0, scalar_registers = 0, shared = 0, scratch = 0, spills = 0, waves = 0;
};

Row summarize(const vulkan::PipelineStatistics& statistics) {
  Row row;
  for (const auto& [name, value] : statistics.values) {
    if (name == "VGPRs") row.registers = std::max(row.registers, value);
    if (name == "SGPRs") row.scalar_registers = std::max(row.scalar_registers, value);
    if (name.find("LDS") != std::string::npos) row.shared = value;
    if (name.find("cratch") != std::string::npos) row.scratch = value;
    if (name == "Spilled VGPRs") row.spills = value;
    if (name.find("per SIMD") != std::string::npos) row.waves = value;
  }
  return row;
}

// The table, a line a pipeline. Returns how many spill vector registers.
int print_table(const vulkan::VulkanDevice& device) {
  fmt::print("{:<28} {:<34} {:>5} {:>5} {:>7} {:>8} {:>7} {:>6}\n", "shader", "constants", "VGPRs", "SGPRs", "LDS",
             "scratch", "spills", "waves");
  int spilling = 0;
  for (const vulkan::PipelineStatistics& each : device.impl().pipelines->statistics()) {
    std::string constants;
    for (const std::uint32_t constant : each.constants) constants += fmt::format(" {}", constant);
    const Row row = summarize(each);
    if (row.spills > 0) ++spilling;
    fmt::print("{:<28} {:<34} {:>5} {:>5} {:>7} {:>8} {:>7} {:>6}\n", each.shader, constants, row.registers,
               row.scalar_registers, row.shared, row.scratch, row.spills, row.waves);
  }
  return spilling;
}

int compile_all() {
  std::string reason;
  const std::unique_ptr<vulkan::VulkanDevice> device = open_radv(reason);
  if (!device) return skip(reason);
  if (!device->impl().core->profile.pipeline_executable_properties) {
    return skip("this RADV lacks VK_KHR_pipeline_executable_properties");
  }
  device->impl().pipelines->capture_statistics();
  int prepared = 0;
  int failed = 0;
  std::map<std::string, int> left_out;  // by reason
  for (const CaseSet set : {CaseSet::full, CaseSet::bench}) {
    for (const OpCase& each : op_cases(set)) {
      if (set == CaseSet::bench && each.op != "linear" && each.op.rfind("attention", 0) != 0) continue;
      std::string lack = why_unsupported(*device, each);
      const bool fft = std::find(each.needs.begin(), each.needs.end(), Feature::conv_fft) != each.needs.end();
      if (lack.empty() && (fft || each.op == "fft_conv")) lack = "VkFFT's plans need a device that runs";
      if (!lack.empty()) {
        ++left_out[lack];
        continue;
      }
      const CaseData data = each.make(1);
      std::vector<Tensor> tensors;
      for (const CaseTensor& tensor : data.tensors) {
        Tensor view{nullptr, 0, tensor.dtype, tensor.shape};
        view.buffer = std::make_shared<NoMemory>(std::max<std::uint64_t>(view.size_bytes(), 4));
        tensors.push_back(view);
      }
      try {
        device->prepare([&](Encoder& encoder) { data.record(encoder, tensors); }, {});
        ++prepared;
      } catch (const Error& error) {
        fmt::print("FAILED {}: {}\n", each.id(), error.what());
        ++failed;
      }
    }
  }
  const int spilling = print_table(*device);
  for (const auto& [why, count] : left_out) fmt::print("left out: {} cases: {}\n", count, why);
  fmt::print("{} cases prepared, {} pipelines, {} spill, {} cases failed\n", prepared,
             device->counters().pipelines_created, spilling, failed);
  // Mesa's null device crashes when it is destroyed: leave without.
  std::fflush(stdout);
  std::_Exit(failed == 0 && prepared > 0 && spilling == 0 ? 0 : 1);
}

int record_engine(const std::string& folder) {
  std::string reason;
  std::shared_ptr<vulkan::VulkanDevice> device = open_radv(reason);
  if (!device) return skip(reason);
  if (!device->impl().core->profile.pipeline_executable_properties) {
    return skip("this RADV lacks VK_KHR_pipeline_executable_properties");
  }
  device->impl().pipelines->capture_statistics();
  EngineOptions options;
  options.dtype = DType::f16;
  options.conv = ConvAlgorithm::chunked;
  Engine engine(device, load_checkpoint(folder, {}), options);
  const std::unique_ptr<Session> session = engine.create_session();
  std::vector<std::int32_t> prompt(100);
  for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::int32_t>(i * 7 % 300);
  session->append(prompt);
  for (int i = 0; i < 3; ++i) session->step();
  std::set<std::string> shaders;
  for (const vulkan::PipelineStatistics& each : device->impl().pipelines->statistics()) shaders.insert(each.shader);
  print_table(*device);
  const DeviceCounters counters = device->counters();
  fmt::print("{} recordings, {} submissions, {} shaders\n", counters.recordings, counters.submissions,
             shaders.size());
  const bool has_matrices = !device->limits().cooperative_matrix.empty();
  fmt::print("cooperative matrices: device {}, used {}\n", has_matrices ? "yes" : "no",
             shaders.contains("linear_coopmat") ? "yes" : "no");
  return has_matrices == shaders.contains("linear_coopmat") && session->position() == 103 ? 0 : 1;
}

int run(int count, char** arguments) {
  const std::string mode = count > 1 ? arguments[1] : "";
  if (mode == "compile") return compile_all();
  if (mode == "record" && count == 3) return record_engine(arguments[2]);
  fmt::print("usage: radv_pipelines compile | record MODEL\n");
  return 2;
}

}  // namespace
}  // namespace riverhorse

int main(int count, char** arguments) {
  try {
    return riverhorse::run(count, arguments);
  } catch (const std::exception& error) {
    fmt::print("error: {}\n", error.what());
    return 1;
  }
}
