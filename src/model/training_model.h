// The H3 language model in training: forward pass, loss, backward pass, written once over Encoder.
//
// Per layer, with r the residual stream (R, D) in fp32 and R = B L rows (DESIGN section 4):
//
//   r1 = r + dropout(branch);  x1 = norm1(r1);  branch = Wo mixer(Wqkv x1 + bqkv) + bo
//   r2 = r1 + dropout(branch); x2 = norm2(r2);  branch = W2 gelu(W1 x2 + b1) + b2
//
// and xf = norm_f(r + dropout(branch)), loss = cross entropy of E xf. The first branch is dropout(E[ids]). Stages
// that the backward pass reads are kept or made again, as `Recompute` says. Sequences begin with an empty state.
//
// Mixed precision: with an activation dtype of f16 or bf16, activations, their gradients and the matrices that they
// meet are of it, and everything else stays f32: the parameters that the optimiser updates (of which the matrices are
// rounded copies), their gradients, biases, norms, the state spaces, the residual stream and all sums.
//
// What goes between ranks that share sequences (SequencePart) is in training_model_sequence.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/logit_bits.h"
#include "model/parameter_arena.h"
#include "model/recompute.h"
#include "model/training_memory.h"

namespace riverhorse {

struct TrainingShape {
  std::int64_t batch = 1;   // B sequences of a micro-batch
  std::int64_t length = 1;  // L tokens of each
  std::int64_t rows() const { return batch * length; }
};

// Where several ranks share sequences, which part of their tokens is this one's. The ranks of a sequence follow each
// other. An H3 layer goes on from the state that the rank before leaves, and hands back its gradient; an attention
// layer has all tokens of a part of the heads instead, and gives the results back.
struct SequencePart {
  std::int64_t place = 0, places = 1;
  Communicator* ranks = nullptr;  // of the device's tensors; outlives the recordings

  bool shared() const { return places > 1; }
  bool first() const { return place == 0; }
  bool last() const { return place == places - 1; }
};

struct TrainingModelOptions {
  TrainingShape shape;
  DType activations = DType::f32;
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  Recompute recompute = Recompute::none;
  LogitBits logits = LogitBits::full;  // half: of activations in 16 bits only
  std::int64_t first_sequence = 0;     // sequences of the micro-batch that other ranks have before this one's
  std::int64_t parts = 1;              // equal ones that the arena divides into
  bool gradient_windows = false;       // gradients are not whole, as ParameterArena; record them as written only
  SequencePart sequence = {};          // of which `shape` is
};

class TrainingModel {
 public:
  // With parameters of zeros. Errors: unsupported (a device that does not train, or not in those activations, a field
  // of the configuration that only inference knows), out_of_memory.
  TrainingModel(const TrainingMemory& memory, const ModelConfig& config, const TrainingModelOptions& options);

  // Writes the parameters. Errors: bad_file.
  void load(const Checkpoint& checkpoint) const;

  Device& device() const { return *memory_.device(); }
  const ModelConfig& config() const { return config_; }
  const TrainingShape& shape() const { return shape_; }
  DType activations() const { return act_; }
  ParameterArena& parameters() { return arena_; }
  const ParameterArena& parameters() const { return arena_; }

  // What the host writes before a micro-batch, and reads after it.
  const Tensor& ids() const { return ids_; }          // (R) i32
  const Tensor& targets() const { return targets_; }  // (R) i32; negative: not scored
  const Tensor& scale() const { return scale_; }      // (1) f32, as CrossEntropyArgs
  const Tensor& random() const { return random_; }    // (3) i32, as Dropout: seed, and the number of the micro-batch
  const Tensor& loss() const { return loss_; }        // (R) f32
  const Tensor& correct() const { return correct_; }  // (R) i32

  // Loss only, without dropout.
  void record_evaluation(Encoder& encoder) const;
  // Loss, and its gradients, which are written to the arena's or added to them.
  enum class Gradients { written, added };
  // Told of each part of the arena's gradients once what is recorded so far has made all of it: those of the layers'
  // matrices from the last layer to the first, then the rest.
  using PartDone = std::function<void(const GradientPart& part)>;
  void record_gradients(Encoder& encoder, Gradients gradients, const PartDone& done = {}) const;

 private:
  struct Norm {
    NormWeights weights;
    Tensor d_weight, d_bias;
  };
  struct Linear {
    Tensor weight, bias;      // act, f32; bias may be empty
    Tensor rounded_bias;      // act, where that is of 16 bits
    Tensor d_weight, d_bias;  // f32
  };
  struct Layer {
    bool attention = false;
    Norm norm1, norm2;
    Linear qkv, out, fc1, fc2;
    H3Parameters ssm, d_ssm;
    H3Filter filter;
    H3FilterGradient d_filter;
    // What the backward pass reads; kept, or shared with other layers.
    Tensor residual1, residual2;      // (R, D) f32: r1, which is always kept, and r2
    Tensor statistics1, statistics2;  // (R, 2) f32
    Tensor x1, x2;                    // (R, D) act
    Tensor qkv_rows;                  // (R, 3 D) act, after rotary; of an H3 layer (3 D, R), of S4D with q = k = 1
    Tensor y;                         // (R, D) act; of an H3 layer (D, R)
    Tensor entry_states;              // of an H3 layer with head_dim 1: (D, B, superchunks > 1, N) f32
    Tensor log_sum_exp;               // (B, heads, L) f32
    // Where ranks share sequences, of K L tokens in all. An H3 layer: the state that it begins from, as
    // carried_. An attention layer: q, k, v and y of its part of the heads.
    Tensor entry;
    Tensor heads_qkv;               // (B, K L, 3 D / K) act
    Tensor heads_y;                 // (B, K L, D / K) act
    Tensor pre_activation, hidden;  // (R, inner) act
  };

