#include "vulkan/tile_tuner.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "backend/device_key.h"
#include "base/cache_folder.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/quantised.h"
#include "vulkan/device_impl.h"
#include "vulkan/tile_times.h"

namespace riverhorse::vulkan {
namespace {

using Clock = std::chrono::steady_clock;

// Compiling takes longer than timing, and only the first time: drivers keep what they made.
constexpr double compiling_to_timing = 10;
constexpr std::uint64_t alignment = 4096;
// What is compared of y: so much from its beginning and from its end.
constexpr std::uint64_t compared_bytes = 1 << 20;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

// What a recording asks for, with tensors of the model's or, where those were scratch memory, of no memory.
struct AskedProduct {
  LinearArgs args;
  Shape x, y;
  DType x_dtype = DType::f32, y_dtype = DType::f32;
  Tensor weight;
  DType activation = DType::f32;
  std::uint32_t rows = 0, inputs = 0, outputs = 0, column = 0;

  explicit AskedProduct(const LinearPart& part)
      : args(part.args),
        x(part.x.shape),
        y(part.y.shape),
        x_dtype(part.x.dtype),
        y_dtype(part.y.dtype),
        weight(part.weight),
        activation(part.activation),
        rows(part.rows),
        inputs(part.inputs),
        outputs(part.outputs),
        column(part.column) {}

  bool dequantised() const { return is_quantised(args.weight.dtype); }
};

// The product with operands in one piece of memory.
class Trial {
 public:
  Trial(VulkanDevice& device, const AskedProduct& asked, const std::shared_ptr<Buffer>& workspace)
      : device_(device), args_(asked.args), asked_(asked), weight_(asked.weight) {
    x_ = place(asked.x_dtype, asked.x);
    y_ = place(asked.y_dtype, asked.y);
    if (asked.dequantised()) weight_ = place(asked.weight.dtype, asked.weight.shape);
    workspace_ = workspace != nullptr && workspace->size_bytes() >= used_bytes_
                     ? workspace
                     : device.allocate(used_bytes_, MemoryUse::device);
    x_.buffer = y_.buffer = workspace_;
    if (asked.dequantised()) weight_.buffer = workspace_;
    args_.x = x_, args_.y = y_;
  }

  // Makes x of the weights, which are numbers as good as any, and the plain weight of a quantised one.
  void fill() {
    device_.run([&](Encoder& encoder) {
      if (asked_.dequantised()) {
        encoder.copy({asked_.args.weight.slice(asked_.column, asked_.weight.shape[0]), weight_});
      }
      const std::int64_t step = weight_.count() / 1024 * 1024;
      const Tensor from = weight_.reshape({weight_.count()});
      const Tensor to = x_.reshape({x_.count()});
      for (std::int64_t begin = 0; begin < to.count(); begin += step) {
        const std::int64_t count = std::min(step, to.count() - begin);
        encoder.copy({from.slice(0, count), to.slice(begin, count)});
      }
    });
  }

  void record(Encoder& encoder, const Tiling& tiling) const {
    auto& own = static_cast<VulkanEncoder&>(encoder);
    const OperationScope operation(own, "linear");
    LinearPart part{args_, x_, weight_, y_, asked_.activation};
    part.rows = asked_.rows, part.inputs = asked_.inputs, part.outputs = asked_.outputs, part.column = asked_.column;
    linear_gemm(own, part, tiling);
  }

  // The ends of y after it was made on top of zeros.
  std::vector<std::byte> bits(Recording& recording) const {
    const std::vector<Tensor> ends = ends_of_y();
    std::vector<std::byte> zeros(compared_bytes);
    for (const Tensor& end : ends) device_.upload(end, std::span(zeros).first(end.size_bytes()));
    device_.wait(device_.submit(recording));
    std::vector<std::byte> bits;
    for (const Tensor& end : ends) {
      bits.resize(bits.size() + end.size_bytes());
      device_.download(end, std::span(bits).last(end.size_bytes()));
    }
    return bits;
  }

  RecordOptions options() const { return {.timestamps = true, .op_timestamps = true, .workspace = workspace_}; }

 private:
  Tensor place(DType dtype, const Shape& shape) {
    Tensor tensor{nullptr, used_bytes_, dtype, shape};
    used_bytes_ += (tensor.size_bytes() + alignment - 1) / alignment * alignment;
    return tensor;
  }

