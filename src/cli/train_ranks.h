// A training of several processes, as a launcher starts them: each finds the others, and if one fails all end.
#pragma once

#include <functional>
#include <memory>

#include "train/ranks.h"

namespace riverhorse::cli {

// All processes of a launch by MPI (mpirun, srun --mpi); null where this one was started alone. Errors: unsupported
// when they cannot be joined, as each would train the whole by itself.
std::shared_ptr<Communicator> join_launched_ranks();

// Does `work`. As one of several ranks: only the first one's messages are shown, and an error on any rank, which is
// printed once, ends all with the exit status that it has otherwise.
void run_as_rank(const std::shared_ptr<Communicator>& host, const std::function<void()>& work);

// Errors: invalid_argument when `value` is not the same on every rank; `what`: "the data's tokens".
void require_same(const Ranks& ranks, const char* what, std::int64_t value);

}  // namespace riverhorse::cli
