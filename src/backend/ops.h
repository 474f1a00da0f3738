// The operations of the backend interface: what each one computes, and on what. DESIGN of the arguments: plain
// structs of tensor views, checked once in Encoder (backend.cpp), implemented once a backend (one stem a family).
//
// Legend: B sequences in the batch, L tokens, R rows (= B L), D model width, H heads of head_dim d (D = H d),
// N state size, n = N/2 complex modes, V vocabulary (padded), S slots of the state pool, P position.
// "act" is the activation dtype, f32, f16 or bf16; all else is f32 or i32 as written. Accumulation is fp32 at least.
// "quantised" is q8 or q4 (base/quantised.h): used as the numbers that it stands for, whatever act is.
#pragma once

#include <cstdint>
#include <optional>

#include "backend/tensor.h"

namespace riverhorse {

// ---------------------------------------------------------------------------------------------------- plumbing

// out[i] = in[i], converting between f32, f16 and bf16 where the dtypes differ, and from a quantised matrix to one of
// these. Shapes must have equal counts; of a matrix that is dequantised, be equal.
struct CopyArgs {
  Tensor in;
  Tensor out;
};

// positions[slots[b]] += tokens, for the b-th sequence of the batch.
struct AdvanceArgs {
  Tensor slots;      // (B) i32
  Tensor positions;  // (S) i32
  std::int32_t tokens = 0;
};

// Training only. Element i of a call is kept with probability 1 - p, and then divided by it: kept where word i mod 4
// of Philox4x32-10 with counter (i / 4 low, i / 4 high, site, step) and key seed is at least p 2^32. A call on part
// of what other ranks have the rest of counts from where its part begins: i + first.
struct Dropout {
  float p = 0;             // below 1; 0: none
  std::uint32_t site = 0;  // where in the model: every call of a step has its own
  Tensor random = {};      // (3) i32: seed low, seed high, step, in device memory; empty when p is 0
  std::int64_t first = 0;  // elements of the other ranks before this one's
};

// ---------------------------------------------------------------------------------------------- embed and norm

// residual[r] = table[ids[r]]. Ids outside [0, V) give zeros (the engine refuses them before it comes to that).
struct EmbedArgs {
  Tensor ids;       // (R) i32
  Tensor table;     // (V, D) act, or quantised
  Tensor residual;  // (R, D) f32
};

struct NormWeights {
  Tensor weight;  // (D) f32
  Tensor bias;    // (D) f32
  float epsilon = 1e-5f;
};

// residual += x when x is given; out = (residual - mean) / sqrt(var + epsilon) * weight + bias, var biased.
struct AddLayerNormArgs {
  Tensor x;         // (R, D) act, or empty
  Tensor residual;  // (R, D) f32, updated in place when x is given
  NormWeights norm;
  Tensor out;  // (R, D) act
};

// ------------------------------------------------------------------------------------------------------ linear

enum class Activation { none, gelu_tanh };

// y = activation(x' W^T + bias), or y += that; x' = layer_norm(x) when `norm` is given, else x.
struct LinearArgs {
  Tensor x;                         // (R, K) act; f32 when `norm` is given (the residual stream)
  bool x_transposed = false;        // x is (K, R) instead; not together with `norm`
  std::optional<NormWeights> norm;  // width K
  Tensor weight;                    // (M, K) act, or quantised (inference only)
  Tensor bias;                      // (M) f32, or empty
  Activation activation = Activation::none;
  bool accumulate = false;     // y += ...; then y is f32 (the residual stream) and not transposed
  Tensor y;                    // (R, M) act or f32
  bool y_transposed = false;   // y is (M, R) instead
  Tensor pre_activation = {};  // training only: (R, M) act, written with what the activation was given; or empty
  Tensor rounded_bias = {};    // (M) `bias` in the dtype of y, for a backend that adds that; or empty
  DType normed = DType::f32;   // with a quantised weight and `norm`: act, which nothing else tells then
};

// What "act" is.
inline DType activation_dtype(const LinearArgs& args) {
  if (!is_quantised(args.weight.dtype)) return args.weight.dtype;
  return args.norm ? args.normed : args.x.dtype;
}

// What follows a mixer in a block: residual += x W_out^T + b_out, then
// residual += fc2(gelu_tanh(fc1(layer_norm(residual)))). Three linear operations, which a backend may do as one.
struct OutMlpArgs {
  Tensor x;           // (R, D) act
  Tensor residual;    // (R, D) f32, updated in place
  Tensor out_weight;  // (D, D) act, or quantised, as the other two
  Tensor out_bias;    // (D) f32
  NormWeights norm;
  Tensor fc1_weight;  // (M, D)
  Tensor fc1_bias;    // (M) f32
  Tensor fc2_weight;  // (D, M)
  Tensor fc2_bias;    // (D) f32
};

// --------------------------------------------------------------------------------------------------- H3 mixer

enum class Discretization { bilinear, zoh };

// The raw parameters of one H3 layer, as checkpoints hold them. m divides H: head h uses row h mod m of A and B.
struct H3Parameters {
  Tensor log_dt;      // (H)
  Tensor inv_a_real;  // (m, n)     A = -exp(inv_a_real) + i a_imag
  Tensor a_imag;      // (m, n)
  Tensor b;           // (m, n, 2)
  Tensor c;           // (H, n, 2)
  Tensor d;           // (H)        skip of the diagonal SSM
  Tensor shift_b;     // (D, N)
  Tensor shift_c;     // (D, N)
  Tensor shift_d;     // (D)        skip of the shift SSM
  Discretization discretization = Discretization::bilinear;
};

// What the mixer really uses, made once by `discretize`; all f32. Powers of a are rounded once from more than
// fp32: a rounding error in a itself would grow with the length of the memory, 1 / (1 - |a|).
struct H3Filter {
  static constexpr int chunk = 64;         // T, the chunk of the chunked algorithm
  static constexpr int superchunk = 1024;  // tokens between the states that a forward pass keeps for the backward
  static constexpr int power_count = 17;   // a^(2^0) ... a^(2^16): any a^l for l < 131072 by products

