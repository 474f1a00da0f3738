// The communicator's calls and the collectives of the cpu backend; every rank runs these tests. With
// RIVERHORSE_TEST_FORK this program makes itself the ranks, which meet at a port; else MPI's launcher made them.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "backend/mpi_library.h"
#include "base/error.h"
#include "cpu/cpu_device.h"
#include "train/rendezvous.h"

namespace riverhorse {
namespace {

class CommunicatorTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (std::getenv("RIVERHORSE_TEST_FORK") != nullptr) return fork_ranks();
    std::string reason;
    const MpiLibrary* mpi = mpi_library(reason);
    ASSERT_NE(mpi, nullptr) << reason;
    ranks_ = mpi->join();
  }
  static void TearDownTestSuite() {
    ranks_.reset();
    for (const pid_t child : children_) {
      int status = -1;
      EXPECT_EQ(waitpid(child, &status, 0), child);
      EXPECT_EQ(status, 0);
    }
  }
  static void fork_ranks() {
    RendezvousOptions options;
    options.size = options.local_size = std::stoi(std::getenv("RIVERHORSE_TEST_RANKS"));
    options.address = "localhost";
    options.port = free_port();
    options.timeout_seconds = 30;
    for (int rank = 1; rank < options.size && options.rank == 0; ++rank) {
      const pid_t child = fork();
      if (child == 0) {
        children_.clear();
        options.rank = options.local_rank = rank;
      } else {
        children_.push_back(child);
      }
    }
    ranks_ = join_at(options);
  }

  static int rank() { return ranks_->rank(); }
  static int size() { return ranks_->size(); }
  // What rank r has at place i.
  static float value(int r, std::size_t i) { return static_cast<float>(100 * r) + static_cast<float>(i % 97); }
  static std::vector<float> values(int r, std::size_t count) {
    std::vector<float> result(count);
    for (std::size_t i = 0; i < count; ++i) result[i] = value(r, i);
    return result;
  }
  static std::vector<float> sums(std::size_t count) {
    std::vector<float> result(count);
    for (int r = 0; r < size(); ++r) {
      for (std::size_t i = 0; i < count; ++i) result[i] += value(r, i);
    }
    return result;
  }

  static inline std::shared_ptr<Communicator> ranks_;
  static inline std::vector<pid_t> children_;
};

TEST_F(CommunicatorTest, RanksOfOneHost) {
  EXPECT_EQ(std::to_string(size()), std::getenv("RIVERHORSE_TEST_RANKS"));
  EXPECT_EQ(ranks_->local_size(), size());
  EXPECT_EQ(ranks_->local_rank(), rank());
}

TEST_F(CommunicatorTest, Reductions) {
  for (const std::size_t count : {1u, 37u, 5000u}) {
    std::vector<float> sum = values(rank(), count), most = sum;
    ranks_->all_reduce(std::span(sum), Reduction::sum);
    ranks_->all_reduce(std::span(most), Reduction::max);
    EXPECT_EQ(sum, sums(count));
    EXPECT_EQ(most, values(size() - 1, count));
  }
  double third = 1.0 / 3 + rank();
  ranks_->all_reduce(std::span(&third, 1), Reduction::max);
  EXPECT_EQ(third, 1.0 / 3 + (size() - 1));
}

TEST_F(CommunicatorTest, PartsThereAndBack) {
  constexpr std::size_t each = 41;
  const std::size_t count = each * static_cast<std::size_t>(size());
  const std::size_t begin = each * static_cast<std::size_t>(rank());
  const std::vector<float> mine = values(rank(), count), whole = sums(count);
  std::vector<float> part(each);
  ranks_->reduce_scatter(mine, part);
  EXPECT_EQ(part, std::vector<float>(whole.begin() + static_cast<std::ptrdiff_t>(begin),
                                     whole.begin() + static_cast<std::ptrdiff_t>(begin + each)));
  std::vector<float> all(count);
  ranks_->all_gather(std::as_bytes(std::span(part)), std::as_writable_bytes(std::span(all)));
  EXPECT_EQ(all, whole);
  // In place.
  std::vector<float> again(count, -1.0f);
  std::copy(part.begin(), part.end(), again.begin() + static_cast<std::ptrdiff_t>(begin));
  ranks_->all_gather(std::as_bytes(std::span(again).subspan(begin, each)), std::as_writable_bytes(std::span(again)));
  EXPECT_EQ(again, whole);
}

TEST_F(CommunicatorTest, FromOneToAllAndToTheNext) {
  for (int from = 0; from < size(); ++from) {
    std::vector<float> sent = values(rank(), 99);
    ranks_->broadcast(std::as_writable_bytes(std::span(sent)), from);
    EXPECT_EQ(sent, values(from, 99));
  }
  const std::vector<float> mine = values(rank(), 77);
  std::vector<float> received(77);
  // Of ranks that meet at a port each has a connection to the first.
  const int from = ranks_->moves_tensors() ? rank() - 1 : 0;
  if (rank() > 0) ranks_->receive(std::as_writable_bytes(std::span(received)), from);
  for (int to = 1; to < size(); ++to) {
    const bool sends = ranks_->moves_tensors() ? to == rank() + 1 : rank() == 0;
    if (sends) ranks_->send(std::as_bytes(std::span(mine)), to);
  }
  EXPECT_EQ(received, rank() > 0 ? values(from, 77) : std::vector<float>(77));
  ranks_->barrier();
}

