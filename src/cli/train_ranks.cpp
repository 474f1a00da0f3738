#include "cli/train_ranks.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend/mpi_library.h"
#include "base/error.h"
#include "base/log.h"
#include "train/rendezvous.h"

namespace riverhorse::cli {
namespace {

std::optional<int> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return std::nullopt;
  return std::atoi(text);
}

// How many processes an MPI launcher started: Open MPI's, those of MPICH and its relatives, Slurm's with PMIx.
std::optional<int> mpi_launch_size() {
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}) {
    if (const auto size = number_in(variable)) return size;
  }
  return number_in("PMIX_RANK") ? number_in("SLURM_STEP_NUM_TASKS") : std::nullopt;
}

std::optional<std::string> text_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? std::nullopt : std::optional<std::string>(text);
}

// No rank goes on without another: one that waits for NCCL would wait forever.
void end_without(int rank, int other) {
  if (rank <= 1) std::fprintf(stderr, "riverhorse: rank %d is gone; all ranks end\n", other);
  std::_Exit(exit_status(StatusCode::internal));
}

std::shared_ptr<Communicator> join_or_end(RendezvousOptions options) {
  options.on_lost = [rank = options.rank](int other) { end_without(rank, other); };
  return join_at(options);
}

// What torchrun and its like say, or Slurm of its tasks where somebody said where the first one is.
std::optional<RendezvousOptions> rendezvous() {
  const char* rank = "RANK";
  const char* size = "WORLD_SIZE";
  const char* local_rank = "LOCAL_RANK";
  const char* local_size = "LOCAL_WORLD_SIZE";
  if (!text_in(rank) && !text_in(size) && text_in("MASTER_ADDR") && text_in("SLURM_PROCID")) {
    rank = "SLURM_PROCID";
    size = "SLURM_NTASKS";
    local_rank = "SLURM_LOCALID";
    local_size = "SLURM_NTASKS_PER_NODE";
  }
  if (number_in(size).value_or(1) <= 1) return std::nullopt;
  for (const char* variable : {rank, local_rank, "MASTER_ADDR", "MASTER_PORT"}) {
    if (text_in(variable)) continue;
    fail(StatusCode::invalid_argument, "{} is {}, and {} is not set: this would be one of several processes", size,
         *text_in(size), variable);
  }
  RendezvousOptions options;
  options.rank = *number_in(rank);
  options.size = *number_in(size);
  options.local_rank = *number_in(local_rank);
  options.local_size = number_in(local_size).value_or(options.local_rank + 1);
  options.address = *text_in("MASTER_ADDR");
  options.port = *number_in("MASTER_PORT");
  // There torchrun itself listens.
  if (text_in("TORCHELASTIC_USE_AGENT_STORE")) ++options.port;
  return options;
}

// The processes that fork_ranks() made, for the signal handler; and in these, that they are such.
std::vector<pid_t> forked;
bool is_forked = false;

extern "C" void pass_on(int signal_number) {
  for (const pid_t child : forked) ::kill(child, signal_number);
}

// Ends this process as the forked ones did.
[[noreturn]] void wait_for_forked() {
  struct sigaction action {};
  action.sa_handler = pass_on;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  int status = 0;
  for (std::size_t left = forked.size(); left > 0;) {
    int ended = 0;
    const pid_t child = ::waitpid(-1, &ended, 0);
    if (child < 0 && errno == EINTR) continue;
    if (child < 0) break;
    --left;
    if (status != 0 || (WIFEXITED(ended) && WEXITSTATUS(ended) == 0)) continue;
    status = WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
    if (WIFSIGNALED(ended)) {
      const auto rank = std::find(forked.begin(), forked.end(), child) - forked.begin();
      std::fprintf(stderr, "riverhorse: rank %d was killed by signal %d; all ranks end\n", static_cast<int>(rank),
                   WTERMSIG(ended));
    }
    for (const pid_t other : forked) {
      if (other != child) ::kill(other, SIGKILL);
    }
  }
  std::_Exit(status);
}

// An error that all ranks find is the first one's to tell: the others give it the time for that.
constexpr std::chrono::seconds head_start(2);

}  // namespace

