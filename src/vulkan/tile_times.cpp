#include "vulkan/tile_times.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <system_error>

#include "base/error.h"
#include "base/log.h"
#include "vulkan/pipeline_cache_file.h"

namespace riverhorse::vulkan {
namespace {

constexpr double gain = 0.95;  // of the rule's time: less is taken for noise
// Slower ones than this, times the rule's, are not worth comparing: no number of rows makes them the best.
constexpr double slow = 1.5;
constexpr double whole_gain = 0.99;  // of a whole recording, which is less than a product
constexpr std::size_t most_rounds = 5;
constexpr std::size_t least_rounds = 3;

std::string_view take(std::string_view& text, char end) {
  const std::string_view found = text.substr(0, text.find(end));
  text.remove_prefix(std::min(text.size(), found.size() + 1));
  return found;
}

}  // namespace

std::size_t choose_tile(std::span<const TileOffer> offers) {
  if (offers.empty() || !(offers[0].ms > 0)) return 0;
  const auto expected = [](const TileOffer& offer) { return offer.ms * offer.turns / offer.turns_timed; };
  std::size_t best = 0;
  for (std::size_t i = 1; i < offers.size(); ++i) {
    if (offers[i].ms > 0 && expected(offers[i]) < expected(offers[best])) best = i;
  }
  return expected(offers[best]) < gain * expected(offers[0]) ? best : 0;
}

std::uint32_t timed_rows_for(std::uint32_t rows) {
  return std::bit_ceil(std::clamp(rows, least_timed_rows, 1u << 31));
}

std::vector<double> median_of_rounds(const std::function<std::vector<double>()>& round,
                                     const std::function<bool()>& time_left) {
  const std::size_t tiles = round().size();
  std::vector<std::vector<double>> times(tiles);
  for (std::size_t i = 0; i < most_rounds && time_left(); ++i) {
    const std::vector<double> ms = round();
    if (ms.size() != tiles) return {};
    for (std::size_t tile = 0; tile < tiles; ++tile) times[tile].push_back(ms[tile]);
  }
  std::vector<double> medians;
  for (std::vector<double>& each : times) {
    if (each.size() < least_rounds) return {};
    std::sort(each.begin(), each.end());
    medians.push_back(each[each.size() / 2]);
  }
  return medians;
}

TileMs tiles_to_keep(std::span<const std::string> tiles, std::span<const double> ms,
                     const std::function<bool(std::size_t tile)>& makes_the_same_bits) {
  TileMs kept;
  if (ms.size() != tiles.size() || ms.empty() || !(ms[0] > 0)) return kept;
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    if (!(ms[i] > 0) || ms[i] > slow * ms[0]) continue;
    if (i > 0 && !makes_the_same_bits(i)) {
      log_debug(fmt::format("{} makes other bits than {}", tiles[i], tiles[0]));
      continue;
    }
    kept[tiles[i]] = ms[i];
  }
  return kept;
}

bool is_confirmed(double rule_ms, double chosen_ms) { return chosen_ms < whole_gain * rule_ms; }

std::string tile_times_text(const std::map<std::string, TileMs>& products) {
  std::string text;
  for (const auto& [product, times] : products) {
    if (times.empty()) text += fmt::format("{}\n", product);
    for (const auto& [tile, ms] : times) text += fmt::format("{}\t{}\t{}\n", product, tile, ms);
  }
  return text;
}

std::optional<std::map<std::string, TileMs>> parse_tile_times(std::string_view text) {
  std::map<std::string, TileMs> products;
  while (!text.empty()) {
    std::string_view line = take(text, '\n');
    const std::string product(take(line, '\t'));
    if (product.empty()) return std::nullopt;
    TileMs& times = products[product];
    if (line.empty()) continue;
    const std::string tile(take(line, '\t'));
    double ms = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), ms);
    const bool whole = error == std::errc() && end == line.data() + line.size();
    if (tile.empty() || !whole || !std::isfinite(ms) || !(ms > 0)) return std::nullopt;
    times[tile] = ms;
  }
  return products;
}

namespace {

std::optional<std::map<std::string, TileMs>> read_tile_times(const std::filesystem::path& path,
                                                             const std::string& key) {
  const std::vector<std::byte> blob = read_pipeline_cache(path, key);
  if (blob.empty()) return std::nullopt;
  return parse_tile_times({reinterpret_cast<const char*>(blob.data()), blob.size()});
}

}  // namespace

TileTimes::TileTimes(std::filesystem::path path, std::string key) : path_(std::move(path)), key_(std::move(key)) {
  std::error_code ignored;
  if (path_.empty() || !std::filesystem::exists(path_, ignored)) return;
  if (auto read = read_tile_times(path_, key_)) {
    products_ = std::move(*read);
  } else {
    log_warning(fmt::format("{}: damaged, or of another device or driver; tiles are timed again", path_.string()));
  }
}

std::optional<TileMs> TileTimes::find(const std::string& product) const {
  std::scoped_lock lock(mutex_);
  const auto found = products_.find(product);
  return found == products_.end() ? std::nullopt : std::optional(found->second);
}

void TileTimes::add(const std::string& product, TileMs times) {
  std::scoped_lock lock(mutex_);
  products_[product] = std::move(times);
}

void TileTimes::save() const {
  if (path_.empty()) return;
  std::scoped_lock lock(mutex_);
  std::map<std::string, TileMs> all = products_;
  if (auto others = read_tile_times(path_, key_)) {
    for (auto& [name, times] : *others) {
      if (TileMs& own = all[name]; own.empty()) own = std::move(times);  // where we had no time for trials
    }
  }
  if (all.empty()) return;
  const std::string text = tile_times_text(all);
  try {
    write_pipeline_cache(path_, key_, std::as_bytes(std::span(text)));
  } catch (const Error& error) {
    log_warning(fmt::format("the times of tiles are not kept: {}", error.what()));
  }
}

}  // namespace riverhorse::vulkan
