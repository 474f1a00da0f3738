#include "train/ranks.h"

#include "base/error.h"

namespace riverhorse {

std::int64_t Ranks::part_of(std::int64_t batch) const {
  if (batch % size() != 0) {
    fail(StatusCode::invalid_argument,
         "a micro-batch of {} sequences (--batch) does not divide among {} ranks; choose a multiple of {}", batch,
         size(), size());
  }
  return batch / size();
}

double Ranks::sum(double value) const {
  if (host) host->all_reduce(std::span(&value, 1), Reduction::sum);
  return value;
}

double Ranks::largest(double value) const {
  if (host) host->all_reduce(std::span(&value, 1), Reduction::max);
  return value;
}

}  // namespace riverhorse
