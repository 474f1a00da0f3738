// Which tiles (attention.cuh) an operation takes.
#pragma once

#include <initializer_list>
#include <type_traits>

#include "attention_plain_tiles.cuh"
#include "attention_tensor_tiles.cuh"

namespace riverhorse::cuda::attention {

template <typename T>
struct TypeOf {
  using type = T;
};

// Tensor cores read rows by 16 bytes: `tensors`, those present, begin at such an address.
inline bool fit_tensor_cores(std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors) {
    if (tensor && !at_16_bytes(data<void>(tensor))) return false;
  }
  return true;
}

// Calls `function` with a TypeOf<tiles>. `aligned`: what fit_tensor_cores() says.
template <typename T, typename Function>
void with_tiles(int head_width, bool aligned, Function&& function) {
  if constexpr (sizeof(T) == 2) {
    if (aligned && head_width % 8 == 0 && head_width <= 128) {
      if (head_width <= 64) {
        function(TypeOf<TensorTiles<T, 64>>());
      } else {
        function(TypeOf<TensorTiles<T, 128>>());
      }
      return;
    }
  }
  if (head_width <= 64) {
    function(TypeOf<PlainTiles<T, 1>>());
  } else {
    function(TypeOf<PlainTiles<T, 2>>());
  }
}

}  // namespace riverhorse::cuda::attention
