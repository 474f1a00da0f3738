// Collectives over the ranks of a training, beside the operations that are recorded after them.
#include "base/error.h"
#include "encoder.h"
#include "tensor_communicator.h"

namespace riverhorse::cuda {

namespace {

TensorCommunicator& own(Communicator* communicator) {
  auto* ours = dynamic_cast<TensorCommunicator*>(communicator);
  if (ours == nullptr) fail(StatusCode::invalid_argument, "communicate: the communicator is not of this device");
  return *ours;
}

}  // namespace

void CudaEncoder::record_communicate(const CommunicateArgs& args) {
  TensorCommunicator& ranks = own(args.communicator);
  if (preparing()) ranks.connect(args);
  add("communicate", [args, &ranks](cudaStream_t stream) { ranks.start(args, stream); });
}

void CudaEncoder::record_await_ranks(const AwaitRanksArgs& args) {
  TensorCommunicator& ranks = own(args.communicator);
  add("await_ranks", [&ranks](cudaStream_t stream) { ranks.await(stream); });
}

}  // namespace riverhorse::cuda
