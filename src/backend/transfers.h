// What a pass or an all_to_all sends and receives, for backends that do both alike.
#pragma once

#include <vector>

#include "backend/training_ops.h"

namespace riverhorse {

// `input` and `output`: the memory of the tensors.
inline std::vector<Communicator::Transfer> transfers_of(const CommunicateArgs& args, std::span<const std::byte> input,
                                                        std::span<std::byte> output) {
  std::vector<Communicator::Transfer> transfers;
  if (args.collective == Collective::pass) {
    if (args.to != no_rank) transfers.push_back({args.to, input, {}});
    if (args.from != no_rank) transfers.push_back({args.from, {}, output});
    return transfers;
  }
  const std::size_t part = input.size() / static_cast<std::size_t>(args.group);
  for (int i = 0; i < args.group; ++i) {
    const std::size_t begin = part * static_cast<std::size_t>(i);
    transfers.push_back({args.first + i, input.subspan(begin, part), output.subspan(begin, part)});
  }
  return transfers;
}

}  // namespace riverhorse
