// Byte-pair merging of one word.
//
// A word starts as one symbol a byte. Again and again the neighbouring pair with the lowest rank (the leftmost of
// equals) becomes one symbol, until no pair has a rank. Symbols form a doubly linked list; candidate pairs wait in a
// binary heap; a candidate whose symbols have changed meanwhile is dropped when it comes up. A word of n bytes costs
// O(n log n), so a "word" of ten million letters is no trap.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace riverhorse {

// (left id, right id) -> (rank, merged id): an open-addressing table, filled once. Half of what encoding does is ask
// it.
class MergeTable {
 public:
  struct Merge {
    std::uint32_t rank;
    std::int32_t token;
  };

  void reserve(std::size_t merges);
  // False when the pair is already there.
  bool insert(std::int32_t left, std::int32_t right, Merge merge);
  // Null when the pair does not merge.
  const Merge* find(std::int32_t left, std::int32_t right) const;

 private:
  struct Slot {
    std::uint64_t key = kEmpty;
    Merge merge{};
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
  static std::uint64_t key_of(std::int32_t left, std::int32_t right);
  std::size_t slot_of(std::uint64_t key) const;  // of the key, or the empty slot where it belongs
  std::vector<Slot> slots_;                      // a power of two, at most half full
  std::size_t size_ = 0;
};

// Scratch memory for merging; one a thread.
class BpeMerger {
 public:
  // `symbols`: the ids of the word's bytes in order. Replaced by the ids of its tokens.
  void merge(const MergeTable& table, std::vector<std::int32_t>& symbols);

 private:
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t left;  // index of the left symbol
    std::int32_t left_id, right_id, merged_id;
  };
  static bool later(const Candidate& a, const Candidate& b);
  void offer(const MergeTable& table, const std::vector<std::int32_t>& symbols, std::uint32_t left);
  std::vector<Candidate> heap_;
  std::vector<std::uint32_t> next_, previous_;  // neighbours by index; kNone at the ends
};

}  // namespace riverhorse
