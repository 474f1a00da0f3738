// One rank of many that are not there: what it is given to send is counted, and nothing moves.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "backend/communicator.h"

namespace riverhorse::test {

// Counts as around a ring: a sum that every rank gets passes each connection twice, but for one part of N.
class CountingRanks final : public Communicator {
 public:
  explicit CountingRanks(int size, int rank = 0) : Communicator(rank, size, rank, size) {}

  double sent_bytes = 0;

  void all_reduce(std::span<float> values, Reduction) override { count(2, values.size_bytes()); }
  void all_reduce(std::span<double>, Reduction) override {}  // the few numbers of the host
  void reduce_scatter(std::span<const float> all, std::span<float>) override { count(1, all.size_bytes()); }
  void all_gather(std::span<const std::byte> part, std::span<std::byte> all) override {
    count(1, all.size_bytes());
    for (int i = 0; i < size(); ++i) {  // as if all had the same
      std::copy(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(part.size()) * i);
    }
  }
  void broadcast(std::span<std::byte>, int) override { std::abort(); }
  void send(std::span<const std::byte>, int) override { std::abort(); }
  void receive(std::span<std::byte>, int) override { std::abort(); }
  void exchange(std::span<const Transfer>) override { std::abort(); }
  void reduce(std::span<float> values, int) override { count(1, values.size_bytes()); }
  void barrier() override {}
  void abort(int) override { std::abort(); }

 private:
  void count(double times, std::size_t bytes) {
    sent_bytes += times * static_cast<double>(bytes) * (size() - 1) / size();
  }
};

}  // namespace riverhorse::test
