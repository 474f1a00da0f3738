// Cases of sample. Everything is compared exactly: the token must be the one that the definition draws.
#include <bit>
#include <cstring>
#include <limits>

#include "backend/op_cases_build.h"

namespace riverhorse::op_cases_detail {

namespace {

struct SampleShape {
  std::string name;
  std::int64_t batch, vocabulary;
  SamplerRow row;
  bool counts = false, bias = false;
  std::int64_t history = 0;  // capacity
  bool ties = false;         // many equal logits
};

void add(CaseList& list, const SampleShape& s) {
  add_case(list, "sample", fmt::format("b{}_v{}_{}", s.batch, s.vocabulary, s.name), {DType::f32},
           [s](CaseBuilder& builder) {
             Random& random = builder.random();
             const SlotPool pool = make_pool(s.batch, {0}, random);
             const int logits = builder.normal("logits", CaseRole::input, DType::f32, {s.batch, s.vocabulary}, 2.0);
             if (s.ties) {
               for (float& value : builder.tensor(logits).floats) value = static_cast<float>(random.below(3));
             }
             const int slots = builder.integers("slots", CaseRole::input, {s.batch}, pool.slots);
             std::vector<std::int32_t> rows;
             for (std::int64_t slot = 0; slot < pool.count; ++slot) {
               SamplerRow row = s.row;
               row.seed_low = static_cast<std::uint32_t>(random.bits());
               row.seed_high = static_cast<std::uint32_t>(random.bits());
               row.draws = static_cast<std::uint32_t>(random.below(1000));
               const auto words = std::bit_cast<std::array<std::int32_t, 16>>(row);
               rows.insert(rows.end(), words.begin(), words.end());
             }
             const int sampler = builder.integers("sampler", CaseRole::exact, {pool.count, 16}, rows);
             builder.tensor(sampler).untouched_rows = pool.others;
             int counts = -1, bias = -1, history = -1;
             if (s.counts) {
               std::vector<std::int32_t> seen(static_cast<std::size_t>(pool.count * s.vocabulary));
               for (std::int32_t& count : seen) count = random.below(4) == 0 ? 1 + random.below(5) : 0;
               counts = builder.integers("counts", CaseRole::exact, {pool.count, s.vocabulary}, seen);
               builder.tensor(counts).untouched_rows = pool.others;
             }
             if (s.bias) {
               bias = builder.normal("bias", CaseRole::input, DType::f32, {pool.count, s.vocabulary});
               for (float& value : builder.tensor(bias).floats) {  // some tokens are forbidden
                 if (random.below(10) == 0) value = -std::numeric_limits<float>::infinity();
               }
             }
             if (s.history > 0) {
               const std::vector<std::int32_t> past(static_cast<std::size_t>(pool.count * s.history), -1);
               history = builder.integers("history", CaseRole::exact, {pool.count, s.history}, past);
               builder.tensor(history).untouched_rows = pool.others;
             }
             const int tokens = builder.output("tokens", DType::i32, {s.batch});
             return builder.done(
                 [=](Encoder& encoder, std::span<const Tensor> t) {
                   encoder.sample({.logits = t[logits],
                                   .slots = t[slots],
                                   .sampler = t[sampler],
                                   .counts = counts >= 0 ? t[counts] : Tensor{},
                                   .bias = bias >= 0 ? t[bias] : Tensor{},
                                   .tokens = t[tokens],
                                   .history = history >= 0 ? t[history] : Tensor{}});
                 },
                 0);
           });
}

}  // namespace

void add_sample_cases(CaseList& list, CaseSet set) {
  const SamplerRow greedy;
  const SamplerRow warm{.temperature = 0.9f};
  SamplerRow everything{.temperature = 0.8f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f};
  everything.repetition_penalty = 1.2f;
  everything.presence_penalty = 0.1f;
  everything.frequency_penalty = 0.05f;
  if (set == CaseSet::bench) {
    for (const std::int64_t batch : {1, 64}) {
      add(list, {"greedy", batch, 50264, greedy});
      add(list, {"all", batch, 50264, everything, true, true, 64});
    }
    return;
  }
  add(list, {"greedy_ties", 3, 129, greedy, false, false, 0, true});
  add(list, {"all", 3, 129, everything, true, true, 7});
  if (set == CaseSet::quick) return;
  SamplerRow limited = greedy;
  limited.vocab_limit = 100;
  SamplerRow warm_limited = warm;
  warm_limited.vocab_limit = 100;
  add(list, {"greedy", 1, 1, greedy});
  add(list, {"greedy", 8, 1134, greedy, false, false, 4});
  add(list, {"greedy_limit", 3, 129, limited});
  add(list, {"greedy_penalties", 3, 1134, {.repetition_penalty = 2.0f, .presence_penalty = 1.0f}, true});
  add(list, {"greedy", 1, 50264, greedy});
  add(list, {"greedy_ties", 1, 50264, greedy, false, false, 0, true});
  add(list, {"greedy_limit", 3, 50264, limited, true, true, 3});
  add(list, {"warm", 17, 7, warm, true});
  add(list, {"warm", 8, 1134, warm});
  add(list, {"warm_limit", 8, 127, warm_limited});
  add(list, {"warm", 3, 50264, warm, false, false, 3});
  add(list, {"hot", 3, 509, {.temperature = 5.0f}});
  add(list, {"cold", 3, 509, {.temperature = 0.01f}});
  add(list, {"topk1", 3, 129, {.temperature = 1.0f, .top_k = 1}});
  add(list, {"topk5_ties", 8, 129, {.temperature = 1.0f, .top_k = 5}, false, false, 0, true});
  add(list, {"topk50", 3, 50264, {.temperature = 1.0f, .top_k = 50}});
  add(list, {"topk_all", 3, 37, {.temperature = 1.0f, .top_k = 1000}});
  add(list, {"topp90", 8, 1134, {.temperature = 1.0f, .top_p = 0.9f}});
  add(list, {"topp10_ties", 8, 129, {.temperature = 1.0f, .top_p = 0.1f}, false, false, 0, true});
  add(list, {"topp0", 3, 129, {.temperature = 1.0f, .top_p = 0.0f}});
  add(list, {"minp10", 8, 1134, {.temperature = 1.0f, .min_p = 0.1f}});
  add(list, {"minp1_ties", 3, 129, {.temperature = 1.0f, .min_p = 1.0f}, false, false, 0, true});
  add(list, {"bias", 8, 127, warm, false, true});
  add(list, {"all", 8, 1134, everything, true, true, 16});
  add(list, {"all", 2, 50264, everything, true, true, 5});
}

}  // namespace riverhorse::op_cases_detail
