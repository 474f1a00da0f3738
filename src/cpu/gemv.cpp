// A token read on the cpu is as fast as its matrices come from memory, if nothing else takes longer: a quantised
// weight is half a byte or a byte, so unpacking it may take a quarter of a turn of the processor, no more.
//
//   f32  one sum a vector and output
//   q8   bytes widened to floats; a block of 32 has sums of its own, added to the output's times the block's scale:
//        scales cost one operation a block, and nothing is summed across a vector before the end of a row
//   q4   as floats, four bits take three operations for 16 weights and the blocks' scales some more: 40 for 128
//        weights. As bytes, a vector of 64 is multiplied at once and summed in pairs (pmaddubsw) or fours
//        (AVX512-VNNI). So x becomes fixed point first, three digits of 8 bits with a scale for every block of 32:
//        its error is below 2^-23 of the block's largest value, about what a sum of floats has too (two digits would
//        miss the tolerances: 2^-16 of the largest is 2e-5 of what is usual). The sums of a block are exact integers
//        that become a float once, which is added to the output's times both scales: 22 operations, 16 with VNNI, for
//        128 weights. In bits, 0 to 15 stand for -8 to 7: sums of integers begin with -8 times what x sums up to, so
//        that nothing is rounded for it. One core of an EPYC (Zen 4), turns of its 2.6 GHz clock for 64 bytes of rows
//        of 3072 from its L2: 14.5 as floats, 9.9, and 7.6 with VNNI; rows of 768: 15.1, 10.5, 8.4.
//
// Outputs of distant parts of the matrix are made at once, as many as there are registers for sums. Their sums do not
// wait for each other; and several streams come from memory faster than one does, since what a core fetches ahead of
// one stream ends with the page (one core, f32, rows of 12 KiB: 10 GB/s with one stream, 15 with four). Where there
// is work to do between two loads, a core fetches too little ahead by itself: quantised rows are asked for some lines
// before their turn (one core of an EPYC, q8: 14 GB/s without, 19 with; asking for the lines of scales too was slower
// each time, q4 15 GB/s instead of 17).
//
// A weight that was unpacked meets all vectors before the next one is. Scales are widened sixteen and more at a time.
// This file is compiled once for each set of instructions (Highway's foreach_target); the best one is taken at run
// time.
#include "cpu/gemv.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "base/quantised.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemv.cpp"
#include <hwy/foreach_target.h>
//
#include <hwy/cache_control.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace riverhorse::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 floats: half a block.
using Floats = hn::CappedTag<float, 16>;
using Vector = hn::Vec<Floats>;

// A sum of every vector for every output that is made at once.
template <int rows, int streams>
using Sums = Vector[streams][rows];

template <int rows, int streams>
HWY_INLINE void clear(Sums<rows, streams>& sums) {
  for (int stream = 0; stream < streams; ++stream) {
    for (int row = 0; row < rows; ++row) sums[stream][row] = hn::Zero(Floats());
  }
}

template <int rows, int streams>
HWY_INLINE void write(const Gemv& product, std::int64_t output, std::int64_t apart, const Sums<rows, streams>& sums) {
  for (int stream = 0; stream < streams; ++stream) {
    for (int row = 0; row < rows; ++row) {
      product.y[row * product.row_stride + (output + stream * apart) * product.output_stride] =
          hn::GetLane(hn::SumOfLanes(Floats(), sums[stream][row]));
    }
  }
}

// The first `count` elements, fewer than a vector has, then zeros. (Masked loads read whole, aligned vectors where
// the instructions know no masks.)
HWY_INLINE Vector load_some(const float* values, std::int64_t count) {
  alignas(64) float padded[16] = {};
  std::copy_n(values, count, padded);
  return hn::Load(Floats(), padded);
}

// A kernel makes of x what it needs, once for all outputs of a thread: here nothing.
struct Unchanged {
  explicit Unchanged(const Gemv&) {}
};

