// Out projection and MLP in one dispatch, whose workgroups wait for each other: the bits of the three products, at
// every replay, and only where a device is said to let workgroups wait. On lavapipe workgroups run one after the
// other here: it ends an invocation's loops after 65,535 turns in all, and a wait for a thread that the system has
// stopped may take more. The first workgroup then does all the work, each item after those that it needs; that others
// wait is tested on GPUs.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "vulkan/core.h"
#include "vulkan/device_impl.h"
#include "vulkan/frame_recording.h"
#include "vulkan_support.h"

namespace riverhorse::test {
namespace {

constexpr unsigned seed = 20241;

class OutMlpVulkanTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const char* threads = std::getenv("LP_NUM_THREADS")) threads_before_ = threads;
    ::setenv("LP_NUM_THREADS", "1", 1);  // read when lavapipe is opened
    open(true);
  }
  void open(bool may_wait) {
    DeviceOptions options = test_options();
    options.groups_may_wait = may_wait;
    device_ = open_vulkan(options);
    if (device_ == nullptr) GTEST_SKIP() << "no Vulkan device";
    if (!device_->limits().f16_storage) GTEST_SKIP() << "no 16-bit storage";
    // Not known of it that workgroups which have begun make progress.
    if (device_->info().driver.find("SwiftShader") != std::string::npos) GTEST_SKIP() << "workgroups might not wait";
  }
  void TearDown() override {
    if (device_ != nullptr) {
      EXPECT_EQ(device_->validation_messages(), 0u);
    }
    threads_before_ ? ::setenv("LP_NUM_THREADS", threads_before_->c_str(), 1) : ::unsetenv("LP_NUM_THREADS");
  }

  // Whether this device has an out projection and MLP of this width in one dispatch: six rows of it a workgroup at
  // most (out_mlp.cpp, most_teams), and no more workgroups than compute units. Said aloud where not.
  bool joins(std::int64_t width) const {
    const std::uint32_t units = device_->limits().compute_units;
    if (device_->limits().subgroup_size_control && width <= 6 * static_cast<std::int64_t>(units)) return true;
    fmt::print("[  SKIPPED ] width {}: {} compute units, subgroup size {}\n", width, units,
               device_->limits().subgroup_size_control ? "controlled" : "not controlled");
    return false;
  }

  std::vector<float> floats(std::int64_t count, float scale) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& value : values) value = scale * (static_cast<float>(generator_() >> 8) * 0x1p-23f - 1.0f);
    return values;
  }
  Tensor vector(std::int64_t count, float scale) { return put(*device_, DType::f32, {count}, floats(count, scale)); }
  // Halves between 2^-4 and 1, of either sign, times a power of two.
  Tensor halves(Shape shape, int exponent) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(shape.count()));
    for (std::uint16_t& value : values) {
      const auto bits = static_cast<std::uint32_t>(generator_());
      value =
          static_cast<std::uint16_t>((bits & 0x83ffu) | static_cast<std::uint32_t>(11 + bits % 4 + exponent) << 10);
    }
    return put(*device_, DType::f16, shape, values);
  }

  OutMlpArgs make(std::int64_t width, std::int64_t inner) {
    return {halves({1, width}, 0),
            vector(width, 1.0f).reshape({1, width}),
            halves({width, width}, -5),
            vector(width, 0.1f),
            {vector(width, 1.0f), vector(width, 0.1f), 1e-5f},
            halves({inner, width}, -5),
            vector(inner, 0.1f),
            halves({width, inner}, -6),
            vector(width, 0.1f)};
  }

  H3BlockArgs make_block(std::int64_t width, std::int64_t inner, std::int64_t state) {
    const std::int64_t modes = state / 2;
    H3BlockArgs args;
    args.rest = make(width, inner);
    H3StepArgs& step = args.step;
    step.projection = H3Projection{args.rest.residual,
                                   {vector(width, 1.0f), vector(width, 0.1f), 1e-5f},
                                   halves({3 * width, width}, -5),
                                   vector(3 * width, 0.1f)};
    step.filter.a = vector(width * modes * 4, 0.5f).reshape({width, modes, 4});
    step.filter.b = vector(width * modes * 2, 0.5f).reshape({width, modes, 2});
    step.filter.c = vector(width * modes * 2, 0.5f).reshape({width, modes, 2});
    step.filter.d = vector(width, 1.0f);
    step.filter.powers =
        vector(width * modes * H3Filter::power_count * 2, 1.0f).reshape({width, modes, H3Filter::power_count, 2});
    step.filter.toeplitz = vector(width * H3Filter::chunk, 1.0f).reshape({width, H3Filter::chunk});
    step.filter.shift_taps = vector(width * state, 0.3f).reshape({width, state});
    step.slots = put(*device_, DType::i32, {1}, std::vector<std::int32_t>{1});
    step.positions = put(*device_, DType::i32, {3}, std::vector<std::int32_t>{7, 0, 9});
    step.state.shift = vector(3 * width * state, 1.0f).reshape({3, width, state});
    step.state.modes = vector(3 * width * state, 1.0f).reshape({3, width, modes, 2});
    step.y = device_->allocate_tensor(DType::f16, {1, width});
    args.rest.x = step.y;
    return args;
  }

  using Values = std::vector<std::vector<float>>;
  // What becomes of these tensors when `function` is recorded three times in a row, and that submitted four times;
  // they are put back then.
  Values replayed(const std::vector<Tensor>& written, const RecordFunction& function) {
    Values before, after;
    for (const Tensor& tensor : written) before.push_back(fetch<float>(*device_, tensor));
    const std::unique_ptr<Recording> recording = device_->record(
        [&](Encoder& encoder) {
          for (int i = 0; i < 3; ++i) function(encoder);
        },
        {});
    std::uint64_t ticket = 0;
    for (int i = 0; i < 4; ++i) ticket = device_->submit(*recording);
    device_->wait(ticket);
    for (std::size_t i = 0; i < written.size(); ++i) {
      after.push_back(fetch<float>(*device_, written[i]));
      device_->upload(written[i], std::as_bytes(std::span(before[i])));
    }
    return after;
  }
  static void expect_same(const Values& wanted, const Values& got, const std::string& what) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(std::memcmp(wanted[i].data(), got[i].data(), wanted[i].size() * 4), 0)
          << what << ", tensor " << i << ", seed " << seed;
      for (const float value : got[i]) ASSERT_TRUE(std::isfinite(value)) << what << ", tensor " << i;
    }
  }

  static void record_apart(Encoder& encoder, const OutMlpArgs& args) {
    LinearArgs out;
    out.x = args.x;
    out.weight = args.out_weight;
    out.bias = args.out_bias;
    out.accumulate = true;
    out.y = args.residual;
    encoder.linear(out);
    ScratchScope scope(encoder);
    LinearArgs fc1;
    fc1.x = args.residual;
    fc1.norm = args.norm;
    fc1.weight = args.fc1_weight;
    fc1.bias = args.fc1_bias;
    fc1.activation = Activation::gelu_tanh;
    fc1.y = encoder.scratch(DType::f16, {1, args.fc1_weight.shape[0]});
    encoder.linear(fc1);
    LinearArgs fc2;
    fc2.x = fc1.y;
    fc2.weight = args.fc2_weight;
    fc2.bias = args.fc2_bias;
    fc2.accumulate = true;
    fc2.y = args.residual;
    encoder.linear(fc2);
  }

  std::vector<std::string> operations(const RecordFunction& function) {
    RecordOptions options;
    options.op_timestamps = true;
    const std::unique_ptr<Recording> recording = device_->record(function, options);
    device_->wait(device_->submit(*recording));
    std::vector<std::string> names;
    for (const OpTiming& timing : recording->timings()) names.push_back(timing.name);
    return names;
  }

  std::optional<std::string> threads_before_;
  std::mt19937 generator_{seed};
  std::unique_ptr<vulkan::VulkanDevice> device_;
};

