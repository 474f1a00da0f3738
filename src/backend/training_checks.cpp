// The public methods of Encoder for training: argument checks once for all backends, as encoder_checks.cpp does for
// inference.
#include "backend/backend.h"
#include "backend/check.h"

namespace riverhorse {

void Encoder::zero(const ZeroArgs& args) {
  const Check check("zero", placeholder(), trains());
  check.require(args.tensor.buffer != nullptr, "the tensor is missing");
  const Tensor flat = args.tensor.reshape({args.tensor.count()});
  check.tensor("tensor", flat, DType::f32, {any});
  record_zero(args);
}

void Encoder::accumulate(const AccumulateArgs& args) {
  const Check check("accumulate", placeholder(), trains());
  check.activation("in", args.in, {any});
  check.tensor("out", args.out, DType::f32, {args.in.shape[0]});
  check.separate("out", args.out, "in", args.in);
  record_accumulate(args);
}

void Encoder::copy_columns(const CopyColumnsArgs& args) {
  const Check check("copy_columns", placeholder(), trains());
  check.activation("in", args.in, {any, any});
  check.tensor("out", args.out, args.in.dtype, {args.in.shape[0], any});
  const auto inside = [&](std::string_view name, std::int64_t first, const Tensor& tensor) {
    check.require(first >= 0 && args.columns > 0 && first <= tensor.shape[1] - args.columns,
                  "columns {} to {} of {}, which has {}", first, first + args.columns, name, tensor.shape[1]);
  };
  inside("in", args.in_first, args.in);
  inside("out", args.out_first, args.out);
  check.separate("out", args.out, "in", args.in);
  record_copy_columns(args);
}

void Encoder::embed_backward(const EmbedBackwardArgs& args) {
  const Check check("embed_backward", placeholder(), trains());
  check.tensor("ids", args.ids, DType::i32, {any});
  check.tensor("d_residual", args.d_residual, DType::f32, {args.ids.shape[0], any});
  check.tensor("d_table", args.d_table, DType::f32, {any, args.d_residual.shape[1]});
  check.separate("d_table", args.d_table, "d_residual", args.d_residual);
  record_embed_backward(args);
}

void Encoder::residual_norm(const ResidualNormArgs& args) {
  const Check check("residual_norm", placeholder(), trains());
  check.tensor("residual", args.residual, DType::f32, {any, any});
  const std::int64_t rows = args.residual.shape[0];
  const std::int64_t width = args.residual.shape[1];
  check.activation("out", args.out, {rows, width});
  if (args.x) check.tensor("x", args.x, args.out.dtype, {rows, width});
  check_dropout(check, args.dropout);
  check_norm(check, args.norm, width);
  check.tensor("residual_out", args.residual_out, DType::f32, {rows, width});
  check.tensor("statistics", args.statistics, DType::f32, {rows, 2});
  check.separate("out", args.out, "residual_out", args.residual_out);
  check.separate("residual_out", args.residual_out, "x", args.x);
  record_residual_norm(args);
}

void Encoder::residual_norm_backward(const ResidualNormBackwardArgs& args) {
  const Check check("residual_norm_backward", placeholder(), trains());
  check.activation("d_out", args.d_out, {any, any});
  const std::int64_t rows = args.d_out.shape[0];
  const std::int64_t width = args.d_out.shape[1];
  check.tensor("residual_out", args.residual_out, DType::f32, {rows, width});
  check.tensor("statistics", args.statistics, DType::f32, {rows, 2});
  check_dropout(check, args.dropout);
  check_norm(check, args.norm, width);
  check.tensor("d_residual", args.d_residual, DType::f32, {rows, width});
  if (args.d_x) check.tensor("d_x", args.d_x, args.d_out.dtype, {rows, width});
  check.tensor("d_weight", args.d_weight, DType::f32, {width});
  check.tensor("d_bias", args.d_bias, DType::f32, {width});
  check.require(args.d_x || !args.d_x_sum, "d_x_sum is given without the d_x that it is a sum of");
  if (args.d_x_sum) check.tensor("d_x_sum", args.d_x_sum, DType::f32, {width});
  check.separate("d_residual", args.d_residual, "d_out", args.d_out);
  check.separate("d_residual", args.d_residual, "residual_out", args.residual_out);
  check.separate("d_x", args.d_x, "d_residual", args.d_residual);
  check.separate("d_x", args.d_x, "residual_out", args.residual_out);
  record_residual_norm_backward(args);
}

void Encoder::linear_backward(const LinearBackwardArgs& args) {
  const Check check("linear_backward", placeholder(), trains());
  check.activation("weight", args.weight, {any, any});
  const DType dtype = args.weight.dtype;
  const std::int64_t outputs = args.weight.shape[0];
  const std::int64_t inputs = args.weight.shape[1];
  std::int64_t rows = 0;
  if (args.y_transposed) {
    check.tensor("d_y", args.d_y, dtype, {outputs, any});
    rows = args.d_y.shape[1];
  } else {
    check.tensor("d_y", args.d_y, dtype, {any, outputs});
    rows = args.d_y.shape[0];
  }
  check.require(!args.x_transposed || !args.pre_activation, "pre_activation needs x as (R, K), not transposed");
  const auto like_x = [&](std::string_view name, const Tensor& tensor) {
    if (args.x_transposed) {
      check.tensor(name, tensor, dtype, {inputs, rows});
    } else {
      check.tensor(name, tensor, dtype, {rows, inputs});
    }
  };
  like_x("x", args.x);
  if (args.pre_activation) like_x("pre_activation", args.pre_activation);
  if (args.d_x) like_x("d_x", args.d_x);
  check.tensor("d_weight", args.d_weight, DType::f32, {outputs, inputs});
  if (args.d_bias) check.tensor("d_bias", args.d_bias, DType::f32, {outputs});
  for (const Tensor* input : {&args.d_y, &args.x, &args.weight, &args.pre_activation}) {
    check.separate("d_x", args.d_x, "an input", *input);
    check.separate("d_weight", args.d_weight, "an input", *input);
  }
  record_linear_backward(args);
}

void Encoder::h3_mixer_backward(const H3MixerBackwardArgs& args) {
  const Check check("h3_mixer_backward", placeholder(), trains());
  const FilterSizes sizes = check_filter(check, args.filter);
  check.activation("qkv", args.qkv, {3 * sizes.width, any, any});
  const std::int64_t batch = args.qkv.shape[1];
  const std::int64_t tokens = args.qkv.shape[2];
  check.tokens(batch, tokens);
  check.require(args.head_dim >= 1 && sizes.heads * args.head_dim == sizes.width,
                "head_dim is {}, but the filter has {} channels in {} heads", args.head_dim, sizes.width,
                sizes.heads);
  check.tensor("d_y", args.d_y, args.qkv.dtype, {sizes.width, batch, tokens});
  check.tensor("d_qkv", args.d_qkv, args.qkv.dtype, {3 * sizes.width, batch, tokens});
  check.separate("d_qkv", args.d_qkv, "qkv", args.qkv);
  check.separate("d_qkv", args.d_qkv, "d_y", args.d_y);
  check_filter_gradient(check, sizes, args.d_filter, true);
  if (args.entry_states) {
    check.require(args.head_dim == 1, "entry_states are kept for head_dim 1 only, not {}", args.head_dim);
    check.tensor("entry_states", args.entry_states, DType::f32,
                 {sizes.width, batch, (tokens + H3Filter::superchunk - 1) / H3Filter::superchunk, sizes.state});
  }
  const bool carried = args.slots || args.positions || args.state.shift || args.state.modes;
  check.require(carried == (args.d_state.shift || args.d_state.modes), "state and d_state go together");
  if (carried) {
    check.tensor("slots", args.slots, DType::i32, {batch});
    check_state(check, sizes, args.head_dim, args.positions, args.state);
    const std::int64_t slot_count = args.positions.shape[0];
    check.tensor("d_state.shift", args.d_state.shift, DType::f32, {slot_count, sizes.width, sizes.state});
    check.tensor("d_state.modes", args.d_state.modes, DType::f32,
                 {slot_count, sizes.width * args.head_dim, sizes.state / 2, 2});
    check.separate("d_state.shift", args.d_state.shift, "state.shift", args.state.shift);
    check.separate("d_state.modes", args.d_state.modes, "state.modes", args.state.modes);
    check.require(args.algorithm != ConvAlgorithm::fft, "a carried state has no gradient by fft; choose another way");
    check.require(!args.entry_states, "entry_states are of sequences that begin here");
  }
  record_h3_mixer_backward(args);
}

void Encoder::discretize_backward(const DiscretizeBackwardArgs& args) {
  const Check check("discretize_backward", placeholder(), trains());
  const FilterSizes sizes = check_filter(check, args.filter);
  check_h3_parameters(check, sizes, "", args.parameters);
  check_filter_gradient(check, sizes, args.d_filter, true);
  check_h3_parameters(check, sizes, "d_parameters.", args.d_parameters);
  check.require(args.d_parameters.inv_a_real.shape[0] == args.parameters.inv_a_real.shape[0],
                "d_parameters has {} rows of A, and parameters {}", args.d_parameters.inv_a_real.shape[0],
                args.parameters.inv_a_real.shape[0]);
  record_discretize_backward(args);
}

void Encoder::ssm_kernel_backward(const SsmKernelBackwardArgs& args) {
  const Check check("ssm_kernel_backward", placeholder(), trains());
  const FilterSizes sizes = check_filter(check, args.filter);
  check.tensor("d_kernel", args.d_kernel, DType::f32, {sizes.heads, any});
  check_filter_gradient(check, sizes, args.d_filter, false);
  record_ssm_kernel_backward(args);
}

void Encoder::fft_conv_backward(const FftConvBackwardArgs& args) {
  const Check check("fft_conv_backward", placeholder(), trains());
  check.activation("u", args.u, {any, any, any});
  const std::int64_t batch = args.u.shape[0];
  const std::int64_t heads = args.u.shape[1];
  const std::int64_t tokens = args.u.shape[2];
  check.tensor("kernel", args.kernel, DType::f32, {heads, tokens});
  if (args.skip) check.tensor("skip", args.skip, DType::f32, {heads});
  check.require(!args.skip == !args.d_skip, "skip and d_skip go together");
  check.tensor("d_y", args.d_y, args.u.dtype, {batch, heads, tokens});
  check.tensor("d_u", args.d_u, args.u.dtype, {batch, heads, tokens});
  check.tensor("d_kernel", args.d_kernel, DType::f32, {heads, tokens});
  if (args.d_skip) check.tensor("d_skip", args.d_skip, DType::f32, {heads});
  for (const Tensor* input : {&args.u, &args.kernel, &args.d_y}) {
    check.separate("d_u", args.d_u, "an input", *input);
    check.separate("d_kernel", args.d_kernel, "an input", *input);
  }
  record_fft_conv_backward(args);
}

void Encoder::attention_backward(const AttentionBackwardArgs& args) {
  const Check check("attention_backward", placeholder(), trains());
  check.activation("qkv", args.qkv, {any, any, any});
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = attention_width(check, args.qkv, args.heads);
  const DType dtype = args.qkv.dtype;
  check_dropout(check, args.dropout);
  check.tensor("y", args.y, dtype, {batch, tokens, width});
  check.tensor("log_sum_exp", args.log_sum_exp, DType::f32, {batch, args.heads, tokens});
  check.tensor("d_y", args.d_y, dtype, {batch, tokens, width});
  check.tensor("d_qkv", args.d_qkv, dtype, {batch, tokens, 3 * width});
  for (const Tensor* input : {&args.qkv, &args.y, &args.d_y}) check.separate("d_qkv", args.d_qkv, "an input", *input);
  record_attention_backward(args);
}

void Encoder::cross_entropy(const CrossEntropyArgs& args) {
  const Check check("cross_entropy", placeholder(), trains());
  check.activation("x", args.x, {any, any});
  const std::int64_t rows = args.x.shape[0];
  const std::int64_t width = args.x.shape[1];
  check.tensor("weight", args.weight, args.x.dtype, {any, width});
  check.tensor("targets", args.targets, DType::i32, {rows});
  check.tensor("loss", args.loss, DType::f32, {rows});
  if (args.correct) check.tensor("correct", args.correct, DType::i32, {rows});
  check.require(!args.d_x == !args.d_weight, "d_x and d_weight go together");
  if (args.d_x) {
    check.tensor("scale", args.scale, DType::f32, {1});
    check.tensor("d_x", args.d_x, args.x.dtype, {rows, width});
    check.tensor("d_weight", args.d_weight, DType::f32, {args.weight.shape[0], width});
    check.separate("d_x", args.d_x, "x", args.x);
    check.separate("d_weight", args.d_weight, "weight", args.weight);
    check.require(args.logits == DType::f32 || is_half(args.logits), "logits are f32, f16 or bf16");
    check.require(args.logits == DType::f32 || args.x.dtype == DType::f32 || args.logits == args.x.dtype,
                  "logits of 16 bits have the dtype of x");
  }
  record_cross_entropy(args);
}

void Encoder::grad_norm(const GradNormArgs& args) {
  const Check check("grad_norm", placeholder(), trains());
  check.tensor("gradients", args.gradients, DType::f32, {any});
  check.tensor("norm", args.norm, DType::f32, {1});
  check.separate("norm", args.norm, "gradients", args.gradients);
  record_grad_norm(args);
}

void Encoder::adamw(const AdamwArgs& args) {
  const Check check("adamw", placeholder(), trains());
  check.tensor("parameters", args.parameters, DType::f32, {any});
  const std::int64_t count = args.parameters.shape[0];
  check.tensor("gradients", args.gradients, DType::f32, {count});
  check.tensor("m", args.m, DType::f32, {count});
  check.tensor("v", args.v, DType::f32, {count});
  check.tensor("norm", args.norm, DType::f32, {1});
  check.tensor("row", args.row, DType::i32, {sizeof(AdamwRow) / 4});
  if (args.rounded) check.activation("rounded", args.rounded, {count});
  check.separate("parameters", args.parameters, "gradients", args.gradients);
  check.separate("m", args.m, "v", args.v);
  record_adamw(args);
}

void Encoder::communicate(const CommunicateArgs& args) {
  const Check check("communicate", placeholder(), trains());
  check.require(args.communicator != nullptr, "the communicator is missing");
  check.activation("input", args.input, {any});
  const std::int64_t count = args.input.shape[0], ranks = args.communicator->size();
  switch (args.collective) {
    case Collective::all_reduce: check.tensor("output", args.output, args.input.dtype, {count}); break;
    case Collective::reduce_scatter:
      check.require(count % ranks == 0, "{} elements do not divide among {} ranks", count, ranks);
      check.tensor("output", args.output, args.input.dtype, {count / ranks});
      check.separate("output", args.output, "input", args.input);
      break;
    case Collective::all_gather: check.tensor("output", args.output, args.input.dtype, {count * ranks}); break;
    case Collective::reduce:
      check.require(args.to >= 0 && args.to < ranks, "rank {} of {}", args.to, ranks);
      check.tensor("output", args.output, args.input.dtype, {count});
      break;
    case Collective::pass:
      for (const int other : {args.to, args.from}) {
        check.require(other == no_rank || (other >= 0 && other < ranks && other != args.communicator->rank()),
                      "between rank {} and rank {} of {}", args.communicator->rank(), other, ranks);
      }
      check.tensor("output", args.output, args.input.dtype, {count});
      if (args.to != no_rank && args.from != no_rank) check.separate("output", args.output, "input", args.input);
      break;
    case Collective::all_to_all:
      check.require(args.group > 0 && args.first >= 0 && args.first <= args.communicator->rank() &&
                        args.communicator->rank() < args.first + args.group && args.first + args.group <= ranks,
                    "{} ranks from {} on; this is rank {} of {}", args.group, args.first, args.communicator->rank(),
                    ranks);
      check.require(count % args.group == 0, "{} elements do not divide among {} ranks", count, args.group);
      check.tensor("output", args.output, args.input.dtype, {count});
      check.separate("output", args.output, "input", args.input);
      break;
  }
  record_communicate(args);
}

void Encoder::await_ranks(const AwaitRanksArgs& args) {
  const Check check("await_ranks", placeholder(), trains());
  check.require(args.communicator != nullptr, "the communicator is missing");
  record_await_ranks(args);
}

// The checks above let only a backend that overrides these get here.
void Encoder::record_zero(const ZeroArgs& /*args*/) { fail(StatusCode::internal, "zero is not written"); }
void Encoder::record_accumulate(const AccumulateArgs& /*args*/) {
  fail(StatusCode::internal, "accumulate is not written");
}
void Encoder::record_copy_columns(const CopyColumnsArgs& /*args*/) {
  fail(StatusCode::internal, "copy_columns is not written");
}
void Encoder::record_embed_backward(const EmbedBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "embed_backward is not written");
}
void Encoder::record_residual_norm(const ResidualNormArgs& /*args*/) {
  fail(StatusCode::internal, "residual_norm is not written");
}
void Encoder::record_residual_norm_backward(const ResidualNormBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "residual_norm_backward is not written");
}
void Encoder::record_linear_backward(const LinearBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "linear_backward is not written");
}
void Encoder::record_h3_mixer_backward(const H3MixerBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "h3_mixer_backward is not written");
}
void Encoder::record_discretize_backward(const DiscretizeBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "discretize_backward is not written");
}
void Encoder::record_ssm_kernel_backward(const SsmKernelBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "ssm_kernel_backward is not written");
}
void Encoder::record_fft_conv_backward(const FftConvBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "fft_conv_backward is not written");
}
void Encoder::record_attention_backward(const AttentionBackwardArgs& /*args*/) {
  fail(StatusCode::internal, "attention_backward is not written");
}
void Encoder::record_cross_entropy(const CrossEntropyArgs& /*args*/) {
  fail(StatusCode::internal, "cross_entropy is not written");
}
void Encoder::record_grad_norm(const GradNormArgs& /*args*/) {
  fail(StatusCode::internal, "grad_norm is not written");
}
void Encoder::record_adamw(const AdamwArgs& /*args*/) { fail(StatusCode::internal, "adamw is not written"); }
void Encoder::record_communicate(const CommunicateArgs& /*args*/) {
  fail(StatusCode::internal, "communicate is not written");
}
void Encoder::record_await_ranks(const AwaitRanksArgs& /*args*/) {
  fail(StatusCode::internal, "await_ranks is not written");
}

}  // namespace riverhorse
