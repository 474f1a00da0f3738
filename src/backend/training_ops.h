// The operations of training: the backward twins of ops.h, the loss, and the optimiser. Legend as there; P
// parameters.
//
// Conventions. d_x is the gradient of the loss with respect to x, in the shape of x. Gradients of activations are
// written, in the activation dtype (those of the residual stream in f32). Gradients of parameters are f32 and added
// to, so that the micro-batches of a step add up; zero() begins a step. Of a number stored as (re, im), the gradient
// is (d loss / d re, d loss / d im). Results do not depend on thread or schedule: the same inputs give the same bits.
//
// Only a device that supports Feature::training takes these, and the training fields of ops.h.
#pragma once

#include <cstdint>

#include "backend/communicator.h"
#include "backend/ops.h"

namespace riverhorse {

// ---------------------------------------------------------------------------------------------------- plumbing

// tensor = 0
struct ZeroArgs {
  Tensor tensor;  // f32
};

// out += in
struct AccumulateArgs {
  Tensor in;   // (n) f32, f16 or bf16
  Tensor out;  // (n) f32
};

// out[r, out_first + i] = in[r, in_first + i] for i < columns; what else `out` has stays.
struct CopyColumnsArgs {
  Tensor in;   // (R, I) act
  Tensor out;  // (R, O) act
  std::int64_t in_first = 0, out_first = 0, columns = 0;
};

// ---------------------------------------------------------------------------------------------- embed and norm

// d_table[ids[r]] += d_residual[r]. Ids outside [0, V) are left out.
struct EmbedBackwardArgs {
  Tensor ids;         // (R) i32
  Tensor d_residual;  // (R, D) f32
  Tensor d_table;     // (V, D) f32, added to
};

// The residual stream with dropout on the branch, each stage kept for the backward pass:
//   residual_out = residual + dropout(x);  out = layer_norm(residual_out)
// Without x: residual_out = dropout(residual), the dropout of the embedding.
struct ResidualNormArgs {
  Tensor x;         // (R, D) act, or empty
  Tensor residual;  // (R, D) f32
  Dropout dropout;
  NormWeights norm;
  Tensor residual_out;  // (R, D) f32; may be `residual` itself when x is given
  Tensor out;           // (R, D) act
  Tensor statistics;    // (R, 2) f32: mean, 1 / sqrt(var + epsilon)
};

// d_residual comes in as the gradient of residual_out by what follows, and goes out as that of `residual`:
//   g = d_residual + layer_norm'(d_out);  d_residual = g, d_x = dropout'(g);   without x: d_residual = dropout'(g)
struct ResidualNormBackwardArgs {
  Tensor d_out;         // (R, D) act
  Tensor residual_out;  // as the forward pass left it
  Tensor statistics;    // likewise
  Dropout dropout;
  NormWeights norm;
  Tensor d_residual;  // (R, D) f32, updated
  Tensor d_x;         // (R, D) act, written; empty where x was
  Tensor d_weight;    // (D) f32, added to
  Tensor d_bias;      // (D) f32, added to
  // (D) f32, added to: the sum over rows of d_x as it is written, the gradient of a bias that x ends with; or empty.
  Tensor d_x_sum = {};
  bool overwrite = false;  // d_residual comes in as zeroes, whatever it holds
};

// ------------------------------------------------------------------------------------------------------ linear

// Of y = x W^T + bias:  d_x = d_y W,  d_W += d_y^T x,  d_bias += sum over rows of d_y. Where x = gelu_tanh(h), and h
// is given, d_x is the gradient of h instead: (d_y W) gelu_tanh'(h).
struct LinearBackwardArgs {
  Tensor d_y;                 // (R, M) act
  bool y_transposed = false;  // d_y is (M, R) instead
  Tensor x;                   // (R, K) act
  bool x_transposed = false;  // x and d_x are (K, R) instead; not together with `pre_activation`
  Tensor weight;              // (M, K) act
  Tensor pre_activation;      // (R, K) act: h, or empty
  Tensor d_x;                 // (R, K) act, or empty
  Tensor d_weight;            // (M, K) f32, added to
  Tensor d_bias;              // (M) f32, added to, or empty
  bool overwrite = false;     // d_weight is written, whatever it held, instead of added to
};

// --------------------------------------------------------------------------------------------------- H3 mixer

// Gradients with respect to what the mixer depends on: K_l = 2 Re sum_n gain_n exp(l log a_n) with gain = c b.
struct H3FilterGradient {
  Tensor log_a;       // (H, n, 2) f32
  Tensor gain;        // (H, n, 2) f32
  Tensor d;           // (H) f32
  Tensor shift_taps;  // (D, N) f32
};

// Of h3_mixer.
struct H3MixerBackwardArgs {
  Tensor qkv;  // (3 D, B, L) act
  H3Filter filter;
  int head_dim = 1;
  HeadOrder head_order = HeadOrder::head_major;
  ConvAlgorithm algorithm = ConvAlgorithm::automatic;
  Tensor d_y;                 // (D, B, L) act
  Tensor d_qkv;               // (3 D, B, L) act, written
  H3FilterGradient d_filter;  // written
  // (D, B, ceil(L / superchunk), N) f32, as the forward pass left them; or empty, for more work here.
  Tensor entry_states = {};
  // Where the forward pass began from a carried state: as it was given them, the state before it was updated. Not by
  // fft. All empty: every sequence begins here, and what it leaves behind is dropped.
  Tensor slots = {};
  Tensor positions = {};
  H3State state = {};
  // With them: the gradient of the state that the sequences left comes in, that of `state` goes out. A mode is
  // s = b x, and its gradient that of x, which knows nothing of b, divided by conj(b): `gain` has all of b.
  H3State d_state = {};
};

// From the filter's gradient to that of the raw parameters, through `discretize`.
struct DiscretizeBackwardArgs {
  H3Parameters parameters;
  H3Filter filter;
  H3FilterGradient d_filter;
  H3Parameters d_parameters;  // added to; `discretization` is not read
};

// Of ssm_kernel: log_a and gain of `d_filter` are written, the rest of it may be empty.
struct SsmKernelBackwardArgs {
  H3Filter filter;
  Tensor d_kernel;  // (H, L) f32
  H3FilterGradient d_filter;
};

struct FftConvBackwardArgs {
  Tensor u;       // (B, H, L) act
  Tensor kernel;  // (H, L) f32
  Tensor skip;    // (H) f32, or empty
  bool gelu_erf = false;
  Tensor d_y;       // (B, H, L) act
  Tensor d_u;       // (B, H, L) act, written
  Tensor d_kernel;  // (H, L) f32, added to
  Tensor d_skip;    // (H) f32, added to; empty where skip is
};

// --------------------------------------------------------------------------------------------------- attention

// Of attention without a cache. (The backward of rotary is rotary with `inverse`.)
struct AttentionBackwardArgs {
  Tensor qkv;  // (B, L, 3 D) act, after rotary
  int heads = 1;
  Dropout dropout;
  Tensor y;            // (B, L, D) act, as the forward pass left it
  Tensor log_sum_exp;  // (B, heads, L) f32, likewise
  Tensor d_y;          // (B, L, D) act
  Tensor d_qkv;        // (B, L, 3 D) act, written
};

// -------------------------------------------------------------------------------------------------------- loss

// The classifier and its loss in one operation, a chunk of rows after the other, so that the logits of all rows never
// exist at once:  logits = x W^T;  loss_r = logsumexp(logits_r) - logits_r[target_r] over all V columns;
// d_x, d_W: of scale * sum_r loss_r.
struct CrossEntropyArgs {
  Tensor x;                // (R, D) act
  Tensor weight;           // (V, D) act
  Tensor targets;          // (R) i32; negative: the row is not scored, its loss is 0 and it has no gradient
  Tensor loss;             // (R) f32, written
  Tensor correct;          // (R) i32, or empty: 1 where the (first) largest logit is the target's, else 0
  Tensor scale;            // (1) f32: 1 / (rows scored in the step), times a loss scale
  Tensor d_x;              // (R, D) act, written; or empty: no gradients
  Tensor d_weight;         // (V, D) f32, added to; empty where d_x is
  bool overwrite = false;  // d_weight is written, whatever it held, instead of added to
  // What the logits are rounded to where there are gradients, which are then of those logits: f32, or in 16 bits the
  // dtype of x. Without gradients they are f32.
  DType logits = DType::f32;
};

// ------------------------------------------------------------------------------------------------------- ranks

// all_reduce: output = the sum of the ranks' inputs, (n) both; the output may be the input itself.
// reduce_scatter: of that sum part r to rank r; input (n), output (n / ranks).
// all_gather: every rank's input in turn; input (n), output (n ranks), which may hold the input in its place.
// reduce: as all_reduce, to rank `to` alone; the output of the others is undefined, and may be the input.
// pass: the input goes to rank `to`, and the output comes from rank `from`; either may be no_rank.
// all_to_all: among the `group` ranks from `first` on, this one among them; input and output have as many equal
// parts, the input one for each, the output one of each.
enum class Collective { all_reduce, reduce_scatter, all_gather, reduce, pass, all_to_all };
inline constexpr int no_rank = -1;

// Begins after what was recorded before it, and may run while what is recorded after it does, which leaves both
// tensors alone until await_ranks().
struct CommunicateArgs {
  Collective collective = Collective::all_reduce;
  Communicator* communicator = nullptr;  // of this device's tensors; outlives the recording
  Tensor input;                          // f32 or 16 bits
  Tensor output;                         // of the same
  int to = no_rank, from = no_rank;
  int first = 0, group = 0;
};

// What is recorded after it sees what the collectives before it made.
struct AwaitRanksArgs {
  Communicator* communicator = nullptr;
};

// --------------------------------------------------------------------------------------------------- optimiser

// norm = sqrt(sum_i gradients_i^2), summed in double or an equal.
struct GradNormArgs {
  Tensor gradients;  // (P) f32
  Tensor norm;       // (1) f32, written
};

// The settings of one adamw call, in device memory so that a recorded step never changes. 16 words.
struct AdamwRow {
  float learning_rate = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float epsilon = 1e-8f;
  float weight_decay = 0;
  float correction1 = 1;     // 1 - beta1^t, t from 1
  float correction2 = 1;     // 1 - beta2^t
  float gradient_scale = 1;  // of the gradients and their norm, before anything else: undoes a loss scale
  float max_norm = 0;        // gradients are scaled by min(1, max_norm / (norm + 1e-6)); 0: never
  float skip_above =
      0;  // a norm above it, or one that is not finite, leaves everything as it was; 0: only the latter
  float reserved[6] = {};
};
static_assert(sizeof(AdamwRow) == 64);

//   p <- p (1 - lr wd);  m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
//   p <- p - lr (m / correction1) / (sqrt(v / correction2) + epsilon)
struct AdamwArgs {
  Tensor parameters;  // (P) f32, updated
  Tensor gradients;   // (P) f32, read
  Tensor m;           // (P) f32, updated
  Tensor v;           // (P) f32, updated
  Tensor norm;        // (1) f32, of all gradients of the step
  Tensor row;         // (16) i32: AdamwRow
  Tensor rounded;     // (P) act: the new parameters as operands, or empty
};

}  // namespace riverhorse
