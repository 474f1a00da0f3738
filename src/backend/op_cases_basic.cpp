// Cases of copy, advance, embed and add_layer_norm.
#include "backend/op_cases_build.h"
#include "base/quantised.h"

namespace riverhorse::op_cases_detail {

namespace {

void add_copy_cases(CaseList& list, CaseSet set) {
  const auto add = [&](const std::string& name, const std::vector<DType>& dtypes, std::int64_t count, bool from_f32) {
    add_case(list, "copy", name, dtypes, [count, from_f32](CaseBuilder& builder) {
      const int in = builder.normal("in", CaseRole::input, from_f32 ? DType::f32 : builder.activation(), {count});
      const int out = builder.output("out", builder.activation(), {count});
      return builder.done([=](Encoder& encoder, std::span<const Tensor> t) { encoder.copy({t[in], t[out]}); }, 0);
    });
  };
  if (set == CaseSet::bench) {
    add("32mib_elements", activation_dtypes, std::int64_t{32} << 20, false);
    return;
  }
  for (const std::int64_t count : {1, 7, 37, 1134, 100003}) {
    if (set == CaseSet::quick && count != 1134) continue;
    add(fmt::format("n{}", count), activation_dtypes, count, false);
    add(fmt::format("n{}_from_f32", count), half_dtypes, count, true);
  }
  add_case(list, "copy", "to_f32", half_dtypes, [](CaseBuilder& builder) {
    const int in = builder.normal("in", CaseRole::input, builder.activation(), {3, 127});
    const int out = builder.output("out", DType::f32, {381});
    return builder.done([=](Encoder& encoder, std::span<const Tensor> t) { encoder.copy({t[in], t[out]}); }, 0);
  });
  for (const DType weights : quantised_dtypes) {
    const std::string name = fmt::format("dequantise{}", weight_suffix(weights));
    const auto make = [weights](CaseBuilder& builder) {
      const int in = builder.normal("in", CaseRole::input, weights, {37, 288});
      const int out = builder.output("out", builder.activation(), {37, 288});
      return builder.done([=](Encoder& encoder, std::span<const Tensor> t) { encoder.copy({t[in], t[out]}); }, 0);
    };
    if (set == CaseSet::full) add_case(list, "copy", name, activation_dtypes, make, weight_needs(weights));
  }
  // One slot of a pool to another: both views begin at odd places of one buffer.
  add_case(list, "copy", "slot_to_slot", activation_dtypes, [](CaseBuilder& builder) {
    const int pool = builder.normal("pool", CaseRole::updated, builder.activation(), {5, 7, 38});
    builder.tensor(pool).untouched_rows = {0, 2, 3, 4};
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.copy({t[pool].slice(3, 1), t[pool].slice(1, 1)});
        },
        0);
  });
  add_case(list, "copy", "integers", {DType::f32}, [](CaseBuilder& builder) {
    std::vector<std::int32_t> values(129);
    for (std::int32_t& value : values) value = static_cast<std::int32_t>(builder.random().bits());
    const int in = builder.integers("in", CaseRole::input, {129}, values);
    const int out = builder.output("out", DType::i32, {129});
    return builder.done([=](Encoder& encoder, std::span<const Tensor> t) { encoder.copy({t[in], t[out]}); }, 0);
  });
}

void add_advance_cases(CaseList& list, CaseSet set) {
  if (set == CaseSet::bench) return;
  for (const std::int64_t batch : {1, 3, 64}) {
    add_case(list, "advance", fmt::format("b{}", batch), {DType::f32}, [batch](CaseBuilder& builder) {
      const SlotPool pool = make_pool(batch, {0, 5, 1000003}, builder.random());
      const int slots = builder.integers("slots", CaseRole::input, {batch}, pool.slots);
      const int positions = builder.integers("positions", CaseRole::exact, {pool.count}, pool.positions);
      builder.tensor(positions).untouched_rows = pool.others;
      return builder.done(
          [=](Encoder& encoder, std::span<const Tensor> t) {
            encoder.advance({t[slots], t[positions], 37});
          },
          0);
    });
  }
}

