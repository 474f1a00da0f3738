// Graphs of operations for cuDNN, and what it makes of them. A graph is written down operation by operation, over
// tensors of four dimensions; where it is one that cuDNN has a fused kernel for, what lies between its inputs and
// outputs never reaches memory.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "cudnn_library.h"

namespace riverhorse::cuda {

// The type that cuDNN wants to hear with an attribute's values.
constexpr auto cudnn_type_of(const bool* /*values*/) { return CUDNN_TYPE_BOOLEAN; }
constexpr auto cudnn_type_of(const std::int64_t* /*values*/) { return CUDNN_TYPE_INT64; }
constexpr auto cudnn_type_of(void* const* /*values*/) { return CUDNN_TYPE_VOID_PTR; }
constexpr auto cudnn_type_of(const cudnnHandle_t* /*values*/) { return CUDNN_TYPE_HANDLE; }
constexpr auto cudnn_type_of(const cudnnDataType_t* /*values*/) { return CUDNN_TYPE_DATA_TYPE; }
constexpr auto cudnn_type_of(const cudnnPointwiseMode_t* /*values*/) { return CUDNN_TYPE_POINTWISE_MODE; }
constexpr auto cudnn_type_of(const cudnnReduceTensorOp_t* /*values*/) { return CUDNN_TYPE_REDUCTION_OPERATOR_TYPE; }
constexpr auto cudnn_type_of(const cudnnBackendHeurMode_t* /*values*/) { return CUDNN_TYPE_HEUR_MODE; }

// One of cuDNN's descriptors. Errors name it, and the attribute that cuDNN does not like.
class CudnnDescriptor {
 public:
  CudnnDescriptor(const CudnnLibrary& cudnn, cudnnBackendDescriptorType_t type, std::string name);
  ~CudnnDescriptor();
  CudnnDescriptor(CudnnDescriptor&& other) noexcept;
  CudnnDescriptor(const CudnnDescriptor&) = delete;
  CudnnDescriptor& operator=(const CudnnDescriptor&) = delete;

  template <typename T>
  CudnnDescriptor& set(cudnnBackendAttributeName_t attribute, const T& value) {
    return set(attribute, cudnn_type_of(&value), 1, &value);
  }
  template <typename List>
  CudnnDescriptor& set_list(cudnnBackendAttributeName_t attribute, const List& values) {
    return set(attribute, cudnn_type_of(values.data()), static_cast<std::int64_t>(values.size()), values.data());
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t attribute, const CudnnDescriptor& value) {
    return set(attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value.handle_);
  }
  CudnnDescriptor& set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type, std::int64_t count,
                       const void* values);
  CudnnDescriptor& finalize();
  std::int64_t number(cudnnBackendAttributeName_t attribute) const;
  // Fills in as many descriptors as there are values, at most as many as are given; returns their number.
  std::int64_t fill(cudnnBackendAttributeName_t attribute, std::vector<cudnnBackendDescriptor_t> values) const;
  cudnnBackendDescriptor_t handle() const { return handle_; }

 private:
  const CudnnLibrary* cudnn_;
  std::string name_;
  cudnnBackendDescriptor_t handle_ = nullptr;
};

class CudnnGraph {
 public:
  using Four = std::array<std::int64_t, 4>;
  struct Tensor {
    const CudnnDescriptor* descriptor;
    Four shape, strides;  // in elements
  };

  explicit CudnnGraph(const CudnnLibrary& cudnn) : cudnn_(&cudnn) {}

  // In memory, at 16 bytes; bind() is given their addresses, in the order of these calls.
  Tensor stored(cudnnDataType_t type, const Four& shape, const Four& strides);
  Tensor scalar(float value);
  // Between operations.
  Tensor passing(cudnnDataType_t type, const Four& shape, const Four& strides);
  Tensor passing_like(const Tensor& x, cudnnDataType_t type) { return passing(type, x.shape, x.strides); }

  Tensor add_matmul(const Tensor& a, const Tensor& b, const Tensor& c);
  Tensor add_reduction(cudnnReduceTensorOp_t operation, const Tensor& x, const Tensor& y);
  // y = mode(x, b); b may have ones for dimensions of x. Without y the result passes on, in fp32 and like x.
  Tensor add_binary(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b, const Tensor& y);
  Tensor add_binary(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b);
  Tensor add_unary(cudnnPointwiseMode_t mode, const Tensor& x);
  // x (.., rows, columns) where the column is at most the row, else `other`.
  Tensor add_causal(const Tensor& x, const Tensor& other);

  // Chooses how to compute it: the first of cuDNN's proposals that it can compile. Errors: unsupported where cuDNN
  // has no way in so much workspace, with what it says.
  void plan(cudnnHandle_t handle, std::int64_t most_workspace_bytes);
  std::int64_t workspace_bytes() const { return workspace_bytes_; }
  // What is executed: the plan, with addresses. Those of scalars are in this object.
  CudnnDescriptor bind(std::vector<void*> addresses, void* workspace) const;
  const CudnnDescriptor& execution_plan() const { return *execution_plan_; }

 private:
  CudnnDescriptor& keep(CudnnDescriptor descriptor);
  CudnnDescriptor make_tensor(cudnnDataType_t type, const Four& shape, const Four& strides);
  CudnnDescriptor make_pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t precision, const Tensor& x,
                                 const Tensor& y, std::int64_t axis = -1);
  void add(CudnnDescriptor& operation);
  std::deque<CudnnDescriptor> proposals(const CudnnDescriptor& graph, cudnnBackendHeurMode_t mode) const;
  // Errors: those of cuDNN; unsupported for too much workspace.
  void take(CudnnDescriptor& configuration, std::int64_t most_workspace_bytes);

  const CudnnLibrary* cudnn_;
  std::deque<CudnnDescriptor> kept_;
  std::vector<cudnnBackendDescriptor_t> operations_;
  std::int64_t last_id_ = 0;
  std::vector<std::int64_t> stored_ids_, scalar_ids_;
  std::deque<float> scalars_;
  std::optional<CudnnDescriptor> execution_plan_;
  std::int64_t workspace_bytes_ = 0;
};

}  // namespace riverhorse::cuda
