// Dense products, row-major:  c (m, n) = op(a) op(b)  or  c += that, op a transpose or nothing. Sums in fp32 (never
// TF32). The implementation is cuBLASLt (gemm_cublas.cpp), and OpenBLAS where CUDA is emulated (gemm_emulated.cpp).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "backend/tensor.h"

namespace riverhorse::cuda {

// What may follow a product whose c is f16 or bf16, before it is rounded.
enum class AfterGemm {
  nothing,
  gelu,           // gelu_tanh; `pre_activation`, unless it is empty, is written with what that was given
  gelu_gradient,  // times gelu_tanh'(pre_activation)
};

struct Gemm {
  std::int64_t m = 0, n = 0, k = 0;
  Tensor a;  // (m, k), or (k, m) when transposed; f32, f16 or bf16
  bool a_transposed = false;
  Tensor b;  // (k, n), or (n, k) when transposed; the dtype of a
  bool b_transposed = false;
  Tensor c;  // (m, n), f32 or the dtype of a
  bool accumulate = false;
  Tensor bias = {};  // (n), the dtype of c, added to every row; or empty
  AfterGemm after = AfterGemm::nothing;
  Tensor pre_activation = {};  // (m, n), the dtype of c

  bool plain() const { return !bias && after == AfterGemm::nothing; }
};

class Gemms {
 public:
  // Errors: out_of_memory.
  explicit Gemms(int device);
  ~Gemms();
  // Chooses how to compute it; the result launches it on a stream, as often as one likes while this object lives. The
  // shapes of the tensors are not read, only where they begin. Empty where there is no way to compute one that is not
  // plain at once; one that is plain: unsupported.
  std::function<void(cudaStream_t)> plan(const Gemm& gemm);

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace riverhorse::cuda
