// The functions of NCCL that are called, found at run time: nothing links against it, so that the CUDA backend also
// loads where it is not installed.
#pragma once

#include <nccl.h>

#include <string>

namespace riverhorse::cuda {

struct NcclLibrary {
  decltype(&::ncclGetVersion) version = nullptr;  // 22809 is 2.28.9
  decltype(&::ncclGetErrorString) error_text = nullptr;
  decltype(&::ncclGetLastError) last_error_text = nullptr;
  decltype(&::ncclGetUniqueId) unique_id = nullptr;
  decltype(&::ncclCommInitRank) init_rank = nullptr;
  decltype(&::ncclCommDestroy) destroy = nullptr;
  decltype(&::ncclCommAbort) abort = nullptr;
  decltype(&::ncclAllReduce) all_reduce = nullptr;
  decltype(&::ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&::ncclAllGather) all_gather = nullptr;
  decltype(&::ncclReduce) reduce = nullptr;
  decltype(&::ncclSend) send = nullptr;
  decltype(&::ncclRecv) receive = nullptr;
  decltype(&::ncclGroupStart) group_start = nullptr;
  decltype(&::ncclGroupEnd) group_end = nullptr;

  // Errors, with NCCL's own words: device_lost.
  void check(ncclResult_t result, const char* what) const;
};

// Loaded once a process, from the file that RIVERHORSE_NCCL_LIBRARY names, else libnccl.so.2. Errors: unsupported
// where it cannot be. Thread-safe.
const NcclLibrary& nccl_library();

}  // namespace riverhorse::cuda
