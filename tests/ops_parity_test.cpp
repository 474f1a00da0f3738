// The case table: every case on every device against the cpu, and on the cpu against direct sums in double
// (direct_device.h), which share no code with it. Operations of training, which those sums lack, are held to finite
// differences of their forward passes instead.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "backend/op_cases.h"
#include "backend/op_cases_shapes.h"
#include "direct_device.h"
#include "ops_devices.h"

namespace riverhorse::test {

namespace {

void expect_parity(Device& device, Device& oracle, const OpCase& op_case) {
  const CaseResult result = run_parity(device, oracle, op_case, test_seed);
  if (!result.supported) GTEST_SKIP() << op_case.id() << " on " << device.info().id() << ": " << result.message;
  EXPECT_TRUE(result.passed) << result.message;
}

void expect_gradient(Device& device, const GradientCase& gradient_case) {
  const CaseResult result = run_gradient_check(device, gradient_case, test_seed);
  if (!result.supported) GTEST_SKIP() << gradient_case.op << " on " << device.info().id() << ": " << result.message;
  EXPECT_TRUE(result.passed) << result.message;
  testing::Test::RecordProperty("relative_error", fmt::format("{:.2e}", result.relative_error));
}

bool trains(const OpCase& op_case) {
  return std::find(op_case.needs.begin(), op_case.needs.end(), Feature::training) != op_case.needs.end();
}

}  // namespace

void register_parity_tests() {
  int refused_by_cpu = 0;
  for (const OpCase& op_case : op_cases(CaseSet::full)) {
    for (const TestDevice& device : test_devices()) {
      if (device.name == "cpu" && op_case.dtype != DType::f32) {  // the cpu says so itself, see below
        ++refused_by_cpu;
        continue;
      }
      register_for_device(device, op_case.op, op_case.name + "." + std::string(dtype_name(op_case.dtype)),
                          [op_case](Device& opened) { expect_parity(opened, cpu_device(), op_case); });
    }
    if (op_case.dtype != DType::f32 || trains(op_case)) continue;
    register_test(op_case.op, op_case.name + ".direct", [op_case] {
      DirectDevice direct(cpu_device());
      expect_parity(cpu_device(), direct, op_case);
    });
  }
  for (const GradientCase& gradient_case : gradient_cases()) {
    for (const TestDevice& device : test_devices()) {
      register_for_device(device, gradient_case.op, gradient_case.name + ".gradient",
                          [gradient_case](Device& opened) { expect_gradient(opened, gradient_case); });
    }
  }
  std::printf("not run on cpu: %d cases in f16 and bf16\n", refused_by_cpu);
}

TEST(case_table, names_are_unique_and_quick_is_part_of_full) {
  std::set<std::string> names;
  for (const OpCase& op_case : op_cases(CaseSet::full)) {
    EXPECT_TRUE(names.insert(op_case.id()).second) << op_case.id() << " twice";
  }
  for (const OpCase& op_case : op_cases(CaseSet::quick)) EXPECT_TRUE(names.contains(op_case.id())) << op_case.id();
  for (const GradientCase& gradient_case : gradient_cases()) {
    const std::string name = fmt::format("{}.{}", gradient_case.op, gradient_case.name);
    EXPECT_TRUE(names.insert(name).second) << name << " twice";
  }
}

TEST(case_table, covers_every_operation) {
  std::set<std::string> operations;
  for (const OpCase& op_case : op_cases(CaseSet::full)) operations.insert(op_case.op);
  const std::set<std::string> expected = {
      "copy", "advance", "embed", "add_layer_norm", "linear", "out_mlp", "discretize", "h3_step", "h3_block",
      "h3_mixer", "ssm_kernel", "fft_conv", "rotary", "sample", "attention", "attention_step",
      // Of training:
      "zero", "accumulate", "copy_columns", "embed_backward", "residual_norm", "residual_norm_backward",
      "linear_backward", "h3_mixer_backward", "discretize_backward", "ssm_kernel_backward", "fft_conv_backward",
      "attention_backward", "cross_entropy", "grad_norm", "adamw"};
  EXPECT_EQ(operations, expected);
}

// A device that is a little wrong must be found out: run_parity itself is tested on cases with a fault.
TEST(case_table, finds_faults) {
  const auto faulty = [](CaseRole role, const std::function<void(Encoder&, std::span<const Tensor>)>& record) {
    OpCase op_case;
    op_case.op = "copy";
    op_case.name = "faulty";
    op_case.make = [role, record](std::uint64_t) {
      CaseData data;
      for (const char* name : {"in", "out"}) {
        CaseTensor tensor;
        tensor.name = name;
        tensor.role = name == std::string("in") ? CaseRole::input : role;
        tensor.shape = {8};
        tensor.floats = {1, 2, 3, 4, 5, 6, 7, 8};
        data.tensors.push_back(tensor);
      }
      data.record = record;
      data.record_oracle = [](Encoder& encoder, std::span<const Tensor> t) { encoder.copy({t[0], t[1]}); };
      return data;
    };
    return run_parity(cpu_device(), cpu_device(), op_case, test_seed);
  };
  const auto shifted = [](const Tensor& tensor, std::int64_t elements) {
    Tensor moved = tensor;
    moved.offset_bytes += static_cast<std::uint64_t>(4 * elements);
    return moved;
  };
  const CaseResult right = faulty(CaseRole::output, [](Encoder& e, std::span<const Tensor> t) {
    e.copy({t[0], t[1]});
  });
  EXPECT_TRUE(right.passed) << right.message;
  const CaseResult missing = faulty(CaseRole::output, [](Encoder& e, std::span<const Tensor> t) {
    e.copy({t[0].slice(0, 7), t[1].slice(0, 7)});
  });
  EXPECT_FALSE(missing.passed);
  EXPECT_NE(missing.message.find("out[7]"), std::string::npos) << missing.message;
  const CaseResult beyond = faulty(CaseRole::output, [&](Encoder& e, std::span<const Tensor> t) {
    e.copy({t[0], t[1]});
    e.copy({t[0].slice(0, 1), shifted(t[1], 8).slice(0, 1)});
  });
  EXPECT_NE(beyond.message.find("memory next to out"), std::string::npos) << beyond.message;
  const CaseResult input = faulty(CaseRole::output, [](Encoder& e, std::span<const Tensor> t) {
    e.copy({t[0], t[1]});
    e.copy({t[1].slice(0, 1), t[0].slice(1, 1)});
  });
  EXPECT_NE(input.message.find("the input in was changed"), std::string::npos) << input.message;
  EXPECT_NE(input.message.find(std::to_string(test_seed)), std::string::npos) << "the seed is printed";
}

TEST(case_table, unsupported_cases_say_what_is_missing) {
  for (const OpCase& op_case : op_cases(CaseSet::quick)) {
    const std::string reason = why_unsupported(cpu_device(), op_case);
    EXPECT_EQ(op_case.dtype != DType::f32, reason.find("f32 only") != std::string::npos) << op_case.id() << reason;
  }
}

TEST(case_table, shapes_of_ones_choice) {
  const double elements = 2 * 3 * 70;
  const struct {
    MixerPass pass;
    int moved;            // numbers an element
    std::size_t outputs;  // with the state that is carried, and what is left behind; no states of one superchunk
  } passes[] = {{MixerPass::carrying, 4, 3}, {MixerPass::forward, 4, 1}, {MixerPass::keeping, 4, 2},
                {MixerPass::backward, 7, 5}, {MixerPass::step, 11, 6},   {MixerPass::backward_from_states, 7, 5}};
  for (const auto& [pass, moved, outputs] : passes) {
    for (const ConvAlgorithm algorithm : {ConvAlgorithm::chunked, ConvAlgorithm::fft}) {
      const OpCase op_case = mixer_case({2, 3, 70, 8}, pass, algorithm, DType::f32);
      const CaseResult result = run_parity(cpu_device(), cpu_device(), op_case, test_seed);
      EXPECT_TRUE(result.passed) << result.message;
      EXPECT_EQ(result.errors.size(), outputs);
      EXPECT_EQ(op_case.make(1).bytes, 4 * moved * elements) << op_case.id();
      EXPECT_FALSE(parts_of(cpu_device(), op_case).empty());
    }
  }
  for (const bool backward : {false, true}) {
    const CaseResult result =
        run_parity(cpu_device(), cpu_device(), fft_conv_case({2, 3, 70}, backward, DType::f32), test_seed);
    EXPECT_TRUE(result.passed) << result.message;
    EXPECT_EQ(result.errors.size(), backward ? 3u : 1u);
  }
}

TEST(case_table, bench_measures) {
  for (const OpCase& op_case : op_cases(CaseSet::bench)) {
    if (op_case.id() != "add_layer_norm.r1024_d768_add.f32") continue;
    const BenchResult result = run_bench(cpu_device(), op_case);
    EXPECT_GT(result.device_ms, 0);
    EXPECT_GT(result.repetitions, 4);
    EXPECT_DOUBLE_EQ(result.bytes, 4.0 * 768 * (4 * 1024 + 2));
    return;
  }
  FAIL() << "the case is not in the table";
}

}  // namespace riverhorse::test
