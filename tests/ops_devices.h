// The devices that the operation tests run on: cpu always, every Vulkan device of the machine as it is and once with
// the minimal features only. Opened at first use, with validation where the layer is installed.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace riverhorse::test {

constexpr std::uint64_t test_seed = 20230117;

struct TestDevice {
  std::string name;  // "cpu", "vulkan0", "vulkan0_minimal"
  std::function<Device&()> open;
  // Messages of the validation layer so far; 0 on cpu.
  std::function<std::uint64_t()> validation_messages;
};

const std::vector<TestDevice>& test_devices();
Device& cpu_device();
void close_test_devices();

// Makes a test "Suite.name.device" for every device.
using DeviceTest = std::function<void(Device&)>;
void register_for_device(const TestDevice& device, const std::string& suite, const std::string& name,
                         const DeviceTest& test);
void register_for_devices(const std::string& suite, const std::string& name, const DeviceTest& test);
// The same, skipped on devices that do not train.
void register_for_training(const std::string& suite, const std::string& name, const DeviceTest& test);
void register_test(const std::string& suite, const std::string& name, std::function<void()> body);

// Called by main, before the tests run.
void register_parity_tests();
void register_golden_tests();
void register_invariant_tests();
void register_attention_training_tests();
void register_training_tests();
void register_mixer_tests();
void register_fft_conv_tests();
void register_training_golden_tests();

template <typename T>
Tensor put(Device& device, DType dtype, Shape shape, const std::vector<T>& values) {
  Tensor tensor = device.allocate_tensor(dtype, shape);
  device.upload(tensor, std::as_bytes(std::span(values)));
  return tensor;
}
inline Tensor put_floats(Device& device, Shape shape, const std::vector<float>& values) {
  return put(device, DType::f32, shape, values);
}
inline Tensor put_integers(Device& device, Shape shape, const std::vector<std::int32_t>& values) {
  return put(device, DType::i32, shape, values);
}

template <typename T = float>
std::vector<T> fetch(Device& device, const Tensor& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.count()));
  device.download(tensor, std::as_writable_bytes(std::span(values)));
  return values;
}

// Tensors of activations of any dtype, by floats that it represents.
inline Tensor put_as(Device& device, DType dtype, Shape shape, const std::vector<float>& values) {
  if (dtype == DType::f32) return put_floats(device, shape, values);
  std::vector<std::uint16_t> halves;
  for (const float value : values) halves.push_back(float_to_half(value, dtype));
  return put(device, dtype, shape, halves);
}
inline std::vector<float> fetch_as_floats(Device& device, const Tensor& tensor) {
  if (tensor.dtype == DType::f32) return fetch(device, tensor);
  std::vector<float> values;
  for (const std::uint16_t half : fetch<std::uint16_t>(device, tensor)) {
    values.push_back(half_to_float(half, tensor.dtype));
  }
  return values;
}

// max|a - b| / max|b|, the error measure of the golden files.
double max_error(const std::vector<float>& values, const std::vector<float>& expected);

}  // namespace riverhorse::test