TEST_F(OutMlpVulkanTest, IsTheThreeProductsBitForBitAtEveryReplay) {
  const std::int64_t sizes[][2] = {{96, 1032}, {64, 272}, {40, 264}, {768, 3072}};
  for (const auto& [width, inner] : sizes) {
    if (!joins(width)) continue;
    const OutMlpArgs args = make(width, inner);
    EXPECT_EQ(operations([&](Encoder& encoder) { encoder.out_mlp(args); }), std::vector<std::string>{"out_mlp"});
    const Values apart = replayed({args.residual}, [&](Encoder& encoder) { record_apart(encoder, args); });
    const Values joined = replayed({args.residual}, [&](Encoder& encoder) { encoder.out_mlp(args); });
    expect_same(apart, joined, fmt::format("{} x {}", width, inner));
  }
}

TEST_F(OutMlpVulkanTest, WithItsStepIsTheStepAndTheProductsBitForBit) {
  struct Size {
    std::int64_t width, inner, state;
  };
  for (const Size size : {Size{768, 3072, 64}, Size{96, 512, 64}, Size{40, 264, 16}, Size{32, 256, 128}}) {
    if (!joins(size.width)) continue;
    const H3BlockArgs args = make_block(size.width, size.inner, size.state);
    const std::vector<Tensor> written = {args.rest.residual, args.step.state.shift, args.step.state.modes,
                                         args.step.positions};
    EXPECT_EQ(operations([&](Encoder& encoder) { encoder.h3_block(args); }), std::vector<std::string>{"h3_block"});
    const auto next = [&](Encoder& encoder) { encoder.advance({args.step.slots, args.step.positions, 1}); };
    const Values apart = replayed(written, [&](Encoder& encoder) {
      encoder.h3_step(args.step);
      record_apart(encoder, args.rest);
      next(encoder);
    });
    const Values joined = replayed(written, [&](Encoder& encoder) {
      encoder.h3_block(args);
      next(encoder);
    });
    expect_same(apart, joined, fmt::format("{} x {}, {} taps", size.width, size.inner, size.state));
  }
}

