// A token read on the cpu is as fast as its matrices come from memory, if nothing else takes longer: a quantised
// weight is half a byte or a byte, so unpacking it may take a quarter of a turn of the processor, no more.
//
//   f32  one sum a vector and output
//   q8   bytes widened to floats; a block of 32 has sums of its own, added to the output's times the block's scale:
//        scales cost one operation a block, and nothing is summed across a vector before the end of a row
//   q4   likewise. Four bits become a float without a conversion: as the last bits of the float 2^23 they are
//        2^23 + q, those of the upper half of a byte, four bits higher, the last of 2^19. Less 2^23 + 8 that is
//        the weight, exactly.
//
// Outputs of distant parts of the matrix are made at once, as many as there are registers for sums. Their sums do not
// wait for each other; and several streams come from memory faster than one does, since what a core fetches ahead of
// one stream ends with the page (one core, f32, rows of 12 KiB: 10 GB/s with one stream, 15 with four).
//
// A weight that was unpacked meets all vectors before the next one is. Scales are widened sixteen and more at a time.
// This file is compiled once for each set of instructions (Highway's foreach_target); the best one is taken at run
// time.
#include "cpu/gemv.h"

#include <algorithm>
#include <cstring>

#include "base/quantised.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/gemv.cpp"
#include <hwy/foreach_target.h>
//
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

// Outputs `output`, `output` + `apart`, ...: as many as there are streams.
template <int rows, int streams>
struct F32 {
  static void multiply(const Gemv& product, std::int64_t output, std::int64_t apart) {
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
    static void multiply(const Gemv& product, std::int64_t output, std::int64_t apart) {
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

template <template <int, int> class Kernel, int rows>
void multiply_outputs(const Gemv& product, std::int64_t begin, std::int64_t end) {
  constexpr int streams = rows == 1 ? 4 : rows == 2 ? 2 : 1;
  const std::int64_t apart = (end - begin) / streams;
  for (std::int64_t output = begin; output < begin + apart; ++output) {
    Kernel<rows, streams>::multiply(product, output, apart);
  }
  for (std::int64_t output = begin + streams * apart; output < end; ++output) {
    Kernel<rows, 1>::multiply(product, output, 0);
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
    case DType::q4: return multiply_rows<Quantised<DType::q4>::Kernel>(product, begin, end);
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
