// How ranks find each other without MPI: by the address and the port of the first one, as torchrun and its like give
// them (MASTER_ADDR, MASTER_PORT). Every rank keeps one TCP connection to the first, for what starts a training (the
// id by which NCCL joins the GPUs) and the few numbers of a step that the host joins; what is large goes through
// NCCL.
//
// A rank whose process ends closes its connection, and the system tells the first, whose end tells all others: so no
// rank waits for one that is gone, where on_lost ends the process.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "backend/communicator.h"

namespace riverhorse {

struct RendezvousOptions {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;
  std::string address;  // of the first rank's host; a name or a number
  int port = 0;
  int timeout_seconds = 300;  // until all are there
  // Called once, by a thread of the communicator's own, when rank `other` has ended; without it calls that need that
  // rank fail, but what waits for it elsewhere (NCCL) waits on.
  std::function<void(int other)> on_lost = {};
};

// Errors: invalid_argument for numbers that make no sense; io_error, with who is missing, after the time-out.
std::shared_ptr<Communicator> join_at(const RendezvousOptions& options);

// A port of this host that nobody listens at. Errors: io_error.
int free_port();

}  // namespace riverhorse