// Outputs `output`, `output` + `apart`, ...: as many as there are streams.
template <int rows, int streams>
struct F32 {
  using X = Unchanged;
  static HWY_INLINE void multiply(const Gemv& product, const Unchanged&, std::int64_t output, std::int64_t apart) {
    const Floats d;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    const float* weights = reinterpret_cast<const float*>(product.matrix) + output * product.inputs;
    const std::int64_t stride = apart * product.inputs;
    Sums<rows, streams> sums;
    clear<rows, streams>(sums);
    std::int64_t i = 0;
    for (; i + lanes <= product.inputs; i += lanes) {
      for (int stream = 0; stream < streams; ++stream) {
        const Vector weight = hn::LoadU(d, weights + stream * stride + i);
        for (int row = 0; row < rows; ++row) {
          const Vector x = hn::LoadU(d, product.x + row * product.inputs + i);
          sums[stream][row] = hn::MulAdd(weight, x, sums[stream][row]);
        }
      }
    }
    if (const std::int64_t left = product.inputs - i; left > 0) {
      for (int stream = 0; stream < streams; ++stream) {
        const Vector weight = load_some(weights + stream * stride + i, left);
        for (int row = 0; row < rows; ++row) {
          const Vector x = load_some(product.x + row * product.inputs + i, left);
          sums[stream][row] = hn::MulAdd(weight, x, sums[stream][row]);
        }
      }
    }
    write<rows, streams>(product, output, apart, sums);
  }
};

constexpr std::int64_t cache_line = 64;
constexpr std::int64_t fetched_ahead = 2048;  // bytes, of each stream

// Weights of a block at `quants`: a vector from `offset` of its first half, and one from there of its second.
template <DType dtype>
HWY_INLINE void unpack(const std::uint8_t* quants, std::int64_t offset, Vector& low, Vector& high) {
  const Floats d;
  const hn::RebindToSigned<Floats> integers;
  if constexpr (dtype == DType::q8) {
    const hn::Rebind<std::int8_t, Floats> bytes;
    const auto* values = reinterpret_cast<const std::int8_t*>(quants) + offset;
    low = hn::ConvertTo(d, hn::PromoteTo(integers, hn::LoadU(bytes, values)));
    high = hn::ConvertTo(d, hn::PromoteTo(integers, hn::LoadU(bytes, values + quantised_block / 2)));
  } else {
    const hn::Rebind<std::uint8_t, Floats> bytes;
    const auto pairs = hn::PromoteTo(integers, hn::LoadU(bytes, quants + offset));
    const Vector unit = hn::Set(d, 0x1p23f), sixteenth = hn::Set(d, 0x1p19f), eight = hn::Set(d, 8.0f);
    const auto lower = hn::OrAnd(hn::BitCast(integers, unit), pairs, hn::Set(integers, 0x0f));
    const auto upper = hn::OrAnd(hn::BitCast(integers, sixteenth), pairs, hn::Set(integers, 0xf0));
    low = hn::Sub(hn::BitCast(d, lower), hn::Add(unit, eight));
    high = hn::Sub(hn::BitCast(d, upper), hn::Add(sixteenth, eight));
  }
}

// `to` has room for whole vectors.
HWY_INLINE void widen_scales(const std::byte* from, std::int64_t count, float* to) {
  const Floats d;
  const hn::Rebind<hwy::float16_t, Floats> halves;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  const auto* scales = reinterpret_cast<const hwy::float16_t*>(from);
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(hn::PromoteTo(d, hn::LoadU(halves, scales + i)), d, to + i);
  if (i == count) return;
  if (i > 0) {  // the last ones, some of them again: a copy to fill up would wait for its own stores
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(halves, scales + count - lanes)), d, to + count - lanes);
  } else {
    alignas(32) hwy::float16_t few[16] = {};
    std::memcpy(few, scales, static_cast<std::size_t>(2 * count));
    hn::StoreU(hn::PromoteTo(d, hn::Load(halves, few)), d, to);
  }
}

