// The mixer between the projections: the chunked way (h3_mixer_chunk.glsl), and the choice between it and the FFT.
//
// `automatic` is `chunked`, on every device. It reads q, k, v once and writes y once, for any L, and takes the
// carried state for nothing; the FFT way moves the row of every pair through memory at least nine times in f32, and
// makes its filter first. Nor is the FFT way a drop-in: its rounding lets a later token change the last bits of
// earlier outputs, which causality bit for bit forbids. It stays for comparison, and as the way of fft_conv's learned
// filters.
#include "vulkan/h3_mixer.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "vulkan/cooperative_matrix.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {

MixerShape::MixerShape(const H3MixerArgs& args)
    : channels(static_cast<std::uint32_t>(args.y.shape[0])),
      batch(static_cast<std::uint32_t>(args.y.shape[1])),
      tokens(static_cast<std::uint32_t>(args.y.shape[2])),
      heads(static_cast<std::uint32_t>(args.filter.b.shape[0])),
      head_dim(static_cast<std::uint32_t>(args.head_dim)),
      modes(static_cast<std::uint32_t>(args.filter.b.shape[1])),
      state_size(static_cast<std::uint32_t>(args.filter.shift_taps.shape[1])),
      f16(args.y.dtype == DType::f16) {
  if (state_size > 256 || modes > 128) {
    fail(StatusCode::unsupported, "the Vulkan H3 mixer takes state sizes up to 256; this one is {}", state_size);
  }
  constants[0] = state_size == 64 ? 64 : 0;
  constants[1] = head_dim == 1 ? 1 : 0;
  constants[2] = divide_up(modes, 32);
  constants[3] = std::bit_ceil(64 + 32 * divide_up(modes, 16));
}

void record_shift_state(VulkanEncoder& encoder, const H3MixerArgs& args, const MixerShape& shape) {
  const struct {
    std::uint32_t channels, batch, tokens, state_size;
  } push{shape.channels, shape.batch, shape.tokens, shape.state_size};
  const Binding bindings[] = {{args.qkv, Access::read},
                              {args.slots, Access::read},
                              {args.positions, Access::read},
                              {args.state.shift, Access::read_write}};
  Dispatch dispatch{.shader = shape.f16 ? "h3_mixer_shift.f16" : "h3_mixer_shift.f32",
                    .bindings = bindings,
                    .push = push_bytes(push)};
  dispatch.groups[0] = shape.channels;
  dispatch.groups[1] = fold(shape.batch, encoder.limits().group_count[1]);
  dispatch.cost_bytes = 8.0 * shape.channels * shape.batch * shape.state_size;
  encoder.dispatch(dispatch);
}

std::uint32_t mixer_tokens_of_loop(std::uint32_t head_dim, std::uint32_t state_size) {
  constexpr std::uint32_t most_turns = 49152;  // some room: the count below is no exact one
  const std::uint32_t chunk_turns = head_dim * (state_size / 4 + 24);
  return 64 * std::clamp(most_turns / chunk_turns, 8u, 1024u);
}

