// Attention by cuDNN. The graph below is what its fused kernels answer to: the formulae of src/cpu/attention.cpp, an
// operation at a time. The logarithm of the sum of exponentials that it leaves is natural, like ours.
// The backward pass is not here: cuDNN 9 has two ways. One adds d_q together in any order, so that a run cannot be
// repeated bit by bit; the other keeps the gradient of every score in memory, 2 B heads L^2 bytes (0.8 GB for 32 x 12
// heads of 1024 tokens, 6.4 GB for 4 x 12 of 8192), and ours needs memory in proportion to L only.
#include <atomic>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "core.h"
#include "cudnn_plan.h"
#include "fused_attention.h"

namespace riverhorse::cuda {

namespace {

// Where it is used: in bf16, in which it was measured with 1024 and 8192 tokens and heads of 64 (PERFORMANCE.md);
// shorter texts than these take little time either way.
constexpr std::int64_t least_tokens = 256;
constexpr std::int64_t most_head_width = 128;
constexpr std::int64_t most_elements = std::int64_t{1} << 31;  // of a tensor, whatever cuDNN counts them with
constexpr std::int64_t most_workspace_bytes = 4 << 20;

// What a plan is made for.
struct Sizes {
  std::int64_t batch = 0, heads = 0, tokens = 0, head_width = 0;
  bool with_log_sum_exp = false;

  explicit Sizes(const AttentionArgs& args)
      : batch(args.qkv.shape[0]),
        heads(args.heads),
        tokens(args.qkv.shape[1]),
        head_width(args.qkv.shape[2] / 3 / args.heads),
        with_log_sum_exp(args.log_sum_exp) {}

  auto operator<=>(const Sizes& other) const = default;
  std::string text() const { return fmt::format("{} x {} heads x {} x {}", batch, heads, tokens, head_width); }
};

// cuDNN reads and writes 16 bytes at a time; buffers begin at 256.
bool aligned(const Tensor& tensor) { return tensor.offset_bytes % 16 == 0; }

bool may_be_faster(const AttentionArgs& args) {
  const Sizes sizes(args);
  return !args.slots && args.dropout.p == 0 && args.qkv.dtype == DType::bf16 && sizes.tokens >= least_tokens &&
         sizes.head_width % 8 == 0 && sizes.head_width <= most_head_width && args.qkv.count() < most_elements &&
         aligned(args.qkv) && aligned(args.y);
}

// Stored: q, k, v, y and log_sum_exp if there is one.
void describe(CudnnGraph& graph, const Sizes& sizes) {
  using Four = CudnnGraph::Four;
  constexpr auto type = CUDNN_DATA_BFLOAT16;
  const std::int64_t batch = sizes.batch, heads = sizes.heads, tokens = sizes.tokens, width = sizes.head_width;
  const Four of_heads = {batch, heads, tokens, width}, transposed = {batch, heads, width, tokens};
  const std::int64_t row = 3 * heads * width;
  const auto q = graph.stored(type, of_heads, {tokens * row, width, row, 1});
  const auto k = graph.stored(type, transposed, {tokens * row, width, 1, row});
  const auto v = graph.stored(type, of_heads, {tokens * row, width, row, 1});
  const auto y = graph.stored(type, of_heads, {tokens * heads * width, width, heads * width, 1});
  const Four of_sums = {batch, heads, tokens, 1}, in_sums = {heads * tokens, tokens, 1, 1};
  const auto sum = [&] { return graph.passing(CUDNN_DATA_FLOAT, of_sums, in_sums); };
  const auto log_sum_exp = sizes.with_log_sum_exp ? graph.stored(CUDNN_DATA_FLOAT, of_sums, in_sums) : sum();
  const auto scale = graph.scalar(1.0f / std::sqrt(static_cast<float>(width)));
  const auto unseen = graph.scalar(-std::numeric_limits<float>::infinity());

  auto scores = graph.passing(CUDNN_DATA_FLOAT, {batch, heads, tokens, tokens},
                              {heads * tokens * tokens, tokens * tokens, tokens, 1});
  graph.add_matmul(q, k, scores);
  scores = graph.add_binary(CUDNN_POINTWISE_MUL, scores, scale);
  scores = graph.add_causal(scores, unseen);
  const auto maximum = graph.add_reduction(CUDNN_REDUCE_TENSOR_MAX, scores, sum());
  scores = graph.add_binary(CUDNN_POINTWISE_SUB, scores, maximum);
  const auto weights = graph.add_unary(CUDNN_POINTWISE_EXP, scores);
  const auto total = graph.add_reduction(CUDNN_REDUCE_TENSOR_ADD, weights, sum());
  const auto log_total = graph.add_unary(CUDNN_POINTWISE_LOG, total);
  graph.add_binary(CUDNN_POINTWISE_ADD, maximum, log_total, log_sum_exp);
  const auto probabilities = graph.passing_like(weights, type);
  graph.add_binary(CUDNN_POINTWISE_DIV, weights, total, probabilities);
  graph.add_matmul(probabilities, v, y);
}

void say_once(const std::string& message) {
  static std::atomic<bool> said = false;
  if (!said.exchange(true)) log_info(message);
}

}  // namespace

struct FusedAttention::Implementation {
  int device;
  bool opened = false;
  const CudnnLibrary* cudnn = nullptr;
  cudnnHandle_t handle = nullptr;
  std::map<Sizes, std::unique_ptr<CudnnGraph>> graphs;  // null: cuDNN has no way to compute these

