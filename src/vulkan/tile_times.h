// What trials on a device have told of tiles (tile_tuner.h): the times of products, the choice by them, and the file
// in the cache folder that keeps them. A file is taken whole or not at all, as pipeline_cache_file.h says.
//
// Reproducibility: only tiles that add in the order of the rule's are in here, and made its bits where both ends of y
// were compared, once for each pair of pipelines; so what is chosen changes how long a product takes and nothing
// else: texts do not depend on when, where or whether tiles were timed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace riverhorse::vulkan {

// Milliseconds by the names of tiles. Without the rule's among them, or empty, a product is left to the rule.
using TileMs = std::map<std::string, double>;

struct TileOffer {
  double ms = 0;           // measured; 0: it was not
  double turns_timed = 1;  // turns_of() the product that was measured, and of the one at hand
  double turns = 1;
};

// The index of the tile to take, of offers whose first is the rule's. That one, unless another is 5 % faster.
std::size_t choose_tile(std::span<const TileOffer> offers);

// Products are timed for powers of two from 16 rows on. Times for others are looked up at the next one, and where
// there are none at the largest below.
constexpr std::uint32_t least_timed_rows = 16;
std::uint32_t timed_rows_for(std::uint32_t rows);

// The medians of what `round` returns, ms of each tile once; the first round is to warm up. Rounds end early when
// `time_left` says no; nothing after fewer than three.
std::vector<double> median_of_rounds(const std::function<std::vector<double>()>& round,
                                     const std::function<bool()>& time_left);

// The times of the first tile, the rule's, and of those that make its bits; of tiles much slower that is not asked.
TileMs tiles_to_keep(std::span<const std::string> tiles, std::span<const double> ms,
                     const std::function<bool(std::size_t tile)>& makes_the_same_bits);

// Whether what was chosen by times made a whole recording faster; both in ms, the first by the rule.
bool is_confirmed(double rule_ms, double chosen_ms);

class TileTimes {
 public:
  // Reads what is at `path`, if it was written for `key`; a file that is there and is not right is named in a
  // warning. An empty path: none.
  TileTimes(std::filesystem::path path, std::string key);

  std::optional<TileMs> find(const std::string& product) const;
  void add(const std::string& product, TileMs times);
  // Whether recordings go by these times. They do at first.
  void use(bool used) { used_ = used; }
  bool used() const { return used_; }
  // Writes everything, and what other programs have added to the file meanwhile; a warning where it cannot.
  void save() const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  std::string key_;
  std::atomic<bool> used_{true};
  mutable std::mutex mutex_;
  std::map<std::string, TileMs> products_;
};

// One line a time. Parsing: nothing for a text that is not such lines.
std::string tile_times_text(const std::map<std::string, TileMs>& products);
std::optional<std::map<std::string, TileMs>> parse_tile_times(std::string_view text);

}  // namespace riverhorse::vulkan
