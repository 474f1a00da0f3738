// Ranks of the emulated CUDA: at once, by the ranks of the host. Sums of 16 bits are made in f32 and rounded.
#include <cstring>
#include <vector>

#include "backend/transfers.h"
#include "base/dtype.h"
#include "tensor_communicator.h"

namespace riverhorse::cuda {

namespace {

std::vector<float> widened(const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.count()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = tensor.dtype == DType::f32 ? data<float>(tensor)[i]
                                           : half_to_float(data<std::uint16_t>(tensor)[i], tensor.dtype);
  }
  return values;
}

void write(const std::vector<float>& values, const Tensor& tensor) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (tensor.dtype == DType::f32) {
      data<float>(tensor)[i] = values[i];
    } else {
      data<std::uint16_t>(tensor)[i] = float_to_half(values[i], tensor.dtype);
    }
  }
}

class EmulatedCommunicator final : public TensorCommunicator {
 public:
  explicit EmulatedCommunicator(const std::shared_ptr<Communicator>& ranks) : TensorCommunicator(ranks) {}

  void connect(const CommunicateArgs&) override {}
  void start(const CommunicateArgs& args, cudaStream_t stream) override {
    emulator::enqueue(stream, [this, args] { run(args); });
  }
  void await(cudaStream_t) override {}

 private:
  void run(const CommunicateArgs& args) {
    if (args.collective == Collective::all_gather) {
      host().all_gather({data<std::byte>(args.input), args.input.size_bytes()},
                        {data<std::byte>(args.output), args.output.size_bytes()});
      return;
    }
    if (args.collective == Collective::pass || args.collective == Collective::all_to_all) {
      host().exchange(transfers_of(args, {data<std::byte>(args.input), args.input.size_bytes()},
                                   {data<std::byte>(args.output), args.output.size_bytes()}));
      return;
    }
    std::vector<float> values = widened(args.input);
    host().all_reduce(std::span(values), Reduction::sum);
    if (args.collective == Collective::reduce_scatter) {
      const auto part = args.output.count();
      values.erase(values.begin(), values.begin() + part * rank());
      values.resize(static_cast<std::size_t>(part));
    }
    write(values, args.output);
  }
};

}  // namespace

std::shared_ptr<TensorCommunicator> join_tensors(int, const std::shared_ptr<Communicator>& host) {
  return std::make_shared<EmulatedCommunicator>(host);
}

}  // namespace riverhorse::cuda
