#include "train/gradient_reduction.h"

#include <algorithm>

namespace riverhorse {
namespace {

constexpr std::int64_t bucket_elements = std::int64_t{8} << 20;  // 32 MiB

}  // namespace

void GradientReduction::add(const GradientPart& part) {
  const std::int64_t begin = part.begin, end = part.end();
  if (begin_ < end_ && begin != end_ && end != begin_) send();
  begin_ = begin_ < end_ ? std::min(begin_, begin) : begin;
  end_ = std::max(end_, end);
  if (end_ - begin_ >= bucket_elements) send();
}

void GradientReduction::finish() {
  send();
  encoder_.await_ranks({&communicator_});
  if (rounded_) encoder_.copy({rounded_, gradients_});
}

void GradientReduction::send() {
  if (begin_ < end_) {
    Tensor bucket = gradients_.slice(begin_, end_ - begin_);
    if (rounded_) {
      const Tensor rounded = rounded_.slice(begin_, end_ - begin_);
      encoder_.copy({bucket, rounded});
      bucket = rounded;
    }
    encoder_.communicate({Collective::all_reduce, &communicator_, bucket, bucket});
  }
  begin_ = end_ = 0;
}

GradientPart GradientPartition::of_rank(const GradientPart& part, std::int64_t rank) const {
  const std::int64_t begin = std::max(part.begin, rank * own_.count());
  const std::int64_t end = std::min(part.end(), (rank + 1) * own_.count());
  if (begin >= end) return {};
  return {begin, part.tensor.slice(begin - part.begin, end - begin)};
}

void GradientPartition::add(const GradientPart& part) {
  finish();
  sent_ = part;
  if (rounded_) {
    sent_.tensor = rounded_.slice(0, part.tensor.count());
    encoder_.copy({part.tensor, sent_.tensor});
  }
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    const Tensor piece = of_rank(sent_, rank).tensor;
    if (piece) encoder_.communicate({Collective::reduce, &communicator_, piece, piece, rank});
  }
}

void GradientPartition::finish() {
  if (!sent_.tensor) return;
  encoder_.await_ranks({&communicator_});
  const GradientPart mine = of_rank(sent_, communicator_.rank());
  if (mine.tensor) {
    const std::int64_t first = mine.begin - communicator_.rank() * own_.count();
    encoder_.accumulate({mine.tensor, own_.slice(first, mine.tensor.count())});
  }
  sent_ = {};
}

}  // namespace riverhorse