  explicit Implementation(int index) : device(index) {}
  ~Implementation() {
    graphs.clear();
    if (handle != nullptr) cudnn->destroy(handle);
  }

  // At the first attention that cuDNN may be faster at: its libraries are large.
  void open() {
    std::string reason;
    const CudnnLibrary* library = cudnn_library(reason);
    opened = true;
    if (library == nullptr) return say_once(fmt::format("attention by kernels of our own: {}", reason));
    try {
      cuda::check(cudaSetDevice(device), "cudaSetDevice");
      library->check(library->create(&handle), "cudnnCreate");
    } catch (const Error& error) {
      handle = nullptr;
      return log_warning(fmt::format("attention by kernels of our own: {}", error.what()));
    }
    cudnn = library;
    const std::size_t version = cudnn->version();
    say_once(fmt::format("attention by cuDNN {}.{}.{}, where it is faster than kernels of our own", version / 10000,
                         version % 10000 / 100, version % 100));
  }

  const CudnnGraph* graph_of(const Sizes& sizes) {
    if (!opened) open();
    if (cudnn == nullptr) return nullptr;
    const auto [found, is_new] = graphs.try_emplace(sizes);
    if (!is_new) return found->second.get();
    try {
      cuda::check(cudaSetDevice(device), "cudaSetDevice");
      auto graph = std::make_unique<CudnnGraph>(*cudnn);
      describe(*graph, sizes);
      graph->plan(handle, most_workspace_bytes);
      found->second = std::move(graph);
    } catch (const Error& error) {
      log_info(fmt::format("attention of {} by kernels of our own: {}", sizes.text(), error.what()));
    }
    return found->second.get();
  }
};

FusedAttention::FusedAttention(int device) : implementation_(std::make_unique<Implementation>(device)) {}
FusedAttention::~FusedAttention() = default;

std::optional<std::int64_t> FusedAttention::workspace_bytes(const AttentionArgs& args) {
  if (!may_be_faster(args)) return {};
  const CudnnGraph* graph = implementation_->graph_of(Sizes(args));
  if (graph == nullptr) return {};
  return graph->workspace_bytes();
}

std::function<void(cudaStream_t)> FusedAttention::plan(const AttentionArgs& args, const Tensor& workspace) {
  const Implementation& way = *implementation_;
  const CudnnGraph* graph = implementation_->graph_of(Sizes(args));
  std::byte* const q = data<std::byte>(args.qkv);
  const std::int64_t part = args.qkv.shape[2] / 3 * dtype_size_bytes(args.qkv.dtype);
  std::vector<void*> addresses = {q, q + part, q + 2 * part, data<void>(args.y)};
  if (args.log_sum_exp) addresses.push_back(data<void>(args.log_sum_exp));
  const auto pack = std::make_shared<CudnnDescriptor>(graph->bind(std::move(addresses), data<void>(workspace)));
  return [&way, graph, pack](cudaStream_t stream) {
    way.cudnn->check(way.cudnn->set_stream(way.handle, stream), "cudnnSetStream");
    way.cudnn->check(way.cudnn->execute(way.handle, graph->execution_plan().handle(), pack->handle()),
                     "attention by cuDNN");
  };
}

}  // namespace riverhorse::cuda
