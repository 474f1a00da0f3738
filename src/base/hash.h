// A 64-bit hash for telling contents apart: of tokenizers, of training data. Not for secrets: whoever wants two texts
// with one hash can find them.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace riverhorse {

// A bijection of 64-bit numbers whose every output bit depends on every input bit (the finaliser of SplitMix64).
constexpr std::uint64_t mix_bits(std::uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

// The same on every machine of little-endian order. Each piece counts with its length: ("ab", "c") is not ("a",
// "bc").
class Hash {
 public:
  Hash& add(std::span<const std::byte> bytes) {
    add(static_cast<std::uint64_t>(bytes.size()));
    for (; bytes.size() >= 8; bytes = bytes.subspan(8)) add(word(bytes.first(8)));
    return bytes.empty() ? *this : add(word(bytes));
  }
  Hash& add(std::string_view text) { return add(std::as_bytes(std::span(text))); }
  template <std::integral Number>
  Hash& add(Number value) {
    state_ = (state_ ^ static_cast<std::uint64_t>(value)) * 0x9E3779B97F4A7C15u;
    state_ ^= state_ >> 29;
    return *this;
  }
  std::uint64_t value() const { return mix_bits(state_); }

 private:
  static std::uint64_t word(std::span<const std::byte> bytes) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  std::uint64_t state_ = 0x243F6A8885A308D3u;  // digits of pi
};

}  // namespace riverhorse
