// The ranks that train one model together, as a trainer sees them. Each has the whole model and its part of every
// micro-batch: of `batch` sequences rank r of N has those from r batch / N on, so that what a step trains on does not
// depend on N.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/communicator.h"

namespace riverhorse {

// What is divided among several ranks instead of being on each. optimizer: its moments (the first stage of ZeRO,
// Rajbhandari and others 2019); each rank updates its part of the parameters, and gets the rest from the others.
enum class Shard { none, optimizer };

// As which gradients travel between ranks and are added; bf16 is half the traffic, and rounds each sum.
enum class ReduceDtype { f32, bf16 };

struct Ranks {
  // Of host memory and of the device's tensors (which may be the same); null where there is one process.
  std::shared_ptr<Communicator> host, tensors;

  explicit operator bool() const { return host != nullptr; }
  int rank() const { return host ? host->rank() : 0; }
  int size() const { return host ? host->size() : 1; }
  bool first() const { return rank() == 0; }

  // Sequences of this rank's part of `batch`. Errors: invalid_argument when there is no equal part for each.
  std::int64_t part_of(std::int64_t batch) const;

  double sum(double value) const;
  double largest(double value) const;
  bool any(bool value) const { return largest(value ? 1 : 0) > 0; }
};

}  // namespace riverhorse