void add_embed_case(CaseList& list, std::int64_t rows, std::int64_t vocabulary, std::int64_t width,
                    std::optional<DType> weights = {}) {
  const auto make = [=](CaseBuilder& builder) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(rows));
    for (std::int32_t& id : ids) id = builder.random().below(static_cast<std::int32_t>(vocabulary));
    if (rows > 2) {  // ids outside give zeros
      ids[1] = -1;
      ids[2] = static_cast<std::int32_t>(vocabulary);
    }
    ids.back() = static_cast<std::int32_t>(vocabulary - 1);
    const DType dtype = weights.value_or(builder.activation());
    const int id = builder.integers("ids", CaseRole::input, {rows}, ids);
    const int table = builder.normal("table", CaseRole::input, dtype, {vocabulary, width});
    const int residual = builder.output("residual", DType::f32, {rows, width});
    const double bytes = static_cast<double>(rows * (row_size_bytes(dtype, width) + 4 * width));
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.embed({t[id], t[table], t[residual]});
        },
        0, bytes);
  };
  add_case(list, "embed", fmt::format("r{}_v{}_d{}{}", rows, vocabulary, width, weight_suffix(weights)),
           weights ? std::vector{DType::f32} : activation_dtypes, make, weight_needs(weights));
}

void add_layer_norm_case(CaseList& list, std::int64_t rows, std::int64_t width, bool with_x, double mean) {
  const std::string name = fmt::format("r{}_d{}{}{}", rows, width, with_x ? "_add" : "", mean != 0 ? "_offset" : "");
  add_case(list, "add_layer_norm", name, activation_dtypes, [=](CaseBuilder& builder) {
    const Shape shape = {rows, width};
    const int x = with_x ? builder.normal("x", CaseRole::input, builder.activation(), shape) : -1;
    const int residual =
        builder.normal("residual", with_x ? CaseRole::updated : CaseRole::input, DType::f32, shape, 2.0, mean);
    const int weight = builder.normal("norm.weight", CaseRole::input, DType::f32, {width}, 0.3, 1.0);
    const int bias = builder.normal("norm.bias", CaseRole::input, DType::f32, {width}, 0.3);
    const int out = builder.output("out", builder.activation(), shape);
    return builder.done(
        [=](Encoder& encoder, std::span<const Tensor> t) {
          encoder.add_layer_norm({.x = with_x ? t[x] : Tensor{},
                                  .residual = t[residual],
                                  .norm = {t[weight], t[bias], 1e-5f},
                                  .out = t[out]});
        },
        static_cast<double>(8 * rows * width));
  });
}

}  // namespace

void add_basic_cases(CaseList& list, CaseSet set) {
  add_copy_cases(list, set);
  add_advance_cases(list, set);
  if (set == CaseSet::bench) {
    add_embed_case(list, 1024, 50264, 768);
    add_layer_norm_case(list, 1, 768, true, 0);
    add_layer_norm_case(list, 1024, 768, true, 0);
    add_layer_norm_case(list, 65536, 768, true, 0);
    return;
  }
  add_embed_case(list, 8, 37, 129);
  add_layer_norm_case(list, 3, 129, true, 0);
  if (set == CaseSet::quick) return;
  add_embed_case(list, 1, 7, 1);
  add_embed_case(list, 3, 509, 7);
  add_embed_case(list, 127, 129, 1134);
  add_embed_case(list, 37, 129, 128);
  for (const DType weights : quantised_dtypes) {
    add_embed_case(list, 37, 129, 160, weights);
    add_embed_case(list, 1, 1, 32, weights);
    add_embed_case(list, 8, 37, 1152, weights);
  }
  add_layer_norm_case(list, 1, 1, true, 0);
  add_layer_norm_case(list, 2, 7, false, 0);
  add_layer_norm_case(list, 8, 37, true, 0);
  add_layer_norm_case(list, 100, 127, false, 0);
  add_layer_norm_case(list, 17, 1134, true, 0);
  add_layer_norm_case(list, 1, 2560, true, 0);
  add_layer_norm_case(list, 1000, 8, true, 0);
  add_layer_norm_case(list, 5, 768, true, 30.0);  // a large mean: variance must not be a difference of large sums
}

}  // namespace riverhorse::op_cases_detail
