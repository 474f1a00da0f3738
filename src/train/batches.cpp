#include "train/batches.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "base/error.h"
#include "base/hash.h"

namespace riverhorse {
namespace {

std::uint64_t epoch_key(std::uint64_t seed, std::int64_t epoch) {
  return mix_bits(mix_bits(seed + 0x9e3779b97f4a7c15u) + static_cast<std::uint64_t>(epoch));
}

}  // namespace

// A Feistel network permutes the smallest 2^(2 h) that holds `count`; whoever lands outside walks on along his cycle
// until he is inside, fewer than four times on average.
std::uint64_t permuted(std::uint64_t index, std::uint64_t count, std::uint64_t key) {
  constexpr std::uint64_t rounds = 6;
  const int half = std::max(1, (static_cast<int>(std::bit_width(count - 1)) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  do {
    std::uint64_t left = index >> half, right = index & mask;
    for (std::uint64_t round = 0; round < rounds; ++round) {
      const std::uint64_t next = left ^ (mix_bits(right + mix_bits(key + round)) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= count);
  return index;
}

void read_sample(const TokenSource& source, const Sample& sample, std::span<std::int32_t> ids,
                 std::span<std::int32_t> targets) {
  const auto count = static_cast<std::size_t>(sample.targets);
  std::vector<std::int32_t> tokens(count + 1);
  source.read(sample.begin, tokens);
  std::copy_n(tokens.begin(), count, ids.begin());
  std::copy_n(tokens.begin() + 1, count, targets.begin());
  std::fill(ids.begin() + sample.targets, ids.end(), 0);
  std::fill(targets.begin() + sample.targets, targets.end(), -1);
}

DocumentSamples::DocumentSamples(const TokenSource& source, std::int64_t length) : source_(source), length_(length) {
  std::int64_t begin = 0, samples = 0;
  for (const std::int64_t end : source.document_ends()) {
    samples += (end - begin - 1 + length - 1) / length;
    ends_.push_back(samples);
    begin = end;
  }
}

Sample DocumentSamples::at(std::int64_t index) const {
  // The first document that ends after it; those without samples are stepped over.
  const auto document = std::upper_bound(ends_.begin(), ends_.end(), index) - ends_.begin();
  const std::span<const std::int64_t> tokens = source_.document_ends();
  const auto number = static_cast<std::size_t>(document);
  const std::int64_t first_sample = document == 0 ? 0 : ends_[number - 1];
  const std::int64_t first_token = document == 0 ? 0 : tokens[number - 1];
  const std::int64_t begin = first_token + (index - first_sample) * length_;
  return {begin, std::min(length_, tokens[number] - 1 - begin)};
}

Batches::Batches(const TokenSource& source, std::int64_t length, std::uint64_t seed, bool within_documents)
    : source_(source), length_(length), seed_(seed), samples_((source.size() - 1) / length) {
  if (within_documents) samples_ = documents_.emplace(source, length).count();
  if (samples_ >= 1) return;
  if (within_documents) fail(StatusCode::invalid_argument, "the data has no document of two tokens or more");
  fail(StatusCode::invalid_argument, "the data has {} tokens; samples of length {} need at least {}", source.size(),
       length, length + 1);
}

Sample Batches::sample(std::int64_t position) const {
  const std::uint64_t key = epoch_key(seed_, position / samples_);
  const auto index = static_cast<std::int64_t>(
      permuted(static_cast<std::uint64_t>(position % samples_), static_cast<std::uint64_t>(samples_), key));
  if (documents_) return documents_->at(index);
  const std::int64_t left_over = source_.size() - 1 - samples_ * length_;
  const auto begin = static_cast<std::int64_t>(mix_bits(key) % static_cast<std::uint64_t>(left_over + 1));
  return {begin + index * length_, length_};
}

void Batches::read(std::int64_t position, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const {
  const auto length = static_cast<std::size_t>(length_);
  for (std::size_t begin = 0; begin < ids.size(); begin += length, ++position) {
    read_sample(source_, sample(position), ids.subspan(begin, length), targets.subspan(begin, length));
  }
}

}  // namespace riverhorse
