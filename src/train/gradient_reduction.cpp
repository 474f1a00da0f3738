#include "train/gradient_reduction.h"

#include <algorithm>

namespace riverhorse {
namespace {

constexpr std::int64_t bucket_elements = std::int64_t{8} << 20;  // 32 MiB

}  // namespace

void GradientReduction::add(const Tensor& part) {
  const auto begin = static_cast<std::int64_t>((part.offset_bytes - gradients_.offset_bytes) / sizeof(float));
  const std::int64_t end = begin + part.count();
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

}  // namespace riverhorse
