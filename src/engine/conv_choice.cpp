// Vulkan is left out: its plans for transforms take seconds to build, and its `auto` is known
// (src/vulkan/h3_mixer.cpp).
#include "engine/conv_choice.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "backend/device_key.h"
#include "base/cache_folder.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"

namespace riverhorse {
namespace {

struct Measurement {
  double chunked_ms = 0, fft_ms = 0;

  // The chunked way unless the other gains something: its outputs do not depend on later tokens to the last bit.
  ConvAlgorithm faster() const { return fft_ms < 0.95 * chunked_ms ? ConvAlgorithm::fft : ConvAlgorithm::chunked; }
};

// The mixer of one layer in the middle of a text, on zeros: no time depends on the numbers.
H3MixerArgs mixer_of_zeros(Device& device, const ModelConfig& config, DType dtype, std::int64_t tokens) {
  const std::int64_t width = config.n_embd, state = config.ssm_d_state, modes = state / 2;
  const std::int64_t heads = width / config.ssm_head_dim;
  const auto zeros = [&](Shape shape) { return device.allocate_tensor(DType::f32, shape); };
  H3MixerArgs args;
  args.filter = {.a = zeros({heads, modes, 4}),
                 .b = zeros({heads, modes, 2}),
                 .c = zeros({heads, modes, 2}),
                 .d = zeros({heads}),
                 .powers = zeros({heads, modes, H3Filter::power_count, 2}),
                 .toeplitz = zeros({heads, H3Filter::chunk}),
                 .shift_taps = zeros({width, state})};
  args.head_dim = static_cast<int>(config.ssm_head_dim);
  args.head_order = config.head_order();
  args.qkv = device.allocate_tensor(dtype, {3 * width, 1, tokens});
  args.y = device.allocate_tensor(dtype, {width, 1, tokens});
  args.slots = device.allocate_tensor(DType::i32, {1});
  args.positions = device.allocate_tensor(DType::i32, {1});
  const std::int32_t position = 1024;
  device.upload(args.positions, std::as_bytes(std::span(&position, 1)));
  args.state = {zeros({1, width, state}), zeros({1, width * config.ssm_head_dim, modes, 2})};
  return args;
}

double time_ms(Device& device, const H3MixerArgs& args) {
  const std::unique_ptr<Recording> recording =
      device.record([&](Encoder& encoder) { encoder.h3_mixer(args); }, {.timestamps = true});
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    device.wait(device.submit(*recording));
    if (i >= 2) times.push_back(recording->total_time_ms());
  }
  std::nth_element(times.begin(), times.begin() + 2, times.end());
  return times[2];
}

std::optional<Measurement> remembered(const std::filesystem::path& path, const std::string& key) {
  try {
    const nlohmann::json json = nlohmann::json::parse(read_text_file(path, 1u << 16));
    if (json.at("key").get<std::string>() != key) return std::nullopt;
    return Measurement{json.at("chunked_ms").get<double>(), json.at("fft_ms").get<double>()};
  } catch (const std::exception&) {  // absent, damaged, of another version: it is measured again
    return std::nullopt;
  }
}

void remember(const std::filesystem::path& path, const std::string& key, const Measurement& measurement) {
  const nlohmann::ordered_json json = {
      {"key", key}, {"chunked_ms", measurement.chunked_ms}, {"fft_ms", measurement.fft_ms}};
  try {
    AtomicFileWriter file(path);
    file.write(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
    file.commit();
  } catch (const Error& error) {
    log_debug(fmt::format("the choice of --conv auto is not kept: {}", error.what()));
  }
}

}  // namespace

ConvAlgorithm choose_conv(Device& device, const ModelConfig& config, DType dtype, std::int64_t tokens,
                          const std::string& cache_folder) {
  if (device.info().backend != BackendKind::cuda) return ConvAlgorithm::automatic;
  const std::string key =
      fmt::format("{} | {} | D {} d {} N {} | {} tokens", device_key(device.info()), dtype_name(dtype), config.n_embd,
                  config.ssm_head_dim, config.ssm_d_state, tokens);
  const auto folder = resolve_cache_folder(cache_folder);
  std::filesystem::path path;
  if (folder) path = *folder / fmt::format("conv-{:016x}.json", hash_bytes(std::as_bytes(std::span(key))));
  std::optional<Measurement> measurement = folder ? remembered(path, key) : std::nullopt;
  if (!measurement) {
    try {
      H3MixerArgs args = mixer_of_zeros(device, config, dtype, tokens);
      measurement.emplace();
      args.algorithm = ConvAlgorithm::chunked;
      measurement->chunked_ms = time_ms(device, args);
      args.algorithm = ConvAlgorithm::fft;
      measurement->fft_ms = time_ms(device, args);
    } catch (const Error& error) {
      if (error.code() == StatusCode::device_lost) throw;
      log_debug(fmt::format("--conv auto on {} is not measured: {}", device.info().id(), error.what()));
      return ConvAlgorithm::automatic;
    }
    if (folder) remember(path, key, *measurement);
  }
  const ConvAlgorithm faster = measurement->faster();
  log_info(fmt::format("--conv auto on {}: {} (mixer of {} tokens: chunked {:.3f} ms, fft {:.3f} ms)",
                       device.info().id(), faster == ConvAlgorithm::fft ? "fft" : "chunked", tokens,
                       measurement->chunked_ms, measurement->fft_ms));
  return faster;
}

}  // namespace riverhorse
