// The functions of cuDNN that are called, found at run time: nothing links against it, so that the CUDA backend also
// loads where it is not installed.
#pragma once

#include <cudnn_graph.h>

#include <string>

namespace riverhorse::cuda {

struct CudnnLibrary {
  decltype(&::cudnnGetVersion) version = nullptr;  // 91900 is 9.19.0
  decltype(&::cudnnGetErrorString) error_text = nullptr;
  decltype(&::cudnnGetLastErrorString) last_error_text = nullptr;
  decltype(&::cudnnCreate) create = nullptr;
  decltype(&::cudnnDestroy) destroy = nullptr;
  decltype(&::cudnnSetStream) set_stream = nullptr;
  decltype(&::cudnnBackendCreateDescriptor) create_descriptor = nullptr;
  decltype(&::cudnnBackendDestroyDescriptor) destroy_descriptor = nullptr;
  decltype(&::cudnnBackendSetAttribute) set_attribute = nullptr;
  decltype(&::cudnnBackendGetAttribute) get_attribute = nullptr;
  decltype(&::cudnnBackendFinalize) finalize = nullptr;
  decltype(&::cudnnBackendExecute) execute = nullptr;

  // Errors, with cuDNN's own words: out_of_memory, device_lost where an execution failed, else unsupported.
  void check(cudnnStatus_t status, const std::string& what) const;
};

// Loaded once a process, from the file that RIVERHORSE_CUDNN_LIBRARY names, else libcudnn.so.9. Null, with the
// reason, where there is none or the name is "none". Errors: not_found where a file was named that cannot be loaded.
// Thread-safe.
const CudnnLibrary* cudnn_library(std::string& reason);

}  // namespace riverhorse::cuda
