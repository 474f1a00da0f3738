// One table of operation x shape x dtype. The same cases serve the parity test against the cpu backend, the self
// test of a user's device, the benchmark, and the list of what a device lacks.
//
// Parity of one case on a device: every tensor lies between two guard regions, outputs are filled with NaN (integers
// with a pattern) beforehand, the oracle computes the same in fp32 on the same inputs (rounded first, where the
// case is f16 or bf16), then every output is compared, every input must be unchanged and every guard intact.
//
// Error measure: relative L2 of an output tensor, |device - oracle| / |oracle|, and next to it, so that one wrong
// element among many cannot hide, max |device - oracle| / max |oracle|, which may be `spread` times larger.
// The tolerances are in op_tolerances() and nowhere else.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace riverhorse {

enum class CaseSet {
  quick,  // a subset that fits the two seconds of a self test
  full,   // what the tests run; every case below 1e7 multiply-adds
  bench,  // sizes of real models, one row a benchmark line; too large for the oracle
};

enum class CaseRole {
  input,    // must be unchanged afterwards
  output,   // poisoned before, compared after
  updated,  // has a value before, compared after
  exact,    // updated, and compared bit for bit (tokens, counters, untouched slots)
};

// A tensor of a case, by its values on the host, repeated where they are fewer than its elements (in benchmarks
// only). f16 and bf16 tensors hold floats that these represent.
struct CaseTensor {
  std::string name;  // as in ops.h: "state.modes"
  CaseRole role = CaseRole::input;
  // f32, f16, bf16 or i32; q8 or q4 of an input, for which the oracle gets the numbers that it stands for, in f32
  DType dtype = DType::f32;
  Shape shape;
  std::vector<float> floats;           // of f32, f16 and bf16, and of q8 and q4 before they are quantised
  std::vector<std::int32_t> integers;  // of i32
  // The last dimension is (re, im) rounded, then (re, im) of what was dropped: compared as sums, in double.
  bool compensated = false;
  std::string tolerance;  // a row of op_tolerances() other than the operation's
  // Rows of the first dimension that the operation must leave alone bit for bit (slots of other sequences).
  std::vector<std::int64_t> untouched_rows;
};

// A case made concrete by a seed. `tensors` in the order in which `record` expects them.
struct CaseData {
  std::vector<CaseTensor> tensors;
  std::function<void(Encoder&, std::span<const Tensor>)> record;
  // What the oracle does instead, where the same result has a plainer definition; else empty.
  std::function<void(Encoder&, std::span<const Tensor>)> record_oracle;
  double bytes = 0;  // that must move at least: every input read once, every output written once
  double flops = 0;
};

struct OpCase {
  std::string op;    // "linear"
  std::string name;  // "r3_k127_m37_norm_bias": letters, digits and underscores, unique within op and dtype
  DType dtype = DType::f32;
  std::vector<Feature> needs;  // beyond that of dtype
  std::function<CaseData(std::uint64_t seed)> make;

  std::string id() const;  // "linear.r3_k127_m37_norm_bias.f16"
};

std::vector<OpCase> op_cases(CaseSet set);

// The table that the README quotes: relative L2 per op and dtype against the fp32 oracle.
struct OpTolerance {
  std::string op;
  double f32 = 0;
  double f16 = 0;
  double spread = 0;  // how many times larger max-abs over max-abs may be
  std::string why;

  double of(DType dtype) const;
};
const std::vector<OpTolerance>& op_tolerances();

struct CaseResult {
  bool supported = true;
  bool passed = false;
  double max_absolute_error = 0;  // over the outputs, of the worst one
  double relative_error = 0;      // relative L2, of the worst output
  double tolerance = 0;
  std::string worst;    // "y[3, 17] is 0.1, not 0.2"
  std::string message;  // one line for the user: case, device, seed, and what is wrong; or why it is unsupported
  struct Output {
    std::string name;
    double relative_error;
  };
  std::vector<Output> errors;  // of every output
};

// Empty when the device can run the case, else what it lacks and what to do.
std::string why_unsupported(Device& device, const OpCase& op_case);

// Runs the case on both. Errors of the device (lost, out of memory) are thrown.
CaseResult run_parity(Device& device, Device& oracle, const OpCase& op_case, std::uint64_t seed);

// A backward operation against finite differences of its forward: for each input, the derivative of
// sum_k <cotangent_k, output_k> along a random direction, by Richardson-extrapolated central differences of the
// forward pass (its outputs summed in double), equals the inner product of the direction with the gradient.
struct GradientData {
  std::vector<CaseTensor> tensors;  // cotangents with values, gradients as `updated` zeros
  std::function<void(Encoder&, std::span<const Tensor>)> forward;
  std::function<void(Encoder&, std::span<const Tensor>)> backward;  // runs after `forward`
  struct Pair {
    int value;
    int gradient;  // of an input: written by `backward`; of an output: the cotangent that `backward` reads
  };
  std::vector<Pair> inputs, outputs;  // f32 all
};

struct GradientCase {
  std::string op;    // the backward operation
  std::string name;  // unique within op
  std::vector<Feature> needs = {Feature::training};
  double tolerance = 1e-4;  // relative to the larger of the two, or to what is expected of a random direction
  double step = 0x1p-6;     // of the differences, relative to the root mean square of the input
  std::function<GradientData(std::uint64_t seed)> make;
};
std::vector<GradientCase> gradient_cases();

// On a device that trains; `relative_error` is that of the worst input.
CaseResult run_gradient_check(Device& device, const GradientCase& gradient_case, std::uint64_t seed);

struct BenchResult {
  bool supported = true;
  std::string message;   // why not
  double device_ms = 0;  // of one operation: median over repetitions, by the device's clock where it has one
  double bytes = 0;      // that must move
  double flops = 0;
  int repetitions = 0;
  std::vector<std::string> parts;  // what the device ran, by its own names: "h3_mixer.chunked"
};

// What run_bench() has as `parts`, of a supported case.
std::vector<std::string> parts_of(Device& device, const OpCase& op_case);

struct BenchTiming {
  double seconds = 0;            // how long it is repeated, as time_operation() has it
  std::function<void()> before;  // runs when all is ready: a ceiling that is measured directly before
};

// Times the case: several operations a submission on buffers that together exceed caches where memory allows.
BenchResult run_bench(Device& device, const OpCase& op_case, const BenchTiming& timing = {});

}  // namespace riverhorse
