#include "train/rendezvous.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace riverhorse {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t greeting_mark = 0x31656d6f636c6577;  // also tells byte orders apart
// After a rank is gone: what started the ranks, or the rank's own message, comes first.
constexpr std::chrono::seconds patience(5);

struct Greeting {
  std::uint64_t mark = greeting_mark;
  std::int32_t rank = 0, size = 0;
};

class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  ~Socket() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  explicit operator bool() const { return descriptor_ >= 0; }
  int get() const { return descriptor_; }

  // False when the other side is gone.
  bool send(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
    return true;
  }
  bool receive(std::span<std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t received = ::recv(descriptor_, bytes.data(), bytes.size(), 0);
      if (received < 0 && errno == EINTR) continue;
      if (received <= 0) return false;
      bytes = bytes.subspan(static_cast<std::size_t>(received));
    }
    return true;
  }
  void send_small_at_once() const {
    const int on = 1;
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    ::setsockopt(descriptor_, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    // A host that is gone without a word is noticed after 20 + 3 x 5 seconds.
    const int idle = 20, interval = 5, probes = 3;
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
  }

 private:
  int descriptor_ = -1;
};

// A star: every rank has a connection to the first.
class StarCommunicator final : public Communicator {
 public:
  StarCommunicator(const RendezvousOptions& options, std::vector<Socket> sockets)
      : Communicator(options.rank, options.size, options.local_rank, options.local_size),
        sockets_(std::move(sockets)),
        on_lost_(options.on_lost) {
    if (::pipe2(wake_.data(), O_CLOEXEC) != 0) fail(StatusCode::io_error, "pipe: {}", std::strerror(errno));
    watcher_ = std::thread([this] { watch(); });
  }
  ~StarCommunicator() override {
    done_ = true;
    ::close(wake_[1]);
    watcher_.join();
    ::close(wake_[0]);
    // Nobody hangs up while another still watches.
    std::byte nothing{};
    for (int other = 0; other < size(); ++other) {
      if (connected(other)) socket(other).send({&nothing, 1});
    }
    for (int other = 0; other < size(); ++other) {
      if (connected(other)) socket(other).receive({&nothing, 1});
    }
  }

  bool moves_tensors() const override { return false; }

  void all_reduce(std::span<float> values, Reduction reduction) override { reduce_at_first(values, reduction); }
  void all_reduce(std::span<double> values, Reduction reduction) override { reduce_at_first(values, reduction); }
  void reduce_scatter(std::span<const float> all, std::span<float> part) override {
    std::vector<float> sum(all.begin(), all.end());
    reduce_at_first(std::span(sum), Reduction::sum);
    std::copy_n(sum.begin() + static_cast<std::ptrdiff_t>(part.size()) * rank(), part.size(), part.begin());
  }
  void all_gather(std::span<const std::byte> part, std::span<std::byte> all) override {
    std::byte* own = all.data() + part.size() * static_cast<std::size_t>(rank());
    if (own != part.data()) std::memcpy(own, part.data(), part.size());
    if (rank() == 0) {
      for (int from = 1; from < size(); ++from) {
        receive(all.subspan(static_cast<std::size_t>(from) * part.size(), part.size()), from);
      }
    } else {
      send({own, part.size()}, 0);
    }
    broadcast(all, 0);
  }
  void broadcast(std::span<std::byte> bytes, int from) override {
    if (from != 0 && rank() == from) send(bytes, 0);
    if (from != 0 && rank() == 0) receive(bytes, from);
    if (rank() == 0) {
      for (int to = 1; to < size(); ++to) send(bytes, to);
    } else {
      receive(bytes, 0);
    }
  }
  // To and from the first rank.
  void send(std::span<const std::byte> bytes, int to) override {
    if (!socket(to).send(bytes)) lost(to);
  }
  void receive(std::span<std::byte> bytes, int from) override {
    if (!socket(from).receive(bytes)) lost(from);
  }
  // Likewise. The first rank sends first.
  void exchange(std::span<const Transfer> transfers) override {
    for (const Transfer& transfer : transfers) {
      if (transfer.rank == rank()) {
        std::copy(transfer.sent.begin(), transfer.sent.end(), transfer.received.begin());
        continue;
      }
      if (rank() == 0) send(transfer.sent, transfer.rank);
      receive(transfer.received, transfer.rank);
      if (rank() != 0) send(transfer.sent, transfer.rank);
    }
  }
  void reduce(std::span<float> values, int /*to*/) override { reduce_at_first(values, Reduction::sum); }
  void barrier() override {
    double nothing = 0;
    reduce_at_first(std::span(&nothing, 1), Reduction::sum);
  }
  // Closes the connections, which ends the others.
  [[noreturn]] void abort(int status) override { std::_Exit(status); }