template <DType dtype>
struct Quantised {
  template <int rows, int streams>
  struct Kernel {
    using X = Unchanged;
    static HWY_INLINE void multiply(const Gemv& product, const Unchanged&, std::int64_t output, std::int64_t apart) {
      constexpr std::int64_t half = quantised_block / 2;
      constexpr std::int64_t blocks_at_once = 64;
      const Floats d;
      const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
      const std::int64_t blocks = product.inputs / quantised_block;
      const std::int64_t row_bytes = row_size_bytes(dtype, product.inputs);
      const std::int64_t block_bytes = quants_size_bytes(dtype, quantised_block);
      const std::int64_t stride = apart * row_bytes;
      const std::byte* quants = product.matrix + output * row_bytes;
      const std::byte* halves = quants + quants_size_bytes(dtype, product.inputs);
      alignas(64) float scales[streams][blocks_at_once];
      Sums<rows, streams> sums;
      clear<rows, streams>(sums);
      for (std::int64_t first = 0; first < blocks; first += blocks_at_once) {
        const std::int64_t count = std::min(blocks_at_once, blocks - first);
        for (int stream = 0; stream < streams; ++stream) {
          widen_scales(halves + stream * stride + 2 * first, count, scales[stream]);
        }
        for (std::int64_t block = 0; block < count; ++block) {
          const auto* packed = reinterpret_cast<const std::uint8_t*>(quants) + (first + block) * block_bytes;
          const float* x = product.x + (first + block) * quantised_block;
          if (block * block_bytes % cache_line == 0) {
            for (int stream = 0; stream < streams; ++stream) hwy::Prefetch(packed + stream * stride + fetched_ahead);
          }
          for (int stream = 0; stream < streams; ++stream) {
            Vector of_block[rows];
            for (int row = 0; row < rows; ++row) of_block[row] = hn::Zero(d);
            for (std::int64_t offset = 0; offset < half; offset += lanes) {
              Vector low, high;
              unpack<dtype>(packed + stream * stride, offset, low, high);
              for (int row = 0; row < rows; ++row) {
                const float* of_row = x + row * product.inputs + offset;
                of_block[row] = hn::MulAdd(low, hn::LoadU(d, of_row), of_block[row]);
                of_block[row] = hn::MulAdd(high, hn::LoadU(d, of_row + half), of_block[row]);
              }
            }
            const Vector scale = hn::Set(d, scales[stream][block]);
            for (int row = 0; row < rows; ++row) {
              sums[stream][row] = hn::MulAdd(of_block[row], scale, sums[stream][row]);
            }
          }
        }
      }
      write<rows, streams>(product, output, apart, sums);
    }
  };
};

#if HWY_TARGET != HWY_SCALAR

// A step multiplies as many blocks as a vector has of packed quants, 1 to 4.
using Quants = hn::CappedTag<std::uint8_t, 64>;
using Digits = hn::RebindToSigned<Quants>;
using Words = hn::RepartitionToWide<Digits>;
using Integers = hn::RepartitionToWide<Words>;
constexpr std::int64_t half_block = quantised_block / 2;
constexpr std::int64_t step_bytes = HWY_MAX_BYTES < 64 ? HWY_MAX_BYTES : 64;
constexpr std::int64_t step_blocks = step_bytes / half_block;
constexpr std::int64_t step_lanes = step_bytes / 4;
constexpr int digit_count = 3;

// x for the blocks of a step, in integers: 2^16 times the first digit, 2^8 times the second, and the third.
struct FixedStep {
  alignas(64) std::uint8_t digits[digit_count][2][step_bytes];  // -128 to 127; of first halves of blocks, of second
  alignas(64) std::int32_t start[step_lanes];                   // -8 times what the digits of a lane sum up to
};

// Rows of x. Digits that fill up a last step are zeros.
struct FixedPoint {
  std::int64_t steps;             // of a row
  std::int64_t stride;            // of scales
  std::vector<FixedStep> digits;  // (rows, steps)
  std::vector<float> scales;      // (rows, stride), of each block

  explicit FixedPoint(const Gemv& product);
};

