#include "backend/mpi_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>

#include "backend/own_library.h"

namespace riverhorse {
namespace {

constexpr const char* file_name = "libriverhorse-mpi.so";

struct Loaded {
  const MpiLibrary* library = nullptr;
  std::string reason;
};

Loaded load() {
  const std::filesystem::path path = own_library_path("RIVERHORSE_MPI_LIBRARY", file_name);
  if (path.empty()) {
    return {nullptr, fmt::format("{} is not next to this program, nor named by RIVERHORSE_MPI_LIBRARY; it is built "
                                 "where MPI is found (libopenmpi-dev)",
                                 file_name)};
  }
  // Never closed. What MPI loads in turn may look for its symbols among the global ones.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) return {nullptr, fmt::format("{} cannot be loaded: {}", path.string(), dlerror())};
  using Function = const MpiLibrary* (*)();
  const auto function = reinterpret_cast<Function>(dlsym(handle, "riverhorse_mpi_library"));
  if (function == nullptr) return {nullptr, fmt::format("{} is not Riverhorse's MPI", path.string())};
  const MpiLibrary* library = function();
  if (std::string_view(library->interface_id) != RIVERHORSE_INTERFACE_ID) {
    return {nullptr,
            fmt::format("{} belongs to another build of Riverhorse ({}, this one is {}): install the one that "
                        "came with this program",
                        path.string(), library->interface_id, RIVERHORSE_INTERFACE_ID)};
  }
  return {library, {}};
}

}  // namespace

const MpiLibrary* mpi_library(std::string& reason) {
  static const Loaded loaded = load();
  reason = loaded.reason;
  return loaded.library;
}

}  // namespace riverhorse