TEST_F(CommunicatorTest, ToOneAndToEach) {
  std::vector<float> sum = values(rank(), 53);
  ranks_->reduce(std::span(sum), size() - 1);
  if (rank() == size() - 1) {
    EXPECT_EQ(sum, sums(53));
  }
  // Of ranks that meet at a port, the first and each other one.
  const auto joined = [](int other) {
    return ranks_->moves_tensors() || rank() == 0 || other == 0 || other == rank();
  };
  std::vector<std::vector<float>> sent, received;
  std::vector<Communicator::Transfer> transfers;
  for (int other = 0; other < size(); ++other) {
    sent.push_back(values(10 * rank() + other, 31));
    received.emplace_back(31);
  }
  for (int other = 0; other < size(); ++other) {
    const auto place = static_cast<std::size_t>(other);
    if (!joined(other)) continue;
    transfers.push_back(
        {other, std::as_bytes(std::span(sent[place])), std::as_writable_bytes(std::span(received[place]))});
  }
  ranks_->exchange(transfers);
  for (int other = 0; other < size(); ++other) {
    if (!joined(other)) continue;
    EXPECT_EQ(received[static_cast<std::size_t>(other)], values(10 * other + rank(), 31));
  }
}

TEST_F(CommunicatorTest, RecordedOnTheCpu) {
  const std::unique_ptr<Device> device = open_cpu_device(cpu_device_info(), {});
  if (ranks_->moves_tensors()) {
    EXPECT_EQ(device->tensor_communicator(ranks_), ranks_);
  } else {
    EXPECT_THROW(device->tensor_communicator(ranks_), Error);  // for the few numbers of a step only
  }
  const std::int64_t each = 64, count = each * size();
  const Tensor whole = device->allocate_tensor(DType::f32, {count}),
               sum = device->allocate_tensor(DType::f32, {count});
  const Tensor part = device->allocate_tensor(DType::f32, {each}), all = device->allocate_tensor(DType::f32, {count});
  const auto recording = device->record(
      [&](Encoder& encoder) {
        encoder.communicate({Collective::all_reduce, ranks_.get(), whole, sum});
        encoder.communicate({Collective::reduce_scatter, ranks_.get(), whole, part});
        encoder.communicate({Collective::all_gather, ranks_.get(), part, all});
        encoder.communicate({Collective::all_reduce, ranks_.get(), whole, whole});
        encoder.await_ranks({ranks_.get()});
      },
      {});
  const std::vector<float> mine = values(rank(), static_cast<std::size_t>(count));
  const std::vector<float> expected = sums(mine.size());
  for (int i = 0; i < 2; ++i) {
    device->upload(whole, std::as_bytes(std::span(mine)));
    device->wait(device->submit(*recording));
    for (const Tensor& tensor : {sum, all, whole}) {
      std::vector<float> found(static_cast<std::size_t>(count));
      device->download(tensor, std::as_writable_bytes(std::span(found)));
      EXPECT_EQ(found, expected);
    }
  }
}

TEST(Rendezvous, WhatMakesNoSenseIsRefused) {
  const auto refused = [](const RendezvousOptions& options, const std::string& part) {
    try {
      join_at(options);
      ADD_FAILURE() << part;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused({.rank = 2, .size = 2, .address = "localhost", .port = 2000}, "rank 2 of 2 (RANK, WORLD_SIZE)");
  refused({.rank = 1, .size = 2, .address = "localhost", .port = 0}, "port 0 (MASTER_PORT)");
  const int port = free_port();
  refused({.rank = 0, .size = 3, .address = "localhost", .port = port, .timeout_seconds = 1},
          "1 of 3 ranks have come to port " + std::to_string(port) + " in 1 s");
  refused({.rank = 1, .size = 2, .address = "localhost", .port = port, .timeout_seconds = 1},
          "rank 1 did not reach the first rank at localhost:" + std::to_string(port));
}

TEST_F(CommunicatorTest, WrongTensorsAreRefused) {
  const std::unique_ptr<Device> device = open_cpu_device(cpu_device_info(), {});
  const Tensor three = device->allocate_tensor(DType::f32, {3 * size() + 1});
  const Tensor one = device->allocate_tensor(DType::f32, {1});
  const auto refused = [&](const CommunicateArgs& args, const char* part) {
    try {
      device->run([&](Encoder& encoder) { encoder.communicate(args); });
      ADD_FAILURE() << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::invalid_argument);
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused({Collective::all_reduce, nullptr, one, one}, "communicator is missing");
  refused({Collective::all_reduce, ranks_.get(), three, one}, "output has shape");
  refused({Collective::reduce_scatter, ranks_.get(), three, one}, "do not divide among");
  refused({Collective::all_gather, ranks_.get(), three, three}, "output has shape");
  refused({Collective::reduce, ranks_.get(), three, three}, "rank -1 of");
  refused({.collective = Collective::pass, .communicator = ranks_.get(), .input = one, .output = one, .to = rank()},
          "between rank");
  refused(
      {.collective = Collective::all_to_all, .communicator = ranks_.get(), .input = three, .output = one, .group = 0},
      "0 ranks from 0 on");
}

}  // namespace
}  // namespace riverhorse
