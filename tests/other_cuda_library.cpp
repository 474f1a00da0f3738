// Stands for a CUDA backend that came with another build.
#include "backend/cuda_library.h"

extern "C" [[gnu::visibility("default")]] const riverhorse::CudaLibrary* riverhorse_cuda_library() {
  static const riverhorse::CudaLibrary library{"another build", nullptr, nullptr, nullptr};
  return &library;
}
