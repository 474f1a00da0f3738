// Collectives over the ranks of a training: at once, in host memory.
#include <cstring>

#include "backend/transfers.h"
#include "cpu/cpu_encoder.h"

namespace riverhorse::cpu {

void CpuEncoder::record_communicate(const CommunicateArgs& args) {
  require_f32("communicate", {&args.input});
  add("communicate", [args] {
    const std::size_t inputs = args.input.size_bytes(), outputs = args.output.size_bytes();
    Communicator& ranks = *args.communicator;
    switch (args.collective) {
      case Collective::all_reduce:
        if (host_bytes(args.output) != host_bytes(args.input)) {
          std::memcpy(host_bytes(args.output), host_bytes(args.input), inputs);
        }
        ranks.all_reduce(std::span(floats(args.output), outputs / sizeof(float)), Reduction::sum);
        break;
      case Collective::reduce_scatter:
        ranks.reduce_scatter(std::span(floats(args.input), inputs / sizeof(float)),
                             std::span(floats(args.output), outputs / sizeof(float)));
        break;
      case Collective::all_gather:
        ranks.all_gather({host_bytes(args.input), inputs}, {host_bytes(args.output), outputs});
        break;
      case Collective::reduce:
        if (host_bytes(args.output) != host_bytes(args.input)) {
          std::memcpy(host_bytes(args.output), host_bytes(args.input), inputs);
        }
        ranks.reduce(std::span(floats(args.output), outputs / sizeof(float)), args.to);
        break;
      case Collective::pass:
      case Collective::all_to_all:
        ranks.exchange(transfers_of(args, {host_bytes(args.input), inputs}, {host_bytes(args.output), outputs}));
        break;
    }
  });
}

void CpuEncoder::record_await_ranks(const AwaitRanksArgs& /*args*/) {}

}  // namespace riverhorse::cpu