  std::vector<Tensor> ends_of_y() const {
    const Tensor flat = y_.reshape({y_.count()});
    const auto most = static_cast<std::int64_t>(compared_bytes / dtype_size_bytes(y_.dtype));
    if (flat.count() <= most) return {flat};
    return {flat.slice(0, most), flat.slice(flat.count() - most, most)};
  }

  VulkanDevice& device_;
  LinearArgs args_;
  const AskedProduct& asked_;
  Tensor x_, y_, weight_;
  std::shared_ptr<Buffer> workspace_;
  std::uint64_t used_bytes_ = 0;
};

class Tuner {
 public:
  Tuner(VulkanDevice& device, const std::shared_ptr<Buffer>& workspace)
      : device_(device), workspace_(workspace), limit_ms_(device.options().tuning_limit_ms) {}

  void tune(std::span<const RecordFunction> functions) {
    const std::vector<std::pair<std::string, AskedProduct>> products = asked_products(functions);
    for (const auto& [name, product] : products) {
      const std::vector<Tiling> tilings = rivals(product);
      if (tilings.size() < 2) continue;
      TileMs times;
      if (time_left()) times = time_product(name, product, tilings);
      times.empty() ? ++left_ : ++timed_;
      device_.tile_times().add(name, std::move(times));
    }
    if (timed_ + left_ == 0) return;
    device_.impl().core->counters.products_timed += timed_;
    device_.tile_times().save();
    device_.impl().pipelines->save_cache();
    log_info(
        fmt::format("tiles on {}: {} products timed in {:.0f} ms, and {:.0f} ms of compiling; {} by another tile "
                    "than the rule's, at best {:.2f} times as fast; {} left to the rule",
                    device_.info().id(), timed_, timing_ms_, compiling_ms_, better_, best_, left_));
  }

 private:
  // Each once, and none that is known.
  std::vector<std::pair<std::string, AskedProduct>> asked_products(std::span<const RecordFunction> functions) {
    std::vector<std::pair<std::string, AskedProduct>> products;
    for (const RecordFunction& function : functions) {
      VulkanEncoder encoder(device_, nullptr, nullptr);
      encoder.watch_products([&](const LinearPart& part) {
        if (part.rows != row_buckets(part.rows).above || part.weight.count() < 1024) return;
        const std::string name = product_name(part, part.rows);
        const bool seen =
            std::any_of(products.begin(), products.end(), [&](const auto& product) { return product.first == name; });
        if (!seen && !device_.tile_times().find(name)) products.emplace_back(name, AskedProduct(part));
      });
      function(encoder);
    }
    return products;
  }

  // The tilings that add in the order of the rule's, that one first.
  std::vector<Tiling> rivals(const AskedProduct& product) const {
    const ProductSize size{product.rows, product.inputs, static_cast<std::uint32_t>(product.weight.shape[0])};
    std::vector<Tiling> tilings = tilings_for(device_.limits(), product.weight.dtype == DType::f16,
                                              device_.info().type == DeviceType::software, size);
    const std::uint32_t order = tilings.front().order;
    std::erase_if(tilings, [&](const Tiling& tiling) { return tiling.order != order; });
    return tilings;
  }

  bool time_left() const { return timing_ms_ < limit_ms_ && compiling_ms_ < compiling_to_timing * limit_ms_; }

  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) {
    const Clock::time_point begin = Clock::now();
    std::unique_ptr<Recording> recording = device_.record(function, options);
    compiling_ms_ += ms_since(begin);
    return recording;
  }

  TileMs time_product(const std::string& name, const AskedProduct& product, std::span<const Tiling> tilings) {
    Trial trial(device_, product, workspace_);
    const std::unique_ptr<Recording> round = record(
        [&](Encoder& encoder) {
          for (const Tiling& tiling : tilings) trial.record(encoder, tiling);
        },
        trial.options());
    const Clock::time_point begin = Clock::now();
    const double before_ms = timing_ms_;
    trial.fill();
    const std::vector<double> medians = median_of_rounds(
        [&] {
          device_.wait(device_.submit(*round));
          std::vector<double> ms;
          for (const OpTiming& timing : round->timings()) ms.push_back(timing.time_ms);
          return ms;
        },
        [&] {
          timing_ms_ = before_ms + ms_since(begin);
          return time_left();
        });
    timing_ms_ = before_ms + ms_since(begin);
    std::vector<std::string> names;
    for (const Tiling& tiling : tilings) names.push_back(tiling.name());
    TileMs times = tiles_to_keep(names, medians, [&](std::size_t tile) { return bits_of(trial, tilings[tile]); });
    for (const auto& [tile, ms] : times) log_debug(fmt::format("{}: {:.4f} ms by {}", name, ms, tile));
    std::vector<TileOffer> offers;
    for (const std::string& tile : names) offers.push_back({.ms = times.contains(tile) ? times[tile] : 0.0});
    if (const std::size_t chosen = choose_tile(offers); chosen > 0) {
      ++better_;
      best_ = std::max(best_, medians[0] / medians[chosen]);
    }
    return times;
  }

