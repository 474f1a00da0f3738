// Gradient checks: the list, and running one.
//
// For an input x and a random direction u, with f(x) = sum_k <cotangent_k, output_k>:
//   D(h) = (f(x + h u) - f(x - h u)) / 2h;   (4 D(h/2) - D(h)) / 3 = <u, gradient> + O(h^4).
// x +- h u is rounded to f32. That much of a change in the direction would show, so the gradient is multiplied by the
// steps as they were really taken.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/op_cases.h"
#include "backend/op_cases_build.h"
#include "base/error.h"

namespace riverhorse {

void op_cases_detail::add_gradient_case(GradientList& list, const std::string& op, const std::string& name,
                                        const MakeGradient& make, double tolerance, double step) {
  GradientCase gradient_case{.op = op, .name = name, .tolerance = tolerance, .step = step, .make = {}};
  gradient_case.make = [make, full_name = fmt::format("{}.{}.gradient", op, name)](std::uint64_t seed) {
    CaseBuilder builder(DType::f32, full_name, seed);
    GradientData data = make(builder);
    data.tensors = builder.done({}, 0).tensors;
    return data;
  };
  list.push_back(std::move(gradient_case));
}

namespace {

constexpr int directions = 3;  // for each input

using Values = std::vector<float>;

// A case's tensors on a device.
class Loaded {
 public:
  Loaded(Device& device, const GradientData& data) : device_(device), data_(data) {
    for (const CaseTensor& tensor : data.tensors)
      tensors_.push_back(device.allocate_tensor(tensor.dtype, tensor.shape));
  }

  // Everything as the case has it, outputs poisoned, and input `changed` with other values.
  void reset(int changed = -1, const Values& values = {}) {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const CaseTensor& tensor = data_.tensors[i];
      if (tensor.dtype == DType::i32) {
        device_.upload(tensors_[i], std::as_bytes(std::span(tensor.integers)));
      } else if (tensor.role == CaseRole::output) {
        const Values poison(tensor.floats.size(), std::numeric_limits<float>::quiet_NaN());
        device_.upload(tensors_[i], std::as_bytes(std::span(poison)));
      } else {
        const Values& floats = static_cast<int>(i) == changed ? values : tensor.floats;
        device_.upload(tensors_[i], std::as_bytes(std::span(floats)));
      }
    }
  }

  void run(const std::function<void(Encoder&, std::span<const Tensor>)>& record) {
    device_.run([&](Encoder& encoder) { record(encoder, tensors_); });
  }

  Values read(int index) {
    Values values(data_.tensors[static_cast<std::size_t>(index)].floats.size());
    device_.download(tensors_[static_cast<std::size_t>(index)], std::as_writable_bytes(std::span(values)));
    return values;
  }

 private:
  Device& device_;
  const GradientData& data_;
  std::vector<Tensor> tensors_;
};

double root_mean_square(const Values& values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares / static_cast<double>(values.size()));
}

struct Derivative {
  double measured = 0;  // by differences
  double computed = 0;  // from the gradient
};

// Both by the same extrapolation.
Derivative extrapolated(const Derivative& half, const Derivative& whole) {
  return {(4 * half.measured - whole.measured) / 3, (4 * half.computed - whole.computed) / 3};
}

}  // namespace

std::vector<GradientCase> gradient_cases() {
  std::vector<GradientCase> list;
  op_cases_detail::add_basic_gradient_cases(list);
  op_cases_detail::add_linear_gradient_cases(list);
  op_cases_detail::add_h3_gradient_cases(list);
  op_cases_detail::add_fft_conv_gradient_cases(list);
  op_cases_detail::add_attention_gradient_cases(list);
  return list;
}

CaseResult run_gradient_check(Device& device, const GradientCase& gradient_case, std::uint64_t seed) {
  CaseResult result;
  result.tolerance = gradient_case.tolerance;
  for (const Feature feature : gradient_case.needs) {
    const Support support = device.supports(feature);
    if (support.supported) continue;
    result.supported = false;
    result.message = support.reason;
    return result;
  }
  const GradientData data = gradient_case.make(seed);
  const auto tensor = [&](int index) -> const CaseTensor& { return data.tensors[static_cast<std::size_t>(index)]; };
  Loaded loaded(device, data);
  loaded.reset();
  loaded.run(data.forward);
  loaded.run(data.backward);
  std::vector<Values> gradients;
  for (const GradientData::Pair& input : data.inputs) gradients.push_back(loaded.read(input.gradient));

  double squares = 0;  // of the terms of the last sum
  const auto function = [&](int input, const Values& values) {
    loaded.reset(input, values);
    loaded.run(data.forward);
    double sum = 0;
    squares = 0;
    for (const GradientData::Pair& output : data.outputs) {
      const Values& cotangent = tensor(output.gradient).floats;
      const Values found = loaded.read(output.value);
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double term = static_cast<double>(cotangent[i]) * found[i];
        sum += term;
        squares += term * term;
      }
    }
    return sum;
  };
  // The cpu sums in double. Others: some 4 roundings an output (sums of about 100 terms), twice by the extrapolation.
  const double roundings = device.info().backend == BackendKind::cpu ? 0 : 8;
  op_cases_detail::Random random(seed);
  for (std::size_t index = 0; index < data.inputs.size(); ++index) {
    const int input = data.inputs[index].value;
    const Values& x = tensor(input).floats;
    const Values& gradient = gradients[index];
    const double size = root_mean_square(x) > 0 ? root_mean_square(x) : 1;
    for (int direction = 0; direction < directions; ++direction) {
      std::vector<double> u(x.size());
      for (double& value : u) value = size * random.normal();
      const auto derivative = [&](double step) {
        Values above(x), below(x);
        Derivative at;
        for (std::size_t i = 0; i < x.size(); ++i) {
          above[i] = static_cast<float>(x[i] + step * u[i]);
          below[i] = static_cast<float>(x[i] - step * u[i]);
          at.computed += gradient[i] * (static_cast<double>(above[i]) - below[i]) / (2 * step);
        }
        at.measured = (function(input, above) - function(input, below)) / (2 * step);
        return at;
      };
      const Derivative at = extrapolated(derivative(gradient_case.step / 2), derivative(gradient_case.step));
      const double expected_size = size * root_mean_square(gradient) * std::sqrt(static_cast<double>(x.size()));
      const double scale = std::max({std::abs(at.measured), std::abs(at.computed), expected_size});
      double error = std::abs(at.measured - at.computed) / scale;
      if (std::isnan(error)) {
        error = std::numeric_limits<double>::infinity();  // or both are zero: nothing was checked
      } else {
        // Where the forward pass sums in fp32 too, its rounding is in the differences, divided by the step.
        error -= roundings * 0x1p-24 * std::sqrt(squares) / gradient_case.step / scale;
      }
      if (error < result.relative_error) continue;
      result.relative_error = error;
      result.worst = fmt::format("the derivative by {} is {:.9g} by its gradient, {:.9g} by differences",
                                 tensor(input).name, at.computed, at.measured);
    }
  }
  result.passed = !data.inputs.empty() && result.relative_error <= result.tolerance;
  result.message = fmt::format("gradient of {}.{} on {} ({}), seed {}: relative error {:.2e}, tolerance {:.1e}; {}",
                               gradient_case.op, gradient_case.name, device.info().id(), device.info().name, seed,
                               result.relative_error, result.tolerance, result.worst);
  return result;
}

}  // namespace riverhorse
