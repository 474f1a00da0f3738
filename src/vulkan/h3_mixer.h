// The H3 mixer on Vulkan: sizes that its files share.
#pragma once

#include <cstdint>

#include "vulkan/encoder.h"

namespace riverhorse::vulkan {

// The sizes of a mixer call, and the specialisation constants that h3_mixer_chunk.glsl takes.
struct MixerShape {
  std::uint32_t channels;    // D
  std::uint32_t batch;       // B
  std::uint32_t tokens;      // L
  std::uint32_t heads;       // H
  std::uint32_t head_dim;    // d
  std::uint32_t modes;       // n
  std::uint32_t state_size;  // N
  bool f16;
  std::uint32_t constants[4];

  explicit MixerShape(const H3MixerArgs& args);  // errors: unsupported beyond N = 256
};

// Push constants of h3_mixer_chunk.glsl.
struct MixerPush {
  std::uint32_t channels, batch, tokens, first_unit, first_sequence, sequences, first_token, token_count, write_shift,
      dim_major, row_stride, state_size, head_dim;
};

// The most tokens, of one sequence, that an invocation of a mixer's shaders walks over: lavapipe ends an invocation's
// loops after 65,535 turns in all. A multiple of 64.
std::uint32_t mixer_tokens_of_loop(std::uint32_t head_dim, std::uint32_t state_size);

// The FFT way; h3_mixer.cpp has the chunked one. Errors: unsupported when the build has no VkFFT.
void record_h3_mixer_fft(VulkanEncoder& encoder, const H3MixerArgs& args, const MixerShape& shape);

// The newest keys to the shift state, once everything that reads it is recorded.
void record_shift_state(VulkanEncoder& encoder, const H3MixerArgs& args, const MixerShape& shape);

}  // namespace riverhorse::vulkan
