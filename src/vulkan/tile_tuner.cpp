#include "vulkan/tile_tuner.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <thread>
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
constexpr std::uint64_t compared_bytes = 256 << 10;
// An idle GPU runs at a fraction of its rate for the first tenths of a second.
constexpr double warm_up_ms = 300;
constexpr unsigned most_threads = 8;  // that compile

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
  Trial(VulkanDevice& device, const AskedProduct& asked)
      : device_(device), args_(asked.args), asked_(asked), weight_(asked.weight) {
    x_ = place(asked.x_dtype, asked.x);
    y_ = place(asked.y_dtype, asked.y);
    if (asked.dequantised()) weight_ = place(asked.weight.dtype, asked.weight.shape);
  }

  // Before anything runs. In `workspace` if that is large enough.
  void allocate(const std::shared_ptr<Buffer>& workspace) {
    workspace_ = workspace != nullptr && workspace->size_bytes() >= used_bytes_
                     ? workspace
                     : device_.allocate(used_bytes_, MemoryUse::device);
    x_.buffer = y_.buffer = workspace_;
    if (asked_.dequantised()) weight_.buffer = workspace_;
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
    linear_gemm(own, part(), tiling);
  }

  // What tells the pipeline of a tiling from all others.
  std::string pipeline(const Tiling& tiling) const { return specialised(device_.limits(), part(), tiling).name(); }

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
  LinearPart part() const {
    LinearPart part{args_, x_, weight_, y_, asked_.activation};
    part.rows = asked_.rows, part.inputs = asked_.inputs, part.outputs = asked_.outputs, part.column = asked_.column;
    return part;
  }

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

struct Task {
  std::string name;
  AskedProduct product;
  std::vector<Tiling> tilings;  // that add in the order of the rule's, that one first
};

class Tuner {
 public:
  Tuner(VulkanDevice& device, const std::shared_ptr<Buffer>& workspace)
      : device_(device),
        core_(*device.impl().core),
        workspace_(workspace),
        limit_ms_(device.options().tuning_limit_ms),
        time_scale_(core_.time_scale) {}
  // What trials told of times, some of them by a device that was not awake yet, is not for recordings to come.
  ~Tuner() { core_.time_scale = time_scale_; }
  Tuner(const Tuner&) = delete;
  Tuner& operator=(const Tuner&) = delete;

