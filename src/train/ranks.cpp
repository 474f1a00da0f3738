#include "train/ranks.h"

#include <fmt/core.h>

#include <array>
#include <optional>
#include <string>

#include "base/error.h"

namespace riverhorse {

Ranks Ranks::with_places(std::int64_t count) const {
  if (size() % count != 0) {
    fail(StatusCode::invalid_argument,
         "{} ranks cannot share each sequence among {} (--sequence-parallel); choose a divisor of {}", size(), count,
         size());
  }
  Ranks ranks = *this;
  ranks.places = static_cast<int>(count);
  return ranks;
}

std::int64_t Ranks::part_of(std::int64_t batch) const {
  if (batch % groups() != 0) {
    const std::string what = places == 1 ? "ranks" : fmt::format("groups of {} ranks", places);
    fail(StatusCode::invalid_argument,
         "a micro-batch of {} sequences (--batch) does not divide among {} {}; choose a multiple of {}", batch,
         groups(), what, groups());
  }
  return batch / groups();
}

std::int64_t Ranks::tokens_of(std::int64_t length) const {
  if (length % places != 0) {
    fail(StatusCode::invalid_argument,
         "a sequence of {} tokens (--length) does not divide among {} ranks (--sequence-parallel); choose a multiple "
         "of {}",
         length, places, places);
  }
  return length / places;
}

std::vector<std::int32_t> Ranks::own_tokens(std::span<const std::int32_t> whole, std::int64_t length) const {
  const std::int64_t own = tokens_of(length);
  std::vector<std::int32_t> tokens;
  for (std::int64_t begin = place() * own; begin < static_cast<std::int64_t>(whole.size()); begin += length) {
    const auto part = whole.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(own));
    tokens.insert(tokens.end(), part.begin(), part.end());
  }
  return tokens;
}

void Ranks::together(const std::function<void()>& work) const {
  std::optional<Error> error;
  try {
    work();
  } catch (const Error& own) {
    error = own;
  }
  const int from = size() - static_cast<int>(largest(error ? size() - rank() : 0));
  if (from == size()) return;
  std::string message = error ? error->what() : "";
  if (host) {
    std::array<std::uint64_t, 2> code_and_size = {static_cast<std::uint64_t>(error ? error->code() : StatusCode::ok),
                                                  message.size()};
    host->broadcast(std::as_writable_bytes(std::span(code_and_size)), from);
    message.resize(code_and_size[1]);
    host->broadcast(std::as_writable_bytes(std::span(message)), from);
    if (from != rank()) error.emplace(static_cast<StatusCode>(code_and_size[0]), message);
  }
  if (from == rank() || from == 0) throw Error(*error);
  throw Error(error->code(), fmt::format("rank {}: {}", from, message));
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
