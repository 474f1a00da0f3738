// Wrong arguments are refused before a backend sees them, with a message that names operation and tensor; and the
// plumbing of Encoder and Device.
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "cpu/cpu_device.h"
#include "ops_devices.h"

namespace riverhorse::test {

namespace {

Tensor f32(Shape shape) { return cpu_device().allocate_tensor(DType::f32, shape); }
Tensor i32(Shape shape) { return cpu_device().allocate_tensor(DType::i32, shape); }
Tensor f16(Shape shape) { return cpu_device().allocate_tensor(DType::f16, shape); }

// The error's message; empty when there was none.
std::string refusal(const RecordFunction& record, StatusCode code = StatusCode::invalid_argument) {
  try {
    cpu_device().run(record);
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    return error.what();
  }
  return {};
}

// For 8 channels in `heads` heads, and N = 4.
H3Filter small_filter(std::int64_t heads) {
  return {f32({heads, 2, 4}),
          f32({heads, 2, 2}),
          f32({heads, 2, 2}),
          f32({heads}),
          f32({heads, 2, H3Filter::power_count, 2}),
          f32({heads, H3Filter::chunk}),
          f32({8, 4})};
}

#define EXPECT_REFUSED(record, ...)                                                                  \
  do {                                                                                               \
    const std::string message = refusal([&](Encoder& encoder) { record; });                          \
    for (const char* part : {__VA_ARGS__}) {                                                         \
      EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' is not in: " << message; \
    }                                                                                                \
  } while (false)

}  // namespace

TEST(checks, missing_and_mistyped_tensors) {
  EXPECT_REFUSED(encoder.embed({i32({3}), Tensor{}, f32({3, 8})}), "embed", "table is missing");
  EXPECT_REFUSED(encoder.embed({f32({3}), f32({5, 8}), f32({3, 8})}), "embed", "ids is f32, not i32");
  EXPECT_REFUSED(encoder.embed({i32({3}), i32({5, 8}), f32({3, 8})}), "embed", "table is i32");
  EXPECT_REFUSED(encoder.embed({i32({3}), f32({5, 8}), f32({3, 7})}), "residual has shape (3, 7)", "(3, 8)");
  EXPECT_REFUSED(encoder.copy({f32({4}), i32({4})}), "copy", "conversion");
  EXPECT_REFUSED(encoder.copy({f32({4}), f32({5})}), "copy", "differ in count");
}

TEST(checks, quantised_matrices) {
  const auto matrix = [](DType dtype, Shape shape) { return cpu_device().allocate_tensor(dtype, shape); };
  const Tensor q8 = matrix(DType::q8, {5, 64});
  EXPECT_EQ(q8.size_bytes(), 5u * 80);
  EXPECT_EQ(q8.slice(2, 1).offset_bytes, 160u);
  EXPECT_THROW(q8.reshape({10, 32}), Error);
  EXPECT_REFUSED(encoder.embed({i32({3}), matrix(DType::i8, {5, 64}), f32({3, 64})}), "table is i8", "q8 or q4");
  EXPECT_REFUSED(encoder.embed({i32({3}), matrix(DType::q4, {5, 40}), f32({3, 40})}), "table is q4 with rows of 40");
  EXPECT_REFUSED(encoder.copy({f32({5, 64}), q8}), "copy", "conversion");
  EXPECT_REFUSED(encoder.copy({q8, f32({64, 5})}), "copy", "out has shape (64, 5)");
  LinearArgs linear;
  linear.x = f32({3, 64});
  linear.weight = q8;
  linear.y = f32({3, 5});
  linear.pre_activation = f32({3, 5});
  EXPECT_REFUSED(encoder.linear(linear), "linear", "a weight of q8 cannot be trained");
  linear.pre_activation = {};
  linear.y = f16({3, 5});
  EXPECT_REFUSED(encoder.linear(linear), "linear", "y is f16");
  linear.weight.offset_bytes += 8;
  EXPECT_REFUSED(encoder.linear(linear), "weight begins at byte 8");
}

TEST(checks, tensors_beyond_their_buffers) {
  Tensor out = f32({4});
  out.offset_bytes = 4;
  EXPECT_REFUSED(encoder.copy({f32({4}), out}), "out", "exceeds its buffer of 16 bytes");
  out.offset_bytes = 2;
  EXPECT_REFUSED(encoder.copy({f32({4}), out}), "between two elements");
  out.offset_bytes = ~std::uint64_t{0} - 3;  // the end wraps around
  EXPECT_REFUSED(encoder.copy({f32({4}), out}), "exceeds its buffer");
}

TEST(checks, overlap) {
  const Tensor pool = f32({4, 8});
  EXPECT_REFUSED(encoder.copy({pool.slice(0, 2), pool.slice(1, 2)}), "out overlaps in");
  EXPECT_EQ(refusal([&](Encoder& encoder) { encoder.copy({pool.slice(0, 2), pool.slice(2, 2)}); }), "");
  EXPECT_REFUSED(encoder.linear({.x = pool, .norm = {}, .weight = f32({8, 8}), .bias = {}, .y = pool}),
                 "y overlaps x");
}

TEST(checks, linear_combinations) {
  const NormWeights norm{f32({8}), f32({8}), 1e-5f};
  LinearArgs args{
      .x = f32({8, 3}), .x_transposed = true, .norm = norm, .weight = f32({5, 8}), .bias = {}, .y = f32({3, 5})};
  EXPECT_REFUSED(encoder.linear(args), "linear", "norm needs x as (R, K)");
  args = {.x = f32({3, 8}),
          .norm = {},
          .weight = f32({5, 8}),
          .bias = {},
          .accumulate = true,
          .y = f32({5, 3}),
          .y_transposed = true};
  EXPECT_REFUSED(encoder.linear(args), "accumulate needs y as (R, M)");
  args = {.x = f16({3, 8}), .norm = {}, .weight = f32({5, 8}), .bias = {}, .y = f32({3, 5})};
  EXPECT_REFUSED(encoder.linear(args), "x is f16, not f32");
  args = {.x = f32({3, 8}), .norm = {}, .weight = f32({5, 8}), .bias = f32({4}), .y = f32({3, 5})};
  EXPECT_REFUSED(encoder.linear(args), "bias has shape (4); it must be (5)");
}

TEST(checks, a_step_begins_at_qkv_or_at_the_residual_stream) {
  H3StepArgs args;
  args.filter = small_filter(8);
  args.slots = i32({3});
  args.positions = i32({5});
  args.state = {f32({5, 8, 4}), f32({5, 8, 2, 2})};
  args.y = f32({3, 8});
  EXPECT_REFUSED(encoder.h3_step(args), "h3_step", "qkv is missing");
  args.projection = H3Projection{f32({3, 8}), {f32({8}), f32({8}), 1e-5f}, f32({24, 8}), {}};
  EXPECT_EQ(refusal([&](Encoder& encoder) { encoder.h3_step(args); }), "");
  args.qkv = f32({3, 24});
  EXPECT_REFUSED(encoder.h3_step(args), "qkv and projection are both given");
  args.qkv = {};
  args.projection->weight = f32({8, 24});
  EXPECT_REFUSED(encoder.h3_step(args), "projection.weight has shape (8, 24); it must be (24, 8)");
  args.projection->weight = f16({24, 8});
  EXPECT_REFUSED(encoder.h3_step(args), "projection.weight is f16, not f32");
}

TEST(checks, tokens_of_a_mixer_fit_32_bits) {
  H3MixerArgs args;
  args.filter = small_filter(8);
  args.qkv = Tensor{std::make_shared<Buffer>(std::uint64_t{1} << 40), 0, DType::f32, {24, 1 << 15, 1 << 16}};
  EXPECT_REFUSED(encoder.h3_mixer(args), "32768 sequences of 65536 tokens", "at most 2147483647 tokens");
  H3MixerBackwardArgs backward;
  backward.filter = args.filter;
  backward.qkv = args.qkv;
  EXPECT_REFUSED(encoder.h3_mixer_backward(backward), "32768 sequences of 65536 tokens");
}

TEST(checks, entry_states_are_one_a_superchunk) {
  H3MixerArgs args;
  args.filter = small_filter(8);
  args.qkv = f32({24, 2, 1025});
  args.y = f32({8, 2, 1025});
  args.entry_states = f32({8, 2, 2, 4});
  EXPECT_EQ(refusal([&](Encoder& encoder) { encoder.h3_mixer(args); }), "");
  args.entry_states = f32({8, 2, 1, 4});
  EXPECT_REFUSED(encoder.h3_mixer(args), "entry_states has shape (8, 2, 1, 4); it must be (8, 2, 2, 4)");
  args.filter = small_filter(4);
  args.head_dim = 2;
  EXPECT_REFUSED(encoder.h3_mixer(args), "entry_states are kept for head_dim 1 only, not 2");
}

TEST(checks, rotary_and_attention) {
  const Tensor qkv = f32({2, 3, 24}), slots = i32({2}), positions = i32({4});
  EXPECT_REFUSED(encoder.rotary({qkv, 2, 3, slots, positions}), "rotary_dim is 3", "even");
  EXPECT_REFUSED(encoder.rotary({qkv, 2, 6, slots, positions}), "rotary_dim is 6", "head width 4");
  EXPECT_REFUSED(encoder.rotary({qkv, 2, 2, i32({1}), positions}), "slots has shape (1)");
  const AttentionCache cache{f32({4, 9, 8}), f32({4, 9, 8})};
  EXPECT_REFUSED(encoder.attention({qkv, 3, slots, positions, cache, f32({2, 3, 8})}),
                 "does not divide among 3 heads");
  EXPECT_REFUSED(encoder.attention({qkv, 2, slots, positions, {f32({4, 2, 8}), f32({4, 2, 8})}, f32({2, 3, 8})}),
                 "3 tokens at once", "holds 2");
  EXPECT_REFUSED(encoder.attention_step({qkv, 2, slots, positions, cache, f32({2, 3, 8})}), "a step is one token");
}

TEST(checks, the_sum_of_a_gradient_needs_the_gradient) {
  ResidualNormBackwardArgs args;
  args.d_out = f32({3, 8});
  args.residual_out = f32({3, 8});
  args.statistics = f32({3, 2});
  args.norm = {f32({8}), f32({8})};
  args.d_residual = f32({3, 8});
  args.d_weight = f32({8});
  args.d_bias = f32({8});
  args.d_x_sum = f32({8});
  EXPECT_REFUSED(encoder.residual_norm_backward(args), "residual_norm_backward", "d_x_sum", "without the d_x");
  args.d_x = f32({3, 8});
  args.d_x_sum = f32({7});
  EXPECT_REFUSED(encoder.residual_norm_backward(args), "d_x_sum has shape (7)", "(8)");
}

TEST(checks, states_that_the_backward_pass_of_the_mixer_begins_at) {
  H3MixerBackwardArgs args;
  args.filter = {f32({2, 4, 4}),     f32({2, 4, 2}), f32({2, 4, 2}), f32({2}),
                 f32({2, 4, 17, 2}), f32({2, 64}),   f32({2, 8})};
  args.qkv = f32({6, 3, 1500});
  args.d_y = f32({2, 3, 1500});
  args.d_qkv = f32({6, 3, 1500});
  args.d_filter = {f32({2, 4, 2}), f32({2, 4, 2}), f32({2}), f32({2, 8})};
  args.entry_states = f32({2, 3, 1, 8});
  EXPECT_REFUSED(encoder.h3_mixer_backward(args), "entry_states has shape (2, 3, 1, 8)", "(2, 3, 2, 8)");
  args.entry_states = f32({2, 3, 2, 8});
  EXPECT_EQ(refusal([&](Encoder& encoder) { encoder.h3_mixer_backward(args); }), "");
}

TEST(checks, what_lies_in_device_memory_is_checked_on_the_cpu) {
  const Tensor positions = put_integers(cpu_device(), {4}, {0, 8, -1, 0});
  const AttentionCache cache{f32({4, 9, 8}), f32({4, 9, 8})};
  const auto attend = [&](std::int32_t slot) {
    const Tensor slots = put_integers(cpu_device(), {1}, {slot});
    return refusal([&](Encoder& encoder) {
      encoder.attention({f32({1, 2, 24}), 2, slots, positions, cache, f32({1, 2, 8})});
    });
  };
  EXPECT_EQ(attend(0), "");
  EXPECT_NE(attend(4).find("slot 4"), std::string::npos);
  EXPECT_NE(attend(-1).find("slot -1"), std::string::npos);
  EXPECT_NE(attend(1).find("do not fit a cache of 9"), std::string::npos);
  EXPECT_NE(attend(2).find("position -1"), std::string::npos);
}

TEST(checks, cpu_refuses_f16) {
  const std::string message = refusal(
      [&](Encoder& encoder) {
        encoder.embed({i32({3}), f16({5, 8}), f32({3, 8})});
      },
      StatusCode::unsupported);
  EXPECT_NE(message.find("--dtype f32"), std::string::npos) << message;
}

TEST(scratch, scopes_give_back_and_peak_is_kept) {
  std::uint64_t peak = 0;
  cpu_device().run([&](Encoder& encoder) {
    const Tensor first = encoder.scratch(DType::f32, {3});
    EXPECT_EQ(first.offset_bytes, 0u);
    {
      const ScratchScope scope(encoder);
      EXPECT_EQ(encoder.scratch(DType::f16, {129}).offset_bytes, 256u);  // aligned
      EXPECT_EQ(encoder.scratch(DType::f32, {1}).offset_bytes, 768u);
    }
    const Tensor again = encoder.scratch(DType::f32, {1});
    EXPECT_EQ(again.offset_bytes, 256u);
    EXPECT_TRUE(again) << "a scratch tensor is present, also while preparing";
    peak = encoder.scratch_peak_bytes();
  });
  EXPECT_EQ(peak, 1024u);
}

TEST(scratch, a_function_that_changes_its_mind_is_an_error) {
  int call = 0;
  EXPECT_THROW(
      cpu_device().record([&](Encoder& encoder) { encoder.scratch(DType::f32, {call++ == 0 ? 1 : 100}); }, {}),
      Error);
}

TEST(cpu_device, memory_is_counted_and_given_back) {
  const std::unique_ptr<Device> device = open_cpu_device(cpu_device_info(), {});
  Tensor tensor = device->allocate_tensor(DType::f32, {1000});
  EXPECT_EQ(device->memory_usage().used_bytes, 4000u);
  EXPECT_EQ(fetch(*device, tensor), std::vector<float>(1000, 0.0f)) << "zero-filled";
  tensor = {};
  EXPECT_EQ(device->memory_usage().used_bytes, 0u);
  EXPECT_EQ(device->memory_usage().peak_used_bytes, 4000u);
  EXPECT_EQ(device->counters().allocations, 1u);
  try {
    device->allocate(std::uint64_t{1} << 50, MemoryUse::device);
    FAIL() << "2^50 bytes were given";
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(StatusCode::out_of_memory));
    EXPECT_NE(std::string(error.what()).find("MiB"), std::string::npos);
  }
}

TEST(cpu_device, recordings_belong_to_their_device) {
  const std::unique_ptr<Device> other = open_cpu_device(cpu_device_info(), {});
  const std::unique_ptr<Recording> recording = other->record([](Encoder&) {}, {});
  EXPECT_THROW(cpu_device().submit(*recording), Error);
  EXPECT_THROW(cpu_device().upload(f32({2}), std::vector<std::byte>(7)), Error);
}

TEST(cpu_device, op_timestamps_name_the_operations) {
  const Tensor a = f32({100}), b = f32({100});
  const std::unique_ptr<Recording> recording = cpu_device().record(
      [&](Encoder& encoder) {
        encoder.copy({a, b});
        encoder.advance({i32({1}), i32({1}), 1});
      },
      {.timestamps = true, .op_timestamps = true});
  EXPECT_TRUE(recording->timings().empty());
  cpu_device().wait(cpu_device().submit(*recording));
  ASSERT_EQ(recording->timings().size(), 2u);
  EXPECT_EQ(recording->timings()[0].name, "copy");
  EXPECT_EQ(recording->timings()[1].name, "advance");
}

}  // namespace riverhorse::test
