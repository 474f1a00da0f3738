#include "cli/train_ranks.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <optional>
#include <string>
#include <thread>

#include "backend/mpi_library.h"
#include "base/error.h"
#include "base/log.h"
#include "cli/options.h"

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

// An error that all ranks find is the first one's to tell: the others give it the time for that.
constexpr std::chrono::seconds head_start(2);

}  // namespace

std::shared_ptr<Communicator> join_launched_ranks() {
  const std::optional<int> launched = mpi_launch_size();
  if (!launched || *launched <= 1) return nullptr;
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

void require_same(const Ranks& ranks, const char* what, std::int64_t value) {
  const auto least = static_cast<std::int64_t>(-ranks.largest(-static_cast<double>(value)));
  const auto largest = static_cast<std::int64_t>(ranks.largest(static_cast<double>(value)));
  if (least == largest) return;
  fail(StatusCode::invalid_argument, "{} are {} on one rank and {} on another; all ranks must see the same files",
       what, least, largest);
}

}  // namespace riverhorse::cli