TEST_F(OutMlpVulkanTest, SoftwareWaitsOnlyWhenItIsTold) {
  device_ = open_vulkan(test_options());
  if (device_->info().type == DeviceType::software) {
    EXPECT_FALSE(device_->limits().groups_may_wait);
  }
  DeviceOptions options = test_options();
  options.groups_may_wait = true;
  options.minimal_features = true;
  device_ = open_vulkan(options);
  EXPECT_FALSE(device_->limits().groups_may_wait);
}

TEST_F(OutMlpVulkanTest, IsOneDispatchOnlyWhereWorkgroupsMayWait) {
  if (!joins(64)) GTEST_SKIP() << "not on this device";
  const std::vector<std::string> one = {"out_mlp"}, three = {"linear", "linear", "linear"};
  const OutMlpArgs args = make(64, 256);
  EXPECT_EQ(operations([&](Encoder& encoder) { encoder.out_mlp(args); }), one);
  const H3BlockArgs block = make_block(64, 256, 16);
  EXPECT_EQ(operations([&](Encoder& encoder) { encoder.h3_block(block); }), std::vector<std::string>{"h3_block"});
  open(false);
  const OutMlpArgs again = make(64, 256);
  EXPECT_EQ(operations([&](Encoder& encoder) { encoder.out_mlp(again); }), three);
}

// Runs a recording once.
class OneRun final : public FrameSource {
 public:
  explicit OneRun(std::shared_ptr<FrameRecording> recording) : recording_(std::move(recording)) {}
  Next next() override { return {recording_.get(), 0}; }
  FrameRun begin() override { return {std::exchange(recording_, nullptr), {}, {}, {}}; }

 private:
  std::shared_ptr<FrameRecording> recording_;
};

TEST_F(OutMlpVulkanTest, InPiecesOfFramesItIsTheSameBits) {
  const OutMlpArgs args = make(64, 272);
  const std::vector<float> start = fetch<float>(*device_, args.residual);
  device_->run([&](Encoder& encoder) {
    for (int i = 0; i < 4; ++i) record_apart(encoder, args);
  });
  const std::vector<float> apart = fetch<float>(*device_, args.residual);
  device_->upload(args.residual, std::as_bytes(std::span(start)));
  const auto queue = device_->make_frame_queue();
  device_->impl().core->time_scale = 1e6;  // a piece an operation
  const auto pieces = device_->record_for_frames(
      [&](Encoder& encoder) {
        for (int i = 0; i < 4; ++i) encoder.out_mlp(args);
      },
      device_->allocate(1, MemoryUse::device), nullptr);
  EXPECT_EQ(dynamic_cast<const vulkan::VulkanFrameRecording&>(*pieces).pieces(), 4u);
  OneRun once(pieces);
  ASSERT_TRUE(queue->run_here(&once));
  ASSERT_TRUE(queue->poll().has_value());
  const std::vector<float> joined = fetch<float>(*device_, args.residual);
  EXPECT_EQ(std::memcmp(apart.data(), joined.data(), apart.size() * 4), 0);
}

// Tags are counted from 20 before they begin again. Two exchanges of different sizes, in turn, in one recording.
TEST_F(OutMlpVulkanTest, GoesOnWhenTagsBeginAgain) {
  const OutMlpArgs args = make(32, 256), other = make(64, 272);
  const std::vector<Tensor> written = {args.residual, other.residual};
  Values start;
  for (const Tensor& tensor : written) start.push_back(fetch<float>(*device_, tensor));
  const auto apart = device_->record(
      [&](Encoder& encoder) {
        for (int i = 0; i < 7; ++i) record_apart(encoder, args);
        record_apart(encoder, other);
      },
      {});
  const auto joined = device_->record(
      [&](Encoder& encoder) {
        for (int i = 0; i < 7; ++i) encoder.out_mlp(args);
        encoder.out_mlp(other);
      },
      {});
  const auto run = [&](Recording& recording) {
    Values after;
    for (std::size_t i = 0; i < written.size(); ++i) {
      device_->upload(written[i], std::as_bytes(std::span(start[i])));
    }
    device_->wait(device_->submit(recording));
    for (const Tensor& tensor : written) after.push_back(fetch<float>(*device_, tensor));
    return after;
  };
  const Values wanted = run(*apart);
  for (int i = 0; i < 24; ++i) expect_same(wanted, run(*joined), fmt::format("submission {}", i));
}

}  // namespace
}  // namespace riverhorse::test
