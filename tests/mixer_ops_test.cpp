// The H3 mixer, forward and backward, beyond the case table: what only a large device can get wrong, and how large
// its errors are: of 16 bits next to the prototypes that the kernels follow, of fp32 next to what it promises.
#include <cmath>
#include <cstring>
#include <numbers>

#include "backend/op_cases_build.h"
#include "ops_devices.h"

namespace riverhorse::test {

namespace {

using op_cases_detail::Random;
using Values = std::vector<float>;

constexpr std::int64_t modes = 32, state = 2 * modes;

struct MixerShape {
  std::int64_t channels, batch, tokens;
};

// The filter of channels like those of a trained layer, as the prototypes were measured with: A = -1/2 + i pi n, dt
// from 1e-3 to 1e-1, normal c b, taps of 0.1. Of the shift SSM B = (1, 0, 0 ...), so that C has the taps.
struct MixerParameters {
  Values log_dt, inv_a_real, a_imag, b, c, d, shift_b, shift_c, shift_d;

  void add_channel(Random& random) {
    log_dt.push_back(static_cast<float>(random.uniform(std::log(1e-3), std::log(1e-1))));
    d.push_back(random.normal());
    shift_d.push_back(random.normal());
    for (int n = 0; n < modes; ++n) {
      inv_a_real.push_back(std::log(0.5f));
      a_imag.push_back(std::numbers::pi_v<float> * static_cast<float>(n));
      for (const float part : {1.0f, 0.0f}) b.push_back(part);
      for (int part = 0; part < 2; ++part) c.push_back(random.normal() * std::numbers::sqrt2_v<float> / 2);
    }
    for (int i = 0; i < state; ++i) {
      shift_b.push_back(i == 0 ? 1.0f : 0.0f);
      shift_c.push_back(0.1f * random.normal());
    }
  }

