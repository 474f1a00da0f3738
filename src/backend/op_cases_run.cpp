// Running one case of the table: parity between two devices, and timing.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <span>

#include "backend/op_cases.h"
#include "backend/op_timing.h"
#include "base/error.h"
#include "base/quantised.h"

namespace riverhorse {

namespace {

constexpr std::size_t guard_bytes = 512;  // before and after; keeps tensors at aligned offsets
constexpr unsigned char guard_value = 0xA5;
constexpr std::uint32_t poison_f32 = 0x7fc0abcd;  // NaNs that are easy to tell in a debugger
constexpr std::uint16_t poison_half = 0x7fda;     // of f16 and of bf16
constexpr std::uint32_t poison_i32 = 0x7eadbeef;

template <typename T, typename Value, typename Convert>
std::size_t write_each(std::byte* to, const std::vector<Value>& values, Convert&& convert) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T each = convert(values[i]);
    std::memcpy(to + i * sizeof(T), &each, sizeof(T));
  }
  return values.size() * sizeof(T);
}

// As many whole rows as there are values for; returns their bytes.
std::size_t write_quantised(std::byte* to, const CaseTensor& tensor) {
  const auto width = static_cast<std::size_t>(tensor.shape[1]);
  const auto row_bytes = static_cast<std::size_t>(row_size_bytes(tensor.dtype, tensor.shape[1]));
  const std::size_t rows = tensor.floats.size() / width;
  for (std::size_t row = 0; row < rows; ++row) {
    quantise_row(tensor.dtype, std::span(tensor.floats).subspan(row * width, width),
                 {to + row * row_bytes, row_bytes});
  }
  return rows * row_bytes;
}

// The same numbers as f32.
std::size_t write_dequantised(std::byte* to, const CaseTensor& tensor) {
  const std::int64_t width = tensor.shape[1];
  const auto row_bytes = static_cast<std::size_t>(row_size_bytes(tensor.dtype, width));
  std::vector<std::byte> quantised(tensor.floats.size() / static_cast<std::size_t>(width) * row_bytes);
  write_quantised(quantised.data(), tensor);
  std::vector<float> values(tensor.floats.size());
  for (std::size_t row = 0; row * row_bytes < quantised.size(); ++row) {
    dequantise_row(tensor.dtype, quantised.data() + row * row_bytes,
                   std::span(values).subspan(row * static_cast<std::size_t>(width), static_cast<std::size_t>(width)));
  }
  std::memcpy(to, values.data(), values.size() * sizeof(float));
  return values.size() * sizeof(float);
}

// The bytes of a tensor as `dtype`: its values, repeated where they are fewer than elements, or poison.
void write_payload(const CaseTensor& tensor, DType dtype, std::span<std::byte> to) {
  const bool poisoned = tensor.role == CaseRole::output;
  std::size_t given = 0;
  if (is_quantised(dtype)) {
    given = write_quantised(to.data(), tensor);
  } else if (is_quantised(tensor.dtype)) {
    given = write_dequantised(to.data(), tensor);
  } else if (dtype == DType::i32) {
    given = write_each<std::uint32_t>(to.data(), tensor.integers, [&](std::int32_t value) {
      return poisoned ? poison_i32 : static_cast<std::uint32_t>(value);
    });
  } else if (is_half(dtype)) {
    given = write_each<std::uint16_t>(
        to.data(), tensor.floats, [&](float value) { return poisoned ? poison_half : float_to_half(value, dtype); });
  } else {
    given = write_each<std::uint32_t>(to.data(), tensor.floats, [&](float value) {
      return poisoned ? poison_f32 : std::bit_cast<std::uint32_t>(value);
    });
  }
  for (std::size_t at = given; at < to.size(); at += given) {
    std::memcpy(to.data() + at, to.data(), std::min(given, to.size() - at));
  }
}