  Tensor a;           // (H, n, 4)  one step: (re, im) rounded, then (re, im) of what the rounding dropped
  Tensor b;           // (H, n, 2)  discretised input weights
  Tensor c;           // (H, n, 2)
  Tensor d;           // (H)
  Tensor powers;      // (H, n, power_count, 2)
  Tensor toeplitz;    // (H, chunk)  K_0 ... K_63 with D added to K_0;  K_l = 2 Re sum_n c_n b_n a_n^l
  Tensor shift_taps;  // (D, N)      f_j = sum_i B_i C_{i+j}, with shift_d added to f_0
};

struct DiscretizeArgs {
  H3Parameters parameters;
  H3Filter filter;  // written
};

// kernel[h, l] = 2 Re sum_n c b a^l, l < L (no skip in it). L < 2^17.
struct SsmKernelArgs {
  H3Filter filter;
  Tensor kernel;  // (H, L) f32
};

// The carried state of one H3 layer for all slots. Zero-filled is the start of a text.
struct H3State {
  Tensor shift;  // (S, D, N)        f32  the key of position P is at [.., P mod N]; keys before the text are zero
  Tensor modes;  // (S, D d, n, 2)   f32  s <- a s + b w; index ((h d + i) d + j) for the pair k_i v_j of head h
};

enum class ConvAlgorithm { automatic, chunked, fft };
// Order of the output channels for head_dim > 1: h d + j as the fused CUDA path of the original, or j H + h as
// its plain path. The same at head_dim 1.
enum class HeadOrder { head_major, dim_major };

// The whole mixer between the projections, from the carried state, which it updates:
//   k'_t = sum_j f_j k_{t-j};  w_ij = k'_i v_j;  z_ij = D w_ij + conv(K, w_ij) + (what the state adds);
//   y_j = sum_i q_i z_ij.
struct H3MixerArgs {
  Tensor qkv;  // (3 D, B, L) act: D rows of q, then k, then v
  H3Filter filter;
  int head_dim = 1;
  HeadOrder head_order = HeadOrder::head_major;
  ConvAlgorithm algorithm = ConvAlgorithm::automatic;
  // All three empty (training only): every sequence begins here, and what it leaves behind is dropped.
  Tensor slots;      // (B) i32
  Tensor positions;  // (S) i32, read only: tokens each slot has seen before this call
  H3State state;
  Tensor y;  // (D, B, L) act
  // Training only, head_dim 1: (D, B, ceil(L / superchunk), 2 n) f32, written with the modes (re, im) as each
  // superchunk of tokens begins, which the backward pass starts from; or empty.
  Tensor entry_states = {};
};

// qkv = layer_norm(x) W^T + bias, rounded to the activation dtype.
struct H3Projection {
  Tensor x;  // (B, D) f32, the residual stream
  NormWeights norm;
  Tensor weight;  // (3 D, D) act, or quantised: D rows of q, then k, then v
  Tensor bias;    // (3 D) f32, or empty
};

// One token of the same, in the layout of one token: rows are sequences. With `projection` the step begins at the
// residual stream: a linear operation and a step, which a backend may do as one.
struct H3StepArgs {
  Tensor qkv;  // (B, 3 D) act: q | k | v; empty where `projection` is given
  std::optional<H3Projection> projection = {};
  H3Filter filter;
  int head_dim = 1;
  HeadOrder head_order = HeadOrder::head_major;
  Tensor slots;
  Tensor positions;
  H3State state;
  Tensor y;  // (B, D) act
};

// A block of one token: the step, from the residual stream, then out_mlp of what it gives, onto the same stream. A
// backend that does both as one may leave step.y unwritten.
struct H3BlockArgs {
  H3StepArgs step;  // with projection, whose x is rest.residual
  OutMlpArgs rest;  // its x is step.y
};

// y = act(conv(u, kernel) + skip u), causal, any L; gelu is the exact erf form.
struct FftConvArgs {
  Tensor u;       // (B, H, L) act
  Tensor kernel;  // (H, L) f32
  Tensor skip;    // (H) f32, or empty
  bool gelu_erf = false;
  Tensor y;  // (B, H, L) act
};

// --------------------------------------------------------------------------------------------------- attention

// Turns the first `rotary_dim` of each head of q and k in place; half-split (NeoX) pairs, base 10000, angle
// position * 10000^(-2j / rotary_dim). The row of token t of sequence b has position positions[slots[b]] + t.
struct RotaryArgs {
  Tensor qkv;  // (B, L, 3 D) act: q | k | v, each (heads, head width)
  int heads = 1;
  int rotary_dim = 0;
  Tensor slots;          // (B) i32; empty, as positions (training only): token t has position t
  Tensor positions;      // (S) i32
  bool inverse = false;  // training only: turns back, which is also the backward of this operation
};

struct AttentionCache {
  Tensor k;  // (S, capacity, D) act, after rotary
  Tensor v;  // (S, capacity, D) act
};

// Writes this call's k and v into the cache at positions[slots[b]] + t, then causal softmax attention over
// everything in the cache up to each token; scale 1 / sqrt(D / heads). `attention_step` is the case L = 1.
struct AttentionArgs {
  Tensor qkv;  // (B, L, 3 D) act
  int heads = 1;
  // All three empty (training only): every sequence begins here, and no cache is kept.
  Tensor slots;
  Tensor positions;
  AttentionCache cache;
  Tensor y;                 // (B, L, D) act
  Tensor log_sum_exp = {};  // training only: (B, heads, L) f32, of the scores of each query; or empty
  Dropout dropout = {};     // training only: of the probabilities; element ((b heads + h) L + t) L + s
};

// ---------------------------------------------------------------------------------------------------- sampling

// One slot's sampler, in device memory so that a recorded step never changes. 16 words; the shaders read the same
// layout. Order: bias, penalties, temperature, top-k, top-p, min-p, draw. See src/cpu/sample.cpp for the exact
// definition (integer weights, so that every backend draws alike) and Philox4x32-10 for the random numbers.
struct SamplerRow {
  float temperature = 0.0f;  // 0: greedy, the lowest index of the largest logit
  std::int32_t top_k = 0;    // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // a seen token's logit is divided (if positive) or multiplied by it
  float presence_penalty = 0.0f;    // subtracted once from a seen token's logit
  float frequency_penalty = 0.0f;   // subtracted as often as the token was seen
  std::int32_t vocab_limit = 0;     // tokens from here on are never drawn; 0: V
  std::uint32_t seed_low = 0;
  std::uint32_t seed_high = 0;
  std::uint32_t draws = 0;  // how many tokens this sampler has drawn: the random counter; incremented by the op
  std::uint32_t reserved[5] = {};
};
static_assert(sizeof(SamplerRow) == 64);

struct SampleArgs {
  Tensor logits;   // (B, V) f32
  Tensor slots;    // (B) i32
  Tensor sampler;  // (S, 16) i32: SamplerRow, `draws` is incremented
  Tensor counts;   // (S, V) i32, how often each token was seen, incremented for the drawn one; or empty
  Tensor bias;     // (S, V) f32, added to the logits; or empty
  Tensor tokens;   // (B) i32, written
  Tensor history;  // (S, K) i32, or empty: the draw number i is also written at [slot, i mod K]
};

}  // namespace riverhorse