namespace {

// How a chunked mixer runs on a device: h3_mixer.comp, or h3_mixer_coopmat.comp.
struct ChunkedPlan {
  std::string_view shader;
  std::vector<std::uint32_t> constants;
  std::uint32_t required_subgroup_size = 0;
  std::uint64_t most_elements = 4 << 20;  // of a dispatch
  std::uint32_t token_step = 64;          // parts of L are multiples of it
  std::uint32_t most_tokens = 65536;
  std::uint32_t most_groups = 65535;  // of a channel
};

// The least tokens for which matrices pay: a tile of 1024 takes as long however few of them there are. On an H100 one
// sequence of 256 tokens and 768 channels takes 0.0148 ms by matrices and 0.0125 without, one of 512 0.0151 and
// 0.0219.
constexpr std::uint32_t least_matrix_tokens = 320;

ChunkedPlan plan_chunked(const VulkanLimits& limits, const H3MixerArgs& args, const MixerShape& shape) {
  constexpr std::uint32_t shared_bytes = 2288 * 16;  // of h3_mixer_coopmat.comp
  const std::optional<MatrixUnit> unit = shape.f16 ? matrix_unit(limits) : std::nullopt;
  if (unit && unit->square() && unit->f16_sums && unit->subgroup_size >= 32 && shape.head_dim == 1 &&
      shape.state_size <= 64 && shape.tokens >= least_matrix_tokens && limits.shared_bytes >= shared_bytes &&
      limits.invocations >= 4 * unit->subgroup_size) {
    const bool aligned = shape.tokens % 8 == 0 && args.qkv.offset_bytes % 16 == 0 && args.y.offset_bytes % 16 == 0;
    return {"h3_mixer_coopmat",
            {4 * unit->subgroup_size, aligned ? 1u : 0u},
            unit->subgroup_size,
            16 << 20,
            1024,
            UINT32_MAX - 1023,
            // Each makes its channel's matrices: no more than fill the device.
            std::max(1u, 8 * limits.compute_units / shape.channels)};
  }
  ChunkedPlan plan{shape.f16 ? "h3_mixer.f16" : "h3_mixer.f32",
                   std::vector<std::uint32_t>(std::begin(shape.constants), std::end(shape.constants))};
  plan.most_tokens = mixer_tokens_of_loop(shape.head_dim, shape.state_size);
  return plan;
}

void record_h3_mixer_chunked(VulkanEncoder& encoder, const H3MixerArgs& args, const MixerShape& shape) {
  // One dispatch walks a bounded number of elements a pair index, so that the encoder can bound submissions: parts of
  // the batch first, since they cost nothing, then parts of L of at least 512 tokens (a part reads the state again
  // and remakes its powers).
  const ChunkedPlan plan = plan_chunked(encoder.limits(), args, shape);
  const std::uint64_t most_elements = plan.most_elements;
  const std::uint64_t row_cost = std::uint64_t{shape.channels} * shape.head_dim;
  const std::uint64_t sequence_cost = row_cost * shape.tokens;
  const auto sequences =
      static_cast<std::uint32_t>(std::clamp<std::uint64_t>(most_elements / sequence_cost, 1, shape.batch));
  std::uint32_t part_tokens = shape.tokens;
  if (sequence_cost > most_elements) {
    part_tokens = std::max(static_cast<std::uint32_t>(most_elements / row_cost / plan.token_step) * plan.token_step,
                           std::max(plan.token_step, 512u));
  }
  part_tokens = std::min(part_tokens, plan.most_tokens);
  const bool own_shift = shape.head_dim == 1;  // then one workgroup reads and writes a channel's shift state
  const Binding bindings[] = {{args.qkv, Access::read},
                              {args.slots, Access::read},
                              {args.positions, Access::read},
                              {args.state.shift, own_shift ? Access::read_write : Access::read},
                              {args.state.modes, Access::read_write},
                              {args.filter.powers, Access::read},
                              {args.filter.b, Access::read},
                              {args.filter.shift_taps, Access::read},
                              {args.y, Access::write},
                              {args.filter.c, Access::read},
                              {args.filter.toeplitz, Access::read}};
  for (std::uint32_t first_sequence = 0; first_sequence < shape.batch; first_sequence += sequences) {
    const std::uint32_t part_sequences = std::min(sequences, shape.batch - first_sequence);
    for (std::uint32_t token = 0; token < shape.tokens; token += part_tokens) {
      const std::uint32_t count = std::min(part_tokens, shape.tokens - token);
      const MixerPush push{.channels = shape.channels,
                           .batch = shape.batch,
                           .tokens = shape.tokens,
                           .first_unit = 0,
                           .first_sequence = first_sequence,
                           .sequences = part_sequences,
                           .first_token = token,
                           .token_count = count,
                           .write_shift = own_shift && token + count == shape.tokens ? 1u : 0u,
                           .dim_major = args.head_order == HeadOrder::dim_major ? 1u : 0u,
                           .row_stride = 0,
                           .state_size = shape.state_size,
                           .head_dim = shape.head_dim};
      Dispatch dispatch{.shader = plan.shader,
                        .constants = plan.constants,
                        .bindings = bindings,
                        .push = push_bytes(push),
                        .required_subgroup_size = plan.required_subgroup_size};
      dispatch.groups[0] = shape.channels;
      dispatch.groups[1] = fold(part_sequences, std::min(plan.most_groups, encoder.limits().group_count[1]));
      const double elements = static_cast<double>(row_cost) * part_sequences * count;
      dispatch.cost_bytes = elements * (shape.f16 ? 8 : 16);
      dispatch.cost_flops = elements * (3.0 * shape.state_size + 8.0 * shape.modes);
      encoder.dispatch(dispatch);
    }
  }
  if (!own_shift) record_shift_state(encoder, args, shape);
}

}  // namespace

void VulkanEncoder::record_h3_mixer(const H3MixerArgs& args) {
  const bool by_fft = args.algorithm == ConvAlgorithm::fft;
  const OperationScope operation(*this, by_fft ? "h3_mixer.fft" : "h3_mixer.chunked");
  const MixerShape shape(args);
  if (shape.channels == 0 || shape.batch == 0 || shape.tokens == 0) return;
  if (preparing() && args.algorithm == ConvAlgorithm::automatic) {
    log_debug(fmt::format("h3_mixer of {} tokens on {}: chunked", shape.tokens, device_.info().name));
  }
  if (by_fft) {
    record_h3_mixer_fft(*this, args, shape);
  } else {
    record_h3_mixer_chunked(*this, args, shape);
  }
}

}  // namespace riverhorse::vulkan
