// The checks of operations' arguments, for encoder_checks.cpp and training_checks.cpp, and of transfers, for devices.
#pragma once

#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>

#include "backend/ops.h"
#include "backend/training_ops.h"
#include "base/error.h"
#include "base/quantised.h"

namespace riverhorse {

inline constexpr std::int64_t any = -1;  // in a list of dimensions: not fixed yet

inline bool is_activation(DType dtype) { return dtype == DType::f32 || is_half(dtype); }

class Check {
 public:
  // `placeholder`: the buffer of scratch tensors while preparing, which has no bytes.
  Check(std::string_view op, const Buffer* placeholder) : op_(op), placeholder_(placeholder) {}
  // Of an operation, or a use of one, that only training needs. Errors: unsupported.
  Check(std::string_view op, const Buffer* placeholder, bool trains) : Check(op, placeholder) { training(trains); }
  void training(bool trains) const {
    if (trains) return;
    fail(StatusCode::unsupported, "{}: this backend does not train; the cpu backend does", op_);
  }

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
    require(is_activation(tensor.dtype), "{} is {}; it must be f32, f16 or bf16", name, dtype_name(tensor.dtype));
    shape(name, tensor, dimensions);
  }

  // A matrix that products read: of activations' dtypes, or quantised.
  void matrix(std::string_view name, const Tensor& tensor, std::initializer_list<std::int64_t> dimensions) const {
    present(name, tensor);
    require(is_activation(tensor.dtype) || is_quantised(tensor.dtype),
            "{} is {}; it must be f32, f16, bf16, q8 or q4", name, dtype_name(tensor.dtype));
    shape(name, tensor, dimensions);
    require(!is_quantised(tensor.dtype) || tensor.shape[1] % quantised_block == 0,
            "{} is {} with rows of {}; they must be multiples of {}", name, dtype_name(tensor.dtype), tensor.shape[1],
            quantised_block);
  }

