// Activation recomputation (activation checkpointing): memory for time. The backward pass reads stages of the forward
// pass; those that are not kept are made again just before it, by the same operations on the same numbers, dropout
// included, so that the gradients are the same bit for bit.
#pragma once

#include <string_view>

namespace riverhorse {

// none: every stage of every layer is kept.
// mixer: of a layer, the residual stream that it begins with and the inner stages of its MLP are kept; both norms,
// the
//        mixer with its projections and the first residual addition are done again.
// block: only the residual stream that a layer begins with is kept; all is done again but the MLP's last product,
//        which nothing reads.
// The last layer does nothing again: its backward pass comes first, while what layers share still holds its stages.
enum class Recompute { none, mixer, block };

constexpr std::string_view recompute_name(Recompute level) {
  return level == Recompute::none ? "none" : level == Recompute::mixer ? "mixer" : "block";
}

}  // namespace riverhorse
