// The model in training on ranks that share sequences, K of them a sequence, L of its tokens each.
//
// An H3 layer of rank r begins from the state that rank r - 1 left, the last N keys and the modes, and leaves one for
// rank r + 1: B D N (1 + head_dim) numbers, whatever L is. The backward pass hands the gradient of the state the
// other way. So the ranks' mixers of a layer run one after the other, and all else at once.
//
// An attention layer needs all tokens before. Its heads divide among the ranks: all to all, rank r gets q, k, v of
// all K L tokens and of heads / K heads, attends as one rank would, and y goes back the same way; gradients likewise.
// The work is balanced, and the memory what L tokens of all heads take. A rank sends 4 (K - 1) / K of its B L D
// elements in the forward pass and as many in the backward pass.
#include "base/error.h"
#include "model/training_model.h"

namespace riverhorse {

std::int64_t TrainingModel::carried_count() const {
  return shape_.batch * config_.n_embd * config_.ssm_d_state * (1 + config_.ssm_head_dim);
}

H3State TrainingModel::state_of(const Tensor& carried) const {
  const std::int64_t width = config_.n_embd, state = config_.ssm_d_state;
  const std::int64_t keys = shape_.batch * width * state;
  return {carried.slice(0, keys).reshape({shape_.batch, width, state}),
          carried.slice(keys, keys * config_.ssm_head_dim)
              .reshape({shape_.batch, width * config_.ssm_head_dim, state / 2, 2})};
}

void TrainingModel::allocate_sequence() {
  const auto working = [&](DType dtype, Shape shape) {
    return memory_.allocate(MemoryCategory::working, dtype, shape);
  };
  slots_ = memory_.allocate(MemoryCategory::batch, DType::i32, {shape_.batch});
  positions_ = memory_.allocate(MemoryCategory::batch, DType::i32, {shape_.batch});
  carried_ = working(DType::f32, {carried_count()});
  d_carried_ = working(DType::f32, {carried_count()});
  if (config_.attn_layer_idx.empty()) return;
  const std::int64_t tokens = sequence_.places * shape_.length, width = config_.n_embd / sequence_.places;
  exchange_out_ = working(act_, {shape_.rows() * 3 * config_.n_embd});
  exchange_in_ = working(act_, {shape_.rows() * 3 * config_.n_embd});
  d_heads_qkv_ = working(act_, {shape_.batch, tokens, 3 * width});
  d_heads_y_ = working(act_, {shape_.batch, tokens, width});
}

void TrainingModel::add_sequence_stages(Layer& layer) {
  if (!layer.attention) {
    layer.entry = memory_.allocate(MemoryCategory::activations, DType::f32, {carried_count()});
    return;
  }
  const std::int64_t tokens = sequence_.places * shape_.length, width = config_.n_embd / sequence_.places;
  layer.heads_qkv = stage(Recompute::mixer, "heads_qkv", act_, {shape_.batch, tokens, 3 * width});
  layer.heads_y = stage(Recompute::mixer, "heads_y", act_, {shape_.batch, tokens, width});
  layer.log_sum_exp = stage(Recompute::mixer, "log_sum_exp", DType::f32,
                            {shape_.batch, config_.attn_n_head.value() / sequence_.places, tokens});
}

// In every place below, what is still being sent is awaited before its tensor is used again.
void TrainingModel::receive_state(Encoder& encoder, const Layer& layer, Pass pass) const {
  if (!sequence_.first() && pass != Pass::again) {
    CommunicateArgs pass_on{Collective::pass, sequence_.ranks, layer.entry, layer.entry};
    pass_on.from = sequence_.ranks->rank() - 1;
    encoder.communicate(pass_on);
  }
  encoder.await_ranks({sequence_.ranks});
  encoder.copy({layer.entry, carried_});
}

void TrainingModel::send_state(Encoder& encoder, Pass pass) const {
  if (sequence_.last() || pass == Pass::again) return;
  CommunicateArgs pass_on{Collective::pass, sequence_.ranks, carried_, carried_};
  pass_on.to = sequence_.ranks->rank() + 1;
  encoder.communicate(pass_on);
}

void TrainingModel::receive_state_gradient(Encoder& encoder) const {
  if (!sequence_.last()) {
    CommunicateArgs pass_on{Collective::pass, sequence_.ranks, d_carried_, d_carried_};
    pass_on.from = sequence_.ranks->rank() + 1;
    encoder.communicate(pass_on);
  }
  encoder.await_ranks({sequence_.ranks});
  if (sequence_.last()) encoder.zero({d_carried_});
}

void TrainingModel::send_state_gradient(Encoder& encoder) const {
  if (sequence_.first()) return;
  CommunicateArgs pass_on{Collective::pass, sequence_.ranks, d_carried_, d_carried_};
  pass_on.to = sequence_.ranks->rank() - 1;
  encoder.communicate(pass_on);
}

void TrainingModel::record_all_to_all(Encoder& encoder, const Tensor& sent, const Tensor& received) const {
  CommunicateArgs exchange{Collective::all_to_all, sequence_.ranks, sent, received};
  exchange.first = sequence_.ranks->rank() - static_cast<int>(sequence_.place);
  exchange.group = static_cast<int>(sequence_.places);
  encoder.communicate(exchange);
  encoder.await_ranks({sequence_.ranks});
}

// What goes to a rank: (B, L, parts, D / K), its heads; what comes from one: the same of its tokens.
void TrainingModel::record_to_heads(Encoder& encoder, const Tensor& rows, std::int64_t parts,
                                    const Tensor& heads) const {
  const std::int64_t width = config_.n_embd, own = width / sequence_.places, count = rows.count();
  const std::int64_t block = count / sequence_.places, run = shape_.length * parts * own;
  const Tensor sent = exchange_out_.slice(0, count);
  for (std::int64_t place = 0; place < sequence_.places; ++place) {
    encoder.copy_columns({rows.reshape({shape_.rows() * parts, width}),
                          sent.slice(place * block, block).reshape({shape_.rows() * parts, own}), place * own, 0,
                          own});
  }
  if (shape_.batch == 1) return record_all_to_all(encoder, sent, heads.reshape({count}));
  const Tensor received = exchange_in_.slice(0, count);
  record_all_to_all(encoder, sent, received);
  for (std::int64_t place = 0; place < sequence_.places; ++place) {
    encoder.copy_columns({received.slice(place * block, block).reshape({shape_.batch, run}),
                          heads.reshape({shape_.batch, sequence_.places * run}), 0, place * run, run});
  }
}

void TrainingModel::record_from_heads(Encoder& encoder, const Tensor& heads, std::int64_t parts,
                                      const Tensor& rows) const {
  const std::int64_t width = config_.n_embd, own = width / sequence_.places, count = rows.count();
  const std::int64_t block = count / sequence_.places, run = shape_.length * parts * own;
  Tensor sent = heads.reshape({count});
  if (shape_.batch > 1) {
    sent = exchange_out_.slice(0, count);
    for (std::int64_t place = 0; place < sequence_.places; ++place) {
      encoder.copy_columns({heads.reshape({shape_.batch, sequence_.places * run}),
                            sent.slice(place * block, block).reshape({shape_.batch, run}), place * run, 0, run});
    }
  }
  const Tensor received = exchange_in_.slice(0, count);
  record_all_to_all(encoder, sent, received);
  for (std::int64_t place = 0; place < sequence_.places; ++place) {
    encoder.copy_columns({received.slice(place * block, block).reshape({shape_.rows() * parts, own}),
                          rows.reshape({shape_.rows() * parts, width}), 0, place * own, own});
  }
}

}  // namespace riverhorse