std::shared_ptr<Communicator> join_launched_ranks() {
  const std::optional<int> launched = mpi_launch_size();
  if (!launched || *launched <= 1) {
    const std::optional<RendezvousOptions> options = rendezvous();
    return options ? join_or_end(*options) : nullptr;
  }
  std::string reason;
  const MpiLibrary* mpi = mpi_library(reason);
  if (mpi == nullptr) {
    fail(StatusCode::unsupported, "this is one of {} processes that MPI started, and they cannot be joined: {}",
         *launched, reason);
  }
  std::shared_ptr<Communicator> host = mpi->join();
  if (host->size() != *launched) {
    fail(StatusCode::unsupported,
         "MPI started {} processes, and the MPI that this program uses sees {}: start them with the launcher that "
         "belongs to it",
         *launched, host->size());
  }
  return host;
}

void require_no_launcher() {
  if (mpi_launch_size().value_or(1) > 1 || rendezvous()) {
    fail(StatusCode::invalid_argument, "{}--gpus is for a training without a launcher, and this one has one already",
         let_first_rank_tell());
  }
}

std::shared_ptr<Communicator> fork_ranks(int count) {
  require_no_launcher();
  if (count == 1) return nullptr;
  RendezvousOptions options;
  options.size = options.local_size = count;
  options.address = "127.0.0.1";
  options.port = free_port();
  std::fflush(stdout);
  const pid_t parent = ::getpid();
  for (int rank = 0; rank < count; ++rank) {
    const pid_t child = ::fork();
    if (child < 0) {
      pass_on(SIGKILL);
      fail(StatusCode::internal, "fork: {}", std::strerror(errno));
    }
    if (child > 0) {
      forked.push_back(child);
      continue;
    }
    forked.clear();
    is_forked = true;
    ::setpgid(0, 0);  // Ctrl-C comes from the process that waits, once
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) std::_Exit(exit_status(StatusCode::internal));
    options.rank = options.local_rank = rank;
    return join_or_end(options);
  }
  wait_for_forked();
}

void choose_device_of_rank(const Communicator& host, DeviceChoiceOptions& options) {
  const bool any = options.backend.empty() || options.backend == "auto";
  if (!options.device.empty() || !(any || options.backend == "cuda")) return;
  int count = 0;
  bool software = false;
  for (const DeviceInfo& device : list_devices().devices) {
    if (device.backend != BackendKind::cuda) continue;
    ++count;
    software = software || device.type == DeviceType::software;
  }
  if (count == 0 || (any && software)) return;
  options.backend = "cuda";
  options.device = "0";
  // A single one may be what the launcher gave to this rank alone.
  if (software || (count == 1 && !is_forked)) return;
  if (host.local_rank() >= count) {
    fail(StatusCode::invalid_argument, "rank {} is number {} on this host, which has {} CUDA devices", host.rank(),
         host.local_rank() + 1, count);
  }
  options.device = std::to_string(host.local_rank());
}

void run_as_rank(const std::shared_ptr<Communicator>& host, const std::function<void()>& work) {
  if (!host) return work();
  if (host->rank() != 0) set_log_sink([](LogLevel, std::string_view) {});
  std::string message;
  int status = exit_status(StatusCode::internal);
  try {
    return work();
  } catch (const Error& error) {
    message = error.what();
    status = exit_status(error.code());
  } catch (const std::bad_alloc&) {
    message = "out of memory";
  } catch (const std::exception& error) {
    message = fmt::format("internal error: {}", error.what());
  }
  if (host->rank() != 0) {
    std::this_thread::sleep_for(head_start);
    message = fmt::format("rank {}: {}", host->rank(), message);
  }
  std::fflush(stdout);
  std::fprintf(stderr, "riverhorse: %s\n", message.c_str());
  std::fflush(stderr);
  host->abort(status);
}

std::string let_first_rank_tell() {
  int rank = 0;
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "RANK", "SLURM_PROCID"}) {
    if (const auto number = number_in(variable)) {
      rank = *number;
      break;
    }
  }
  if (rank == 0) return {};
  std::this_thread::sleep_for(head_start);
  return fmt::format("rank {}: ", rank);
}

void require_same(const Ranks& ranks, const char* what, std::int64_t value) {
  const auto least = static_cast<std::int64_t>(-ranks.largest(-static_cast<double>(value)));
  const auto largest = static_cast<std::int64_t>(ranks.largest(static_cast<double>(value)));
  if (least == largest) return;
  fail(StatusCode::invalid_argument, "{} are {} on one rank and {} on another; all ranks must see the same files",
       what, least, largest);
}

}  // namespace riverhorse::cli
