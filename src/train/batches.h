// Samples for training, cut from a long row of tokens and shuffled anew each epoch.
//
// A sample is length + 1 consecutive tokens: the ids, and the same a token later as targets. Neighbours share one
// token, so that every token but the first is a target once an epoch; the tokens that do not fill a sample are left
// out at either end, elsewhere each epoch. The order is a permutation that is computed for any sample on its own:
// the position in the data is one integer, and going on from it is exact.
#pragma once

#include <cstdint>
#include <span>

#include "data/token_source.h"

namespace riverhorse {

// Where `index` goes in the permutation of [0, count) that `key` chooses. index < count <= 2^62.
std::uint64_t permuted(std::uint64_t index, std::uint64_t count, std::uint64_t key);

class Batches {
 public:
  // `source` outlives this object. Errors: invalid_argument when it has no length + 1 tokens.
  Batches(const TokenSource& source, std::int64_t length, std::uint64_t seed);

  std::int64_t samples_per_epoch() const { return samples_; }

  // Where the sample at `position`, counted from the start of the training, begins in the source.
  std::int64_t first_token(std::int64_t position) const;

  // The samples from `position` on: ids and targets (samples, length). Thread-safe.
  void read(std::int64_t position, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const;

 private:
  const TokenSource& source_;
  std::int64_t length_;
  std::uint64_t seed_;
  std::int64_t samples_;
};

}  // namespace riverhorse
