#include "nccl_library.h"

#include <cstdlib>

#include "base/error.h"
#include "runtime_library.h"

namespace riverhorse::cuda {

namespace {

constexpr const char* usual_name = "libnccl.so.2";
constexpr int least_version = 21000;  // bf16, and calls within a recorded stream

struct Loaded {
  NcclLibrary library;
  std::string reason;  // empty: it is there
};

Loaded load() {
  const char* named = std::getenv("RIVERHORSE_NCCL_LIBRARY");
  const char* name = named == nullptr || *named == '\0' ? usual_name : named;
  Loaded loaded;
  RuntimeLibrary file(name, "NCCL 2.10 or newer");
  const auto find = [&](auto& function, const char* symbol) { file.find(function, symbol); };
  NcclLibrary& library = loaded.library;
  find(library.version, "ncclGetVersion");
  find(library.error_text, "ncclGetErrorString");
  find(library.last_error_text, "ncclGetLastError");
  find(library.unique_id, "ncclGetUniqueId");
  find(library.init_rank, "ncclCommInitRank");
  find(library.destroy, "ncclCommDestroy");
  find(library.abort, "ncclCommAbort");
  find(library.all_reduce, "ncclAllReduce");
  find(library.reduce_scatter, "ncclReduceScatter");
  find(library.all_gather, "ncclAllGather");
  find(library.reduce, "ncclReduce");
  find(library.send, "ncclSend");
  find(library.receive, "ncclRecv");
  find(library.group_start, "ncclGroupStart");
  find(library.group_end, "ncclGroupEnd");
  loaded.reason = file.reason();
  int version = 0;
  if (loaded.reason.empty() && (library.version(&version) != ncclSuccess || version < least_version)) {
    loaded.reason = fmt::format("{} is NCCL {}, {} or newer is needed", name, version, least_version);
  }
  return loaded;
}

}  // namespace

void NcclLibrary::check(ncclResult_t result, const char* what) const {
  if (result == ncclSuccess) return;
  fail(StatusCode::device_lost, "{}: NCCL says {}: {}", what, error_text(result), last_error_text(nullptr));
}

const NcclLibrary& nccl_library() {
  static const Loaded loaded = load();
  if (!loaded.reason.empty()) {
    fail(StatusCode::unsupported,
         "several GPUs train together by NCCL, and {}; install libnccl2, or name it by RIVERHORSE_NCCL_LIBRARY",
         loaded.reason);
  }
  return loaded.library;
}

}  // namespace riverhorse::cuda
