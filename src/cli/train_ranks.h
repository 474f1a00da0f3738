// A training of several processes, as a launcher starts them: each finds the others, and if one fails all end.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/options.h"
#include "train/ranks.h"

namespace riverhorse::cli {

// All processes of a launch: by MPI (mpirun, srun --mpi), or with the variables that torchrun sets (RANK, WORLD_SIZE,
// LOCAL_RANK, MASTER_ADDR, MASTER_PORT; of Slurm's tasks SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID and the last two).
// Null where this one was started alone. Errors: unsupported or io_error when they cannot be joined, as each would
// train the whole by itself; invalid_argument for variables that make no sense.
std::shared_ptr<Communicator> join_launched_ranks();

// For what makes its own. Errors: invalid_argument in a process that a launcher started.
void require_no_launcher();

// Makes this process `count` of them, one a GPU, which are joined. What began stays behind, waits for them, and ends
// as they do: when one fails, or is killed, it ends the others; Ctrl-C is passed on. Null when `count` is 1. Errors:
// as require_no_launcher().
std::shared_ptr<Communicator> fork_ranks(int count);

// The CUDA device of a rank, when nobody chose one and there are some: its number among the ranks of this host.
// Errors: invalid_argument when there are fewer.
void choose_device_of_rank(const Communicator& host, DeviceChoiceOptions& options);

// Does `work`. As one of several ranks: only the first one's messages are shown, and an error on any rank, which is
// printed once, ends all with the exit status that it has otherwise.
void run_as_rank(const std::shared_ptr<Communicator>& host, const std::function<void()>& work);

// For what every process of a launch finds, and the first one tells: the others wait, to be ended by the launcher
// meanwhile. Returns what to begin a message with, if it comes to that: nothing, or "rank 2: ".
std::string let_first_rank_tell();

// Errors: invalid_argument when `value` is not the same on every rank; `what`: "the data's tokens".
void require_same(const Ranks& ranks, const char* what, std::int64_t value);

}  // namespace riverhorse::cli