// A case's tensors on one device, each between two guards.
class Placed {
 public:
  // `widen`: f16, bf16 and quantised tensors are f32 here (the oracle).
  Placed(Device& device, const CaseData& data, bool widen) : device_(device) {
    for (const CaseTensor& tensor : data.tensors) {
      const bool narrow = is_half(tensor.dtype) || is_quantised(tensor.dtype);
      const DType dtype = widen && narrow ? DType::f32 : tensor.dtype;
      const std::size_t size = Tensor{nullptr, 0, dtype, tensor.shape}.size_bytes();
      std::vector<std::byte> image((2 * guard_bytes + size + 3) / 4 * 4, std::byte{guard_value});
      write_payload(tensor, dtype, std::span(image).subspan(guard_bytes, size));
      const Tensor whole = device.allocate_tensor(DType::i32, {static_cast<std::int64_t>(image.size() / 4)});
      device.upload(whole, image);
      wholes_.push_back(whole);
      tensors_.push_back({whole.buffer, guard_bytes, dtype, tensor.shape});
      images_.push_back(std::move(image));
    }
  }

  void run(const std::function<void(Encoder&, std::span<const Tensor>)>& record) {
    device_.run([&](Encoder& encoder) { record(encoder, tensors_); });
  }

  struct After {
    std::vector<double> values;
    bool changed = false;  // any byte of the tensor
    bool guards_intact = true;
  };
  After read(std::size_t index) {
    std::vector<std::byte> image(images_[index].size());
    device_.download(wholes_[index], image);
    const Tensor& tensor = tensors_[index];
    const std::byte* begin = image.data() + guard_bytes;
    const std::byte* end = begin + tensor.size_bytes();
    After after;
    const auto is_guard = [](std::byte byte) { return byte == std::byte{guard_value}; };
    after.guards_intact = std::all_of(static_cast<const std::byte*>(image.data()), begin, is_guard) &&
                          std::all_of(end, static_cast<const std::byte*>(image.data()) + image.size(), is_guard);
    after.changed = !std::equal(begin, end, images_[index].begin() + guard_bytes);
    const std::size_t count = is_quantised(tensor.dtype) ? 0 : static_cast<std::size_t>(tensor.count());
    after.values.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      if (is_half(tensor.dtype)) {
        std::uint16_t half = 0;
        std::memcpy(&half, begin + 2 * i, 2);
        after.values.push_back(half_to_float(half, tensor.dtype));
      } else if (tensor.dtype == DType::f32) {
        float value = 0;
        std::memcpy(&value, begin + 4 * i, 4);
        after.values.push_back(value);
      } else {
        std::int32_t value = 0;
        std::memcpy(&value, begin + 4 * i, 4);
        after.values.push_back(value);
      }
    }
    return after;
  }

  const std::vector<Tensor>& tensors() const { return tensors_; }
  // What nobody is going to read() may take gigabytes.
  void forget_images() { images_.clear(); }

 private:
  Device& device_;
  std::vector<Tensor> wholes_, tensors_;
  std::vector<std::vector<std::byte>> images_;
};

std::string element_name(const CaseTensor& tensor, std::size_t index) {
  std::string text;
  auto rest = static_cast<std::int64_t>(index);
  for (int i = tensor.shape.rank() - 1; i >= 0; --i) {
    text = fmt::format("{}{}{}", rest % tensor.shape[i], text.empty() ? "" : ", ", text);
    rest /= tensor.shape[i];
  }
  return fmt::format("{}[{}]", tensor.name, text);
}

// (re, im, re dropped, im dropped) -> (re, im)
std::vector<double> joined(const std::vector<double>& values) {
  std::vector<double> sums;
  for (std::size_t i = 0; i + 3 < values.size(); i += 4) {
    sums.push_back(values[i] + values[i + 2]);
    sums.push_back(values[i + 1] + values[i + 3]);
  }
  return sums;
}

