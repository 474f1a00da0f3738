// Ranks joined by NCCL, on a stream of its own beside that of the operations. In a recording that stream becomes a
// branch of the graph: it forks off where a collective is started, and comes back where all are awaited.
#include <exception>
#include <set>
#include <vector>

#include "backend/transfers.h"
#include "base/error.h"
#include "base/log.h"
#include "nccl_library.h"
#include "tensor_communicator.h"

namespace riverhorse::cuda {

namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f16: return ncclFloat16;
    case DType::bf16: return ncclBfloat16;
    default: return ncclFloat32;
  }
}

class NcclCommunicator final : public TensorCommunicator {
 public:
  NcclCommunicator(int device, const std::shared_ptr<Communicator>& ranks)
      : TensorCommunicator(ranks), nccl_(nccl_library()) {
    check(cudaSetDevice(device), "cudaSetDevice");
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "making an event");
    ncclUniqueId id{};
    if (rank() == 0) nccl_.check(nccl_.unique_id(&id), "starting NCCL");
    host().broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    nccl_.check(nccl_.init_rank(&communicator_, size(), id, rank()), "joining the ranks");
    int version = 0;
    nccl_.version(&version);
    log_info(fmt::format("{} ranks are joined by NCCL {}.{}.{}", size(), version / 10000, version / 100 % 100,
                         version % 100));
    connect();
  }
  ~NcclCommunicator() override {
    // After an error the others may never come to the end of theirs.
    if (communicator_ != nullptr) {
      std::uncaught_exceptions() > 0 ? nccl_.abort(communicator_) : nccl_.destroy(communicator_);
    }
    cudaEventDestroy(event_);
    cudaStreamDestroy(stream_);
  }

  // A pair of ranks connects when it first exchanges something.
  void connect(const CommunicateArgs& args) override {
    std::vector<std::byte> sizes(args.collective == Collective::all_to_all ? static_cast<std::size_t>(args.group)
                                                                           : 1);
    if (args.collective != Collective::pass && args.collective != Collective::all_to_all) return;
    std::vector<Transfer> missing = transfers_of(args, sizes, sizes);
    std::erase_if(missing, [&](const Transfer& transfer) {
      return !connected_.insert({transfer.rank, transfer.sent.empty()}).second;
    });
    if (missing.empty()) return;
    std::byte* memory = nullptr;
    check(cudaMalloc(&memory, 2 * missing.size()), "allocating device memory");
    for (std::size_t i = 0; i < missing.size(); ++i) {
      if (!missing[i].sent.empty()) missing[i].sent = {memory + 2 * i, 1};
      if (!missing[i].received.empty()) missing[i].received = {memory + 2 * i + 1, 1};
    }
    exchange_tensors(missing);
    const cudaError_t error = cudaStreamSynchronize(stream_);
    cudaFree(memory);
    check(error, "connecting to other ranks");
  }
  void start(const CommunicateArgs& args, cudaStream_t stream) override {
    check(cudaEventRecord(event_, stream), "recording an event");
    check(cudaStreamWaitEvent(stream_, event_, 0), "waiting for an event");
    if (args.collective == Collective::pass || args.collective == Collective::all_to_all) {
      return exchange_tensors(transfers_of(args, {data<std::byte>(args.input), args.input.size_bytes()},
                                           {data<std::byte>(args.output), args.output.size_bytes()}));
    }
    call(args.collective, data<void>(args.input), static_cast<std::size_t>(args.input.count()),
         data<void>(args.output), static_cast<std::size_t>(args.output.count()), type_of(args.input.dtype), args.to);
  }
  void await(cudaStream_t stream) override {
    check(cudaEventRecord(event_, stream_), "recording an event");
    check(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
  }

 private:
  void call(Collective collective, const void* input, std::size_t inputs, void* output, std::size_t outputs,
            ncclDataType_t type, int to = 0) {
    switch (collective) {
      case Collective::all_reduce:
        nccl_.check(nccl_.all_reduce(input, output, inputs, type, ncclSum, communicator_, stream_), "all_reduce");
        break;
      case Collective::reduce_scatter:
        nccl_.check(nccl_.reduce_scatter(input, output, outputs, type, ncclSum, communicator_, stream_),
                    "reduce_scatter");
        break;
      case Collective::all_gather:
        nccl_.check(nccl_.all_gather(input, output, inputs, type, communicator_, stream_), "all_gather");
        break;
      case Collective::reduce:
        nccl_.check(nccl_.reduce(input, output, inputs, type, ncclSum, to, communicator_, stream_), "reduce");
        break;
      case Collective::pass:
      case Collective::all_to_all: break;  // exchange_tensors()
    }
  }
  // Of device memory.
  void exchange_tensors(const std::vector<Transfer>& transfers) {
    nccl_.check(nccl_.group_start(), "beginning an exchange");
    for (const auto& [other, sent, received] : transfers) {
      if (!sent.empty()) {
        nccl_.check(nccl_.send(sent.data(), sent.size(), ncclInt8, other, communicator_, stream_), "send");
      }
      if (!received.empty()) {
        nccl_.check(nccl_.receive(received.data(), received.size(), ncclInt8, other, communicator_, stream_),
                    "receive");
      }
    }
    nccl_.check(nccl_.group_end(), "an exchange");
  }
  // The first call of a kind makes its connections, which is better done before anything is recorded.
  void connect() {
    constexpr std::size_t bytes = std::size_t{32} << 20;
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes), "allocating device memory");
    const std::size_t count = bytes / sizeof(float) / static_cast<std::size_t>(size());
    const std::size_t all = count * static_cast<std::size_t>(size());
    float* whole = static_cast<float*>(memory);
    float* part = whole + count * static_cast<std::size_t>(rank());
    call(Collective::all_reduce, whole, all, whole, all, ncclFloat32);
    call(Collective::reduce_scatter, whole, all, part, count, ncclFloat32);
    call(Collective::all_gather, part, count, whole, all, ncclFloat32);
    for (int to = 0; to < size(); ++to) call(Collective::reduce, whole, count, whole, count, ncclFloat32, to);
    const cudaError_t error = cudaStreamSynchronize(stream_);
    cudaFree(memory);
    check(error, "connecting the ranks");
  }

  const NcclLibrary& nccl_;
  ncclComm_t communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
  std::set<std::pair<int, bool>> connected_;  // by rank, and whether for receiving alone
};

}  // namespace

std::shared_ptr<TensorCommunicator> join_tensors(int device, const std::shared_ptr<Communicator>& host) {
  return std::make_shared<NcclCommunicator>(device, host);
}

}  // namespace riverhorse::cuda