// Sums of two neighbours' products; quants are at most 15, so none exceeds 16 bits.
HWY_INLINE hn::Vec<Words> multiply_pairs(hn::Vec<Quants> quants, hn::Vec<Digits> digits) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  return hn::Vec<Words>{_mm512_maddubs_epi16(quants.raw, digits.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
  return hn::Vec<Words>{_mm256_maddubs_epi16(quants.raw, digits.raw)};
#elif HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3
  return hn::Vec<Words>{_mm_maddubs_epi16(quants.raw, digits.raw)};
#else
  const Words words;
  const auto q = hn::BitCast(words, quants), x = hn::BitCast(words, digits);
  const auto even = hn::Mul(hn::And(q, hn::Set(words, 0xff)), hn::ShiftRight<8>(hn::ShiftLeft<8>(x)));
  return hn::Add(even, hn::Mul(hn::ShiftRight<8>(q), hn::ShiftRight<8>(x)));
#endif
}

// `factor` times the sums of two neighbours.
HWY_INLINE hn::Vec<Integers> widen_pairs(hn::Vec<Words> words, hn::Vec<Words> factor) {
  const Integers d;
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_SSSE3
  hn::Vec<Integers> unused = hn::Zero(d);
  return hn::ReorderWidenMulAccumulate(d, words, factor, hn::Zero(d), unused);
#else
  const auto pairs = hn::BitCast(d, words);
  const auto sums = hn::Add(hn::ShiftRight<16>(hn::ShiftLeft<16>(pairs)), hn::ShiftRight<16>(pairs));
  return hn::Mul(sums, hn::ShiftRight<16>(hn::BitCast(d, factor)));
#endif
}

// Sums of four neighbours' products, added to `sum`: one instruction of AVX512-VNNI, which Highway 1.0.3 has no name
// for.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
HWY_INLINE hn::Vec<Integers> add_quads(hn::Vec<Integers> sum, hn::Vec<Quants> quants, hn::Vec<Digits> digits) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(quants.raw), "vm"(digits.raw));
  return sum;
}
#endif

struct StepConstants {  // held in registers
  hn::Vec<Quants> low_half;
  hn::Vec<Words> one, page;
};
HWY_INLINE StepConstants step_constants() {
  return {hn::Set(Quants(), std::uint8_t{15}), hn::Set(Words(), 1), hn::Set(Words(), 256)};
}

// Four lanes for each block. Below 2^30 whatever the digits are, and sums in between that are not wrap back.
template <bool vnni>
HWY_INLINE hn::Vec<Integers> multiply_step(hn::Vec<Quants> packed, const FixedStep& x,
                                           const StepConstants& constants) {
  const Integers d;
  const auto first = hn::And(packed, constants.low_half);
  const auto shifted = hn::BitCast(Quants(), hn::ShiftRight<4>(hn::BitCast(Words(), packed)));
  const auto second = hn::And(shifted, constants.low_half);
  const auto digits = [&](int digit, int half)
                          HWY_ATTR { return hn::BitCast(Digits(), hn::Load(Quants(), x.digits[digit][half])); };
  const auto start = hn::Load(d, x.start);
  if constexpr (vnni) {
    const auto sum = [&](int digit, hn::Vec<Integers> sum) HWY_ATTR {
      return add_quads(add_quads(sum, first, digits(digit, 0)), second, digits(digit, 1));
    };
    const auto upper = hn::Add(hn::ShiftLeft<8>(sum(0, hn::Zero(d))), sum(1, hn::Zero(d)));
    return hn::Add(hn::ShiftLeft<8>(upper), sum(2, start));
  } else {
    const auto sum = [&](int digit) HWY_ATTR {
      return hn::Add(multiply_pairs(first, digits(digit, 0)), multiply_pairs(second, digits(digit, 1)));
    };
    const auto upper = hn::Add(widen_pairs(sum(0), constants.page), widen_pairs(sum(1), constants.one));
    return hn::Add(hn::ShiftLeft<8>(upper), hn::Add(widen_pairs(sum(2), constants.one), start));
  }
}

