#include "cudnn_plan.h"

#include <utility>

#include "base/error.h"

namespace riverhorse::cuda {

CudnnDescriptor::CudnnDescriptor(const CudnnLibrary& cudnn, cudnnBackendDescriptorType_t type, std::string name)
    : cudnn_(&cudnn), name_(std::move(name)) {
  cudnn.check(cudnn.create_descriptor(type, &handle_), name_);
}

CudnnDescriptor::~CudnnDescriptor() {
  if (handle_ != nullptr) cudnn_->destroy_descriptor(handle_);
}

CudnnDescriptor::CudnnDescriptor(CudnnDescriptor&& other) noexcept
    : cudnn_(other.cudnn_), name_(std::move(other.name_)), handle_(std::exchange(other.handle_, nullptr)) {}

CudnnDescriptor& CudnnDescriptor::set(cudnnBackendAttributeName_t attribute, cudnnBackendAttributeType_t type,
                                      std::int64_t count, const void* values) {
  cudnn_->check(cudnn_->set_attribute(handle_, attribute, type, count, values),
                fmt::format("{}, attribute {}", name_, static_cast<int>(attribute)));
  return *this;
}

CudnnDescriptor& CudnnDescriptor::finalize() {
  cudnn_->check(cudnn_->finalize(handle_), name_);
  return *this;
}

std::int64_t CudnnDescriptor::number(cudnnBackendAttributeName_t attribute) const {
  std::int64_t value = 0, count = 0;
  cudnn_->check(cudnn_->get_attribute(handle_, attribute, CUDNN_TYPE_INT64, 1, &count, &value),
                fmt::format("{}, reading attribute {}", name_, static_cast<int>(attribute)));
  return value;
}

std::int64_t CudnnDescriptor::fill(cudnnBackendAttributeName_t attribute,
                                   std::vector<cudnnBackendDescriptor_t> values) const {
  std::int64_t count = 0;
  cudnn_->check(cudnn_->get_attribute(handle_, attribute, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                      static_cast<std::int64_t>(values.size()), &count, values.data()),
                fmt::format("{}, reading attribute {}", name_, static_cast<int>(attribute)));
  return count;
}

CudnnDescriptor& CudnnGraph::keep(CudnnDescriptor descriptor) { return kept_.emplace_back(std::move(descriptor)); }

CudnnDescriptor CudnnGraph::make_tensor(cudnnDataType_t type, const Four& shape, const Four& strides) {
  CudnnDescriptor tensor(*cudnn_, CUDNN_BACKEND_TENSOR_DESCRIPTOR, fmt::format("tensor {}", ++last_id_));
  tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type)
      .set_list(CUDNN_ATTR_TENSOR_DIMENSIONS, shape)
      .set_list(CUDNN_ATTR_TENSOR_STRIDES, strides)
      .set(CUDNN_ATTR_TENSOR_UNIQUE_ID, last_id_)
      .set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, std::int64_t{16});
  return tensor;
}

CudnnGraph::Tensor CudnnGraph::stored(cudnnDataType_t type, const Four& shape, const Four& strides) {
  CudnnDescriptor& tensor = keep(make_tensor(type, shape, strides));
  stored_ids_.push_back(last_id_);
  return {&tensor.finalize(), shape, strides};
}

CudnnGraph::Tensor CudnnGraph::scalar(float value) {
  constexpr Four ones = {1, 1, 1, 1};
  CudnnDescriptor& tensor = keep(make_tensor(CUDNN_DATA_FLOAT, ones, ones));
  scalar_ids_.push_back(last_id_);
  scalars_.push_back(value);
  return {&tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, true).finalize(), ones, ones};
}

CudnnGraph::Tensor CudnnGraph::passing(cudnnDataType_t type, const Four& shape, const Four& strides) {
  CudnnDescriptor& tensor = keep(make_tensor(type, shape, strides));
  return {&tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, true).finalize(), shape, strides};
}

void CudnnGraph::add(CudnnDescriptor& operation) { operations_.push_back(operation.finalize().handle()); }

CudnnGraph::Tensor CudnnGraph::add_matmul(const Tensor& a, const Tensor& b, const Tensor& c) {
  CudnnDescriptor& matmul = keep({*cudnn_, CUDNN_BACKEND_MATMUL_DESCRIPTOR, "matmul"});
  matmul.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT).finalize();
  add(keep({*cudnn_, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "operation matmul"})
          .set(CUDNN_ATTR_OPERATION_MATMUL_ADESC, *a.descriptor)
          .set(CUDNN_ATTR_OPERATION_MATMUL_BDESC, *b.descriptor)
          .set(CUDNN_ATTR_OPERATION_MATMUL_CDESC, *c.descriptor)
          .set(CUDNN_ATTR_OPERATION_MATMUL_DESC, matmul));
  return c;
}

CudnnGraph::Tensor CudnnGraph::add_reduction(cudnnReduceTensorOp_t operation, const Tensor& x, const Tensor& y) {
  CudnnDescriptor& reduction = keep({*cudnn_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "reduction"});
  reduction.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT).set(CUDNN_ATTR_REDUCTION_OPERATOR, operation);
  add(keep({*cudnn_, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "operation reduction"})
          .set(CUDNN_ATTR_OPERATION_REDUCTION_DESC, reduction.finalize())
          .set(CUDNN_ATTR_OPERATION_REDUCTION_XDESC, *x.descriptor)
          .set(CUDNN_ATTR_OPERATION_REDUCTION_YDESC, *y.descriptor));
  return y;
}

