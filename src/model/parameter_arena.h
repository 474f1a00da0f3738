// The parameters of a model in training: one flat fp32 buffer, and one of the same layout for the gradients, so that
// clipping and the optimiser are a few operations however many layers there are. In mixed precision there is a third,
// the operands: all parameters rounded to the activations' dtype, of which products read the matrices and biases.
//
// The layout is by optimiser group, a contiguous range each, in which matrices lie apart from the rest: their
// gradients may be written by one product each, and all others are sums that begin at zero. Tensors begin at
// multiples of 64 elements, but for those that the model uses as one (q, k and v projections), which follow each
// other. What lies between tensors stays zero.
//
// Where several ranks divide the gradients (the second stage of ZeRO), no rank has them whole: those of a layer's
// matrices lie in one of two windows, which every second layer has in turn, and leave it before the next but one is
// made; all others have a tensor of their own.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "model/training_memory.h"

namespace riverhorse {

// What the recipes tell apart. Weights: of linear layers, and the C and D of the SSMs. Vectors: biases, layer norms,
// the embedding. Dynamics: what the original marks as the SSM's own (log_dt, A and B of the diagonal one, B of the
// shift).
enum class ParameterGroup { weights, vectors, dynamics };
inline constexpr std::array parameter_groups = {ParameterGroup::weights, ParameterGroup::vectors,
                                                ParameterGroup::dynamics};
ParameterGroup parameter_group(const std::string& name);

// A part of the gradients: where it begins in the arena's layout, and what holds it now.
struct GradientPart {
  std::int64_t begin = 0;
  Tensor tensor;
  std::int64_t end() const { return begin + tensor.count(); }
};

class ParameterArena {
 public:
  // Of zeros; `operands` is f32, f16 or bf16. P divides into `parts` equal parts; with `windows` gradients are not
  // whole. Errors: out_of_memory.
  ParameterArena(const TrainingMemory& memory, const ModelConfig& config, DType operands, std::int64_t parts = 1,
                 bool windows = false);

  // Writes the parameters and the operands of them. Errors: bad_file, for a matrix that `operands` cannot hold too.
  void load(const std::map<std::string, HostTensor>& parameters) const;

  // By today's name, in the shape that the checkpoint has; `joined`: names of neighbours, as one tensor with their
  // first dimensions added. Errors: internal, for a name that is not there or neighbours that are none.
  Tensor value(const std::string& name) const { return view(values_, {name}); }
  Tensor gradient(const std::string& name) const { return joined_gradient({name}); }
  Tensor joined_value(const std::vector<std::string>& names) const { return view(values_, names); }
  Tensor joined_gradient(const std::vector<std::string>& names) const;
  // A matrix as products read it: in f32 the parameter itself.
  Tensor operand(const std::string& name) const { return joined_operand({name}); }
  Tensor joined_operand(const std::vector<std::string>& names) const {
    return view(operands_ ? operands_ : values_, names);
  }
  bool has(const std::string& name) const { return places_.contains(name); }

  // Whole: (P) f32, P padded.
  const Tensor& values() const { return values_; }
  const Tensor& gradients() const { return gradients_; }  // empty where they have windows
  const Tensor& operands() const { return operands_; }    // of the dtype of operands; empty in f32
  // The range of a group in any tensor of that shape; empty where no parameter belongs to it.
  Tensor group(const Tensor& whole, ParameterGroup group) const;
  using Range = std::pair<std::int64_t, std::int64_t>;  // begin, end
  Range range(ParameterGroup group) const { return ranges_[static_cast<std::size_t>(group)]; }

  // Of any tensor of that shape all but the matrices, in as few pieces as there are; and of the gradients.
  std::vector<Tensor> without_matrices(const Tensor& whole) const;
  std::vector<Tensor> gradients_without_matrices() const;

  // The gradients of a layer's matrices, up to those of the next layer.
  GradientPart layer_gradients(std::int64_t layer) const;
  // What no product writes of them, and may hold what the layer before left in the window.
  std::vector<Tensor> between_layer_gradients(std::int64_t layer) const;
  // All other gradients.
  std::vector<GradientPart> other_gradients() const;
  // The largest tensor of gradients, whole or not: when they are not needed, for something else.
  const Tensor& gradient_memory() const { return gradients_ ? gradients_ : other_gradients_; }

  // Host copies of a whole, by name: parameters to save, gradients to look at; and of the optimiser's moments back.
  std::map<std::string, HostTensor> download(const Tensor& whole) const;
  std::map<std::string, HostTensor> named(std::span<const float> whole) const;
  // Of a part of such a whole, from element `begin` on, what it has of each parameter: the elements from the piece's
  // begin on, (count), in the same memory.
  struct Piece {
    std::int64_t begin = 0;
    HostTensor values;
  };
  std::map<std::string, Piece> named_part(const std::shared_ptr<const std::vector<float>>& part,
                                          std::int64_t begin) const;
  void upload(const Tensor& whole, const std::map<std::string, HostTensor>& tensors) const;
  // Of a tensor of that shape the part from element `begin` on. Errors: bad_file, for a name that is missing.
  void upload_part(const Tensor& part, std::int64_t begin, const std::map<std::string, HostTensor>& tensors) const;

 private:
  struct Place {
    std::int64_t begin = 0;
    std::vector<std::int64_t> shape;
    bool matrix = false;
    std::int64_t count() const;
  };
  Tensor view(const Tensor& whole, const std::vector<std::string>& names) const;
  void allocate_windows(const TrainingMemory& memory, std::int64_t count, std::int64_t parts);
  // Those from `begin` to `end`, which lie together.
  Tensor gradients_in(const Range& range) const;

  std::shared_ptr<Device> device_;
  std::map<std::string, Place> places_;
  std::array<Range, parameter_groups.size()> ranges_{};
  std::vector<Range> rests_;   // without matrices
  std::vector<Range> layers_;  // matrices, each up to the next layer's
  Tensor values_;
  Tensor gradients_;               // or:
  std::array<Tensor, 2> windows_;  // of even and of odd layers
  Tensor other_gradients_;         // before the first layer's matrices, and behind the last one's
  Tensor operands_;
};

}  // namespace riverhorse
