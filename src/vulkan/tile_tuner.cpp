#include "vulkan/tile_tuner.h"

#include <algorithm>
#include <chrono>
#include <numeric>
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
constexpr double confirming_to_timing = 2;
constexpr std::uint64_t alignment = 4096;
// What is compared of y: so much from its beginning and from its end.
constexpr std::uint64_t compared_bytes = 256 << 10;
// An idle GPU runs at a fraction of its rate for the first tenths of a second.
constexpr double warm_up_part_ms = 150, most_warm_up_ms = 1000;
constexpr std::size_t most_weights = 16;     // of a product: in so many layers
constexpr std::size_t different_sweeps = 3;  // by the layers whose weights they take
constexpr unsigned most_threads = 8;         // that compile

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

std::uint64_t aligned(std::uint64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

std::uint64_t bytes_of(DType dtype, const Shape& shape) {
  return aligned(Tensor{nullptr, 0, dtype, shape}.size_bytes());
}

// What recordings ask for, with tensors of the model's or, where those were scratch memory, of no memory.
struct AskedProduct {
  LinearArgs args;
  Shape x, y, weight;
  DType x_dtype = DType::f32, y_dtype = DType::f32, weight_dtype = DType::f32;
  std::vector<Tensor> weights;  // of several layers; empty where quantised ones are made plain in scratch memory
  DType activation = DType::f32;
  std::uint32_t rows = 0, inputs = 0, outputs = 0, column = 0;

  explicit AskedProduct(const LinearPart& part)
      : args(part.args),
        x(part.x.shape),
        y(part.y.shape),
        weight(part.weight.shape),
        x_dtype(part.x.dtype),
        y_dtype(part.y.dtype),
        weight_dtype(part.weight.dtype),
        activation(part.activation),
        rows(part.rows),
        inputs(part.inputs),
        outputs(part.outputs),
        column(part.column) {
    add_weight(part);
  }

  bool dequantised() const { return is_quantised(args.weight.dtype); }
  void add_weight(const LinearPart& part) {
    if (!dequantised() && weights.size() < most_weights) weights.push_back(part.weight);
  }
};

struct Task {
  std::string name;
  AskedProduct product;
  std::vector<Tiling> tilings;  // that add in the order of the rule's, that one first
};

// One piece of memory in which the products of a sweep have their operands.
struct Desk {
  std::uint64_t x_bytes = 0, y_bytes = 0, weight_bytes = 0;
  std::shared_ptr<Buffer> buffer;

  explicit Desk(std::span<const Task> tasks) {
    for (const Task& task : tasks) {
      const AskedProduct& product = task.product;
      x_bytes = std::max(x_bytes, bytes_of(product.x_dtype, product.x));
      y_bytes = std::max(y_bytes, bytes_of(product.y_dtype, product.y));
      if (product.dequantised())
        weight_bytes = std::max(weight_bytes, bytes_of(product.weight_dtype, product.weight));
    }
  }
  std::uint64_t bytes() const { return x_bytes + y_bytes + weight_bytes; }
};

// A product on that desk.
class Trial {
 public:
  Trial(VulkanDevice& device, const AskedProduct& asked, const Desk& desk)
      : device_(device), asked_(asked), args_(asked.args) {
    x_ = {desk.buffer, 0, asked.x_dtype, asked.x};
    y_ = {desk.buffer, desk.x_bytes, asked.y_dtype, asked.y};
    plain_ = {desk.buffer, desk.x_bytes + desk.y_bytes, asked.weight_dtype, asked.weight};
    args_.x = x_, args_.y = y_;
  }

  // Makes x of the weights, which are numbers as good as any, and the plain weight of a quantised one.
  void fill(Encoder& encoder) const {
    if (asked_.dequantised()) {
      encoder.copy({asked_.args.weight.slice(asked_.column, asked_.weight[0]), plain_});
    }
    const std::int64_t step = weight(0).count() / 1024 * 1024;
    const Tensor from = weight(0).reshape({weight(0).count()});
    const Tensor to = x_.reshape({x_.count()});
    for (std::int64_t begin = 0; begin < to.count(); begin += step) {
      const std::int64_t count = std::min(step, to.count() - begin);
      encoder.copy({from.slice(0, count), to.slice(begin, count)});
    }
  }

  void record(Encoder& encoder, const Tiling& tiling, std::size_t layer) const {
    auto& own = static_cast<VulkanEncoder&>(encoder);
    const OperationScope operation(own, "linear");
    linear_gemm(own, part(layer), tiling);
  }

  // What tells the pipeline of a tiling from all others.
  std::string pipeline(const Tiling& tiling) const { return specialised(device_.limits(), part(0), tiling).name(); }

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

 private:
  const Tensor& weight(std::size_t layer) const {
    return asked_.dequantised() ? plain_ : asked_.weights[layer % asked_.weights.size()];
  }

  LinearPart part(std::size_t layer) const {
    LinearPart part{args_, x_, weight(layer), y_, asked_.activation};
    part.rows = asked_.rows, part.inputs = asked_.inputs, part.outputs = asked_.outputs, part.column = asked_.column;
    return part;
  }

  std::vector<Tensor> ends_of_y() const {
    const Tensor flat = y_.reshape({y_.count()});
    const auto most = static_cast<std::int64_t>(compared_bytes / dtype_size_bytes(y_.dtype));
    if (flat.count() <= most) return {flat};
    return {flat.slice(0, most), flat.slice(flat.count() - most, most)};
  }

  VulkanDevice& device_;
  const AskedProduct& asked_;
  LinearArgs args_;
  Tensor x_, y_, plain_;
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
    for (const RecordFunction& function : functions) {
      const std::vector<Task> tasks = tasks_of(function);
      if (tasks.empty()) continue;
      if (time_left()) {
        try {
          time_products(tasks);
          confirm(function, tasks);
        } catch (...) {  // what nothing confirmed is left to the rule
          for (const Task& task : tasks) device_.tile_times().add(task.name, {});
          throw;
        }
      } else {
        for (const Task& task : tasks) keep(task, {});
      }
    }
    if (timed_ + left_ == 0) return;
    core_.counters.products_timed += timed_;
    device_.tile_times().save();
    device_.impl().pipelines->save_cache();
    log_info(
        fmt::format("tiles on {}: {} products timed in {:.0f} ms, after {:.0f} ms of compiling and {:.0f} of "
                    "warming up, {} left to the rule; {} made by other tiles than the rule's, of {} that seemed "
                    "faster, for at best {:.2f} times the speed of a whole piece",
                    device_.info().id(), timed_, timing_ms_ + confirming_ms_, compiling_ms_, warming_ms_, left_,
                    better_, seeming_, best_));
  }

 private:
  // Each product once, and none that is known, or that leaves no choice.
  std::vector<Task> tasks_of(const RecordFunction& function) const {
    std::vector<Task> tasks;
    VulkanEncoder encoder(device_, nullptr, nullptr);
    encoder.watch_products([&](const LinearPart& part) {
      if (part.rows != timed_rows_for(part.rows) || part.weight.count() < 1024) return;
      const std::string name = product_name(part, part.rows);
      for (Task& task : tasks) {
        if (task.name != name) continue;
        task.product.add_weight(part);
        return;
      }
      if (device_.tile_times().find(name)) return;
      std::vector<Tiling> tilings =
          tilings_for(device_.limits(), part.weight.dtype == DType::f16, core_.info.type == DeviceType::software,
                      {part.rows, part.inputs, part.part_outputs()});
      const std::uint32_t order = tilings.front().order;
      std::erase_if(tilings, [&](const Tiling& tiling) { return tiling.order != order; });
      if (tilings.size() > 1) tasks.push_back({name, AskedProduct(part), std::move(tilings)});
    });
    function(encoder);
    return tasks;
  }

  bool time_left() const { return timing_ms_ < limit_ms_ && compiling_ms_ < compiling_to_timing * limit_ms_; }

  // All that the tasks need, on several threads; a host's device is no place for threads of ours.
  void compile(std::span<const Task> tasks, const Desk& desk) {
    const Clock::time_point begin = Clock::now();
    VulkanEncoder encoder(device_, nullptr, nullptr);
    for (const Task& task : tasks) {
      const Trial trial(device_, task.product, desk);
      for (const Tiling& tiling : task.tilings) trial.record(encoder, tiling, 0);
    }
    const bool own = core_.queue_lock.adopted == nullptr;
    device_.impl().pipelines->get_all(encoder.wanted_pipelines(),
                                      own ? std::clamp(std::thread::hardware_concurrency(), 1u, most_threads) : 1);
    compiling_ms_ += ms_since(begin);
  }

  std::unique_ptr<Recording> record(const RecordFunction& function) {
    const Clock::time_point begin = Clock::now();
    std::unique_ptr<Recording> recording = device_.record(function, {.timestamps = true, .op_timestamps = true});
    compiling_ms_ += ms_since(begin);
    return recording;
  }

  std::vector<double> run(Recording& sweep) {
    device_.wait(device_.submit(sweep));
    std::vector<double> ms;
    for (const OpTiming& timing : sweep.timings()) ms.push_back(timing.time_ms);
    return ms;
  }

  // Until sweeps take no less time than they did.
  void warm_up(Recording& sweep) {
    if (warming_ms_ > 0 || core_.info.type == DeviceType::software) return;
    const Clock::time_point begin = Clock::now();
    double before_ms = 0;
    while (ms_since(begin) < most_warm_up_ms) {
      const Clock::time_point part = Clock::now();
      double best_ms = 0;
      do {
        const std::vector<double> ms = run(sweep);
        const double sum_ms = std::accumulate(ms.begin(), ms.end(), 0.0);
        if (best_ms == 0 || sum_ms < best_ms) best_ms = sum_ms;
      } while (ms_since(part) < warm_up_part_ms);
      if (before_ms > 0 && best_ms > 0.98 * before_ms) break;
      before_ms = best_ms;
    }
    warming_ms_ = ms_since(begin);
  }

  void time_products(std::span<const Task> tasks) {
    Desk desk(tasks);
    compile(tasks, desk);
    desk.buffer = workspace_ != nullptr && workspace_->size_bytes() >= desk.bytes()
                      ? workspace_
                      : device_.allocate(desk.bytes(), MemoryUse::device);
    std::vector<Trial> trials;
    for (const Task& task : tasks) trials.emplace_back(device_, task.product, desk);
    device_.run([&](Encoder& encoder) {
      for (const Trial& trial : trials) trial.fill(encoder);
    });

    std::size_t most_tilings = 0;
    for (const Task& task : tasks) most_tilings = std::max(most_tilings, task.tilings.size());
    std::vector<std::unique_ptr<Recording>> sweeps;
    for (std::size_t first_layer = 0; first_layer < different_sweeps * most_tilings; first_layer += most_tilings) {
      sweeps.push_back(record([&](Encoder& encoder) {
        for (std::size_t tile = 0; tile < most_tilings; ++tile) {
          for (std::size_t i = 0; i < tasks.size(); ++i) {
            if (tile < tasks[i].tilings.size()) trials[i].record(encoder, tasks[i].tilings[tile], first_layer + tile);
          }
        }
      }));
    }
    warm_up(*sweeps[0]);
    const double before_ms = timing_ms_;
    const Clock::time_point begin = Clock::now();
    std::size_t rounds = 0;
    const std::vector<double> medians = median_of_rounds([&] { return run(*sweeps[rounds++ % different_sweeps]); },
                                                         [&] {
                                                           const double ms = ms_since(begin);
                                                           timing_ms_ = before_ms + ms;
                                                           const double to_come_ms = rounds == 1 ? 3 * ms : 0;
                                                           return timing_ms_ + to_come_ms < limit_ms_;
                                                         });
    timing_ms_ = before_ms + ms_since(begin);

    std::vector<std::vector<double>> of_tasks(tasks.size());
    std::size_t next = 0;
    for (std::size_t tile = 0; tile < most_tilings && !medians.empty(); ++tile) {
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        if (tile < tasks[i].tilings.size()) of_tasks[i].push_back(medians.at(next++));
      }
    }
    for (std::size_t i = 0; i < tasks.size(); ++i) keep(tasks[i], checked(tasks[i], trials[i], of_tasks[i]));
  }

  TileMs checked(const Task& task, const Trial& trial, std::span<const double> medians) {
    std::vector<std::string> names;
    for (const Tiling& tiling : task.tilings) names.push_back(tiling.name());
    std::vector<std::byte> right;
    return tiles_to_keep(names, medians, [&](std::size_t tile) {
      const auto pair = std::pair(trial.pipeline(task.tilings[0]), trial.pipeline(task.tilings[tile]));
      if (agreeing_.contains(pair)) return true;
      if (right.empty()) {
        device_.run([&](Encoder& encoder) { trial.fill(encoder); });
        right = bits_made_by(trial, task.tilings[0]);
      }
      if (bits_made_by(trial, task.tilings[tile]) != right) return false;
      agreeing_.insert(pair);
      return true;
    });
  }

  std::vector<std::byte> bits_made_by(const Trial& trial, const Tiling& tiling) {
    const std::unique_ptr<Recording> once = record([&](Encoder& encoder) { trial.record(encoder, tiling, 0); });
    const Clock::time_point begin = Clock::now();
    std::vector<std::byte> bits = trial.bits(*once);
    timing_ms_ += ms_since(begin);
    return bits;
  }

  void keep(const Task& task, TileMs times) {
    times.empty() ? ++left_ : ++timed_;
    for (const auto& [tile, ms] : times) log_debug(fmt::format("{}: {:.4f} ms by {}", task.name, ms, tile));
    device_.tile_times().add(task.name, std::move(times));
  }

  int other_tiles(std::span<const Task> tasks) const {
    int others = 0;
    for (const Task& task : tasks) {
      const TileMs times = device_.tile_times().find(task.name).value_or(TileMs{});
      std::vector<TileOffer> offers;
      for (const Tiling& tiling : task.tilings) {
        const auto found = times.find(tiling.name());
        offers.push_back({.ms = found == times.end() ? 0.0 : found->second});
      }
      if (choose_tile(offers) > 0) ++others;
    }
    return others;
  }

  // What seems faster must make the model's own recording faster, or the rule stays; and where there is no time to
  // find out, as if nothing had been timed.
  void confirm(const RecordFunction& function, std::span<const Task> tasks) {
    const int others = other_tiles(tasks);
    if (others == 0) return;
    seeming_ += others;
    TileTimes& times = device_.tile_times();
    const auto record_whole = [&](bool by_times) {
      struct Again {
        TileTimes& times;
        ~Again() { times.use(true); }
      } again{times};
      times.use(by_times);
      const Clock::time_point begin = Clock::now();
      std::unique_ptr<Recording> recording = device_.record(function, {.timestamps = true, .workspace = workspace_});
      compiling_ms_ += ms_since(begin);
      return recording;
    };
    const std::unique_ptr<Recording> by_rule = record_whole(false), by_times = record_whole(true);
    const Clock::time_point begin = Clock::now();
    const double before_ms = confirming_ms_;
    std::size_t rounds = 0;
    const std::vector<double> medians = median_of_rounds(
        [&] {
          ++rounds;
          std::vector<double> ms;
          for (Recording* whole : {by_rule.get(), by_times.get()}) {
            device_.wait(device_.submit(*whole));
            ms.push_back(whole->total_time_ms());
          }
          return ms;
        },
        [&] {
          const double ms = ms_since(begin);
          confirming_ms_ = before_ms + ms;
          return confirming_ms_ + (rounds == 1 ? 3 * ms : 0) < confirming_to_timing * limit_ms_;
        });
    confirming_ms_ = before_ms + ms_since(begin);
    if (medians.size() == 2) {
      log_debug(fmt::format("{} rows: {:.4f} ms by the rule, {:.4f} ms by what was timed", tasks[0].product.rows,
                            medians[0], medians[1]));
      if (is_confirmed(medians[0], medians[1])) {
        better_ += others;
        best_ = std::max(best_, medians[0] / medians[1]);
        return;
      }
    }
    for (const Task& task : tasks) {
      TileMs rule;
      if (const auto known = times.find(task.name); known && medians.size() == 2) {
        const auto found = known->find(task.tilings[0].name());
        if (found != known->end()) rule.insert(*found);
      }
      times.add(task.name, std::move(rule));
    }
  }

  VulkanDevice& device_;
  DeviceCore& core_;
  const std::shared_ptr<Buffer>& workspace_;
  double limit_ms_;
  double time_scale_;
  std::set<std::pair<std::string, std::string>> agreeing_;  // pipelines that were seen to make the same bits
  double timing_ms_ = 0, compiling_ms_ = 0, warming_ms_ = 0, confirming_ms_ = 0, best_ = 1;
  int timed_ = 0, left_ = 0, seeming_ = 0, better_ = 0;
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
  if (tilings.size() < 2 || !device.tile_times().used()) return 0;
  std::optional<TileMs> known;
  std::uint32_t timed_rows = 2 * std::min(timed_rows_for(part.rows), 1u << 30);
  while ((!known || known->empty()) && timed_rows > least_timed_rows) {
    timed_rows /= 2;
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
