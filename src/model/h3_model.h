// The H3 language model on a device: its weights, and its forward pass, written once over Encoder.
//
// Everything is kept as one residual stream r (R, D) in fp32, R = B L rows:
//
//   r = E[ids]
//   per layer:  qkv = Wqkv norm1(r) + bqkv;  y = mixer(qkv);  r += Wo y + bo
//               h = gelu(W1 norm2(r) + b1);                   r += W2 h + b2
//   logits = E norm_f(r)
//
// which is the original's "residual first" block with its additions moved to the end of each branch. Norms and
// residual additions are fused into the linear operations, so a layer is five operations, the mixer included.
// H3 layers work on (channel, sequence, token) in a prefill: the projection writes that transposed, the output
// projection reads it transposed, and no transpose pass exists.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace riverhorse {

// What a text leaves behind, for S slots: one text a slot. Layers have an H3State or an AttentionCache.
struct ModelState {
  Tensor positions;                    // (S) i32: tokens read by each slot
  std::vector<H3State> h3;             // one a layer; empty tensors in attention layers
  std::vector<AttentionCache> caches;  // one a layer; empty tensors in H3 layers
};

struct ModelMemory {
  std::uint64_t weights_bytes = 0;
  std::uint64_t filters_bytes = 0;
  std::uint64_t state_bytes_per_slot = 0;   // SSM state of one text
  std::uint64_t cache_bytes_per_token = 0;  // keys and values of one token, all attention layers
  std::uint64_t largest_tensor_bytes = 0;
  std::string_view largest_tensor;  // what that tensor is
  // The largest matrix that is quantised, in `dtype`: products of many rows may need it so; 0 for none.
  std::uint64_t dequantised_bytes = 0;
};

// What matrices are on the device.
struct MatrixTypes {
  DType dtype = DType::f32;                 // of those that are not quantised
  const TensorFile* file = nullptr;         // where there is one: those that it has quantised stay so
  std::optional<DType> quantised = {};      // instead: all of them so (quantise_parameters)
  DType of(const std::string& name) const;  // by today's name
};
ModelMemory model_memory(const ModelConfig& config, const MatrixTypes& types);

class H3Model {
 public:
  // Uploads the weights, matrices as `dtype` (f32, f16 or bf16) unless they are quantised, and all else as f32, and
  // discretises the SSM parameters on the device. `progress` counts bytes. Errors: bad_file (a tensor that is missing
  // or does not fit; q, k and v quantised differently), out_of_memory.
  H3Model(std::shared_ptr<Device> device, const Checkpoint& checkpoint, DType dtype, ConvAlgorithm conv,
          const ProgressFunction& progress);
  // Its shapes alone, without memory, to record with in Device::scratch_bytes.
  H3Model(const ModelConfig& config, const MatrixTypes& types, ConvAlgorithm conv);

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  std::int64_t vocabulary() const { return embedding_.shape[0]; }  // V, padded
  bool has_attention() const { return !config_.attn_layer_idx.empty(); }

  // Zero-filled: every slot is the start of a text. `capacity`: tokens in the KV caches. Without `memory`, shapes.
  ModelState allocate_state(std::int64_t slots, std::int64_t capacity, bool memory = true) const;
  std::vector<H3State> allocate_h3_states(std::int64_t slots, bool memory = true) const;
  std::uint64_t h3_state_bytes() const;  // of one slot
  AttentionCache allocate_cache(std::int64_t slots, std::int64_t capacity, bool memory = true) const;

  // For tests: called while recording with r after "embed", "mixer" and "mlp" of each layer, and with norm_f(r) as
  // "ln_f" (layer = number of layers). The tensor is only valid there: record a copy.
  using Tap = std::function<void(Encoder& encoder, std::string_view point, std::int64_t layer, const Tensor& rows)>;

  struct Pass {
    Tensor ids;    // (B L) i32, rows b L + t
    Tensor slots;  // (B) i32, no slot twice
    std::int64_t batch = 1;
    std::int64_t length = 1;
    const ModelState* state = nullptr;
    Tensor logits;        // (B, V) f32 of each sequence's last token, or (B L, V) of all tokens, or empty: none
    bool advance = true;  // add `length` to the positions at the end
    const Tap* tap = nullptr;
  };
  // Reads `length` tokens of each sequence into its slot's state. One token goes the recurrent way (h3_step,
  // attention_step), more go the parallel way.
  void record(Encoder& encoder, const Pass& pass) const;

 private:
  struct Layer {
    bool attention = false;
    NormWeights norm1;
    Tensor qkv_weight;  // (3 D, D) act or quantised, as all matrices
    Tensor qkv_bias;    // (3 D) f32, or empty
    H3Filter filter;    // of an H3 layer
    Tensor out_weight;  // (D, D) act
    Tensor out_bias;    // (D) f32
    NormWeights norm2;
    Tensor fc1_weight;  // (inner, D) act
    Tensor fc1_bias;    // (inner) f32
    Tensor fc2_weight;  // (D, inner) act
    Tensor fc2_bias;    // (D) f32
  };

  class Loader;

  void load_layers(Loader& load);
  Tensor allocate(DType dtype, const Shape& shape, bool memory) const;
  void record_mixer(Encoder& encoder, const Pass& pass, std::int64_t index, const Tensor& residual) const;
  void record_mlp(Encoder& encoder, const Layer& layer, const Tensor& residual) const;
  void record_logits(Encoder& encoder, const Pass& pass, const Tensor& residual) const;

  std::shared_ptr<Device> device_;  // null: shapes alone
  ModelConfig config_;
  DType dtype_;
  ConvAlgorithm conv_;
  Tensor embedding_;  // (V, D) act
  Tensor head_;       // (V, D) act; the embedding when tied
  NormWeights norm_f_;
  std::vector<Layer> layers_;
};

}  // namespace riverhorse
