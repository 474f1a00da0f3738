// Cases of rotary, attention and attention_step.
#include <algorithm>
#include <numeric>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

struct AttentionShape {
  std::int64_t batch, tokens;
  int heads;
  std::int64_t head_width;
  std::vector<std::int32_t> at;  // positions
  std::int64_t capacity = 0;     // 0: just enough

  std::int64_t width() const { return heads * head_width; }
  std::string name() const { return fmt::format("b{}_l{}_h{}x{}_p{}", batch, tokens, heads, head_width, at.back()); }
};

void add_rotary(CaseList& list, const AttentionShape& a, int rotary_dim) {
  add_case(list, "rotary", fmt::format("{}_r{}", a.name(), rotary_dim), activation_dtypes, [=](CaseBuilder& builder) {
    const SlotPool pool = make_pool(a.batch, a.at, builder.random());
    const int qkv =
        builder.normal("qkv", CaseRole::updated, builder.activation(), {a.batch, a.tokens, 3 * a.width()});
    const int slots = builder.integers("slots", CaseRole::input, {a.batch}, pool.slots);
    const int positions = builder.integers("positions", CaseRole::input, {pool.count}, pool.positions);
    const double turned = static_cast<double>(2 * a.batch * a.tokens * a.heads * rotary_dim);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.rotary({.qkv = t[qkv],
                          .heads = a.heads,
                          .rotary_dim = rotary_dim,
                          .slots = t[slots],
                          .positions = t[positions]});
        },
        6 * turned, 2 * turned * dtype_size_bytes(builder.activation()));
  });
}

void add_attention(CaseList& list, const AttentionShape& a, bool step) {
  add_case(list, step ? "attention_step" : "attention", a.name(), activation_dtypes, [=](CaseBuilder& builder) {
    const std::int64_t last = *std::max_element(a.at.begin(), a.at.end());
    const std::int64_t capacity = a.capacity > 0 ? a.capacity : std::max<std::int64_t>(last + a.tokens, 12);
    const SlotPool pool = make_pool(a.batch, a.at, builder.random());
    const DType act = builder.activation();
    const int qkv = builder.normal("qkv", CaseRole::input, act, {a.batch, a.tokens, 3 * a.width()}, 1.5);
    const int slots = builder.integers("slots", CaseRole::input, {a.batch}, pool.slots);
    const int positions = builder.integers("positions", CaseRole::input, {pool.count}, pool.positions);
    const Shape cache_shape = {pool.count, capacity, a.width()};
    const int k = builder.normal("cache.k", CaseRole::exact, act, cache_shape, 1.5);
    const int v = builder.normal("cache.v", CaseRole::exact, act, cache_shape);
    builder.tensor(k).untouched_rows = pool.others;
    builder.tensor(v).untouched_rows = pool.others;
    const int y = builder.output("y", act, {a.batch, a.tokens, a.width()});
    double pairs = 0, cached = 0;
    for (std::int64_t b = 0; b < a.batch; ++b) {
      const double position = a.at[static_cast<std::size_t>(b) % a.at.size()];
      const auto tokens = static_cast<double>(a.tokens);
      pairs += tokens * position + tokens * (tokens + 1) / 2;
      cached += position + tokens;
    }
    const auto width = static_cast<double>(a.width());
    const double rows = static_cast<double>(a.batch * a.tokens);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          const AttentionArgs args{.qkv = t[qkv],
                                   .heads = a.heads,
                                   .slots = t[slots],
                                   .positions = t[positions],
                                   .cache = {t[k], t[v]},
                                   .y = t[y]};
          if (step) {
            encoder.attention_step(args);
          } else {
            encoder.attention(args);
          }
        },
        4 * pairs * width, (2 * cached + 6 * rows) * width * dtype_size_bytes(act));
  });
}

}  // namespace

void add_attention_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) {
    add_rotary(list, {1, 1024, 32, 80, {0}}, 64);
    add_attention(list, {1, 1024, 12, 64, {0}, 2048}, false);
    add_attention(list, {1, 1, 12, 64, {1023}, 2048}, true);
    add_attention(list, {64, 1, 12, 64, {1023}, 1024}, true);
    return;
  }
  add_rotary(list, {3, 7, 3, 8, {0, 37, 1000}}, 8);
  add_attention(list, {3, 7, 3, 8, {0, 5, 100}}, false);
  add_attention(list, {3, 1, 3, 8, {0, 5, 100}}, true);
  if (set == CaseSet::quick) return;
  add_rotary(list, {1, 1, 1, 2, {0}}, 2);
  add_rotary(list, {1, 65, 2, 12, {3}}, 4);
  add_rotary(list, {3, 1, 5, 7, {1, 129, 4096}}, 6);
  add_rotary(list, {1, 100, 2, 32, {127}}, 16);
  add_rotary(list, {1, 37, 2, 80, {2000}}, 64);

  add_attention(list, {1, 1, 1, 1, {0}}, false);
  add_attention(list, {1, 37, 1, 7, {0}}, false);
  add_attention(list, {1, 65, 2, 32, {0}}, false);
  add_attention(list, {2, 64, 4, 12, {0, 64}}, false);
  add_attention(list, {1, 127, 3, 16, {129}}, false);
  add_attention(list, {3, 100, 2, 24, {0, 7, 1}, 150}, false);
  add_attention(list, {1, 129, 2, 64, {0}}, false);
  add_attention(list, {1, 33, 1, 128, {40}}, false);
  add_attention(list, {1, 17, 2, 80, {1000}}, false);
  add_attention(list, {2, 70, 2, 160, {0, 37}}, false);
  add_attention(list, {1, 3, 1, 64, {20000}}, false);  // lavapipe ends an invocation's loops after 65,535 turns
  add_attention(list, {1, 1, 1, 1, {0}}, true);
  add_attention(list, {1, 1, 1, 7, {36}}, true);
  add_attention(list, {8, 1, 4, 12, {0, 1, 63, 64, 65}}, true);
  add_attention(list, {1, 1, 2, 64, {1133}}, true);
  add_attention(list, {17, 1, 2, 16, {0, 127, 128, 129}}, true);
  add_attention(list, {2, 1, 3, 80, {256, 0}, 300}, true);
  add_attention(list, {1, 1, 1, 128, {500}}, true);
  add_attention(list, {2, 1, 2, 160, {0, 300}}, true);
  add_attention(list, {1, 1, 1, 8, {100000}}, true);
}

}  // namespace riverhorse::op_cases_detail
