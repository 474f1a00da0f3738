// The sums of the ranks' gradients, each part on its way while the backward pass makes the next.
#pragma once

#include "backend/backend.h"
#include "model/parameter_arena.h"

namespace riverhorse {

// For every rank all of them, in buckets.
class GradientReduction {
 public:
  // Of `gradients` (P) f32, which become their sums over the ranks; with `rounded` (P) bf16, where they travel, those
  // of the rounded. All outlive this object.
  GradientReduction(Encoder& encoder, Communicator& communicator, const Tensor& gradients, const Tensor& rounded)
      : encoder_(encoder), communicator_(communicator), gradients_(gradients), rounded_(rounded) {}

  // A part of the gradients that is final: it leaves with its neighbours, once they are large enough together that
  // a transfer's start does not count.
  void add(const GradientPart& part);
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

// For each of N ranks those of its N-th of them.
class GradientPartition {
 public:
  // The sums are added to `own` (P / N) f32. With `rounded` bf16, of the largest part's size or more, the gradients
  // travel there, and the sums are of the rounded. All outlive this object.
  GradientPartition(Encoder& encoder, Communicator& communicator, const Tensor& own, const Tensor& rounded)
      : encoder_(encoder), communicator_(communicator), own_(own), rounded_(rounded) {}

  // A part of the gradients that is final, and stays as it is until the next one is added: that is recorded after
  // what makes it, so that this one has the time of that for its way.
  void add(const GradientPart& part);
  // After the last part; what is recorded next finds the sums.
  void finish();

 private:
  // What `part` has of a rank's.
  GradientPart of_rank(const GradientPart& part, std::int64_t rank) const;

  Encoder& encoder_;
  Communicator& communicator_;
  const Tensor& own_;
  const Tensor& rounded_;
  GradientPart sent_;  // and not added yet
};

}  // namespace riverhorse
