// The ranks of a training, for tensors of this device: by NCCL (tensor_communicator_nccl.cpp). On the emulated CUDA,
// whose tensors are host memory, by the host's ranks (tensor_communicator_emulated.cpp).
#pragma once

#include <cstdlib>
#include <memory>

#include "backend/backend.h"
#include "core.h"

namespace riverhorse::cuda {

// Host memory goes the way that the ranks were started by.
class TensorCommunicator : public Communicator {
 public:
  // Before any of this kind is recorded, by all who take part in it.
  virtual void connect(const CommunicateArgs& args) = 0;
  // After what is on `stream`, and beside what follows there. Also while `stream` is recorded.
  virtual void start(const CommunicateArgs& args, cudaStream_t stream) = 0;
  // What follows on `stream` waits for all that was started.
  virtual void await(cudaStream_t stream) = 0;

  void all_reduce(std::span<float> values, Reduction reduction) override { host_->all_reduce(values, reduction); }
  void all_reduce(std::span<double> values, Reduction reduction) override { host_->all_reduce(values, reduction); }
  void reduce_scatter(std::span<const float> all, std::span<float> part) override {
    host_->reduce_scatter(all, part);
  }
  void all_gather(std::span<const std::byte> part, std::span<std::byte> all) override {
    host_->all_gather(part, all);
  }
  void broadcast(std::span<std::byte> bytes, int from) override { host_->broadcast(bytes, from); }
  void send(std::span<const std::byte> bytes, int to) override { host_->send(bytes, to); }
  void receive(std::span<std::byte> bytes, int from) override { host_->receive(bytes, from); }
  void exchange(std::span<const Transfer> transfers) override { host_->exchange(transfers); }
  void reduce(std::span<float> values, int to) override { host_->reduce(values, to); }
  void barrier() override { host_->barrier(); }
  [[noreturn]] void abort(int status) override {
    host_->abort(status);
    std::_Exit(status);  // a virtual function's promise not to return is not believed
  }

 protected:
  explicit TensorCommunicator(const std::shared_ptr<Communicator>& host)
      : Communicator(host->rank(), host->size(), host->local_rank(), host->local_size()), host_(host) {}
  Communicator& host() const { return *host_; }

 private:
  std::shared_ptr<Communicator> host_;
};

// All ranks of `host` at once. Errors: unsupported, with what is missing; what NCCL says.
std::shared_ptr<TensorCommunicator> join_tensors(int device, const std::shared_ptr<Communicator>& host);

}  // namespace riverhorse::cuda
