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

Batches::Batches(const TokenSource& source, std::int64_t length, std::uint64_t seed)
    : source_(source), length_(length), seed_(seed), samples_((source.size() - 1) / length) {
  if (samples_ < 1) {
    fail(StatusCode::invalid_argument, "the data has {} tokens; samples of length {} need at least {}", source.size(),
         length, length + 1);
  }
}

std::int64_t Batches::first_token(std::int64_t position) const {
  const std::uint64_t key = epoch_key(seed_, position / samples_);
  const std::int64_t left_over = source_.size() - 1 - samples_ * length_;
  const auto begin = static_cast<std::int64_t>(mix_bits(key) % static_cast<std::uint64_t>(left_over + 1));
  const std::uint64_t index =
      permuted(static_cast<std::uint64_t>(position % samples_), static_cast<std::uint64_t>(samples_), key);
  return begin + static_cast<std::int64_t>(index) * length_;
}

void Batches::read(std::int64_t position, std::span<std::int32_t> ids, std::span<std::int32_t> targets) const {
  const auto length = static_cast<std::size_t>(length_);
  std::vector<std::int32_t> sample(length + 1);
  for (std::size_t begin = 0; begin < ids.size(); begin += length, ++position) {
    source_.read(first_token(position), sample);
    std::copy_n(sample.begin(), length, ids.begin() + static_cast<std::ptrdiff_t>(begin));
    std::copy_n(sample.begin() + 1, length, targets.begin() + static_cast<std::ptrdiff_t>(begin));
  }
}

}  // namespace riverhorse
