#include "backend/op_timing.h"

#include <algorithm>

namespace riverhorse {
namespace {

// Operations that are submitted together, again and again.
class Repeated {
 public:
  Repeated(Device& device, const RecordNth& operation, int count)
      : device_(device), has_clock_(device.supports(Feature::timestamps).supported), count_(count) {
    recording_ = device.record(
        [&](Encoder& encoder) {
          for (int i = 0; i < count; ++i) operation(encoder, i);
        },
        {.timestamps = has_clock_});
  }
  // Milliseconds of one operation.
  double run() {
    const auto begin = Clock::now();
    device_.wait(device_.submit(*recording_));
    return (has_clock_ ? recording_->total_time_ms() : milliseconds_since(begin)) / count_;
  }

 private:
  Device& device_;
  bool has_clock_;
  int count_;
  std::unique_ptr<Recording> recording_;
};

}  // namespace

double milliseconds_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double time_once(Device& device, const RecordNth& operation) {
  Repeated single(device, operation, 1);
  single.run();
  return std::max(1e-4, single.run());
}

int operations_a_submission(double single_ms) { return static_cast<int>(std::clamp(10.0 / single_ms, 1.0, 64.0)); }

OperationTime time_operation(Device& device, const RecordNth& operation, double single_ms, double seconds) {
  const int count = operations_a_submission(single_ms);
  Repeated repeated(device, operation, count);
  // Until the clocks are up: an idle GPU runs at a fraction of its rate for the first tenths of a second.
  const DeviceType type = device.info().type;
  const double warm_up_ms = type == DeviceType::cpu || type == DeviceType::software ? 0.0 : 200.0;
  const auto warm_up = Clock::now();
  do {
    repeated.run();
  } while (milliseconds_since(warm_up) < warm_up_ms);

  std::vector<double> times;
  const auto begin = Clock::now();
  if (seconds > 0) {
    while (times.size() < 2 || milliseconds_since(begin) < 1000 * seconds) times.push_back(repeated.run());
    times.erase(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  } else {
    constexpr double usual_ms = 300, most_ms = 5000;
    constexpr std::size_t fewest = 5, most = 30;
    while (times.empty() || (milliseconds_since(begin) < most_ms && times.size() < fewest) ||
           (milliseconds_since(begin) < usual_ms && times.size() < most)) {
      times.push_back(repeated.run());
    }
  }
  const int repetitions = static_cast<int>(times.size()) * count;
  return {median(std::move(times)), repetitions, count};
}

}  // namespace riverhorse
