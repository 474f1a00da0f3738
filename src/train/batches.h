// Samples for training, cut from a long row of tokens and shuffled anew each epoch.
//
// A sample is length + 1 consecutive tokens: the ids, and the same a token later as targets. Neighbours share one
// token, so that every token but the first is a target once an epoch; the tokens that do not fill a sample are left
// out at either end, elsewhere each epoch. Or, where no sample may cross the end of a document: a document is cut
// into samples from its start, and what it does not fill of the last one is padding without targets. The order is a
// permutation that is computed for any sample on its own: the position in the data is one integer, and going on from
// it is exact.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "data/token_source.h"

namespace riverhorse {

// Where `index` goes in the permutation of [0, count) that `key` chooses. index < count <= 2^62.
std::uint64_t permuted(std::uint64_t index, std::uint64_t count, std::uint64_t key);

// Tokens of a source: `targets` ids from `begin` on, and the token after each as its target.
struct Sample {
  std::int64_t begin = 0;
  std::int64_t targets = 0;
};

// The ids and targets of a sample; what it leaves of them is padding: id 0, target -1 (not scored).
void read_sample(const TokenSource& source, const Sample& sample, std::span<std::int32_t> ids,
                 std::span<std::int32_t> targets);

// A source cut at the ends of its documents, and these into samples of at most `length` targets, in order. Documents
// of one token have none. Holds 8 bytes a document.
class DocumentSamples {
 public:
  DocumentSamples(const TokenSource& source, std::int64_t length);  // `source` outlives this object

  std::int64_t count() const { return ends_.empty() ? 0 : ends_.back(); }
  Sample at(std::int64_t index) const;

 private:
  const TokenSource& source_;
  std::int64_t length_;
  std::vector<std::int64_t> ends_;  // of each document, in samples from the start
};

class Batches {
 public:
  // `source` outlives this object. Errors: invalid_argument when it has no length + 1 tokens, or, with
  // `within_documents`, no document of two.
  Batches(const TokenSource& source, std::int64_t length, std::uint64_t seed, bool within_documents = false);

  std::int64_t samples_per_epoch() const { return samples_; }

  // The sample at `position`, counted from the start of the training.
  Sample sample(std::int64_t position) const;

  // The samples from `position` on: ids and targets (samples, length). Thread-safe.
  void read(std::int64_t position, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const;

 private:
  const TokenSource& source_;
  std::int64_t length_;
  std::uint64_t seed_;
  std::optional<DocumentSamples> documents_;
  std::int64_t samples_;
};

}  // namespace riverhorse
