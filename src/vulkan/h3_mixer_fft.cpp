// The mixer by zero-padded transforms (VkFFT), for each group of heads and sequences that fits the workspace:
//   h3_mixer_gate    w = shift(k) v to rows; the state at the start is kept, the state advanced (chunk by chunk)
//   R2C, product with the filter's spectrum (D in its lag 0), C2R
//   h3_mixer_output  y_j = sum_i q_i (row + what the initial state adds)
// in pieces of at most 65536 tokens (mixer_tokens_of_loop), which hand the state on. The filter's rows are made once
// a group.
#include <algorithm>

#include "base/error.h"
#include "vulkan/fft_conv.h"
#include "vulkan/grid.h"
#include "vulkan/h3_mixer.h"
#include "vulkan/ssm_kernel.h"

namespace riverhorse::vulkan {
namespace {

// The longest piece whose d x d rows of one head fit 64 MiB, and a binding.
std::uint32_t piece_tokens(const MixerShape& shape, const VulkanLimits& limits) {
  const std::uint64_t most = std::min<std::uint64_t>(64 << 20, limits.storage_range_bytes);
  const std::uint64_t rows = std::uint64_t{shape.head_dim} * shape.head_dim;
  std::uint32_t tokens = std::min(shape.tokens, mixer_tokens_of_loop(1, shape.state_size));
  while (tokens > 128 && rows * (fft_size_for(tokens) + 2) * sizeof(float) > most) tokens = fft_size_for(tokens) / 4;
  if (rows * (fft_size_for(tokens) + 2) * sizeof(float) > most) {
    fail(StatusCode::unsupported, "the FFT mixer with head_dim {} needs more than {} MiB: use --conv chunked",
         shape.head_dim, most >> 20);
  }
  return tokens;
}

}  // namespace

void record_h3_mixer_fft(VulkanEncoder& encoder, const H3MixerArgs& args, const MixerShape& shape) {
  const VulkanLimits& limits = encoder.limits();
  const std::uint32_t piece = piece_tokens(shape, limits);
  const std::uint32_t size = fft_size_for(piece);
  const std::uint32_t head_rows = shape.head_dim * shape.head_dim;
  const FftGroups groups(size, shape.heads, head_rows, shape.batch);
  FftPlans& plans = encoder.device().fft_plans();
  const std::uint32_t most_rows = groups.group_batch * groups.group_filters * head_rows;
  const FftPlan& data = plans.get(encoder, FftPlans::Role::data, size, most_rows);
  const FftPlan& filters = plans.get(encoder, FftPlans::Role::filter, size, groups.group_filters);
  const ScratchScope scope(encoder);
  const Tensor initial = encoder.scratch(DType::f32, {most_rows, shape.modes, 2});
  const std::uint32_t dim_major = args.head_order == HeadOrder::dim_major ? 1 : 0;

  const auto record_piece = [&](std::uint32_t first_head, std::uint32_t heads, std::uint32_t first_sequence,
                                std::uint32_t sequences, std::uint32_t token, std::uint32_t count) {
    const std::uint32_t pairs = heads * head_rows;
    const double elements = 1.0 * pairs * sequences * count;
    {
      const MixerPush push{.channels = shape.channels,
                           .batch = shape.batch,
                           .tokens = shape.tokens,
                           .first_unit = first_head * head_rows,
                           .first_sequence = first_sequence,
                           .sequences = sequences,
                           .first_token = token,
                           .token_count = count,
                           .write_shift = 0,
                           .dim_major = dim_major,
                           .row_stride = data.row_stride(),
                           .state_size = shape.state_size,
                           .head_dim = shape.head_dim};
      const Binding bindings[] = {{args.qkv, Access::read},
                                  {args.slots, Access::read},
                                  {args.positions, Access::read},
                                  {args.state.shift, Access::read},
                                  {args.state.modes, Access::read_write},
                                  {args.filter.powers, Access::read},
                                  {args.filter.b, Access::read},
                                  {args.filter.shift_taps, Access::read},
                                  {data.rows(), Access::write},
                                  {initial, Access::write}};
      Dispatch dispatch{.shader = shape.f16 ? "h3_mixer_gate.f16" : "h3_mixer_gate.f32",
                        .constants = shape.constants,
                        .bindings = bindings,
                        .push = push_bytes(push)};
      dispatch.groups[0] = pairs;
      dispatch.groups[1] = fold(sequences, limits.group_count[1]);
      dispatch.cost_bytes = elements * 12;
      dispatch.cost_flops = elements * (2.0 * shape.state_size + 4.0 * shape.modes);
      encoder.dispatch(dispatch);
    }
    data.forward(encoder);
    record_spectrum_product(encoder, data, filters, pairs * sequences, pairs, head_rows);
    data.inverse(encoder);
    const struct {
      std::uint32_t channels, batch, tokens, first_head, group_heads, first_sequence, sequences, first_token,
          token_count, head_dim, modes, dim_major, row_stride;
    } push{shape.channels, shape.batch, shape.tokens,   first_head,  heads,     first_sequence,   sequences,
           token,          count,       shape.head_dim, shape.modes, dim_major, data.row_stride()};
    const Binding bindings[] = {{args.qkv, Access::read},      {data.rows(), Access::read},
                                {initial, Access::read},       {args.filter.powers, Access::read},
                                {args.filter.c, Access::read}, {args.y, Access::write}};
    Dispatch dispatch{.shader = shape.f16 ? "h3_mixer_output.f16" : "h3_mixer_output.f32",
                      .bindings = bindings,
                      .push = push_bytes(push)};
    dispatch.groups[0] = divide_up(count, 1024);
    dispatch.groups[1] = heads * shape.head_dim;
    dispatch.groups[2] = fold(sequences, limits.group_count[2]);
    dispatch.cost_bytes = elements * 12;
    dispatch.cost_flops = elements * 4.0 * shape.modes;
    encoder.dispatch(dispatch);
  };

  for (std::uint32_t head = 0; head < shape.heads; head += groups.group_filters) {
    const std::uint32_t heads = std::min(groups.group_filters, shape.heads - head);
    record_ssm_rows(encoder, args.filter, filters.rows(), head, heads, piece, size / 2, filters.row_stride(), true);
    filters.forward(encoder);
    for (std::uint32_t sequence = 0; sequence < shape.batch; sequence += groups.group_batch) {
      const std::uint32_t sequences = std::min(groups.group_batch, shape.batch - sequence);
      for (std::uint32_t token = 0; token < shape.tokens; token += piece) {
        record_piece(head, heads, sequence, sequences, token, std::min(piece, shape.tokens - token));
      }
    }
  }
  record_shift_state(encoder, args, shape);
}

}  // namespace riverhorse::vulkan