FixedPoint::FixedPoint(const Gemv& product)
    : steps((product.inputs / quantised_block + step_blocks - 1) / step_blocks),
      stride(std::max(product.inputs / quantised_block, step_lanes)),
      digits(static_cast<std::size_t>(product.rows * steps)),
      scales(static_cast<std::size_t>(product.rows * stride)) {
  constexpr float most = 127 << 16;
  const std::int64_t blocks = product.inputs / quantised_block;
  const float* x = product.x;
  const Floats d;
  const hn::RebindToSigned<Floats> signs;
  const hn::RebindToUnsigned<Floats> integers;
  const hn::Rebind<std::uint8_t, Floats> bytes;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (std::int64_t row = 0; row < product.rows; ++row) {
    FixedStep* of_row = digits.data() + row * steps;
    for (std::int64_t block = 0; block < blocks; ++block, x += quantised_block) {
      auto bits = hn::Zero(signs);  // of the largest: as an integer what is no number is above all that is one
      for (std::int64_t i = 0; i < quantised_block; i += lanes) {
        bits = hn::Max(bits, hn::BitCast(signs, hn::Abs(hn::LoadU(d, x + i))));
      }
      const float largest = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(signs, bits)));
      float& scale = scales[static_cast<std::size_t>(row * stride + block)];
      if (!(largest <= std::numeric_limits<float>::max())) {
        scale = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      const float inverse = most / std::max(largest, 0x1p-100f);
      scale = 1 / inverse;
      FixedStep& step = of_row[block / step_blocks];
      for (std::int64_t i = 0; i < quantised_block; i += lanes) {
        // Digits are the bytes of x + 128 (2^16 + 2^8 + 1), less 128 each.
        const auto fixed = hn::NearestInt(hn::Mul(hn::LoadU(d, x + i), hn::Set(d, inverse)));
        auto rest = hn::Add(hn::BitCast(integers, fixed), hn::Set(integers, 0x808080u));
        for (int digit = digit_count - 1; digit >= 0; --digit) {
          const auto lowest = hn::U8FromU32(hn::And(rest, hn::Set(integers, 0xffu)));
          std::uint8_t* to = step.digits[digit][i / half_block] + block % step_blocks * half_block + i % half_block;
          hn::StoreU(hn::Xor(lowest, hn::Set(bytes, std::uint8_t{0x80})), bytes, to);
          rest = hn::ShiftRight<8>(rest);
        }
      }
    }
    const auto eights = hn::Set(Quants(), std::uint8_t{0x88});
    for (std::int64_t step = 0; step < steps; ++step) {
      hn::Store(hn::Neg(multiply_step<false>(eights, of_row[step], step_constants())), Integers(),
                of_row[step].start);
    }
  }
}

// Of fewer blocks than a step has; zeros behind them.
HWY_NOINLINE hn::Vec<Quants> load_last_quants(const std::uint8_t* packed, std::int64_t blocks) {
  alignas(64) std::uint8_t few[step_bytes] = {};
  std::memcpy(few, packed, static_cast<std::size_t>(blocks * half_block));
  return hn::Load(Quants(), few);
}

// Fewer scales than a vector has; zeros behind them.
HWY_NOINLINE Vector load_few_scales(const std::byte* halves, std::int64_t count) {
  alignas(32) hwy::float16_t few[step_lanes] = {};
  std::memcpy(few, halves, static_cast<std::size_t>(2 * count));
  return hn::PromoteTo(Floats(), hn::Load(hn::Rebind<hwy::float16_t, Floats>(), few));
}

