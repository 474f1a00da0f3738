#include "backend/cuda_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

#include "backend/own_library.h"

namespace riverhorse {
namespace {

constexpr const char* file_name = "libriverhorse-cuda.so";

struct Loaded {
  const CudaLibrary* library = nullptr;
  std::string reason;
};

Loaded load() {
  const std::filesystem::path path = own_library_path("RIVERHORSE_CUDA_LIBRARY", file_name);
  if (path.empty()) {
    void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (driver != nullptr) dlclose(driver);
    return {nullptr,
            fmt::format("{} is not next to this program, nor named by RIVERHORSE_CUDA_LIBRARY, and {}", file_name,
                        driver == nullptr ? "no NVIDIA driver (libcuda.so.1) was found; use vulkan or cpu"
                                          : "an NVIDIA driver is here; use vulkan on the same GPU")};
  }
  // Never closed: devices may live until the program ends.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) return {nullptr, fmt::format("{} cannot be loaded: {}", path.string(), dlerror())};
  using Function = const CudaLibrary* (*)();
  const auto function = reinterpret_cast<Function>(dlsym(handle, "riverhorse_cuda_library"));
  if (function == nullptr) return {nullptr, fmt::format("{} is not a Riverhorse CUDA backend", path.string())};
  const CudaLibrary* library = function();
  if (std::string_view(library->interface_id) != RIVERHORSE_INTERFACE_ID) {
    return {nullptr,
            fmt::format("{} belongs to another build of Riverhorse ({}, this one is {}): install the one that "
                        "came with this program",
                        path.string(), library->interface_id, RIVERHORSE_INTERFACE_ID)};
  }
  library->set_log_sink([](LogLevel level, std::string_view message) { log_at(level, std::string(message)); });
  return {library, {}};
}

}  // namespace

const CudaLibrary* cuda_library(std::string& reason) {
  static const Loaded loaded = load();
  reason = loaded.reason;
  return loaded.library;
}

}  // namespace riverhorse