 private:
  bool connected(int other) const { return other != rank() && (rank() == 0 || other == 0); }
  const Socket& socket(int other) const {
    if (!connected(other)) fail(StatusCode::internal, "ranks {} and {} have no connection", rank(), other);
    return sockets_[static_cast<std::size_t>(rank() == 0 ? other : 0)];
  }
  [[noreturn]] static void lost(int other) {
    std::this_thread::sleep_for(2 * patience);  // for on_lost, or what started this process, to end it
    fail(StatusCode::io_error, "rank {} is gone", other);
  }

  // In the order of the ranks, by the first, for the same sum everywhere.
  template <typename T>
  void reduce_at_first(std::span<T> values, Reduction reduction) {
    if (rank() != 0) {
      send(std::as_bytes(values), 0);
    } else {
      std::vector<T> others(values.size());
      for (int from = 1; from < size(); ++from) {
        receive(std::as_writable_bytes(std::span(others)), from);
        for (std::size_t i = 0; i < values.size(); ++i) {
          values[i] = reduction == Reduction::sum ? values[i] + others[i] : std::max(values[i], others[i]);
        }
      }
    }
    broadcast(std::as_writable_bytes(values), 0);
  }

  void watch() const {
    std::vector<pollfd> polled;
    std::vector<int> ranks;
    for (int other = 0; other < size(); ++other) {
      if (!connected(other)) continue;
      polled.push_back({socket(other).get(), POLLRDHUP, 0});
      ranks.push_back(other);
    }
    polled.push_back({wake_[0], 0, 0});  // hung up when this object goes
    while (!done_) {
      if (::poll(polled.data(), polled.size(), -1) <= 0) continue;
      for (std::size_t i = 0; i < ranks.size() && !done_; ++i) {
        if (polled[i].revents == 0) continue;
        std::this_thread::sleep_for(patience);
        if (done_) return;
        if (on_lost_) on_lost_(ranks[i]);
        return;
      }
    }
  }

  std::vector<Socket> sockets_;  // of the first rank, by rank; of another, the one to the first
  std::function<void(int other)> on_lost_;
  std::array<int, 2> wake_{};
  std::atomic<bool> done_ = false;
  std::thread watcher_;
};

struct AddressList {
  addrinfo* first = nullptr;
  ~AddressList() {
    if (first != nullptr) ::freeaddrinfo(first);
  }
};

