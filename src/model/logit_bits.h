// Of the logits of a training in mixed precision, between the product that makes them and the softmax of the loss.
#pragma once

namespace riverhorse {

// full: f32. half: rounded to the dtype of activations, and gradients are those of the rounded logits.
enum class LogitBits { full, half };

}  // namespace riverhorse