template <bool vnni>
struct Q4 {
  template <int rows, int streams>
  struct Kernel {
    using X = FixedPoint;
    static HWY_INLINE void multiply(const Gemv& product, const FixedPoint& x, std::int64_t output,
                                    std::int64_t apart) {
      const Floats d;
      const hn::RebindToSigned<Floats> indices;
      const hn::Rebind<hwy::float16_t, Floats> half_floats;
      const StepConstants constants = step_constants();
      const std::int64_t blocks = product.inputs / quantised_block;
      const std::int64_t row_bytes = row_size_bytes(DType::q4, product.inputs);
      const std::int64_t stride = apart * row_bytes;
      const auto* packed = reinterpret_cast<const std::uint8_t*>(product.matrix) + output * row_bytes;
      const std::uint8_t* halves = packed + quants_size_bytes(DType::q4, product.inputs);
      const FixedStep* step = x.digits.data();
      Sums<rows, streams> sums, scales;
      clear<rows, streams>(sums);
      auto block_of_lane = hn::Zero(indices);
      const auto next_blocks = hn::Set(indices, step_blocks);
      const auto add_step = [&](int stream, hn::Vec<Quants> quants) HWY_ATTR {
        for (int row = 0; row < rows; ++row) {
          const Vector of_step = hn::ConvertTo(d, multiply_step<vnni>(quants, step[row * x.steps], constants));
          const Vector scale = hn::TableLookupLanes(scales[stream][row], hn::IndicesFromVec(d, block_of_lane));
          sums[stream][row] = hn::MulAdd(of_step, scale, sums[stream][row]);
        }
      };
      // The scales of four steps fill a vector; those of the last ones are loaded with some before them.
      for (std::int64_t begin = 0; begin < blocks; begin += step_lanes) {
        const std::int64_t loaded = std::max<std::int64_t>(0, std::min(begin, blocks - step_lanes));
        for (int stream = 0; stream < streams; ++stream) {
          const std::uint8_t* from = halves + stream * stride + 2 * loaded;
          const Vector of_weights =
              HWY_LIKELY(blocks >= step_lanes)
                  ? hn::PromoteTo(d, hn::LoadU(half_floats, reinterpret_cast<const hwy::float16_t*>(from)))
                  : load_few_scales(reinterpret_cast<const std::byte*>(from), blocks);
          for (int row = 0; row < rows; ++row) {
            scales[stream][row] = hn::Mul(of_weights, hn::LoadU(d, x.scales.data() + row * x.stride + loaded));
          }
        }
        block_of_lane = hn::Add(hn::ShiftRight<2>(hn::Iota(indices, 0)), hn::Set(indices, begin - loaded));
        const std::int64_t count = std::min(blocks - begin, step_lanes);
        for (std::int64_t whole = count / step_blocks; whole > 0; --whole, packed += step_bytes, ++step) {
          for (int stream = 0; stream < streams; ++stream) {
            hwy::Prefetch(packed + stream * stride + fetched_ahead);
            add_step(stream, hn::LoadU(Quants(), packed + stream * stride));
          }
          block_of_lane = hn::Add(block_of_lane, next_blocks);
        }
        if (const std::int64_t left = count % step_blocks; HWY_UNLIKELY(left > 0)) {  // zeros have some scale
          block_of_lane = hn::Min(block_of_lane, hn::Set(indices, step_lanes - 1));
          for (int stream = 0; stream < streams; ++stream) {
            add_step(stream, load_last_quants(packed + stream * stride, left));
          }
        }
      }
      write<rows, streams>(product, output, apart, sums);
    }
  };
};

#endif

template <template <int, int> class Kernel, int rows>
void multiply_outputs(const Gemv& product, std::int64_t begin, std::int64_t end) {
  constexpr int streams = rows == 1 ? 4 : rows == 2 ? 2 : 1;
  const std::int64_t apart = (end - begin) / streams;
  const typename Kernel<rows, streams>::X x(product);
  for (std::int64_t output = begin; output < begin + apart; ++output) {
    Kernel<rows, streams>::multiply(product, x, output, apart);
  }
  for (std::int64_t output = begin + streams * apart; output < end; ++output) {
    Kernel<rows, 1>::multiply(product, x, output, 0);
  }
}

template <template <int, int> class Kernel>
void multiply_rows(const Gemv& product, std::int64_t begin, std::int64_t end) {
  switch (product.rows) {
    case 1: return multiply_outputs<Kernel, 1>(product, begin, end);
    case 2: return multiply_outputs<Kernel, 2>(product, begin, end);
    case 3: return multiply_outputs<Kernel, 3>(product, begin, end);
    default: return multiply_outputs<Kernel, 4>(product, begin, end);
  }
}

void gemv_here(const Gemv& product, std::int64_t begin, std::int64_t end) {
  switch (product.dtype) {
    case DType::q8: return multiply_rows<Quantised<DType::q8>::Kernel>(product, begin, end);
#if HWY_TARGET == HWY_SCALAR
    case DType::q4: return multiply_rows<Quantised<DType::q4>::Kernel>(product, begin, end);
#else
    case DType::q4:
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
      if (product.vnni && __builtin_cpu_supports("avx512vnni"))
        return multiply_rows<Q4<true>::Kernel>(product, begin, end);
#endif
      return multiply_rows<Q4<false>::Kernel>(product, begin, end);
#endif
    default: return multiply_rows<F32>(product, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace riverhorse::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace riverhorse::cpu {

HWY_EXPORT(gemv_here);

void gemv(const Gemv& product, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(gemv_here)(product, begin, end);
}

}  // namespace riverhorse::cpu
#endif
