// The sum of the ranks' gradients, in buckets, each on its way while the backward pass makes the next.
#pragma once

#include "backend/backend.h"

namespace riverhorse {

class GradientReduction {
 public:
  // Of `gradients` (P) f32, which become their sums over the ranks; with `rounded` (P) bf16, where they travel, those
  // of the rounded. All outlive this object.
  GradientReduction(Encoder& encoder, Communicator& communicator, const Tensor& gradients, const Tensor& rounded)
      : encoder_(encoder), communicator_(communicator), gradients_(gradients), rounded_(rounded) {}

  // A part of the gradients that is final: it leaves with its neighbours, once they are large enough together that
  // a transfer's start does not count.
  void add(const Tensor& part);
  // After the last part; what is recorded next finds the sums.
  void finish();

 private:
  void send();

  Encoder& encoder_;
  Communicator& communicator_;
  const Tensor& gradients_;
  const Tensor& rounded_;
  std::int64_t begin_ = 0, end_ = 0;  // of the bucket
};

}  // namespace riverhorse
