// The public methods of Encoder: every argument of every operation is checked here, once for all backends, before
// the backend's record_ method sees it. A backend may rely on: tensors present, inside their buffers, with the dtypes
// and shapes that ops.h states, no empty dimension, and outputs that overlap no input. What lies in device memory
// (ids, slots, positions) cannot be checked here; the engine does.
#include <cmath>
#include <initializer_list>

#include "backend/backend.h"
#include "base/error.h"

namespace riverhorse {

namespace {

constexpr std::int64_t any = -1;  // in a list of dimensions: not fixed yet

bool is_activation(DType dtype) { return dtype == DType::f32 || dtype == DType::f16; }

class Check {
 public:
  // `placeholder`: the buffer of scratch tensors while preparing, which has no bytes.
  Check(std::string_view op, const Buffer* placeholder) : op_(op), placeholder_(placeholder) {}

  template <typename... Args>
  void require(bool condition, fmt::format_string<Args...> format, Args&&... args) const {
    if (condition) return;
    fail(StatusCode::invalid_argument, "{}: {}", op_, fmt::format(format, std::forward<Args>(args)...));
  }

  void tensor(std::string_view name, const Tensor& tensor, DType dtype,
              std::initializer_list<std::int64_t> dimensions) const {
    present(name, tensor);
    require(tensor.dtype == dtype, "{} is {}, not {}", name, dtype_name(tensor.dtype), dtype_name(dtype));
    shape(name, tensor, dimensions);
  }

  void activation(std::string_view name, const Tensor& tensor, std::initializer_list<std::int64_t> dimensions) const {
    present(name, tensor);
    require(is_activation(tensor.dtype), "{} is {}; it must be f32 or f16", name, dtype_name(tensor.dtype));
    shape(name, tensor, dimensions);
  }

  void separate(std::string_view output_name, const Tensor& output, std::string_view input_name,
                const Tensor& input) const {
    if (!output || !input || output.buffer != input.buffer) return;
    const bool overlap = output.offset_bytes < input.offset_bytes + input.size_bytes() &&
                         input.offset_bytes < output.offset_bytes + output.size_bytes();
    require(!overlap, "{} overlaps {} in memory", output_name, input_name);
  }

 private:
  void present(std::string_view name, const Tensor& tensor) const {
    require(tensor.buffer != nullptr, "{} is missing", name);
    for (int i = 0; i < tensor.shape.rank(); ++i) {
      require(tensor.shape[i] > 0, "{} has an empty shape {}", name, tensor.shape.text());
    }
    require(tensor.offset_bytes % static_cast<std::uint64_t>(dtype_size_bytes(tensor.dtype)) == 0,
            "{} begins at byte {}, between two elements", name, tensor.offset_bytes);
    const std::uint64_t size = tensor.size_bytes();
    require(tensor.buffer.get() == placeholder_ ||
                (size <= tensor.buffer->size_bytes() && tensor.offset_bytes <= tensor.buffer->size_bytes() - size),
            "{} of shape {} at byte {} exceeds its buffer of {} bytes", name, tensor.shape.text(),
            tensor.offset_bytes, tensor.buffer->size_bytes());
  }

  void shape(std::string_view name, const Tensor& tensor, std::initializer_list<std::int64_t> dimensions) const {
    bool same = tensor.shape.rank() == static_cast<int>(dimensions.size());
    int index = 0;
    for (const std::int64_t dimension : dimensions) {
      if (same && dimension != any && tensor.shape[index] != dimension) same = false;
      ++index;
    }
    if (same) return;
    std::string expected;
    for (const std::int64_t dimension : dimensions) {
      expected +=
          fmt::format("{}{}", expected.empty() ? "" : ", ", dimension == any ? "*" : std::to_string(dimension));
    }
    require(false, "{} has shape {}; it must be ({})", name, tensor.shape.text(), expected);
  }