Socket listen_at(int port) {
  Socket listener(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const bool wide = static_cast<bool>(listener);
  if (!wide) listener = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1, off = 0;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in6 six{};
  sockaddr_in four{};
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(static_cast<std::uint16_t>(port));
  four.sin_family = AF_INET;
  four.sin_port = six.sin6_port;
  if (wide) ::setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  const auto* address = wide ? reinterpret_cast<const sockaddr*>(&six) : reinterpret_cast<const sockaddr*>(&four);
  const socklen_t length = wide ? sizeof(six) : sizeof(four);
  if (!listener || ::bind(listener.get(), address, length) != 0 || ::listen(listener.get(), SOMAXCONN) != 0) {
    fail(StatusCode::io_error, "the first rank cannot listen at port {} (MASTER_PORT): {}", port,
         std::strerror(errno));
  }
  return listener;
}

std::vector<Socket> accept_all(const RendezvousOptions& options) {
  const Socket listener = listen_at(options.port);
  const auto end = Clock::now() + std::chrono::seconds(options.timeout_seconds);
  std::vector<Socket> sockets(static_cast<std::size_t>(options.size));
  for (int joined = 1; joined < options.size;) {
    pollfd polled{listener.get(), POLLIN, 0};
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) {
      fail(StatusCode::io_error, "{} of {} ranks have come to port {} in {} s", joined, options.size, options.port,
           options.timeout_seconds);
    }
    if (::poll(&polled, 1, static_cast<int>(left)) <= 0) continue;
    Socket socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) continue;
    // Whoever else calls is not waited for.
    const timeval wait{2, 0}, forever{0, 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    Greeting greeting;
    if (!socket.receive(std::as_writable_bytes(std::span(&greeting, 1))) || greeting.mark != greeting_mark) continue;
    if (greeting.size != options.size || greeting.rank < 1 || greeting.rank >= options.size ||
        sockets[static_cast<std::size_t>(greeting.rank)]) {
      fail(StatusCode::invalid_argument,
           "rank {} of {} came to a training of {} ranks: RANK and WORLD_SIZE must fit on all", greeting.rank,
           greeting.size, options.size);
    }
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
    socket.send_small_at_once();
    sockets[static_cast<std::size_t>(greeting.rank)] = std::move(socket);
    ++joined;
  }
  return sockets;
}

Socket connect_to_first(const RendezvousOptions& options) {
  const auto end = Clock::now() + std::chrono::seconds(options.timeout_seconds);
  std::string reason;
  while (true) {
    AddressList addresses;
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    const int error =
        ::getaddrinfo(options.address.c_str(), std::to_string(options.port).c_str(), &hints, &addresses.first);
    if (error != 0) reason = ::gai_strerror(error);
    for (const addrinfo* each = addresses.first; each != nullptr; each = each->ai_next) {
      Socket socket(::socket(each->ai_family, each->ai_socktype | SOCK_CLOEXEC, each->ai_protocol));
      if (socket && ::connect(socket.get(), each->ai_addr, each->ai_addrlen) == 0) {
        Greeting greeting;
        greeting.rank = options.rank;
        greeting.size = options.size;
        socket.send_small_at_once();
        if (socket.send(std::as_bytes(std::span(&greeting, 1)))) return socket;
      }
      reason = std::strerror(errno);
    }
    if (Clock::now() >= end) {
      fail(StatusCode::io_error,
           "rank {} did not reach the first rank at {}:{} (MASTER_ADDR, MASTER_PORT) in {} s: {}", options.rank,
           options.address, options.port, options.timeout_seconds, reason);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

}  // namespace

std::shared_ptr<Communicator> join_at(const RendezvousOptions& options) {
  if (options.size < 1 || options.rank < 0 || options.rank >= options.size || options.local_rank < 0 ||
      options.port < 1 || options.port > 65535) {
    fail(StatusCode::invalid_argument,
         "rank {} of {} (RANK, WORLD_SIZE), rank {} of its host (LOCAL_RANK), port {} (MASTER_PORT): a rank must be "
         "below the number of ranks, and a port from 1 to 65535",
         options.rank, options.size, options.local_rank, options.port);
  }
  std::vector<Socket> sockets;
  if (options.rank == 0) {
    sockets = accept_all(options);
  } else {
    sockets.push_back(connect_to_first(options));
  }
  return std::make_shared<StarCommunicator>(options, std::move(sockets));
}

int free_port() {
  const Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (!socket || ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    fail(StatusCode::io_error, "no free port was found: {}", std::strerror(errno));
  }
  return ntohs(address.sin_port);
}

}  // namespace riverhorse
