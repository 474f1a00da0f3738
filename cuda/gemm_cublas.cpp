// Dense products by cuBLASLt. It is column-major: a row-major c = a b is a column-major c^T = b^T a^T, so the
// operands change places and nothing else does.
#include <cublasLt.h>

#include <array>
#include <span>
#include <utility>

#include "base/error.h"
#include "core.h"
#include "gemm.h"

namespace riverhorse::cuda {

namespace {

// What cuBLASLt may use between the parts of one product; NVIDIA recommends 32 MiB for Hopper.
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const StatusCode code = status == CUBLAS_STATUS_ALLOC_FAILED       ? StatusCode::out_of_memory
                          : status == CUBLAS_STATUS_NOT_SUPPORTED    ? StatusCode::unsupported
                          : status == CUBLAS_STATUS_EXECUTION_FAILED ? StatusCode::device_lost
                                                                     : StatusCode::internal;
  fail(code, "{}: cuBLASLt status {}", what, static_cast<int>(status));
}

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return CUDA_R_32F;
    case DType::f16: return CUDA_R_16F;
    case DType::bf16: return CUDA_R_16BF;
    default: fail(StatusCode::internal, "a product of {}", dtype_name(dtype));
  }
}

cublasLtEpilogue_t epilogue_of(const Gemm& gemm) {
  if (gemm.after == AfterGemm::gelu_gradient) return CUBLASLT_EPILOGUE_DGELU;
  if (gemm.after == AfterGemm::nothing) return gemm.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
  if (gemm.pre_activation) return gemm.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  return gemm.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

struct Layout {
  cublasLtMatrixLayout_t handle = nullptr;
  // A row-major (rows, columns) matrix, which is a column-major (columns, rows) one.
  Layout(DType dtype, std::int64_t rows, std::int64_t columns) {
    check_blas(cublasLtMatrixLayoutCreate(&handle, data_type(dtype), static_cast<std::uint64_t>(columns),
                                          static_cast<std::uint64_t>(rows), columns),
               "describing a matrix");
  }
  ~Layout() { cublasLtMatrixLayoutDestroy(handle); }
  Layout(const Layout&) = delete;
};

struct Product {
  cublasLtMatmulDesc_t description = nullptr;
  Layout first, second, out;  // in cuBLASLt's order: b, a, c
  cublasLtMatmulAlgo_t algorithm{};

  explicit Product(const Gemm& gemm)
      : first(gemm.b.dtype, gemm.b_transposed ? gemm.n : gemm.k, gemm.b_transposed ? gemm.k : gemm.n),
        second(gemm.a.dtype, gemm.a_transposed ? gemm.k : gemm.m, gemm.a_transposed ? gemm.m : gemm.k),
        out(gemm.c.dtype, gemm.m, gemm.n) {
    check_blas(cublasLtMatmulDescCreate(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      check_blas(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value),
                 "describing a product");
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, gemm.b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(CUBLASLT_MATMUL_DESC_TRANSB, gemm.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (gemm.plain()) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(gemm));
    if (gemm.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, data<void>(gemm.bias));
    if (!gemm.pre_activation) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, data<void>(gemm.pre_activation));
    set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, gemm.n);
  }
  ~Product() { cublasLtMatmulDescDestroy(description); }
  Product(const Product&) = delete;
};

std::uint32_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address);
  std::uint32_t alignment = 256;
  while (bits % alignment != 0) alignment /= 2;
  return alignment;
}

// The heuristic proposes first what is best for the product alone. Where elements of the result are given to gelu and
// written twice, multiplied by what is read for each, or added to, and a product has few terms, another proposal
// hides more of that; which one was measured (PERFORMANCE.md, The products). A function of what is asked, like the
// heuristic.
constexpr std::int64_t few_terms = 1024;
constexpr int proposals = 8;

