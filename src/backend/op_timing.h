// How long an operation takes, by the device's clock where it has one. The one stopwatch of all benchmarks.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

#include "backend/backend.h"

namespace riverhorse {

using Clock = std::chrono::steady_clock;
double milliseconds_since(Clock::time_point begin);
double median(std::vector<double> values);  // 0 for none

// Records the i-th operation of a submission: as often as one likes, on whichever buffers.
using RecordNth = std::function<void(Encoder&, int i)>;

// Milliseconds of one operation alone, the second: the first compiles what is compiled at first use.
double time_once(Device& device, const RecordNth& operation);

struct OperationTime {
  double ms = 0;         // of one operation
  int repetitions = 0;   // of those that `ms` is the median of
  int a_submission = 1;  // of them together
};

// Milliseconds of one operation of many: several a submission, about 10 ms of them, of which `single_ms` is a guess;
// the median over submissions. With `seconds` they go on for so long, and the median is of the last half of them:
// what a device sustains when its clocks and its power have settled.
OperationTime time_operation(Device& device, const RecordNth& operation, double single_ms, double seconds = 0);
// How many a submission that has.
int operations_a_submission(double single_ms);

}  // namespace riverhorse
