#include "data/bpe_merger.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace riverhorse {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};
constexpr std::int32_t kGone = -1;  // the id of a symbol that was merged into its left neighbour

}  // namespace

std::uint64_t MergeTable::key_of(std::int32_t left, std::int32_t right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}

std::size_t MergeTable::slot_of(std::uint64_t key) const {
  std::uint64_t hash = key * 0x9E3779B97F4A7C15u;
  hash ^= hash >> 32;
  const std::size_t mask = slots_.size() - 1;
  std::size_t index = static_cast<std::size_t>(hash) & mask;
  while (slots_[index].key != kEmpty && slots_[index].key != key) index = (index + 1) & mask;
  return index;
}

void MergeTable::reserve(std::size_t merges) {
  std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(std::bit_ceil(2 * merges + 2)));
  for (const Slot& slot : old) {
    if (slot.key != kEmpty) slots_[slot_of(slot.key)] = slot;
  }
}

bool MergeTable::insert(std::int32_t left, std::int32_t right, Merge merge) {
  if (2 * (size_ + 1) > slots_.size()) reserve(2 * (size_ + 1));
  Slot& slot = slots_[slot_of(key_of(left, right))];
  if (slot.key != kEmpty) return false;
  slot = {key_of(left, right), merge};
  ++size_;
  return true;
}

const MergeTable::Merge* MergeTable::find(std::int32_t left, std::int32_t right) const {
  if (slots_.empty()) return nullptr;
  const Slot& slot = slots_[slot_of(key_of(left, right))];
  return slot.key == kEmpty ? nullptr : &slot.merge;
}

// The heap's order: its top is the lowest rank, and of equals the leftmost.
bool BpeMerger::later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

void BpeMerger::offer(const MergeTable& table, const std::vector<std::int32_t>& symbols, std::uint32_t left) {
  const std::uint32_t right = next_[left];
  if (right == kNone) return;
  if (const MergeTable::Merge* merge = table.find(symbols[left], symbols[right])) {
    heap_.push_back({merge->rank, left, symbols[left], symbols[right], merge->token});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
}

void BpeMerger::merge(const MergeTable& table, std::vector<std::int32_t>& symbols) {
  const auto count = static_cast<std::uint32_t>(symbols.size());
  if (count < 2) return;
  next_.resize(count);
  previous_.resize(count);
  heap_.clear();
  for (std::uint32_t index = 0; index < count; ++index) {
    next_[index] = index + 1 < count ? index + 1 : kNone;
    previous_[index] = index > 0 ? index - 1 : kNone;
  }
  for (std::uint32_t index = 0; index + 1 < count; ++index) {
    if (const MergeTable::Merge* merge = table.find(symbols[index], symbols[index + 1])) {
      heap_.push_back({merge->rank, index, symbols[index], symbols[index + 1], merge->token});
    }
  }
  std::make_heap(heap_.begin(), heap_.end(), later);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), later);
    const Candidate candidate = heap_.back();
    heap_.pop_back();
    const std::uint32_t left = candidate.left;
    const std::uint32_t right = next_[left];
    if (symbols[left] != candidate.left_id || right == kNone || symbols[right] != candidate.right_id) continue;
    symbols[left] = candidate.merged_id;
    symbols[right] = kGone;
    next_[left] = next_[right];
    if (next_[right] != kNone) previous_[next_[right]] = left;
    offer(table, symbols, left);
    if (previous_[left] != kNone) offer(table, symbols, previous_[left]);
  }
  std::erase(symbols, kGone);
}

}  // namespace riverhorse
