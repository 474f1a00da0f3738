// Members that several option structs of the C API have, as the library's own types.
#pragma once

#include <string>

#include "backend/ops.h"
#include "base/error.h"
#include "engine/selftest.h"
#include "riverhorse/riverhorse.h"

namespace riverhorse::api {

inline std::string text_or_empty(const char* text) { return text == nullptr ? std::string() : std::string(text); }

template <typename T>
T positive_or(T value, T default_value, const char* name) {
  if (value < 0) fail(StatusCode::invalid_argument, "options.{} is {}: it cannot be negative", name, value);
  return value == 0 ? default_value : value;
}

inline ConvAlgorithm read_conv(riverhorse_conv conv) {
  switch (conv) {
    case RIVERHORSE_CONV_AUTO: return ConvAlgorithm::automatic;
    case RIVERHORSE_CONV_CHUNKED: return ConvAlgorithm::chunked;
    case RIVERHORSE_CONV_FFT: return ConvAlgorithm::fft;
  }
  fail(StatusCode::invalid_argument, "options.conv is {}, not one of riverhorse_conv", static_cast<int>(conv));
}

inline Tuning read_tuning(riverhorse_tuning tuning) {
  switch (tuning) {
    case RIVERHORSE_TUNING_AUTO: return Tuning::automatic;
    case RIVERHORSE_TUNING_ON: return Tuning::on;
    case RIVERHORSE_TUNING_OFF: return Tuning::off;
  }
  fail(StatusCode::invalid_argument, "options.tuning is {}, not one of riverhorse_tuning", static_cast<int>(tuning));
}

inline DType read_dtype(riverhorse_dtype dtype) {
  switch (dtype) {
    case RIVERHORSE_DTYPE_DEFAULT:
    case RIVERHORSE_DTYPE_F32: return DType::f32;
    case RIVERHORSE_DTYPE_F16: return DType::f16;
    case RIVERHORSE_DTYPE_BF16: return DType::bf16;
  }
  fail(StatusCode::invalid_argument, "options.dtype is {}, not one of riverhorse_dtype", static_cast<int>(dtype));
}

// Of what read_dtype() gives.
inline riverhorse_dtype to_api(DType dtype) {
  return dtype == DType::f16    ? RIVERHORSE_DTYPE_F16
         : dtype == DType::bf16 ? RIVERHORSE_DTYPE_BF16
                                : RIVERHORSE_DTYPE_F32;
}

// `Options` has the members that choose a device.
template <typename Options>
CheckedDeviceOptions read_device(const Options& options) {
  CheckedDeviceOptions result;
  result.backend = text_or_empty(options.backend);
  result.device = text_or_empty(options.device);
  result.self_test = options.skip_self_test == 0;
  result.device_options.minimal_features = options.safe_shaders != 0;
  result.device_options.validation = options.validation != 0;
  result.device_options.cache_folder = text_or_empty(options.cache_folder);
  result.device_options.submission_limit_ms =
      positive_or(options.submission_limit_ms, result.device_options.submission_limit_ms, "submission_limit_ms");
  return result;
}

}  // namespace riverhorse::api
