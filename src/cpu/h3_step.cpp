// One token of the mixer: the same arithmetic as the recurrence in h3_mixer.cpp, bit for bit; only the layout of
// qkv and y is that of one token.
#include "cpu/cpu_encoder.h"
#include "cpu/h3_mixer.h"

namespace riverhorse::cpu {

void CpuEncoder::record_h3_step(const H3StepArgs& args) {
  require_f32("h3_step", {&args.qkv, &args.y});
  add("h3_step", [args] {
    const std::int64_t batch = args.y.shape[0];
    const std::int64_t width = args.y.shape[1];
    const std::int64_t heads = args.filter.a.shape[0];
    check_positions("h3_step", args.slots, args.positions);
#pragma omp parallel for schedule(dynamic, 16)
    for (std::int64_t index = 0; index < batch * heads; ++index) {
      const std::int64_t sequence = index / heads;
      const std::int64_t slot = integers(args.slots)[sequence];
      const float* qkv = floats(args.qkv) + sequence * 3 * width;
      h3_mix_head({.q = qkv,
                   .k = qkv + width,
                   .v = qkv + 2 * width,
                   .y = floats(args.y) + sequence * width,
                   .channel_stride = 1,
                   .tokens = 1,
                   .filter = args.filter,
                   .head_dim = args.head_dim,
                   .head_order = args.head_order,
                   .algorithm = ConvAlgorithm::automatic,
                   .head = index % heads,
                   .slot = slot,
                   .position = integers(args.positions)[slot],
                   .state = args.state});
    }
  });
}

}  // namespace riverhorse::cpu
