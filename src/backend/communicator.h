// The processes that train one model together: ranks, numbered from 0, each with a device of its own.
//
// A communicator moves host memory between them; the tensors of a device go through Encoder::communicate. What joins
// ranks is MPI (src/mpi), and for tensors of NVIDIA GPUs NCCL (cuda/).
//
// Every rank makes the same calls in the same order, each with as many elements; a call returns when this rank's part
// is done. The result of a sum is the same on every rank, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace riverhorse {

enum class Reduction { sum, max };

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // The same among the ranks of this host, which share its devices.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }

  // Over the ranks, element by element, to every rank.
  virtual void all_reduce(std::span<float> values, Reduction reduction) = 0;
  virtual void all_reduce(std::span<double> values, Reduction reduction) = 0;
  // The sum over the ranks, cut in parts: rank r gets part r. `all` is size() times as long as `part`, and apart from
  // it.
  virtual void reduce_scatter(std::span<const float> all, std::span<float> part) = 0;
  // Every rank's part in turn. `part` may be where it belongs in `all`.
  virtual void all_gather(std::span<const std::byte> part, std::span<std::byte> all) = 0;
  virtual void broadcast(std::span<std::byte> bytes, int from) = 0;
  virtual void send(std::span<const std::byte> bytes, int to) = 0;
  virtual void receive(std::span<std::byte> bytes, int from) = 0;
  // To and from several ranks, this one possibly among them, at once.
  struct Transfer {
    int rank = 0;
    std::span<const std::byte> sent;
    std::span<std::byte> received;
  };
  virtual void exchange(std::span<const Transfer> transfers) = 0;
  // The sum over the ranks, element by element, to rank `to`; what the others are left with is undefined.
  virtual void reduce(std::span<float> values, int to) = 0;
  virtual void barrier() = 0;

  // Whether it is made for what a training moves every step, or only for starting one and for a few numbers.
  virtual bool moves_tensors() const { return true; }

  // Ends every rank's process with this exit status, wherever it is.
  [[noreturn]] virtual void abort(int status) = 0;

 protected:
  Communicator(int rank, int size, int local_rank, int local_size)
      : rank_(rank), size_(size), local_rank_(local_rank), local_size_(local_size) {}

 private:
  int rank_, size_, local_rank_, local_size_;
};

}  // namespace riverhorse
