// The tuner: times the tiles that a device could make the products of a model with, on the device itself.
//
// A product here is a weight's shape, its layouts, and rows in powers of two. A sweep makes every product of a model
// for so many rows once by each tile that adds in the order of the rule's (linear_tiles.h): in the model's order,
// between two timestamps each, and with the weights of other layers each time, since what a product in a model waits
// for first is weights that are in no cache. (Timed alone, on weights in the L2 cache of an H100, large tiles seemed
// up to 6 % faster than the rule's, and a prefill by them was 1.6 % slower.) What counts is the median of five
// sweeps, after some to wake the clocks. A tile that comes near the rule's time must then write the same bits, or it
// is forgotten: a compiler's mistake never gets into a text, nor does a tile that adds in another order. For rows in
// between, times are scaled by the turns that the device's units take (tile_times.h).
//
// Then the model's own recording is run, by the rule and by what was timed in turn: where that gains less than 1 %,
// the rule stays for these rows.
//
// The most rows come first. When the time is up, the rest is left to the rule, and that is remembered as well: a
// second start times nothing.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "vulkan/linear.h"

namespace riverhorse::vulkan {

// By DeviceOptions::tuning. With a debug message where it was asked for and cannot be.
bool wants_tuning(const VulkanDevice& device);
// What Tuning::automatic means for a device with timestamps. `is_lent`: by a program that may be drawing.
bool tunes_by_itself(const DeviceInfo& info, bool is_lent, bool has_cache);

// Where TileTimes lie and for whom; an empty path where there is no cache or no tuning.
std::filesystem::path tile_times_path(const VulkanDevice& device);
std::string tile_times_key(const VulkanDevice& device);

// As Device::tune. Errors: device_lost; all others leave the products to the rule, with a warning.
void tune_products(VulkanDevice& device, std::span<const RecordFunction> functions,
                   const std::shared_ptr<Buffer>& workspace);

// The index of the tiling to take, by what is known of the device.
std::size_t timed_choice(const VulkanDevice& device, const LinearPart& part, std::span<const Tiling> tilings);

}  // namespace riverhorse::vulkan