struct Comparison {
  double relative = 0;  // L2
  double worst_absolute = 0;
  double worst_relative = 0;  // max-abs over max-abs
  std::size_t worst_index = 0;
};

Comparison compare(const std::vector<double>& values, const std::vector<double>& expected) {
  Comparison result;
  double squares = 0, reference = 0, largest = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool same = values[i] == expected[i];
    double error = same ? 0.0 : std::abs(values[i] - expected[i]);
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error > result.worst_absolute) {
      result.worst_absolute = error;
      result.worst_index = i;
    }
    squares += error * error;
    if (std::isfinite(expected[i])) {
      reference += expected[i] * expected[i];
      largest = std::max(largest, std::abs(expected[i]));
    }
  }
  if (squares > 0) {
    result.relative = reference > 0 ? std::sqrt(squares / reference) : std::numeric_limits<double>::infinity();
    result.worst_relative = largest > 0 ? result.worst_absolute / largest : std::numeric_limits<double>::infinity();
  }
  return result;
}

const OpTolerance& tolerance_of(const std::string& op) {
  for (const OpTolerance& row : op_tolerances()) {
    if (row.op == op) return row;
  }
  fail(StatusCode::internal, "the table of tolerances has no row '{}'", op);
}

// The names of what is recorded, each once.
std::vector<std::string> parts_recorded(Device& device, const RecordNth& operation) {
  const auto recording = device.record([&](Encoder& encoder) { operation(encoder, 0); }, {.op_timestamps = true});
  device.wait(device.submit(*recording));
  std::vector<std::string> names;
  for (const OpTiming& each : recording->timings()) {
    if (std::find(names.begin(), names.end(), each.name) == names.end()) names.push_back(each.name);
  }
  return names;
}

}  // namespace

CaseResult run_parity(Device& device, Device& oracle, const OpCase& op_case, std::uint64_t seed) {
  CaseResult result;
  result.message = why_unsupported(device, op_case);
  if (!result.message.empty()) {
    result.supported = false;
    return result;
  }
  const CaseData data = op_case.make(seed);
  Placed here(device, data, false), there(oracle, data, true);
  here.run(data.record);
  there.run(data.record_oracle ? data.record_oracle : data.record);

  std::string problem;
  const auto complain = [&](std::string text) {
    if (problem.empty()) problem = std::move(text);
  };
  for (std::size_t index = 0; index < data.tensors.size(); ++index) {
    const CaseTensor& tensor = data.tensors[index];
    const Placed::After after = here.read(index);
    if (!after.guards_intact) complain(fmt::format("memory next to {} was overwritten", tensor.name));
    if (tensor.role == CaseRole::input) {
      if (after.changed) complain(fmt::format("the input {} was changed", tensor.name));
      continue;
    }
    std::vector<double> values = after.values, expected = there.read(index).values;

    const std::size_t row_count = values.size() / static_cast<std::size_t>(tensor.shape[0]);
    for (const std::int64_t row : tensor.untouched_rows) {
      for (std::size_t i = static_cast<std::size_t>(row) * row_count;
           i < static_cast<std::size_t>(row + 1) * row_count; ++i) {
        const double before = tensor.dtype == DType::i32 ? tensor.integers[i] : static_cast<double>(tensor.floats[i]);
        if (values[i] != before) {
          complain(fmt::format("{} was touched: {}, before {}", element_name(tensor, i), values[i], before));
        }
      }
    }

    const OpTolerance& tolerance = tolerance_of(tensor.tolerance.empty() ? op_case.op : tensor.tolerance);
    double limit = tolerance.of(op_case.dtype);
    if (tensor.role == CaseRole::exact) limit = 0;
    if (tensor.compensated) {
      values = joined(values);
      expected = joined(expected);
    }
    const Comparison comparison = compare(values, expected);
    result.errors.push_back({tensor.name, comparison.relative});
    const bool passed = comparison.relative <= limit && comparison.worst_relative <= limit * tolerance.spread;
    // The worst output is the one closest to its own limit.
    const double share = limit > 0 ? comparison.relative / limit : (comparison.relative > 0 ? 1e300 : 0.0);
    const double worst_share =
        result.tolerance > 0 ? result.relative_error / result.tolerance : (result.relative_error > 0 ? 1e300 : -1.0);
    if (share > worst_share) {
      result.relative_error = comparison.relative;
      result.max_absolute_error = comparison.worst_absolute;
      result.tolerance = limit;
      const std::size_t element =
          tensor.compensated ? comparison.worst_index / 2 * 4 + comparison.worst_index % 2 : comparison.worst_index;
      result.worst =
          fmt::format("{} of shape {} is {:.9g}, not {:.9g}", element_name(tensor, element), tensor.shape.text(),
                      values[comparison.worst_index], expected[comparison.worst_index]);
    }
    if (!passed) {
      complain(fmt::format(
          "{}: relative L2 {:.2e}, tolerance {:.1e}, max-abs over max-abs {:.2e}, at most {:.1e}; {}", tensor.name,
          comparison.relative, limit, comparison.worst_relative, limit * tolerance.spread, result.worst));
    }
  }
  result.passed = problem.empty();
  result.message = fmt::format(
      "{} on {} ({}), seed {}: {}", op_case.id(), device.info().id(), device.info().name, seed,
      result.passed ? fmt::format("relative L2 {:.2e}, tolerance {:.1e}", result.relative_error, result.tolerance)
                    : problem);
  return result;
}

