// The rates that a device reaches at copying and at large products: what its other figures are compared with.
#include <algorithm>

#include "cli/bench.h"

namespace riverhorse::cli {
namespace {

// Values of a fixed pseudo-random sequence in [-1, 1): zeros would let a GPU save power and look faster.
std::vector<float> noise(std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint32_t state = 12345;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) * 0x1p-23f - 1.0f;
  }
  return values;
}

double milliseconds_of(Device& device, const RecordFunction& operation, double seconds = 0) {
  const RecordNth each = [&](Encoder& encoder, int) { operation(encoder); };
  return time_operation(device, each, time_once(device, each), seconds).ms;
}

double measure_gemm(Device& device, DType dtype, std::int64_t size) {
  const Shape square{size, size};
  const Tensor noise_f32 = device.allocate_tensor(DType::f32, square);
  const std::vector<float> values = noise(size * size);
  device.upload(noise_f32, std::as_bytes(std::span(values)));
  const Tensor x = device.allocate_tensor(dtype, square);
  const Tensor weight = device.allocate_tensor(dtype, square);
  const Tensor y = device.allocate_tensor(dtype, square);
  device.run([&](Encoder& encoder) {
    encoder.copy({noise_f32, x});
    encoder.copy({noise_f32, weight});
  });
  LinearArgs args;
  args.x = x;
  args.weight = weight;
  args.y = y;
  const double ms = milliseconds_of(device, [&](Encoder& encoder) { encoder.linear(args); });
  const auto edge = static_cast<double>(size);
  return 2.0 * edge * edge * edge / (ms * 1e-3);
}

}  // namespace

bool is_software(const DeviceInfo& info) { return info.type == DeviceType::software || info.type == DeviceType::cpu; }

CopyMeter::CopyMeter(Device& device) : device_(device) {
  const std::uint64_t wanted = is_software(device.info()) ? 32ull << 20 : 256ull << 20;
  const std::uint64_t bytes = std::min(
      {wanted, device.max_tensor_bytes(), std::max<std::uint64_t>(device.memory_free_bytes() / 4, 1u << 20)});
  const auto count = static_cast<std::int64_t>(bytes / 4);
  in_ = device.allocate_tensor(DType::f32, {count});
  out_ = device.allocate_tensor(DType::f32, {count});
  const std::vector<float> values = noise(count);
  device.upload(in_, std::as_bytes(std::span(values)));
  bytes_per_second_ = measure();
  if (!device.supports(Feature::f16).supported) return;

  // Some drivers copy through a slower engine than their shader cores; a conversion is always a shader.
  const Tensor wide = out_;
  out_ = device.allocate_tensor(DType::f16, {count});
  const double rate = measure();
  if (rate > bytes_per_second_) {
    bytes_per_second_ = rate;
  } else {
    out_ = wide;
  }
}

double CopyMeter::measure(double seconds) const {
  const double ms = milliseconds_of(
      device_,
      [&](Encoder& encoder) {
        encoder.copy({in_, out_});
      },
      seconds);
  return static_cast<double>(in_.size_bytes() + out_.size_bytes()) / (ms * 1e-3);
}

BenchCeilings measure_ceilings(Device& device, const CopyMeter& copy, bool with_f16, bool with_bf16) {
  BenchCeilings ceilings;
  ceilings.copy_bytes_per_second = copy.bytes_per_second();
  ceilings.copy_tensor_bytes = copy.tensor_bytes();
  ceilings.copy_method = copy.method();
  const DeviceType type = device.info().type;
  ceilings.gemm_size = type == DeviceType::software ? 256 : type == DeviceType::discrete_gpu ? 4096 : 1024;
  ceilings.gemm_f32_flops = measure_gemm(device, DType::f32, ceilings.gemm_size);
  if (with_f16 && device.supports(Feature::f16).supported) {
    ceilings.gemm_f16_flops = measure_gemm(device, DType::f16, ceilings.gemm_size);
  }
  if (with_bf16 && device.supports(Feature::bf16).supported) {
    ceilings.gemm_bf16_flops = measure_gemm(device, DType::bf16, ceilings.gemm_size);
  }
  return ceilings;
}

}  // namespace riverhorse::cli