  std::string_view op_;
  const Buffer* placeholder_;
};

void check_norm(const Check& check, const NormWeights& norm, std::int64_t width) {
  check.tensor("norm.weight", norm.weight, DType::f32, {width});
  check.tensor("norm.bias", norm.bias, DType::f32, {width});
  check.require(std::isfinite(norm.epsilon) && norm.epsilon >= 0, "norm.epsilon is {}", norm.epsilon);
}

struct FilterSizes {
  std::int64_t heads, width, state;  // H, D, N
};

FilterSizes check_filter(const Check& check, const H3Filter& filter) {
  check.tensor("filter.a", filter.a, DType::f32, {any, any, 4});
  const std::int64_t heads = filter.a.shape[0];
  const std::int64_t modes = filter.a.shape[1];
  check.tensor("filter.b", filter.b, DType::f32, {heads, modes, 2});
  check.tensor("filter.c", filter.c, DType::f32, {heads, modes, 2});
  check.tensor("filter.d", filter.d, DType::f32, {heads});
  check.tensor("filter.powers", filter.powers, DType::f32, {heads, modes, H3Filter::power_count, 2});
  check.tensor("filter.toeplitz", filter.toeplitz, DType::f32, {heads, H3Filter::chunk});
  check.tensor("filter.shift_taps", filter.shift_taps, DType::f32, {any, 2 * modes});
  const std::int64_t width = filter.shift_taps.shape[0];
  check.require(width % heads == 0, "{} channels do not divide among {} heads", width, heads);
  return {heads, width, 2 * modes};
}

void check_state(const Check& check, const FilterSizes& sizes, int head_dim, const Tensor& positions,
                 const H3State& state) {
  check.require(head_dim >= 1 && sizes.heads * head_dim == sizes.width,
                "head_dim is {}, but the filter has {} channels in {} heads", head_dim, sizes.width, sizes.heads);
  check.tensor("positions", positions, DType::i32, {any});
  const std::int64_t slot_count = positions.shape[0];
  check.tensor("state.shift", state.shift, DType::f32, {slot_count, sizes.width, sizes.state});
  check.tensor("state.modes", state.modes, DType::f32, {slot_count, sizes.width * head_dim, sizes.state / 2, 2});
}

void check_attention(const Check& check, const AttentionArgs& args) {
  check.activation("qkv", args.qkv, {any, any, any});
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  check.require(args.qkv.shape[2] % 3 == 0, "qkv has {} columns, not three equal parts", args.qkv.shape[2]);
  const std::int64_t width = args.qkv.shape[2] / 3;
  check.require(args.heads >= 1 && width % args.heads == 0, "a width of {} does not divide among {} heads", width,
                args.heads);
  check.tensor("slots", args.slots, DType::i32, {batch});
  check.tensor("positions", args.positions, DType::i32, {any});
  const std::int64_t slot_count = args.positions.shape[0];
  check.tensor("cache.k", args.cache.k, args.qkv.dtype, {slot_count, any, width});
  check.tensor("cache.v", args.cache.v, args.qkv.dtype, {slot_count, args.cache.k.shape[1], width});
  check.require(tokens <= args.cache.k.shape[1], "{} tokens at once, but the cache holds {}", tokens,
                args.cache.k.shape[1]);
  check.tensor("y", args.y, args.qkv.dtype, {batch, tokens, width});
  check.separate("y", args.y, "qkv", args.qkv);
}

}  // namespace

void Encoder::copy(const CopyArgs& args) {
  const Check check("copy", preparing_ ? workspace_.get() : nullptr);
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
  const Check check("advance", preparing_ ? workspace_.get() : nullptr);
  check.tensor("slots", args.slots, DType::i32, {any});
  check.tensor("positions", args.positions, DType::i32, {any});
  record_advance(args);
}

void Encoder::embed(const EmbedArgs& args) {
  const Check check("embed", preparing_ ? workspace_.get() : nullptr);
  check.tensor("ids", args.ids, DType::i32, {any});
  check.activation("table", args.table, {any, any});
  check.tensor("residual", args.residual, DType::f32, {args.ids.shape[0], args.table.shape[1]});
  record_embed(args);
}

void Encoder::add_layer_norm(const AddLayerNormArgs& args) {
  const Check check("add_layer_norm", preparing_ ? workspace_.get() : nullptr);
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
  const Check check("linear", preparing_ ? workspace_.get() : nullptr);
  check.activation("weight", args.weight, {any, any});
  const DType dtype = args.weight.dtype;
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
  check.separate("y", args.y, "x", args.x);
  check.separate("y", args.y, "weight", args.weight);
  record_linear(args);
}

void Encoder::discretize(const DiscretizeArgs& args) {
  const Check check("discretize", preparing_ ? workspace_.get() : nullptr);
  const FilterSizes sizes = check_filter(check, args.filter);
  const H3Parameters& p = args.parameters;
  const std::int64_t modes = sizes.state / 2;
  check.tensor("log_dt", p.log_dt, DType::f32, {sizes.heads});
  check.tensor("inv_a_real", p.inv_a_real, DType::f32, {any, modes});
  const std::int64_t rows = p.inv_a_real.shape[0];
  check.require(sizes.heads % rows == 0, "{} rows of A do not divide {} heads", rows, sizes.heads);
  check.tensor("a_imag", p.a_imag, DType::f32, {rows, modes});
  check.tensor("b", p.b, DType::f32, {rows, modes, 2});
  check.tensor("c", p.c, DType::f32, {sizes.heads, modes, 2});
  check.tensor("d", p.d, DType::f32, {sizes.heads});
  check.tensor("shift_b", p.shift_b, DType::f32, {sizes.width, sizes.state});
  check.tensor("shift_c", p.shift_c, DType::f32, {sizes.width, sizes.state});
  check.tensor("shift_d", p.shift_d, DType::f32, {sizes.width});
  record_discretize(args);
}

void Encoder::ssm_kernel(const SsmKernelArgs& args) {
  const Check check("ssm_kernel", preparing_ ? workspace_.get() : nullptr);
  const FilterSizes sizes = check_filter(check, args.filter);
  check.tensor("kernel", args.kernel, DType::f32, {sizes.heads, any});
  check.require(args.kernel.shape[1] < (std::int64_t{1} << H3Filter::power_count),
                "a kernel of {} elements; the powers reach to {}", args.kernel.shape[1],
                (std::int64_t{1} << H3Filter::power_count) - 1);
  record_ssm_kernel(args);
}

void Encoder::h3_mixer(const H3MixerArgs& args) {
  const Check check("h3_mixer", preparing_ ? workspace_.get() : nullptr);
  const FilterSizes sizes = check_filter(check, args.filter);
  check.activation("qkv", args.qkv, {3 * sizes.width, any, any});
  const std::int64_t batch = args.qkv.shape[1];
  const std::int64_t tokens = args.qkv.shape[2];
  check.tensor("slots", args.slots, DType::i32, {batch});
  check_state(check, sizes, args.head_dim, args.positions, args.state);
  check.tensor("y", args.y, args.qkv.dtype, {sizes.width, batch, tokens});
  check.separate("y", args.y, "qkv", args.qkv);
  record_h3_mixer(args);
}

void Encoder::h3_step(const H3StepArgs& args) {
  const Check check("h3_step", preparing_ ? workspace_.get() : nullptr);
  const FilterSizes sizes = check_filter(check, args.filter);
  check.activation("y", args.y, {any, sizes.width});
  const std::int64_t batch = args.y.shape[0];
  check.tensor("slots", args.slots, DType::i32, {batch});
  check_state(check, sizes, args.head_dim, args.positions, args.state);
  if (!args.projection) {
    check.tensor("qkv", args.qkv, args.y.dtype, {batch, 3 * sizes.width});
    check.separate("y", args.y, "qkv", args.qkv);
    record_h3_step(args);
    return;
  }
  const H3Projection& projection = *args.projection;
  check.require(!args.qkv, "qkv and projection are both given");
  check.tensor("projection.x", projection.x, DType::f32, {batch, sizes.width});
  check_norm(check, projection.norm, sizes.width);
  check.tensor("projection.weight", projection.weight, args.y.dtype, {3 * sizes.width, sizes.width});
  if (projection.bias) check.tensor("projection.bias", projection.bias, DType::f32, {3 * sizes.width});
  check.separate("y", args.y, "projection.x", projection.x);
  if (fuses_projection(args)) {
    record_h3_step(args);
    return;
  }
  ScratchScope scope(*this);
  H3StepArgs step = args;
  step.projection.reset();
  step.qkv = scratch(args.y.dtype, {batch, 3 * sizes.width});
  LinearArgs in;
  in.x = projection.x;
  in.norm = projection.norm;
  in.weight = projection.weight;
  in.bias = projection.bias;
  in.y = step.qkv;
  linear(in);
  h3_step(step);
}

void Encoder::fft_conv(const FftConvArgs& args) {
  const Check check("fft_conv", preparing_ ? workspace_.get() : nullptr);
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
  const Check check("rotary", preparing_ ? workspace_.get() : nullptr);
  check.activation("qkv", args.qkv, {any, any, any});
  check.require(args.qkv.shape[2] % 3 == 0, "qkv has {} columns, not three equal parts", args.qkv.shape[2]);
  const std::int64_t width = args.qkv.shape[2] / 3;
  check.require(args.heads >= 1 && width % args.heads == 0, "a width of {} does not divide among {} heads", width,
                args.heads);
  check.require(args.rotary_dim >= 2 && args.rotary_dim % 2 == 0 && args.rotary_dim <= width / args.heads,
                "rotary_dim is {}; it must be even, from 2 to the head width {}", args.rotary_dim,
                width / args.heads);
  check.tensor("slots", args.slots, DType::i32, {args.qkv.shape[0]});
  check.tensor("positions", args.positions, DType::i32, {any});
  record_rotary(args);
}

void Encoder::attention(const AttentionArgs& args) {
  check_attention(Check("attention", preparing_ ? workspace_.get() : nullptr), args);
  record_attention(args);
}

void Encoder::attention_step(const AttentionArgs& args) {
  const Check check("attention_step", preparing_ ? workspace_.get() : nullptr);
  check_attention(check, args);
  check.require(args.qkv.shape[1] == 1, "a step is one token, not {}", args.qkv.shape[1]);
  record_attention_step(args);
}

void Encoder::sample(const SampleArgs& args) {
  const Check check("sample", preparing_ ? workspace_.get() : nullptr);
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