bool has_choice(const Gemm& gemm) {
  if (gemm.after == AfterGemm::gelu_gradient) return true;
  return gemm.k <= few_terms && (gemm.after == AfterGemm::nothing ? gemm.accumulate && is_half(gemm.c.dtype)
                                                                  : static_cast<bool>(gemm.pre_activation));
}

// 0 where the algorithm has none.
template <typename T>
T attribute_of(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  std::size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof value, &written);
  return value;
}

// Clusters of two blocks, which compute capability 9.0 and newer have.
bool is_chosen(const Gemm& gemm, const cublasLtMatmulAlgo_t& algorithm) {
  const auto cluster = attribute_of<std::uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
  if (cluster != CUBLASLT_CLUSTER_SHAPE_2x1x1 && cluster != CUBLASLT_CLUSTER_SHAPE_1x2x1) return false;
  const auto tile = attribute_of<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID);
  switch (gemm.after) {
    case AfterGemm::nothing: return tile == CUBLASLT_MATMUL_TILE_176x128;
    case AfterGemm::gelu: return tile == CUBLASLT_MATMUL_TILE_96x128;
    case AfterGemm::gelu_gradient: return tile == CUBLASLT_MATMUL_TILE_128x128;
  }
  return false;
}

const cublasLtMatmulAlgo_t& choice(const Gemm& gemm, std::span<const cublasLtMatmulHeuristicResult_t> found) {
  if (has_choice(gemm)) {
    for (const cublasLtMatmulHeuristicResult_t& each : found) {
      if (is_chosen(gemm, each.algo)) return each.algo;
    }
  }
  return found.front().algo;
}

}  // namespace

struct Gemms::Implementation {
  cublasLtHandle_t handle = nullptr;
  void* workspace = nullptr;
  ~Implementation() {
    cudaFree(workspace);
    if (handle != nullptr) cublasLtDestroy(handle);
  }
};

Gemms::Gemms(int device) : implementation_(std::make_unique<Implementation>()) {
  check(cudaSetDevice(device), "cudaSetDevice");
  check_blas(cublasLtCreate(&implementation_->handle), "cublasLtCreate");
  check(cudaMalloc(&implementation_->workspace, workspace_bytes), "allocating the workspace of products");
}
Gemms::~Gemms() = default;

std::function<void(cudaStream_t)> Gemms::plan(const Gemm& gemm) {
  auto product = std::make_shared<Product>(gemm);
  cublasLtMatmulPreference_t preference = nullptr;
  check_blas(cublasLtMatmulPreferenceCreate(&preference), "choosing a product");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value);
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(data<void>(gemm.b)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(data<void>(gemm.a)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(data<void>(gemm.c)));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(data<void>(gemm.c)));
  std::array<cublasLtMatmulHeuristicResult_t, proposals> found{};
  int count = 0;
  const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      implementation_->handle, product->description, product->first.handle, product->second.handle,
      product->out.handle, product->out.handle, preference, has_choice(gemm) ? proposals : 1, found.data(), &count);
  cublasLtMatmulPreferenceDestroy(preference);
  if (!gemm.plain() && (status != CUBLAS_STATUS_SUCCESS || count == 0)) return {};
  check_blas(status, "choosing a product");
  if (count == 0) {
    fail(StatusCode::unsupported, "cuBLASLt has no way to a product of {} x {} x {} in {}", gemm.m, gemm.n, gemm.k,
         dtype_name(gemm.a.dtype));
  }
  product->algorithm = choice(gemm, std::span(found).first(static_cast<std::size_t>(count)));
  return [product, gemm, this](cudaStream_t stream) {
    const float one = 1.0f, beta = gemm.accumulate ? 1.0f : 0.0f;
    void* out = data<void>(gemm.c);
    check_blas(
        cublasLtMatmul(implementation_->handle, product->description, &one, data<void>(gemm.b), product->first.handle,
                       data<void>(gemm.a), product->second.handle, &beta, out, product->out.handle, out,
                       product->out.handle, &product->algorithm, implementation_->workspace, workspace_bytes, stream),
        "a product");
  };
}

}  // namespace riverhorse::cuda
