#include "data/bpe_trainer.h"

#include <limits>
#include <queue>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/hash.h"

namespace riverhorse {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};
constexpr std::int32_t kGone = -1;               // a symbol that was merged into its left neighbour
constexpr std::size_t kLongestTokenBytes = 256;  // a line of a thousand dashes is not worth a token
constexpr std::uint64_t kFewestOccurrences = 2;

using Pair = std::uint64_t;  // left id in the upper half, so that comparing pairs compares left ids first

Pair pair_of(std::int32_t left, std::int32_t right) {
  return (std::uint64_t{static_cast<std::uint32_t>(left)} << 32) | static_cast<std::uint32_t>(right);
}
std::int32_t left_of(Pair pair) { return static_cast<std::int32_t>(pair >> 32); }
std::int32_t right_of(Pair pair) { return static_cast<std::int32_t>(pair & 0xFFFFFFFFu); }

struct PairHash {
  std::size_t operator()(Pair pair) const { return static_cast<std::size_t>(mix_bits(pair)); }
};

// All words in one row of symbols, linked to their neighbours within the word.
class Merging {
 public:
  explicit Merging(const std::unordered_map<std::string, std::uint64_t>& words) {
    std::size_t bytes = 0;
    for (const auto& [word, count] : words) bytes += word.size();
    if (bytes >= kNone || words.size() >= kNone) {
      fail(StatusCode::unsupported, "{} bytes of different words are too many to learn from; give less text", bytes);
    }
    symbols_.reserve(bytes);
    for (const auto& [word, count] : words) {
      const auto index = static_cast<std::uint32_t>(word_counts_.size());
      word_counts_.push_back(count);
      for (std::size_t i = 0; i < word.size(); ++i) {
        const auto place = static_cast<std::uint32_t>(symbols_.size());
        symbols_.push_back({static_cast<unsigned char>(word[i]), index, i > 0 ? place - 1 : kNone,
                            i + 1 < word.size() ? place + 1 : kNone});
      }
    }
    for (std::uint32_t place = 0; place < symbols_.size(); ++place) {
      if (symbols_[place].next != kNone) add_occurrence(place);
    }
    for (const auto& [pair, occurrences] : pairs_) heap_.push({occurrences.count, pair});
    for (unsigned byte = 0; byte < 256; ++byte) tokens_.emplace_back(1, static_cast<char>(byte));
  }

  const std::vector<std::string>& tokens() const { return tokens_; }

  // Makes the next merge; false when none is worth it.
  bool step(BpeVocabulary::Merge& merge) {
    while (!heap_.empty()) {
      const Candidate best = heap_.top();
      heap_.pop();
      const auto found = pairs_.find(best.pair);
      if (found == pairs_.end()) continue;
      if (found->second.count != best.count) {  // counts only shrink once a pair is known
        heap_.push({found->second.count, best.pair});
        continue;
      }
      if (best.count < kFewestOccurrences) return false;
      std::string bytes = tokens_[static_cast<std::size_t>(left_of(best.pair))] +
                          tokens_[static_cast<std::size_t>(right_of(best.pair))];
      // Two ways to the same bytes would be one token with two ids: only the first is taken.
      if (bytes.size() > kLongestTokenBytes || !merged_.insert(bytes).second) {
        pairs_.erase(found);
        continue;
      }
      merge = {left_of(best.pair), right_of(best.pair), static_cast<std::int32_t>(tokens_.size())};
      tokens_.push_back(std::move(bytes));
      apply(merge, found->second.places);  // insertions leave references into the map as they are
      pairs_.erase(best.pair);
      return true;
    }
    return false;
  }

 private:
  struct Symbol {
    std::int32_t id;
    std::uint32_t word;
    std::uint32_t previous, next;  // kNone at the ends of the word
  };
  struct Occurrences {
    std::uint64_t count = 0;            // in the text
    std::vector<std::uint32_t> places;  // of left symbols, ascending; some may have changed meanwhile
  };
  struct Candidate {
    std::uint64_t count;
    Pair pair;
    bool operator<(const Candidate& other) const {  // the heap's top is the largest
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  Pair pair_at(std::uint32_t place) const { return pair_of(symbols_[place].id, symbols_[symbols_[place].next].id); }

  void add_occurrence(std::uint32_t place) {
    Occurrences& occurrences = pairs_[pair_at(place)];
    occurrences.count += word_counts_[symbols_[place].word];
    occurrences.places.push_back(place);
  }

  void remove_occurrence(std::uint32_t place) {
    if (const auto found = pairs_.find(pair_at(place)); found != pairs_.end()) {
      found->second.count -= word_counts_[symbols_[place].word];
    }
  }

  // A pair with the new symbol is new itself, so its places come in ascending order, and the leftmost of overlapping
  // ones is merged first: as the encoder does it.
  void apply(const BpeVocabulary::Merge& merge, const std::vector<std::uint32_t>& places) {
    std::unordered_set<Pair, PairHash> created;
    const auto add = [&](std::uint32_t place) {
      add_occurrence(place);
      created.insert(pair_at(place));
    };
    for (const std::uint32_t place : places) {
      Symbol& left = symbols_[place];
      if (left.id != merge.left || left.next == kNone || symbols_[left.next].id != merge.right) continue;
      Symbol& right = symbols_[left.next];
      if (left.previous != kNone) remove_occurrence(left.previous);
      if (right.next != kNone) remove_occurrence(left.next);
      left.id = merge.merged;
      right.id = kGone;
      left.next = right.next;
      if (left.next != kNone) symbols_[left.next].previous = place;
      if (left.previous != kNone) add(left.previous);
      if (left.next != kNone) add(place);
    }
    for (const Pair pair : created) {
      if (const auto found = pairs_.find(pair); found->second.count > 0) heap_.push({found->second.count, pair});
    }
  }

  std::vector<Symbol> symbols_;
  std::vector<std::uint64_t> word_counts_;
  std::unordered_map<Pair, Occurrences, PairHash> pairs_;
  std::priority_queue<Candidate> heap_;
  std::vector<std::string> tokens_;         // by id
  std::unordered_set<std::string> merged_;  // the tokens of more than one byte
};

}  // namespace

void BpeTrainer::add(std::string_view text) {
  Pretokenizer::Walk walk(pretokenizer_, text);
  for (std::string_view word = walk.next(); !word.empty(); word = walk.next()) ++words_[std::string(word)];
}

BpeVocabulary BpeTrainer::train(std::int64_t vocab_size) const {
  if (vocab_size < kSmallestBpeVocabulary || vocab_size > kLargestBpeVocabulary) {
    fail(StatusCode::invalid_argument, "a vocabulary of {} tokens cannot be trained; from {} to {} can", vocab_size,
         kSmallestBpeVocabulary, kLargestBpeVocabulary);
  }
  Merging merging(words_);
  BpeVocabulary vocabulary;
  vocabulary.source = "the trained vocabulary";
  BpeVocabulary::Merge merge;
  const auto symbols = static_cast<std::size_t>(vocab_size - 1);
  while (merging.tokens().size() < symbols && merging.step(merge)) vocabulary.merges.push_back(merge);
  std::int32_t id = 0;
  for (const std::string& bytes : merging.tokens()) vocabulary.tokens.push_back({bytes, id++});
  vocabulary.added.push_back({"<|endoftext|>", id, true});
  return vocabulary;
}

}  // namespace riverhorse
