// Four lanes of 64 bits, each mixing every fourth word by a multiply and a rotate, so that the multiplier's latency
// is hidden and the hash runs at memory speed. The lanes are joined by the same step, and a finisher spreads every
// bit.
#include "base/hash.h"

#include <array>
#include <bit>
#include <cstring>

namespace riverhorse {
namespace {

constexpr std::uint64_t multiplier_a = 0x9e3779b97f4a7c15u;  // 2^64 / golden ratio
constexpr std::uint64_t multiplier_b = 0xd6e8feb86659fd93u;

constexpr std::uint64_t mix(std::uint64_t state, std::uint64_t word) {
  return std::rotl((state ^ word) * multiplier_a, 29) * multiplier_b;
}

constexpr std::uint64_t finish(std::uint64_t state) {
  state = (state ^ (state >> 32)) * multiplier_b;
  state = (state ^ (state >> 29)) * multiplier_a;
  return state ^ (state >> 32);
}

std::uint64_t load_word(const std::byte* bytes) {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed) {
  constexpr std::size_t lane_count = 4;
  std::array<std::uint64_t, lane_count> lanes;
  for (std::size_t lane = 0; lane < lane_count; ++lane) lanes[lane] = seed + multiplier_a * (lane + 1);
  std::size_t position = 0;
  for (; bytes.size() - position >= 8 * lane_count; position += 8 * lane_count) {
    for (std::size_t lane = 0; lane < lane_count; ++lane) {
      lanes[lane] = mix(lanes[lane], load_word(bytes.data() + position + 8 * lane));
    }
  }
  std::uint64_t state = mix(seed, bytes.size());
  for (const std::uint64_t lane : lanes) state = mix(state, lane);
  for (; bytes.size() - position >= 8; position += 8) state = mix(state, load_word(bytes.data() + position));
  std::uint64_t tail = 0;
  if (position < bytes.size()) std::memcpy(&tail, bytes.data() + position, bytes.size() - position);
  return finish(mix(state, tail));
}

}  // namespace riverhorse