CudnnDescriptor CudnnGraph::make_pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t precision, const Tensor& x,
                                           const Tensor& y, std::int64_t axis) {
  const std::string name = fmt::format("pointwise {}", static_cast<int>(mode));
  CudnnDescriptor& pointwise = keep({*cudnn_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, name});
  pointwise.set(CUDNN_ATTR_POINTWISE_MODE, mode).set(CUDNN_ATTR_POINTWISE_MATH_PREC, precision);
  if (axis >= 0) pointwise.set(CUDNN_ATTR_POINTWISE_AXIS, axis);
  CudnnDescriptor operation(*cudnn_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "operation " + name);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, pointwise.finalize())
      .set(CUDNN_ATTR_OPERATION_POINTWISE_XDESC, *x.descriptor)
      .set(CUDNN_ATTR_OPERATION_POINTWISE_YDESC, *y.descriptor);
  return operation;
}

CudnnGraph::Tensor CudnnGraph::add_binary(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b,
                                          const Tensor& y) {
  add(keep(make_pointwise(mode, CUDNN_DATA_FLOAT, x, y)).set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *b.descriptor));
  return y;
}

CudnnGraph::Tensor CudnnGraph::add_binary(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b) {
  return add_binary(mode, x, b, passing_like(x, CUDNN_DATA_FLOAT));
}

CudnnGraph::Tensor CudnnGraph::add_unary(cudnnPointwiseMode_t mode, const Tensor& x) {
  const Tensor y = passing_like(x, CUDNN_DATA_FLOAT);
  add(keep(make_pointwise(mode, CUDNN_DATA_FLOAT, x, y)));
  return y;
}

CudnnGraph::Tensor CudnnGraph::add_causal(const Tensor& x, const Tensor& other) {
  const auto index = [&](std::int64_t axis) {
    const Tensor indices = passing_like(x, CUDNN_DATA_INT32);
    add(keep(make_pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT, x, indices, axis)));
    return indices;
  };
  const Tensor row = index(2), column = index(3);
  const Tensor seen = passing_like(x, CUDNN_DATA_BOOLEAN), y = passing_like(x, CUDNN_DATA_FLOAT);
  add(keep(make_pointwise(CUDNN_POINTWISE_CMP_GE, CUDNN_DATA_BOOLEAN, row, seen))
          .set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *column.descriptor));
  add(keep(make_pointwise(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, x, y))
          .set(CUDNN_ATTR_OPERATION_POINTWISE_BDESC, *other.descriptor)
          .set(CUDNN_ATTR_OPERATION_POINTWISE_TDESC, *seen.descriptor));
  return y;
}

// By cuDNN's guess of their speed.
std::deque<CudnnDescriptor> CudnnGraph::proposals(const CudnnDescriptor& graph, cudnnBackendHeurMode_t mode) const {
  constexpr std::size_t most = 8;
  CudnnDescriptor heuristics(*cudnn_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "heuristics");
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph).set(CUDNN_ATTR_ENGINEHEUR_MODE, mode).finalize();
  std::deque<CudnnDescriptor> configurations;
  std::vector<cudnnBackendDescriptor_t> handles;
  while (handles.size() < most) {
    configurations.emplace_back(*cudnn_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "engine configuration");
    handles.push_back(configurations.back().handle());
  }
  const auto count = static_cast<std::size_t>(heuristics.fill(CUDNN_ATTR_ENGINEHEUR_RESULTS, std::move(handles)));
  while (configurations.size() > count) configurations.pop_back();
  return configurations;
}

void CudnnGraph::take(CudnnDescriptor& configuration, std::int64_t most_workspace_bytes) {
  CudnnDescriptor plan(*cudnn_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, "execution plan");
  plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration).finalize();
  const std::int64_t bytes = plan.number(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE);
  if (bytes > most_workspace_bytes) {
    fail(StatusCode::unsupported, "execution plan: {} MiB of workspace are too much", bytes >> 20);
  }
  keep(std::move(configuration));
  execution_plan_.emplace(std::move(plan));
  workspace_bytes_ = bytes;
}

void CudnnGraph::plan(cudnnHandle_t handle, std::int64_t most_workspace_bytes) {
  CudnnDescriptor& graph = keep({*cudnn_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "graph"});
  graph
      .set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
           static_cast<std::int64_t>(operations_.size()), operations_.data())
      .set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)
      .finalize();
  std::string reasons;
  const auto succeeds = [&](const auto& work) {
    try {
      work();
      return true;
    } catch (const Error& error) {
      if (reasons.find(error.what()) == std::string::npos) reasons += std::string("; ") + error.what();
      return false;
    }
  };
  for (const cudnnBackendHeurMode_t mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK}) {
    std::deque<CudnnDescriptor> configurations;
    succeeds([&] { configurations = proposals(graph, mode); });
    for (CudnnDescriptor& configuration : configurations) {
      if (succeeds([&] { take(configuration, most_workspace_bytes); })) return;
    }
  }
  fail(StatusCode::unsupported, "cuDNN proposes no kernel that can be used{}", reasons);
}

CudnnDescriptor CudnnGraph::bind(std::vector<void*> addresses, void* workspace) const {
  std::vector<std::int64_t> ids = stored_ids_;
  ids.insert(ids.end(), scalar_ids_.begin(), scalar_ids_.end());
  for (const float& value : scalars_) addresses.push_back(const_cast<float*>(&value));
  CudnnDescriptor pack(*cudnn_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "variant pack");
  pack.set_list(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, ids)
      .set_list(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, addresses)
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, workspace)
      .finalize();
  return pack;
}

}  // namespace riverhorse::cuda
