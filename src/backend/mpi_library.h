// MPI is in a library of its own, libriverhorse-mpi.so, so that the program starts where there is no MPI: loaded when
// a training was started by an MPI launcher, from the file that RIVERHORSE_MPI_LIBRARY names, else from next to this
// library or program.
#pragma once

#include <memory>
#include <string>

#include "backend/communicator.h"

namespace riverhorse {

// What its one exported function, riverhorse_mpi_library(), points at. As with the CUDA backend (cuda_library.h),
// both sides must come from one build.
struct MpiLibrary {
  const char* interface_id;
  // Starts MPI: all ranks of the launch. It ends with the communicator. Once a process. Errors: internal.
  std::shared_ptr<Communicator> (*join)();
};

// The library, loaded once a process; null, with the reason, where it cannot be. Thread-safe.
const MpiLibrary* mpi_library(std::string& reason);

}  // namespace riverhorse
