#include "cudnn_library.h"

#include <array>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "runtime_library.h"

namespace riverhorse::cuda {

namespace {

constexpr const char* usual_name = "libcudnn.so.9";
// Before 9.10 masked scores had to be large negative numbers instead of minus infinity.
constexpr std::size_t least_version = 91000;

struct Loaded {
  CudnnLibrary library;
  std::string reason;  // empty: it is there
};

Loaded load(const char* name) {
  Loaded loaded;
  RuntimeLibrary file(name, "cuDNN 9");
  const auto find = [&](auto& function, const char* symbol) { file.find(function, symbol); };
  CudnnLibrary& library = loaded.library;
  find(library.version, "cudnnGetVersion");
  find(library.error_text, "cudnnGetErrorString");
  find(library.last_error_text, "cudnnGetLastErrorString");
  find(library.create, "cudnnCreate");
  find(library.destroy, "cudnnDestroy");
  find(library.set_stream, "cudnnSetStream");
  find(library.create_descriptor, "cudnnBackendCreateDescriptor");
  find(library.destroy_descriptor, "cudnnBackendDestroyDescriptor");
  find(library.set_attribute, "cudnnBackendSetAttribute");
  find(library.get_attribute, "cudnnBackendGetAttribute");
  find(library.finalize, "cudnnBackendFinalize");
  find(library.execute, "cudnnBackendExecute");
  loaded.reason = file.reason();
  if (loaded.reason.empty() && library.version() < least_version) {
    loaded.reason = fmt::format("{} is cuDNN {}, {} or newer is needed", name, library.version(), least_version);
  }
  return loaded;
}

StatusCode code_of(cudnnStatus_t status) {
  if (status == CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ||
      status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) {
    return StatusCode::out_of_memory;
  }
  return CUDNN_STATUS_CATEGORY(status) == CUDNN_STATUS_EXECUTION_FAILED ? StatusCode::device_lost
                                                                        : StatusCode::unsupported;
}

}  // namespace

void CudnnLibrary::check(cudnnStatus_t status, const std::string& what) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 1024> more{};
  last_error_text(more.data(), more.size() - 1);
  fail(code_of(status), "{}: {} ({}): {}", what, error_text(status), static_cast<int>(status), more.data());
}

const CudnnLibrary* cudnn_library(std::string& reason) {
  const char* variable = std::getenv("RIVERHORSE_CUDNN_LIBRARY");
  const std::string_view named = variable == nullptr ? "" : variable;
  if (named == "none") {
    reason = "RIVERHORSE_CUDNN_LIBRARY is none";
    return nullptr;
  }
  static const Loaded loaded = load(named.empty() ? usual_name : variable);
  reason = loaded.reason;
  if (loaded.reason.empty()) return &loaded.library;
  if (!named.empty()) {
    fail(StatusCode::not_found,
         "RIVERHORSE_CUDNN_LIBRARY: {}; name a libcudnn.so.9, or \"none\" for kernels of our own", reason);
  }
  return nullptr;
}

}  // namespace riverhorse::cuda