  // What leads to the MLP; `again` begins with r1, which is there.
  enum class Pass { evaluation, training, again };

  Norm norm(const std::string& prefix) const;
  Linear linear(const std::vector<std::string>& prefixes) const;
  H3Parameters ssm(const std::string& mixer, bool gradients) const;
  // The stage `name` of one layer; from the level `remade_at` on that of all layers that ask for it.
  Tensor stage(Recompute remade_at, const std::string& name, DType dtype, Shape shape);
  void add_stages(Layer& layer);
  void add_filter(Layer& layer) const;
  Layer make_layer(std::int64_t index);
  void allocate_shared();
  // The part of such rows, or of their gradient, that the projection writes.
  Tensor projected(const Layer& layer, const Tensor& qkv_rows) const;

  // Sites of dropout: the embedding, two residual additions and the attention of each layer, the last addition.
  // `elements`: of a call for one sequence.
  Dropout dropout(double p, std::int64_t site, std::int64_t elements, bool training) const;
  Dropout attention_dropout(std::int64_t index, bool training) const;
  Dropout residual_dropout(std::int64_t site, bool training) const;
  void record_forward(Encoder& encoder, bool training) const;
  void record_mixer_sublayer(Encoder& encoder, std::int64_t index, const Tensor& residual, Pass pass) const;
  void record_mixer(Encoder& encoder, std::int64_t index, Pass pass) const;
  void record_hidden(Encoder& encoder, const Layer& layer) const;
  // What the backward pass of the layer reads and was not kept.
  void record_again(Encoder& encoder, std::int64_t index) const;
  void record_mixer_backward(Encoder& encoder, std::int64_t index, Gradients gradients) const;
  void record_attention(Encoder& encoder, std::int64_t index, bool training) const;
  void record_rotary(Encoder& encoder, const Tensor& qkv, bool inverse) const;
  void record_attention_backward(Encoder& encoder, std::int64_t index, const Tensor& d_y, const Tensor& d_qkv) const;

  // Of ranks that share sequences.
  void allocate_sequence();
  void add_sequence_stages(Layer& layer);
  // The keys and modes in carried_, or in what has its shape.
  H3State state_of(const Tensor& carried) const;
  std::int64_t carried_count() const;
  // Before the mixer: its state from the rank before; after it: to the rank behind.
  void receive_state(Encoder& encoder, const Layer& layer, Pass pass) const;
  void send_state(Encoder& encoder, Pass pass) const;
  // Likewise its gradient, the other way.
  void receive_state_gradient(Encoder& encoder) const;
  void send_state_gradient(Encoder& encoder) const;
  // Between own tokens of all heads, (B L, parts D), and all tokens of own heads, (B, K L, parts D / K).
  void record_to_heads(Encoder& encoder, const Tensor& rows, std::int64_t parts, const Tensor& heads) const;
  void record_from_heads(Encoder& encoder, const Tensor& heads, std::int64_t parts, const Tensor& rows) const;
  void record_all_to_all(Encoder& encoder, const Tensor& sent, const Tensor& received) const;
  // Without gradients of an evaluation.
  void record_loss(Encoder& encoder, std::optional<Gradients> gradients) const;
  void record_backward(Encoder& encoder, Gradients gradients, const PartDone& done) const;

  TrainingMemory memory_;
  ModelConfig config_;
  TrainingShape shape_;
  DType act_;
  ConvAlgorithm conv_;
  Recompute recompute_;
  DType logits_;  // in training
  std::int64_t first_sequence_;
  SequencePart sequence_;
  ParameterArena arena_;
  Tensor embedding_, d_embedding_;  // (V, D) act, f32
  Tensor head_, d_head_;            // (V, D) act, f32; the embedding when tied
  Norm norm_f_;
  std::vector<Layer> layers_;
  std::map<std::string, Tensor> shared_stages_;
  H3Parameters identity_shift_, d_identity_shift_;  // of S4D: its shift SSM, and where the gradients go

  Tensor ids_, targets_, scale_, random_, loss_, correct_;
  Tensor device_ids_, device_random_;       // copies, as kernels would read those of the host once a block
  Tensor embedded_;                         // (R, D) f32: E[ids]
  Tensor branch_;                           // (R, D) act: what goes onto the residual stream next
  Tensor residual_f_, statistics_f_, x_f_;  // as a layer's
  Tensor d_residual_;                       // (R, D) f32
  Tensor d_branch_, d_x_;                   // (R, D) act
  Tensor d_hidden_;                         // (R, inner) act
  Tensor d_y_;                              // (R, D) or (D, R) act
  Tensor d_qkv_;                            // (R, 3 D) or (3 D, R) act
  // Where ranks share sequences.
  Tensor slots_, positions_;           // (B) i32: 0 ... B - 1; all the place of the first token
  Tensor carried_, d_carried_;         // (B D N (1 + head_dim)) f32: shift and modes of H3State
  Tensor exchange_out_, exchange_in_;  // (R 3 D) act
  Tensor d_heads_qkv_, d_heads_y_;     // as a layer's
};

}  // namespace riverhorse
