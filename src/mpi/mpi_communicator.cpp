// The communicator over MPI, for host memory. An error of MPI ends all ranks (MPI_ERRORS_ARE_FATAL, its default), so
// that no call here returns one.
#include <mpi.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "backend/mpi_library.h"
#include "base/error.h"

namespace riverhorse {
namespace {

// MPI counts in int: what is longer goes in pieces.
constexpr std::size_t most_elements = std::size_t{1} << 28;

template <typename T, typename Function>
void in_pieces(std::span<T> values, const Function& function) {
  for (std::size_t begin = 0; begin < values.size(); begin += most_elements) {
    const std::span<T> piece = values.subspan(begin, std::min(most_elements, values.size() - begin));
    function(piece.data(), static_cast<int>(piece.size()), begin);
  }
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(int rank, int size, int local_rank, int local_size)
      : Communicator(rank, size, local_rank, local_size) {}
  ~MpiCommunicator() override { MPI_Finalize(); }

  void all_reduce(std::span<float> values, Reduction reduction) override {
    all_reduce_as(values, MPI_FLOAT, reduction);
  }
  void all_reduce(std::span<double> values, Reduction reduction) override {
    all_reduce_as(values, MPI_DOUBLE, reduction);
  }

  void reduce_scatter(std::span<const float> all, std::span<float> part) override {
    for (int to = 0; to < size(); ++to) {
      const float* sent = all.data() + static_cast<std::size_t>(to) * part.size();
      in_pieces(part, [&](float* received, int count, std::size_t begin) {
        MPI_Reduce(sent + begin, received, count, MPI_FLOAT, MPI_SUM, to, MPI_COMM_WORLD);
      });
    }
  }

  void all_gather(std::span<const std::byte> part, std::span<std::byte> all) override {
    std::byte* own = all.data() + static_cast<std::size_t>(rank()) * part.size();
    if (part.size() <= most_elements) {
      const int count = static_cast<int>(part.size());
      const void* sent = part.data() == own ? MPI_IN_PLACE : part.data();
      MPI_Allgather(sent, count, MPI_BYTE, all.data(), count, MPI_BYTE, MPI_COMM_WORLD);
      return;
    }
    if (part.data() != own) std::memcpy(own, part.data(), part.size());
    for (int from = 0; from < size(); ++from) {
      broadcast(all.subspan(static_cast<std::size_t>(from) * part.size(), part.size()), from);
    }
  }

  void broadcast(std::span<std::byte> bytes, int from) override {
    in_pieces(bytes, [&](std::byte* piece, int count, std::size_t) {
      MPI_Bcast(piece, count, MPI_BYTE, from, MPI_COMM_WORLD);
    });
  }
  void send(std::span<const std::byte> bytes, int to) override {
    in_pieces(bytes, [&](const std::byte* piece, int count, std::size_t) {
      MPI_Send(piece, count, MPI_BYTE, to, 0, MPI_COMM_WORLD);
    });
  }
  void receive(std::span<std::byte> bytes, int from) override {
    in_pieces(bytes, [&](std::byte* piece, int count, std::size_t) {
      MPI_Recv(piece, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    });
  }
  void exchange(std::span<const Transfer> transfers) override {
    std::vector<MPI_Request> requests;
    for (const Transfer& transfer : transfers) {
      in_pieces(transfer.received, [&](std::byte* piece, int count, std::size_t) {
        MPI_Irecv(piece, count, MPI_BYTE, transfer.rank, 0, MPI_COMM_WORLD, &requests.emplace_back());
      });
    }
    for (const Transfer& transfer : transfers) {
      in_pieces(transfer.sent, [&](const std::byte* piece, int count, std::size_t) {
        MPI_Isend(piece, count, MPI_BYTE, transfer.rank, 0, MPI_COMM_WORLD, &requests.emplace_back());
      });
    }
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
  }
  void reduce(std::span<float> values, int to) override {
    in_pieces(values, [&](float* piece, int count, std::size_t) {
      const void* sent = rank() == to ? MPI_IN_PLACE : piece;
      MPI_Reduce(sent, piece, count, MPI_FLOAT, MPI_SUM, to, MPI_COMM_WORLD);
    });
  }
  void barrier() override { MPI_Barrier(MPI_COMM_WORLD); }

  [[noreturn]] void abort(int status) override {
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);
  }

 private:
  template <typename T>
  static void all_reduce_as(std::span<T> values, MPI_Datatype type, Reduction reduction) {
    const MPI_Op op = reduction == Reduction::sum ? MPI_SUM : MPI_MAX;
    in_pieces(values, [&](T* piece, int count, std::size_t) {
      MPI_Allreduce(MPI_IN_PLACE, piece, count, type, op, MPI_COMM_WORLD);
    });
  }
};

std::shared_ptr<Communicator> join() {
  int threads = 0, rank = 0, size = 1, local_rank = 0, local_size = 1;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &threads) != MPI_SUCCESS) {
    fail(StatusCode::internal, "MPI_Init failed");
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  MPI_Comm host = MPI_COMM_NULL;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host);
  MPI_Comm_rank(host, &local_rank);
  MPI_Comm_size(host, &local_size);
  MPI_Comm_free(&host);
  return std::make_shared<MpiCommunicator>(rank, size, local_rank, local_size);
}

}  // namespace
}  // namespace riverhorse

extern "C" [[gnu::visibility("default")]] const riverhorse::MpiLibrary* riverhorse_mpi_library() {
  static const riverhorse::MpiLibrary library{RIVERHORSE_INTERFACE_ID, riverhorse::join};
  return &library;
}