  void tune(std::span<const RecordFunction> functions) {
    const std::vector<Task> tasks = tasks_of(functions);
    if (tasks.empty()) return;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const std::uint32_t rows = tasks[i].product.rows;
      if (i == 0 || tasks[i - 1].product.rows != rows) compile(std::span(tasks).subspan(i), rows);
      TileMs times;
      if (time_left()) times = time_product(tasks[i]);
      times.empty() ? ++left_ : ++timed_;
      device_.tile_times().add(tasks[i].name, std::move(times));
    }
    core_.counters.products_timed += timed_;
    device_.tile_times().save();
    device_.impl().pipelines->save_cache();
    log_info(
        fmt::format("tiles on {}: {} products timed in {:.0f} ms, after {:.0f} ms of compiling and {:.0f} of "
                    "warming up; {} by another tile than the rule's, at best {:.2f} times as fast; {} left to it",
                    device_.info().id(), timed_, timing_ms_, compiling_ms_, warming_ms_, better_, best_, left_));
  }

 private:
  // Each product once, and none that is known, or that leaves no choice.
  std::vector<Task> tasks_of(std::span<const RecordFunction> functions) const {
    std::vector<Task> tasks;
    for (const RecordFunction& function : functions) {
      VulkanEncoder encoder(device_, nullptr, nullptr);
      encoder.watch_products([&](const LinearPart& part) {
        if (part.rows != row_buckets(part.rows).above || part.weight.count() < 1024) return;
        const std::string name = product_name(part, part.rows);
        if (std::any_of(tasks.begin(), tasks.end(), [&](const Task& task) { return task.name == name; })) return;
        if (device_.tile_times().find(name)) return;
        std::vector<Tiling> tilings =
            tilings_for(device_.limits(), part.weight.dtype == DType::f16, core_.info.type == DeviceType::software,
                        {part.rows, part.inputs, part.part_outputs()});
        const std::uint32_t order = tilings.front().order;
        std::erase_if(tilings, [&](const Tiling& tiling) { return tiling.order != order; });
        if (tilings.size() > 1) tasks.push_back({name, AskedProduct(part), std::move(tilings)});
      });
      function(encoder);
    }
    return tasks;
  }

  bool time_left() const { return timing_ms_ < limit_ms_ && compiling_ms_ < compiling_to_timing * limit_ms_; }

  // All that the tasks of so many rows need, on several threads; a host's device is no place for threads of ours.
  void compile(std::span<const Task> tasks, std::uint32_t rows) {
    if (!time_left()) return;
    const Clock::time_point begin = Clock::now();
    VulkanEncoder encoder(device_, nullptr, nullptr);
    for (const Task& task : tasks) {
      if (task.product.rows != rows) continue;
      const Trial trial(device_, task.product);
      for (const Tiling& tiling : task.tilings) trial.record(encoder, tiling);
    }
    const bool own = core_.queue_lock.adopted == nullptr;
    device_.impl().pipelines->get_all(encoder.wanted_pipelines(),
                                      own ? std::clamp(std::thread::hardware_concurrency(), 1u, most_threads) : 1);
    compiling_ms_ += ms_since(begin);
  }

  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) {
    const Clock::time_point begin = Clock::now();
    std::unique_ptr<Recording> recording = device_.record(function, options);
    compiling_ms_ += ms_since(begin);
    return recording;
  }

  void run(Recording& recording) { device_.wait(device_.submit(recording)); }

  void warm_up(Recording& recording) {
    if (warming_ms_ > 0 || core_.info.type == DeviceType::software) return;
    const Clock::time_point begin = Clock::now();
    while (ms_since(begin) < warm_up_ms) run(recording);
    warming_ms_ = ms_since(begin);
  }

  TileMs time_product(const Task& task) {
    Trial trial(device_, task.product);
    trial.allocate(workspace_);
    const std::unique_ptr<Recording> round = record(
        [&](Encoder& encoder) {
          for (const Tiling& tiling : task.tilings) trial.record(encoder, tiling);
        },
        trial.options());
    trial.fill();
    warm_up(*round);
    const Clock::time_point begin = Clock::now();
    const double before_ms = timing_ms_;
    const std::vector<double> medians = median_of_rounds(
        [&] {
          run(*round);
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
    for (const Tiling& tiling : task.tilings) names.push_back(tiling.name());
    std::vector<std::byte> right;
    TileMs times = tiles_to_keep(names, medians, [&](std::size_t tile) {
      const auto pair = std::pair(trial.pipeline(task.tilings[0]), trial.pipeline(task.tilings[tile]));
      if (agreeing_.contains(pair)) return true;
      if (right.empty()) right = bits_of(trial, task.tilings[0]);
      if (bits_of(trial, task.tilings[tile]) != right) return false;
      agreeing_.insert(pair);
      return true;
    });
    for (const auto& [tile, ms] : times) log_debug(fmt::format("{}: {:.4f} ms by {}", task.name, ms, tile));
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
  DeviceCore& core_;
  const std::shared_ptr<Buffer>& workspace_;
  double limit_ms_;
  double time_scale_;
  std::set<std::pair<std::string, std::string>> agreeing_;  // pipelines that were seen to make the same bits
  double timing_ms_ = 0, compiling_ms_ = 0, warming_ms_ = 0, best_ = 1;
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
  return tunes_by_itself(core.info, core.queue_lock.adopted != nullptr,
                         resolve_cache_folder(options.cache_folder).has_value());
}

bool tunes_by_itself(const DeviceInfo& info, bool is_lent, bool has_cache) {
  const bool gpu = info.type == DeviceType::discrete_gpu || info.type == DeviceType::integrated_gpu ||
                   info.type == DeviceType::virtual_gpu;
  const bool is_of_the_rule = info.name.starts_with("NVIDIA H100");  // which leaves little to find there
  return gpu && !is_of_the_rule && !is_lent && has_cache;
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
