// A 64-bit hash for telling contents apart and noticing damage: of models, tokenizers, data, caches. Not for secrets:
// whoever wants two texts with one hash can find them.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace riverhorse {

// A bijection of 64-bit numbers whose every output bit depends on every input bit (the finaliser of SplitMix64).
constexpr std::uint64_t mix_bits(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

// Runs at the speed of memory. The same on every machine of little-endian order; the length counts.
std::uint64_t hash_bytes(std::span<const std::byte> bytes, std::uint64_t seed = 0);

// Of several pieces, each of which counts with its length: ("ab", "c") is not ("a", "bc").
class Hash {
 public:
  Hash& add(std::span<const std::byte> bytes) {
    state_ = hash_bytes(bytes, state_);
    return *this;
  }
  Hash& add(std::string_view text) { return add(std::as_bytes(std::span(text))); }
  template <std::integral Number>
  Hash& add(Number value) {
    const auto word = static_cast<std::uint64_t>(value);
    return add(std::as_bytes(std::span(&word, 1)));
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace riverhorse