  std::vector<std::byte> bits_of(const Trial& trial, const Tiling& tiling) {
    const std::unique_ptr<Recording> once =
        record([&](Encoder& encoder) { trial.record(encoder, tiling); }, trial.options());
    const Clock::time_point begin = Clock::now();
    std::vector<std::byte> bits = trial.bits(*once);
    timing_ms_ += ms_since(begin);
    return bits;
  }

  VulkanDevice& device_;
  const std::shared_ptr<Buffer>& workspace_;
  double limit_ms_;
  double timing_ms_ = 0, compiling_ms_ = 0, best_ = 1;
  int timed_ = 0, left_ = 0, better_ = 0;
};

}  // namespace

bool wants_tuning(const VulkanDevice& device) {
  const DeviceOptions& options = device.options();
  if (options.tuning == Tuning::off) return false;
  const DeviceCore& core = *device.impl().core;
  if (core.profile.timestamp_bits == 0) {
    if (options.tuning == Tuning::on) log_debug(fmt::format("{} has no timestamps to time tiles by", core.info.id()));
    return false;
  }
  if (options.tuning == Tuning::on) return true;
  const bool gpu = core.info.type == DeviceType::discrete_gpu || core.info.type == DeviceType::integrated_gpu ||
                   core.info.type == DeviceType::virtual_gpu;
  return gpu && core.queue_lock.adopted == nullptr && resolve_cache_folder(options.cache_folder).has_value();
}

std::string tile_times_key(const VulkanDevice& device) {
  return fmt::format("{} | {}", device_key(device.info()), device.cache_key());
}

std::filesystem::path tile_times_path(const VulkanDevice& device) {
  const auto folder = resolve_cache_folder(device.options().cache_folder);
  if (!folder || !wants_tuning(device)) return {};
  const std::string key = tile_times_key(device);
  return *folder / fmt::format("tiles-{:016x}.bin", hash_bytes(std::as_bytes(std::span(key))));
}

void tune_products(VulkanDevice& device, std::span<const RecordFunction> functions,
                   const std::shared_ptr<Buffer>& workspace) {
  try {
    Tuner(device, workspace).tune(functions);
  } catch (const Error& error) {
    if (error.code() == StatusCode::device_lost) throw;
    log_warning(fmt::format("tiles on {} are not timed: {}", device.info().id(), error.what()));
  }
}

std::size_t timed_choice(const VulkanDevice& device, const LinearPart& part, std::span<const Tiling> tilings) {
  if (tilings.size() < 2) return 0;
  const RowBuckets buckets = row_buckets(part.rows);
  std::uint32_t timed_rows = buckets.above;
  std::optional<TileMs> known = device.tile_times().find(product_name(part, timed_rows));
  if (!known && buckets.below != timed_rows) {
    timed_rows = buckets.below;
    known = device.tile_times().find(product_name(part, timed_rows));
  }
  if (!known || known->empty()) return 0;
  const auto turns = [&](const Tiling& tiling, std::uint32_t rows) {
    const ProductSize size{rows, part.inputs, part.part_outputs()};
    return static_cast<double>(turns_of(device.limits(), size, tiling.tile_m, tiling.tile_r));
  };
  std::vector<TileOffer> offers;
  for (const Tiling& tiling : tilings) {
    const auto found = known->find(tiling.name());
    offers.push_back({.ms = found == known->end() ? 0.0 : found->second,
                      .turns_timed = turns(tiling, timed_rows),
                      .turns = turns(tiling, part.rows)});
  }
  return choose_tile(offers);
}

}  // namespace riverhorse::vulkan