  H3Parameters put_on(Device& device) const {
    const auto channels = static_cast<std::int64_t>(d.size());
    H3Parameters p;
    p.log_dt = put_floats(device, {channels}, log_dt);
    p.inv_a_real = put_floats(device, {channels, modes}, inv_a_real);
    p.a_imag = put_floats(device, {channels, modes}, a_imag);
    p.b = put_floats(device, {channels, modes, 2}, b);
    p.c = put_floats(device, {channels, modes, 2}, c);
    p.d = put_floats(device, {channels}, d);
    p.shift_b = put_floats(device, {channels, state}, shift_b);
    p.shift_c = put_floats(device, {channels, state}, shift_c);
    p.shift_d = put_floats(device, {channels}, shift_d);
    return p;
  }
};

// All that the mixer makes of q, k, v (3 D, B, L) and d_y (D, B, L), each with its channels first.
struct MixerResults {
  Values y, d_q, d_k, d_v, d_log_a, d_gain, d_skip, d_taps;
};

MixerResults run_mixer(Device& device, const MixerShape& shape, DType dtype, const MixerParameters& parameters,
                       const Values& qkv_values, const Values& d_y_values) {
  const std::int64_t channels = shape.channels;
  const auto floats = [&](Shape dimensions) { return device.allocate_tensor(DType::f32, dimensions); };
  const std::int64_t superchunks = (shape.tokens + H3Filter::superchunk - 1) / H3Filter::superchunk;
  const H3Parameters p = parameters.put_on(device);
  const H3Filter filter = {floats({channels, modes, 4}),
                           floats({channels, modes, 2}),
                           floats({channels, modes, 2}),
                           floats({channels}),
                           floats({channels, modes, H3Filter::power_count, 2}),
                           floats({channels, H3Filter::chunk}),
                           floats({channels, state})};
  const H3FilterGradient d_filter = {floats({channels, modes, 2}), floats({channels, modes, 2}), floats({channels}),
                                     floats({channels, state})};
  const Shape narrow = {channels, shape.batch, shape.tokens}, wide = {3 * channels, shape.batch, shape.tokens};
  const Tensor entry_states = floats({channels, shape.batch, superchunks, state});
  const Tensor qkv = put_as(device, dtype, wide, qkv_values), d_y = put_as(device, dtype, narrow, d_y_values);
  const Tensor y = device.allocate_tensor(dtype, narrow), d_qkv = device.allocate_tensor(dtype, wide);
  device.run([&](Encoder& encoder) {
    encoder.discretize({p, filter});
    H3MixerArgs forward;
    forward.qkv = qkv;
    forward.filter = filter;
    forward.y = y;
    forward.entry_states = entry_states;
    encoder.h3_mixer(forward);
    H3MixerBackwardArgs backward;
    backward.qkv = qkv;
    backward.filter = filter;
    backward.d_y = d_y;
    backward.d_qkv = d_qkv;
    backward.d_filter = d_filter;
    backward.entry_states = entry_states;
    encoder.h3_mixer_backward(backward);
  });
  const auto part = [&](std::int64_t i) { return fetch_as_floats(device, d_qkv.slice(i * channels, channels)); };
  return {fetch_as_floats(device, y),
          part(0),
          part(1),
          part(2),
          fetch(device, d_filter.log_a),
          fetch(device, d_filter.gain),
          fetch(device, d_filter.d),
          fetch(device, d_filter.shift_taps)};
}

bool is_software(Device& device) {
  const DeviceType type = device.info().type;
  return type == DeviceType::cpu || type == DeviceType::software;
}

// ------------------------------------------------------------------------------------------ channels agree

// Every channel gets the same parameters and the same text: then all have the same results and gradients, bit for
// bit, however many multiprocessors share them and whatever the memory of a block held before.
void channels_agree(Device& device, const MixerShape& shape, DType dtype) {
  MixerParameters parameters;
  for (std::int64_t d = 0; d < shape.channels; ++d) {
    Random random(test_seed);
    parameters.add_channel(random);
  }
  Random random(test_seed);
  const auto repeated = [&](int parts) {
    Values all, text(static_cast<std::size_t>(shape.batch * shape.tokens));
    for (int part = 0; part < parts; ++part) {
      for (float& value : text) value = random.normal();
      for (std::int64_t d = 0; d < shape.channels; ++d) all.insert(all.end(), text.begin(), text.end());
    }
    return all;
  };
  const Values qkv = repeated(3), d_y = repeated(1);
  const MixerResults results = run_mixer(device, shape, dtype, parameters, qkv, d_y);
  const auto expect_alike = [&](const Values& values, const char* name) {
    const std::size_t count = values.size() / static_cast<std::size_t>(shape.channels);
    int different = 0;
    for (std::size_t begin = count; begin < values.size(); begin += count) {
      different += std::memcmp(values.data(), values.data() + begin, count * sizeof(float)) != 0 ? 1 : 0;
    }
    EXPECT_EQ(different, 0) << name << ", " << shape.channels << " channels, " << shape.batch << " x "
                            << shape.tokens;
  };
  expect_alike(results.y, "y");
  expect_alike(results.d_q, "d_q");
  expect_alike(results.d_k, "d_k");
  expect_alike(results.d_v, "d_v");
  expect_alike(results.d_log_a, "d log a");
  expect_alike(results.d_gain, "d gain");
  expect_alike(results.d_skip, "d D");
  expect_alike(results.d_taps, "d taps");
}

void all_channels_agree(Device& device, DType dtype) {
  // Several waves of blocks on a large GPU; several tiles a warp, short sequences, warps in turn.
  std::vector<MixerShape> shapes = {{768, 8, 1024}, {768, 32, 256}, {768, 33, 200}, {768, 1, 4096}, {768, 3, 2050}};
  if (is_software(device)) shapes = {{3, 5, 70}, {3, 33, 40}, {3, 5, 1025}};
  for (const MixerShape& shape : shapes) channels_agree(device, shape, dtype);
}

// ------------------------------------------------------------------------------------------------ errors

struct RelativeError {
  double all = 0, worst_row = 0;  // in the Euclidean norm
};

RelativeError relative_error(const Values& values, const Values& exact, std::int64_t rows) {
  double difference = 0, norm = 0;
  RelativeError error;
  const std::size_t count = exact.size() / static_cast<std::size_t>(rows);
  for (std::size_t begin = 0; begin < exact.size(); begin += count) {
    double of_row = 0, row_norm = 0;
    for (std::size_t i = begin; i < begin + count; ++i) {
      of_row += std::pow(double{values[i]} - exact[i], 2);
      row_norm += std::pow(double{exact[i]}, 2);
    }
    error.worst_row = std::max(error.worst_row, std::sqrt(of_row / row_norm));
    difference += of_row;
    norm += row_norm;
  }
  error.all = std::sqrt(difference / norm);
  return error;
}

// What the prototypes reached in bf16 (relative, in the Euclidean norm; rounding the exact y alone is 1.7e-3), which
// no change may lose: y 3.1e-3, its worst row 4.4e-3, or 8.2e-3 where k and v have a mean; d_q, d_k, d_v 4.1e-3; the
// gradients of the filter 5.5e-3, of D, whose sums cancel, 8e-3; and 5% for other data. f16 has three bits more, an
// eighth of each, but takes the taps of the forward pass in one term, bf16 in two: y has a quarter, and a row whose
// taps cancel on a mean as much as in bf16.
void errors_of_16_bits(Device& device, DType dtype) {
  const MixerShape shape = is_software(device) ? MixerShape{8, 3, 1100} : MixerShape{64, 4, 2048};
  MixerParameters parameters;
  Random random(test_seed);
  for (std::int64_t d = 0; d < shape.channels; ++d) parameters.add_channel(random);
  const std::int64_t rows = shape.channels * shape.batch, count = rows * shape.tokens;
  for (const float mean : {0.0f, 1.0f}) {
    const auto rounded = [&](std::int64_t parts, std::int64_t first_with_mean) {
      Values values(static_cast<std::size_t>(parts * count));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const bool shifted = mean != 0 && static_cast<std::int64_t>(i) >= first_with_mean * count;
        values[i] = rounded_to(dtype, shifted ? mean + 0.5f * random.normal() : random.normal());
      }
      return values;
    };
    const Values qkv = rounded(3, 1), d_y = rounded(1, 1);
    const MixerResults exact = run_mixer(cpu_device(), shape, DType::f32, parameters, qkv, d_y);
    const MixerResults results = run_mixer(device, shape, dtype, parameters, qkv, d_y);
    const double unit = 1.05 * (dtype == DType::bf16 ? 1.0 : 0.125);
    std::string note;
    const auto expect_at_most = [&](const char* name, const Values& values, const Values& wanted, double limit,
                                    double limit_of_row) {
      const RelativeError error = relative_error(values, wanted, limit_of_row > 0 ? rows : shape.channels);
      note += fmt::format(" {} {:.1e}", name, error.all);
      if (limit_of_row > 0) note += fmt::format("/{:.1e}", error.worst_row);
      EXPECT_LE(error.all, limit) << name << ", mean " << mean;
      if (limit_of_row > 0) {
        EXPECT_LE(error.worst_row, limit_of_row) << name << ", worst row, mean " << mean;
      }
    };
    const double y_unit = 1.05 * (dtype == DType::bf16 ? 1.0 : 0.25);
    const double worst_y = mean == 0 ? 4.4e-3 * y_unit : 8.2e-3;
    expect_at_most("y", results.y, exact.y, 3.1e-3 * y_unit, worst_y);
    expect_at_most("d_q", results.d_q, exact.d_q, 4.1e-3 * unit, 0);
    expect_at_most("d_k", results.d_k, exact.d_k, 4.1e-3 * unit, 0);
    expect_at_most("d_v", results.d_v, exact.d_v, 4.1e-3 * unit, 0);
    expect_at_most("d_log_a", results.d_log_a, exact.d_log_a, 5.5e-3 * unit, 0);
    expect_at_most("d_gain", results.d_gain, exact.d_gain, 5.5e-3 * unit, 0);
    expect_at_most("d_taps", results.d_taps, exact.d_taps, 5.5e-3 * unit, 0);
    expect_at_most("d_D", results.d_skip, exact.d_skip, 8e-3 * unit, 0);
    std::printf("[  NOTE    ] %s, mean %.0f, all/worst row:%s\n", std::string(dtype_name(dtype)).c_str(), mean,
                note.c_str());
  }
}

// In fp32, by operands in two terms: at most 1e-5 in every row, whatever the size of the activations. The cpu computes
// in double; rounding its results adds 3e-8.
void errors_of_fp32(Device& device, DType dtype) {
  const MixerShape shape = is_software(device) ? MixerShape{4, 1, 4096} : MixerShape{64, 2, 4096};
  MixerParameters parameters;
  Random random(test_seed);
  for (std::int64_t d = 0; d < shape.channels; ++d) parameters.add_channel(random);
  const auto count = static_cast<std::size_t>(shape.channels * shape.batch * shape.tokens);
  const Values d_y(count, 1.0f);
  for (const auto& [mean, size_of_v] : {std::pair{0.0f, 1.0f}, {1.0f, 1.0f}, {0.0f, 1e-20f}, {0.0f, 1e15f}}) {
    Values qkv(3 * count);
    for (std::size_t i = 0; i < qkv.size(); ++i) {
      qkv[i] = random.normal();
      if (mean != 0 && i >= count) qkv[i] = mean + 0.5f * qkv[i];
      if (i >= 2 * count) qkv[i] *= size_of_v;
    }
    const MixerResults exact = run_mixer(cpu_device(), shape, dtype, parameters, qkv, d_y);
    const MixerResults results = run_mixer(device, shape, dtype, parameters, qkv, d_y);
    const RelativeError error = relative_error(results.y, exact.y, shape.channels * shape.batch);
    EXPECT_LE(error.worst_row, 1e-5) << "mean " << mean << ", v of " << size_of_v;
    std::printf("[  NOTE    ] f32, mean %.0f, v of %.0e, y, all/worst row: %.1e/%.1e\n", mean, size_of_v, error.all,
                error.worst_row);
  }
}

}  // namespace

void register_mixer_tests() {
  const auto register_for = [](DType dtype, const char* name, void (*test)(Device&, DType)) {
    register_for_training("mixer", std::string(name) + "_" + std::string(dtype_name(dtype)), [=](Device& device) {
      if (dtype != DType::f32) {
        const Support support = device.supports(half_feature(dtype));
        if (!support.supported) GTEST_SKIP() << support.reason;
      }
      test(device, dtype);
    });
  };
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    register_for(dtype, "channels_agree", all_channels_agree);
    register_for(dtype, "errors", dtype == DType::f32 ? errors_of_fp32 : errors_of_16_bits);
  }
}

}  // namespace riverhorse::test
