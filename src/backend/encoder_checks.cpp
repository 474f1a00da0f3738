// The public methods of Encoder: every argument of every operation is checked here, once for all backends, before
// the backend's record_ method sees it. A backend may rely on: tensors present, inside their buffers, with the dtypes
// and shapes that ops.h states, no empty dimension, and outputs that overlap no input. What lies in device memory
// (ids, slots, positions) cannot be checked here; the engine does.
#include "backend/backend.h"
#include "backend/check.h"

namespace riverhorse {

void Encoder::copy(const CopyArgs& args) {
  const Check check("copy", placeholder());
  if (is_quantised(args.in.dtype)) {
    check.matrix("in", args.in, {any, any});
    check.activation("out", args.out, {args.in.shape[0], args.in.shape[1]});
    check.separate("out", args.out, "in", args.in);
    record_copy(args);
    return;
  }
  const auto check_one = [&](std::string_view name, const Tensor& tensor) {
    check.require(tensor.buffer != nullptr, "{} is missing", name);
    check.require(is_activation(tensor.dtype) || args.in.dtype == args.out.dtype,
                  "{} to {} is not a conversion it knows", dtype_name(args.in.dtype), dtype_name(args.out.dtype));
    const Tensor flat = tensor.reshape({tensor.count()});
    check.tensor(name, flat, tensor.dtype, {flat.count()});
  };
  check_one("in", args.in);
  check_one("out", args.out);
  check.require(args.in.count() == args.out.count(), "in {} and out {} differ in count", args.in.shape.text(),
                args.out.shape.text());
  check.separate("out", args.out, "in", args.in);
  record_copy(args);
}

void Encoder::advance(const AdvanceArgs& args) {
  const Check check("advance", placeholder());
  check.tensor("slots", args.slots, DType::i32, {any});
  check.tensor("positions", args.positions, DType::i32, {any});
  record_advance(args);
}

void Encoder::embed(const EmbedArgs& args) {
  const Check check("embed", placeholder());
  check.tensor("ids", args.ids, DType::i32, {any});
  check.matrix("table", args.table, {any, any});
  check.tensor("residual", args.residual, DType::f32, {args.ids.shape[0], args.table.shape[1]});
  record_embed(args);
}

void Encoder::add_layer_norm(const AddLayerNormArgs& args) {
  const Check check("add_layer_norm", placeholder());
  check.tensor("residual", args.residual, DType::f32, {any, any});
  const std::int64_t rows = args.residual.shape[0];
  const std::int64_t width = args.residual.shape[1];
  check.activation("out", args.out, {rows, width});
  if (args.x) check.tensor("x", args.x, args.out.dtype, {rows, width});
  check_norm(check, args.norm, width);
  check.separate("out", args.out, "residual", args.residual);
  check.separate("residual", args.residual, "x", args.x);
  record_add_layer_norm(args);
}

void Encoder::linear(const LinearArgs& args) {
  const Check check("linear", placeholder());
  check.matrix("weight", args.weight, {any, any});
  const DType dtype = activation_dtype(args);
  check.require(is_activation(dtype), "activations are {}; they must be f32, f16 or bf16", dtype_name(dtype));
  const std::int64_t outputs = args.weight.shape[0];
  const std::int64_t inputs = args.weight.shape[1];
  std::int64_t rows = 0;
  if (args.x_transposed) {
    check.require(!args.norm, "norm needs x as (R, K), not transposed");
    check.tensor("x", args.x, dtype, {inputs, any});
    rows = args.x.shape[1];
  } else {
    check.tensor("x", args.x, args.norm ? DType::f32 : dtype, {any, inputs});
    rows = args.x.shape[0];
  }
  if (args.norm) check_norm(check, *args.norm, inputs);
  if (args.bias) check.tensor("bias", args.bias, DType::f32, {outputs});
  if (args.accumulate) {
    check.require(!args.y_transposed, "accumulate needs y as (R, M), not transposed");
    check.tensor("y", args.y, DType::f32, {rows, outputs});
  } else if (args.y_transposed) {
    check.activation("y", args.y, {outputs, rows});
  } else {
    check.activation("y", args.y, {rows, outputs});
  }
  check.require(args.y.dtype == dtype || args.y.dtype == DType::f32, "y is {} with weights of {}",
                dtype_name(args.y.dtype), dtype_name(dtype));
  if (args.rounded_bias) {
    check.require(static_cast<bool>(args.bias), "rounded_bias is one besides bias");
    check.tensor("rounded_bias", args.rounded_bias, args.y.dtype, {outputs});
  }
  check.separate("y", args.y, "x", args.x);
  check.separate("y", args.y, "weight", args.weight);
  if (args.pre_activation) {
    check.training(trains());
    check.require(!is_quantised(args.weight.dtype), "a weight of {} cannot be trained",
                  dtype_name(args.weight.dtype));
    check.require(!args.y_transposed && !args.accumulate, "pre_activation needs y as (R, M), written");
    check.tensor("pre_activation", args.pre_activation, dtype, {rows, outputs});
    check.separate("y", args.y, "pre_activation", args.pre_activation);
  }
  record_linear(args);
}

namespace {

void check_out_mlp(const Check& check, const OutMlpArgs& args) {
  check.activation("x", args.x, {any, any});
  const DType dtype = args.x.dtype;
  const std::int64_t rows = args.x.shape[0];
  const std::int64_t width = args.x.shape[1];
  check.tensor("residual", args.residual, DType::f32, {rows, width});
  check.matrix("fc1_weight", args.fc1_weight, {any, width});
  const std::int64_t inner = args.fc1_weight.shape[0];
  check.matrix("out_weight", args.out_weight, {width, width});
  check.matrix("fc2_weight", args.fc2_weight, {width, inner});
  for (const Tensor* weight : {&args.out_weight, &args.fc1_weight, &args.fc2_weight}) {
    check.require(weight->dtype == dtype || is_quantised(weight->dtype), "weights are {} with x of {}",
                  dtype_name(weight->dtype), dtype_name(dtype));
  }
  check.tensor("out_bias", args.out_bias, DType::f32, {width});
  check.tensor("fc1_bias", args.fc1_bias, DType::f32, {inner});
  check.tensor("fc2_bias", args.fc2_bias, DType::f32, {width});
  check_norm(check, args.norm, width);
  check.separate("residual", args.residual, "x", args.x);
}

}  // namespace

void Encoder::out_mlp(const OutMlpArgs& args) {
  check_out_mlp(Check("out_mlp", placeholder()), args);
  if (fuses_out_mlp(args)) {
    record_out_mlp(args);
    return;
  }
  LinearArgs out;
  out.x = args.x;
  out.weight = args.out_weight;
  out.bias = args.out_bias;
  out.accumulate = true;
  out.y = args.residual;
  linear(out);
  ScratchScope scope(*this);
  LinearArgs fc1;
  fc1.x = args.residual;
  fc1.norm = args.norm;
  fc1.normed = args.x.dtype;
  fc1.weight = args.fc1_weight;
  fc1.bias = args.fc1_bias;
  fc1.activation = Activation::gelu_tanh;
  fc1.y = scratch(args.x.dtype, {args.x.shape[0], args.fc1_weight.shape[0]});
  linear(fc1);
  LinearArgs fc2;
  fc2.x = fc1.y;
  fc2.weight = args.fc2_weight;
  fc2.bias = args.fc2_bias;
  fc2.accumulate = true;
  fc2.y = args.residual;
  linear(fc2);
}

void Encoder::record_out_mlp(const OutMlpArgs& /*args*/) { fail(StatusCode::internal, "out_mlp is not written"); }

void Encoder::discretize(const DiscretizeArgs& args) {
  const Check check("discretize", placeholder());
  const FilterSizes sizes = check_filter(check, args.filter);
  check_h3_parameters(check, sizes, "", args.parameters);
  record_discretize(args);
}

void Encoder::ssm_kernel(const SsmKernelArgs& args) {
  const Check check("ssm_kernel", placeholder());
  const FilterSizes sizes = check_filter(check, args.filter);
  check.tensor("kernel", args.kernel, DType::f32, {sizes.heads, any});
  check.require(args.kernel.shape[1] < (std::int64_t{1} << H3Filter::power_count),
                "a kernel of {} elements; the powers reach to {}", args.kernel.shape[1],
                (std::int64_t{1} << H3Filter::power_count) - 1);
  record_ssm_kernel(args);
}

void Encoder::h3_mixer(const H3MixerArgs& args) {
  const Check check("h3_mixer", placeholder());
  const FilterSizes sizes = check_filter(check, args.filter);
  check.activation("qkv", args.qkv, {3 * sizes.width, any, any});
  const std::int64_t batch = args.qkv.shape[1];
  const std::int64_t tokens = args.qkv.shape[2];
  check.tokens(batch, tokens);
  if (args.slots || args.positions || args.state.shift || args.state.modes) {
    check.tensor("slots", args.slots, DType::i32, {batch});
    check_state(check, sizes, args.head_dim, args.positions, args.state);
  } else {
    check.training(trains());
    check.require(args.head_dim >= 1 && sizes.heads * args.head_dim == sizes.width,
                  "head_dim is {}, but the filter has {} channels in {} heads", args.head_dim, sizes.width,
                  sizes.heads);
  }
  check.tensor("y", args.y, args.qkv.dtype, {sizes.width, batch, tokens});
  check.separate("y", args.y, "qkv", args.qkv);
  if (args.entry_states) {
    check.training(trains());
    check.require(args.head_dim == 1, "entry_states are kept for head_dim 1 only, not {}", args.head_dim);
    const std::int64_t superchunks = (tokens + H3Filter::superchunk - 1) / H3Filter::superchunk;
    check.tensor("entry_states", args.entry_states, DType::f32,
                 {sizes.width, batch, superchunks, 2 * args.filter.a.shape[1]});
  }
  record_h3_mixer(args);
}

namespace {

void check_h3_step(const Check& check, const H3StepArgs& args) {
  const FilterSizes sizes = check_filter(check, args.filter);
  check.activation("y", args.y, {any, sizes.width});
  const std::int64_t batch = args.y.shape[0];
  check.tensor("slots", args.slots, DType::i32, {batch});
  check_state(check, sizes, args.head_dim, args.positions, args.state);
  if (!args.projection) {
    check.tensor("qkv", args.qkv, args.y.dtype, {batch, 3 * sizes.width});
    check.separate("y", args.y, "qkv", args.qkv);
    return;
  }
  const H3Projection& projection = *args.projection;
  check.require(!args.qkv, "qkv and projection are both given");
  check.tensor("projection.x", projection.x, DType::f32, {batch, sizes.width});
  check_norm(check, projection.norm, sizes.width);
  check.matrix("projection.weight", projection.weight, {3 * sizes.width, sizes.width});
  check.require(projection.weight.dtype == args.y.dtype || is_quantised(projection.weight.dtype),
                "projection.weight is {}, not {} as y is, nor quantised", dtype_name(projection.weight.dtype),
                dtype_name(args.y.dtype));
  if (projection.bias) check.tensor("projection.bias", projection.bias, DType::f32, {3 * sizes.width});
  check.separate("y", args.y, "projection.x", projection.x);
}

}  // namespace

void Encoder::h3_step(const H3StepArgs& args) {
  check_h3_step(Check("h3_step", placeholder()), args);
  if (!args.projection) {
    record_h3_step(args);
    return;
  }
  if (fuses_projection(args)) {
    record_h3_step(args);
    return;
  }
  ScratchScope scope(*this);
  H3StepArgs step = args;
  step.projection.reset();
  step.qkv = scratch(args.y.dtype, {args.y.shape[0], 3 * args.y.shape[1]});
  const H3Projection& projection = *args.projection;
  LinearArgs in;
  in.x = projection.x;
  in.norm = projection.norm;
  in.weight = projection.weight;
  in.bias = projection.bias;
  in.y = step.qkv;
  in.normed = args.y.dtype;
  linear(in);
  h3_step(step);
}

void Encoder::h3_block(const H3BlockArgs& args) {
  const Check check("h3_block", placeholder());
  check_h3_step(check, args.step);
  check_out_mlp(check, args.rest);
  check.require(args.step.projection.has_value(), "step.projection is missing");
  const auto same = [](const Tensor& a, const Tensor& b) {
    return a.buffer == b.buffer && a.offset_bytes == b.offset_bytes && a.dtype == b.dtype && a.shape == b.shape;
  };
  check.require(same(args.rest.x, args.step.y), "rest.x is not step.y");
  check.require(same(args.rest.residual, args.step.projection->x), "rest.residual is not step.projection.x");
  if (fuses_h3_block(args)) {
    record_h3_block(args);
    return;
  }
  h3_step(args.step);
  out_mlp(args.rest);
}

void Encoder::record_h3_block(const H3BlockArgs& /*args*/) { fail(StatusCode::internal, "h3_block is not written"); }

void Encoder::fft_conv(const FftConvArgs& args) {
  const Check check("fft_conv", placeholder());
  check.activation("u", args.u, {any, any, any});
  const std::int64_t heads = args.u.shape[1];
  const std::int64_t tokens = args.u.shape[2];
  check.tensor("kernel", args.kernel, DType::f32, {heads, tokens});
  if (args.skip) check.tensor("skip", args.skip, DType::f32, {heads});
  check.tensor("y", args.y, args.u.dtype, {args.u.shape[0], heads, tokens});
  check.separate("y", args.y, "u", args.u);
  check.separate("y", args.y, "kernel", args.kernel);
  record_fft_conv(args);
}

void Encoder::rotary(const RotaryArgs& args) {
  const Check check("rotary", placeholder());
  check.activation("qkv", args.qkv, {any, any, any});
  check.require(args.qkv.shape[2] % 3 == 0, "qkv has {} columns, not three equal parts", args.qkv.shape[2]);
  const std::int64_t width = args.qkv.shape[2] / 3;
  check.require(args.heads >= 1 && width % args.heads == 0, "a width of {} does not divide among {} heads", width,
                args.heads);
  check.require(args.rotary_dim >= 2 && args.rotary_dim % 2 == 0 && args.rotary_dim <= width / args.heads,
                "rotary_dim is {}; it must be even, from 2 to the head width {}", args.rotary_dim,
                width / args.heads);
  if (args.slots || args.positions) {
    check.tensor("slots", args.slots, DType::i32, {args.qkv.shape[0]});
    check.tensor("positions", args.positions, DType::i32, {any});
  } else {
    check.training(trains());
  }
  if (args.inverse) check.training(trains());
  record_rotary(args);
}

void Encoder::attention(const AttentionArgs& args) {
  check_attention(Check("attention", placeholder()), args, trains());
  record_attention(args);
}

void Encoder::attention_step(const AttentionArgs& args) {
  const Check check("attention_step", placeholder());
  check.require(args.slots.buffer != nullptr, "slots is missing");
  check_attention(check, args, trains());
  check.require(args.qkv.shape[1] == 1, "a step is one token, not {}", args.qkv.shape[1]);
  record_attention_step(args);
}

void Encoder::sample(const SampleArgs& args) {
  const Check check("sample", placeholder());
  check.tensor("logits", args.logits, DType::f32, {any, any});
  const std::int64_t batch = args.logits.shape[0];
  const std::int64_t vocabulary = args.logits.shape[1];
  check.tensor("slots", args.slots, DType::i32, {batch});
  check.tensor("sampler", args.sampler, DType::i32, {any, static_cast<std::int64_t>(sizeof(SamplerRow) / 4)});
  const std::int64_t slot_count = args.sampler.shape[0];
  if (args.counts) check.tensor("counts", args.counts, DType::i32, {slot_count, vocabulary});
  if (args.bias) check.tensor("bias", args.bias, DType::f32, {slot_count, vocabulary});
  check.tensor("tokens", args.tokens, DType::i32, {batch});
  if (args.history) check.tensor("history", args.history, DType::i32, {slot_count, any});
  record_sample(args);
}

}  // namespace riverhorse
