// Independent pieces of work on several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace riverhorse {

// Calls work(0) ... work(count - 1) on several threads and throws the first error of theirs.
template <typename Work>
void on_threads(int threads, std::size_t count, const Work& work) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr error;
  std::mutex error_mutex;
  const auto take = [&] {
    try {
      for (std::size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      next = count;
      const std::lock_guard lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> helpers;
    const std::size_t useful = std::min(static_cast<std::size_t>(threads), count);
    for (std::size_t i = 1; i < useful; ++i) helpers.emplace_back(take);
    take();
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace riverhorse