std::vector<std::string> parts_of(Device& device, const OpCase& op_case) {
  const CaseData data = op_case.make(1);
  const Placed placed(device, data, false);
  return parts_recorded(device, [&](Encoder& encoder, int) { data.record(encoder, placed.tensors()); });
}

BenchResult run_bench(Device& device, const OpCase& op_case, const BenchTiming& timing) {
  BenchResult result;
  result.message = why_unsupported(device, op_case);
  if (!result.message.empty()) {
    result.supported = false;
    return result;
  }
  const CaseData data = op_case.make(1);
  result.bytes = data.bytes;
  result.flops = data.flops;
  std::uint64_t set_bytes = 0;
  for (const CaseTensor& tensor : data.tensors) {
    const std::uint64_t size = Tensor{nullptr, 0, tensor.dtype, tensor.shape}.size_bytes();
    if (size > device.max_tensor_bytes()) {
      result.supported = false;
      result.message = fmt::format("{} has {} MiB; one tensor of this device holds at most {} MiB", tensor.name,
                                   size >> 20, device.max_tensor_bytes() >> 20);
      return result;
    }
    set_bytes += size;
  }

  std::vector<Placed> sets;
  const auto add_set = [&] { sets.emplace_back(device, data, false).forget_images(); };
  add_set();
  const RecordNth operation = [&](Encoder& encoder, int i) {
    data.record(encoder, sets[static_cast<std::size_t>(i) % sets.size()].tensors());
  };
  result.parts = parts_recorded(device, operation);
  const double one_ms = time_once(device, operation);
  // Enough copies of the tensors that those of a submission together exceed the caches.
  constexpr std::uint64_t beyond_caches = std::uint64_t{192} << 20;
  const std::uint64_t affordable = device.memory_free_bytes() / 4 / std::max<std::uint64_t>(set_bytes, 1);
  const auto wanted = static_cast<int>(
      std::min<std::uint64_t>({static_cast<std::uint64_t>(operations_a_submission(one_ms)),
                               1 + beyond_caches / std::max<std::uint64_t>(set_bytes, 1), affordable}));
  while (static_cast<int>(sets.size()) < wanted) add_set();

  if (timing.before) timing.before();
  const OperationTime time = time_operation(device, operation, one_ms, timing.seconds);
  result.device_ms = time.ms;
  result.repetitions = time.repetitions;
  return result;
}

}  // namespace riverhorse