  // Kernels count the tokens of a channel in 32 bits.
  void tokens(std::int64_t batch, std::int64_t length) const {
    constexpr std::int64_t most = (std::int64_t{1} << 31) - 1;
    require(batch <= most / length, "{} sequences of {} tokens; one call takes at most {} tokens: split the batch",
            batch, length, most);
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
    const std::int64_t alignment =
        is_quantised(tensor.dtype) ? quantised_row_alignment : dtype_size_bytes(tensor.dtype);
    require(tensor.offset_bytes % static_cast<std::uint64_t>(alignment) == 0,
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

// Of what is copied between the host and a tensor, by the call `what`. Errors: invalid_argument.
inline void check_transfer(std::string_view what, const Tensor& tensor, std::uint64_t size_bytes) {
  if (!tensor) fail(StatusCode::invalid_argument, "{}: the tensor is missing", what);
  const std::uint64_t capacity = tensor.buffer->size_bytes();
  if (tensor.size_bytes() > capacity || tensor.offset_bytes > capacity - tensor.size_bytes()) {
    fail(StatusCode::invalid_argument, "{}: a tensor of shape {} at byte {} exceeds its buffer of {} bytes", what,
         tensor.shape.text(), tensor.offset_bytes, capacity);
  }
  if (size_bytes != tensor.size_bytes()) {
    fail(StatusCode::invalid_argument, "{}: {} bytes for a tensor of {} bytes", what, size_bytes,
         tensor.size_bytes());
  }
}

inline void check_norm(const Check& check, const NormWeights& norm, std::int64_t width) {
  check.tensor("norm.weight", norm.weight, DType::f32, {width});
  check.tensor("norm.bias", norm.bias, DType::f32, {width});
  check.require(std::isfinite(norm.epsilon) && norm.epsilon >= 0, "norm.epsilon is {}", norm.epsilon);
}

struct FilterSizes {
  std::int64_t heads, width, state;  // H, D, N
};

inline FilterSizes check_filter(const Check& check, const H3Filter& filter) {
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

inline void check_state(const Check& check, const FilterSizes& sizes, int head_dim, const Tensor& positions,
                        const H3State& state) {
  check.require(head_dim >= 1 && sizes.heads * head_dim == sizes.width,
                "head_dim is {}, but the filter has {} channels in {} heads", head_dim, sizes.width, sizes.heads);
  check.tensor("positions", positions, DType::i32, {any});
  const std::int64_t slot_count = positions.shape[0];
  check.tensor("state.shift", state.shift, DType::f32, {slot_count, sizes.width, sizes.state});
  check.tensor("state.modes", state.modes, DType::f32, {slot_count, sizes.width * head_dim, sizes.state / 2, 2});
}

// The width D of qkv (B, L, 3 D).
inline std::int64_t attention_width(const Check& check, const Tensor& qkv, int heads) {
  check.require(qkv.shape[2] % 3 == 0, "qkv has {} columns, not three equal parts", qkv.shape[2]);
  const std::int64_t width = qkv.shape[2] / 3;
  check.require(heads >= 1 && width % heads == 0, "a width of {} does not divide among {} heads", width, heads);
  return width;
}

inline void check_dropout(const Check& check, const Dropout& dropout) {
  check.require(std::isfinite(dropout.p) && dropout.p >= 0 && dropout.p < 1,
                "dropout.p is {}; it must be from 0 to less than 1", dropout.p);
  if (dropout.p > 0) check.tensor("dropout.random", dropout.random, DType::i32, {3});
}

inline void check_attention(const Check& check, const AttentionArgs& args, bool trains) {
  check.activation("qkv", args.qkv, {any, any, any});
  const std::int64_t batch = args.qkv.shape[0];
  const std::int64_t tokens = args.qkv.shape[1];
  const std::int64_t width = attention_width(check, args.qkv, args.heads);
  const bool cached = args.slots || args.positions || args.cache.k || args.cache.v;
  if (!cached || args.log_sum_exp || args.dropout.p != 0) check.training(trains);
  if (cached) {
    check.tensor("slots", args.slots, DType::i32, {batch});
    check.tensor("positions", args.positions, DType::i32, {any});
    const std::int64_t slot_count = args.positions.shape[0];
    check.tensor("cache.k", args.cache.k, args.qkv.dtype, {slot_count, any, width});
    check.tensor("cache.v", args.cache.v, args.qkv.dtype, {slot_count, args.cache.k.shape[1], width});
    check.require(tokens <= args.cache.k.shape[1], "{} tokens at once, but the cache holds {}", tokens,
                  args.cache.k.shape[1]);
    check.require(!args.log_sum_exp && args.dropout.p == 0, "log_sum_exp and dropout go with no cache");
  }
  if (args.log_sum_exp) check.tensor("log_sum_exp", args.log_sum_exp, DType::f32, {batch, args.heads, tokens});
  check_dropout(check, args.dropout);
  check.tensor("y", args.y, args.qkv.dtype, {batch, tokens, width});
  check.separate("y", args.y, "qkv", args.qkv);
}

inline void check_h3_parameters(const Check& check, const FilterSizes& sizes, const std::string& prefix,
                                const H3Parameters& p) {
  const std::int64_t modes = sizes.state / 2;
  check.tensor(prefix + "log_dt", p.log_dt, DType::f32, {sizes.heads});
  check.tensor(prefix + "inv_a_real", p.inv_a_real, DType::f32, {any, modes});
  const std::int64_t rows = p.inv_a_real.shape[0];
  check.require(sizes.heads % rows == 0, "{} rows of A do not divide {} heads", rows, sizes.heads);
  check.tensor(prefix + "a_imag", p.a_imag, DType::f32, {rows, modes});
  check.tensor(prefix + "b", p.b, DType::f32, {rows, modes, 2});
  check.tensor(prefix + "c", p.c, DType::f32, {sizes.heads, modes, 2});
  check.tensor(prefix + "d", p.d, DType::f32, {sizes.heads});
  check.tensor(prefix + "shift_b", p.shift_b, DType::f32, {sizes.width, sizes.state});
  check.tensor(prefix + "shift_c", p.shift_c, DType::f32, {sizes.width, sizes.state});
  check.tensor(prefix + "shift_d", p.shift_d, DType::f32, {sizes.width});
}

// `whole`: with d and shift_taps.
inline void check_filter_gradient(const Check& check, const FilterSizes& sizes, const H3FilterGradient& gradient,
                                  bool whole) {
  check.tensor("d_filter.log_a", gradient.log_a, DType::f32, {sizes.heads, sizes.state / 2, 2});
  check.tensor("d_filter.gain", gradient.gain, DType::f32, {sizes.heads, sizes.state / 2, 2});
  if (!whole) return;
  check.tensor("d_filter.d", gradient.d, DType::f32, {sizes.heads});
  check.tensor("d_filter.shift_taps", gradient.shift_taps, DType::f32, {sizes.width, sizes.state});
}

}  // namespace riverhorse
