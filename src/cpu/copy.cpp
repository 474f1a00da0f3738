#include <algorithm>
#include <cstring>

#include "base/dtype.h"
#include "cpu/cpu_encoder.h"
#include "cpu/quantised.h"

namespace riverhorse::cpu {
namespace {

// One thread alone copies at less than half the rate of the memory.
void copy_bytes(const std::byte* in, std::byte* out, std::uint64_t size_bytes) {
  constexpr std::uint64_t piece_bytes = 256 << 10;
  const auto pieces = static_cast<std::int64_t>((size_bytes + piece_bytes - 1) / piece_bytes);
#pragma omp parallel for if (pieces > 1)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::uint64_t begin = static_cast<std::uint64_t>(piece) * piece_bytes;
    std::memcpy(out + begin, in + begin, std::min(piece_bytes, size_bytes - begin));
  }
}

}  // namespace

void CpuEncoder::record_copy(const CopyArgs& args) {
  if (is_quantised(args.in.dtype)) {
    require_f32("copy", {&args.out});
    add("copy", [args] {
      dequantise(args.in.dtype, host_bytes(args.in), args.in.shape[0], args.in.shape[1], floats(args.out));
    });
    return;
  }
  add("copy", [args] {
    const std::byte* in = host_bytes(args.in);
    std::byte* out = host_bytes(args.out);
    if (args.in.dtype == args.out.dtype) {
      copy_bytes(in, out, args.in.size_bytes());
      return;
    }
    const std::int64_t count = args.in.count();
    if (args.in.dtype == DType::f16) {
      const auto* halves = reinterpret_cast<const std::uint16_t*>(in);
      auto* singles = reinterpret_cast<float*>(out);
#pragma omp parallel for
      for (std::int64_t i = 0; i < count; ++i) singles[i] = f16_to_float(halves[i]);
    } else {
      const auto* singles = reinterpret_cast<const float*>(in);
      auto* halves = reinterpret_cast<std::uint16_t*>(out);
#pragma omp parallel for
      for (std::int64_t i = 0; i < count; ++i) halves[i] = float_to_f16(singles[i]);
    }
  });
}

void CpuEncoder::record_advance(const AdvanceArgs& args) {
  add("advance", [args] {
    check_slots("advance", args.slots, args.positions.count());
    for (std::int64_t sequence = 0; sequence < args.slots.shape[0]; ++sequence) {
      integers(args.positions)[integers(args.slots)[sequence]] += args.tokens;
    }
  });
}

void CpuEncoder::record_zero(const ZeroArgs& args) {
  add("zero", [args] { std::memset(host_bytes(args.tensor), 0, args.tensor.size_bytes()); });
}

void CpuEncoder::record_accumulate(const AccumulateArgs& args) {
  require_f32("accumulate", {&args.in});
  add("accumulate", [args] {
    const std::int64_t count = args.in.count();
#pragma omp parallel for
    for (std::int64_t i = 0; i < count; ++i) floats(args.out)[i] += floats(args.in)[i];
  });
}

void CpuEncoder::record_copy_columns(const CopyColumnsArgs& args) {
  require_f32("copy_columns", {&args.in});
  add("copy_columns", [args] {
    for (std::int64_t row = 0; row < args.in.shape[0]; ++row) {
      std::copy_n(floats(args.in) + row * args.in.shape[1] + args.in_first, args.columns,
                  floats(args.out) + row * args.out.shape[1] + args.out_first);
    }
  });
}

}  // namespace riverhorse::cpu
