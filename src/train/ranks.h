// The ranks that train one model together, as a trainer sees them. Each has the whole model and its part of every
// micro-batch: of `batch` sequences rank r of N has those from r batch / N on, so that what a step trains on does not
// depend on N. With `places` above 1, so many ranks that follow each other share sequences, each with a part of their
// tokens, in order: group g of N / places has the sequences from g batch / groups on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/communicator.h"

namespace riverhorse {

// What is divided among several ranks instead of being on each. optimizer: its moments (the first stage of ZeRO,
// Rajbhandari and others 2019); each rank updates its part of the parameters, and gets the rest from the others.
// gradients: these too (the second stage); each rank gets the sums of its part alone.
enum class Shard { none, optimizer, gradients };

// As which gradients travel between ranks and are added; bf16 is half the traffic, and rounds each sum.
enum class ReduceDtype { f32, bf16 };

struct Ranks {
  // Of host memory and of the device's tensors (which may be the same); null where there is one process.
  std::shared_ptr<Communicator> host, tensors;

  int places = 1;  // divides size()

  explicit operator bool() const { return host != nullptr; }
  int rank() const { return host ? host->rank() : 0; }
  int size() const { return host ? host->size() : 1; }
  bool first() const { return rank() == 0; }

  int groups() const { return size() / places; }
  int group() const { return rank() / places; }
  int place() const { return rank() % places; }  // in the group, as in the text

  // The same ranks, `count` of them a sequence. Errors: invalid_argument when they do not divide so.
  Ranks with_places(std::int64_t count) const;
  // Sequences of this rank's part of `batch`. Errors: invalid_argument when there is no equal part for each group.
  std::int64_t part_of(std::int64_t batch) const;
  // Tokens of this rank's part of a sequence of `length`. Errors: invalid_argument likewise.
  std::int64_t tokens_of(std::int64_t length) const;
  // Of whole sequences (count, length) the tokens that are this rank's.
  std::vector<std::int32_t> own_tokens(std::span<const std::int32_t> whole, std::int64_t length) const;

  double sum(double value) const;
  double largest(double value) const;
  bool any(bool value) const { return largest(value ? 1 : 0) > 0; }
  // Does `work` on every rank, and waits until all have. An Error on any of them is thrown on all: that of the
  // lowest.
  void together(const std::function<void()>& work) const;
};

}  // namespace riverhorse
