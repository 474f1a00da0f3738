// How the emulated CUDA runs: streams at once, graphs as lists of closures, the threads of a block as fibers.
#include <ucontext.h>

#include <chrono>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "cuda_runtime.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

struct EmulatedGraph {
  std::vector<std::function<void()>> nodes;
};
struct EmulatedStream {
  std::unique_ptr<EmulatedGraph> capture;
};
struct EmulatedEvent {
  std::chrono::steady_clock::time_point time;
};

namespace {

// Of the device, in bytes, as tests of a smaller one ask for in the environment.
std::size_t limit_of_device(const char* variable, std::size_t otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}
std::size_t memory_total() { return limit_of_device("RIVERHORSE_EMULATED_MEMORY", std::size_t{4} << 30); }
std::size_t shared_limit() { return limit_of_device("RIVERHORSE_EMULATED_SHARED_MEMORY", 227 << 10); }  // of a block

}  // namespace

namespace emulator {
namespace {

constexpr std::size_t stack_bytes = 128 << 10;
constexpr int warp_lanes = 32;
constexpr unsigned some_barriers = 16;

[[noreturn]] void give_up(const char* reason) {
  std::fprintf(stderr, "CUDA emulator: %s (block %u %u %u of %u x %u x %u)\n", reason, blockIdx.x, blockIdx.y,
               blockIdx.z, gridDim.x, gridDim.y, gridDim.z);
  std::abort();
}

// A stack that runs one thread of a block after the other: switched to and from by _setjmp and _longjmp, which,
// unlike swapcontext, make no system call.
struct Fiber {
  std::unique_ptr<std::byte[]> stack{new std::byte[stack_bytes]};
  ucontext_t entry;
  jmp_buf here;
  bool started = false;
  const std::function<void()>* body = nullptr;
  bool done = false;
};

enum class Wait { nothing, block, warp, some, signal };

struct Copy {
  void* to;
  const void* from;
  std::size_t size, bytes, group;
};
struct Thread {
  Fiber* fiber = nullptr;
  Wait wait = Wait::nothing;
  const Barrier* barrier = nullptr;  // where it waits for a signal
  unsigned some = 0;                 // at which of the barriers of some warps it waits
  bool done = false;
  unsigned exchanges = 0;
  std::deque<Copy> copies = {};
  std::size_t copy_groups = 0;  // committed
};

struct Warp {
  alignas(16) std::byte slots[2][warp_lanes][lane_bytes];
};

std::mutex launch_mutex;
std::vector<std::unique_ptr<Fiber>> all_fibers;
std::vector<Fiber*> free_fibers;
std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<std::byte> shared_memory;
std::size_t arrived[some_barriers];  // threads, at barriers of some warps
std::size_t current = 0;
jmp_buf scheduler;
Fiber* entering = nullptr;

void fiber_main() {
  Fiber& self = *entering;
  for (;;) {
    (*self.body)();
    self.done = true;
    if (_setjmp(self.here) == 0) _longjmp(scheduler, 1);
  }
}

[[gnu::noinline]] void switch_to(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  entering = &fiber;
  getcontext(&fiber.entry);
  fiber.entry.uc_stack.ss_sp = fiber.stack.get();
  fiber.entry.uc_stack.ss_size = stack_bytes;
  fiber.entry.uc_link = nullptr;
  makecontext(&fiber.entry, fiber_main, 0);
  setcontext(&fiber.entry);
}

[[gnu::noinline]] void wait_for(Wait what) {
  threads[current].wait = what;
  if (_setjmp(threads[current].fiber->here) == 0) _longjmp(scheduler, 1);
}

Fiber* take_fiber() {
  if (free_fibers.empty()) {
    all_fibers.push_back(std::make_unique<Fiber>());
    free_fibers.push_back(all_fibers.back().get());
  }
  Fiber* fiber = free_fibers.back();
  free_fibers.pop_back();
  return fiber;
}

uint3 index_in_block(std::size_t thread) {
  const auto number = static_cast<unsigned>(thread);
  return {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
}

void run_thread(std::size_t index, const std::function<void()>& body) {
  Thread& thread = threads[index];
  if (thread.fiber == nullptr) {
    thread.fiber = take_fiber();
    thread.fiber->body = &body;
    thread.fiber->done = false;
  }
  current = index;
  threadIdx = index_in_block(index);
  switch_to(*thread.fiber);
  if (thread.fiber->done) {
    thread.done = true;
    free_fibers.push_back(thread.fiber);
    thread.fiber = nullptr;
  }
}

// Lets threads go whose barrier all living threads of their block, or warp, have reached. Returns whether any may
// run.
bool release(std::size_t begin, std::size_t end, Wait barrier) {
  bool waiting = false;
  for (std::size_t i = begin; i < end; ++i) {
    if (threads[i].done) continue;
    if (threads[i].wait != barrier) return false;
    waiting = true;
  }
  for (std::size_t i = begin; i < end; ++i) threads[i].wait = Wait::nothing;
  return waiting;
}

void run_block(const std::function<void()>& body, bool backwards) {
  const std::size_t count = threads.size();
  threads.assign(count, Thread());
  for (std::byte& each : shared_memory) each = std::byte{0xff};  // NaN, to tell what is read before it is written
  for (std::size_t& each : arrived) each = 0;
  std::size_t living = count;
  while (living > 0) {
    bool ran = false;
    living = 0;
    for (std::size_t step = 0; step < count; ++step) {
      const std::size_t index = backwards ? count - 1 - step : step;
      if (!threads[index].done && threads[index].wait == Wait::nothing) {
        run_thread(index, body);
        ran = true;
      }
      if (!threads[index].done) ++living;
    }
    bool released = release(0, count, Wait::block);
    for (std::size_t begin = 0; begin < count; begin += warp_lanes) {
      if (release(begin, std::min(begin + warp_lanes, count), Wait::warp)) released = true;
    }
    if (living > 0 && !ran && !released) give_up("threads wait at a barrier that the others never reach");
  }
}

}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream->capture) {
    stream->capture->nodes.push_back(std::move(work));
  } else {
    work();
  }
}

void launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> thread) {
  if (block.x * block.y * block.z > 1024 || grid.y > 65535 || grid.z > 65535 || shared_bytes > shared_limit()) {
    give_up("a launch beyond the limits of the hardware");
  }
  enqueue(stream, [grid, block, shared_bytes, thread = std::move(thread)] {
    const std::lock_guard lock(launch_mutex);
    blockDim = block;
    gridDim = grid;
    threads.resize(std::size_t{block.x} * block.y * block.z);
    warps.resize((threads.size() + warp_lanes - 1) / warp_lanes);
    shared_memory.resize(shared_bytes);
    unsigned number = 0;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = {x, y, z};
          run_block(thread, number++ % 2 == 1);
        }
      }
    }
  });
}

void* dynamic_shared_memory() { return shared_memory.data(); }

int lane_of_thread() { return static_cast<int>(current % warp_lanes); }

// Two sets of slots in turn: who writes the next one cannot disturb who still reads the last.
const std::byte* exchange(const void* value, std::size_t bytes) {
  if (bytes > lane_bytes) give_up("an exchange of more than 64 bytes");
  const std::size_t set = threads[current].exchanges++ % 2;
  Warp& warp = warps[current / warp_lanes];
  std::memcpy(warp.slots[set][current % warp_lanes], value, bytes);
  wait_for(Wait::warp);
  return warp.slots[set][0];
}

void sync_some(unsigned barrier, std::size_t count) {
  if (barrier == 0 || barrier >= some_barriers) give_up("a barrier of some warps beyond those of the hardware");
  if (++arrived[barrier] < count) {
    threads[current].some = barrier;
    wait_for(Wait::some);
    return;
  }
  arrived[barrier] = 0;
  for (Thread& thread : threads) {
    if (thread.wait == Wait::some && thread.some == barrier) thread.wait = Wait::nothing;
  }
}

void signal(Barrier& barrier) {
  if (barrier.signals - barrier.waits >= static_cast<int>(warp_lanes))
    give_up("a barrier is signalled twice before it is waited for");
  if (++barrier.signals % static_cast<int>(warp_lanes) != 0) return;
  for (Thread& thread : threads) {
    if (thread.wait == Wait::signal && thread.barrier == &barrier) thread.wait = Wait::nothing;
  }
}
void wait(Barrier& barrier, int turn) {
  if (barrier.signals < (turn + 1) * static_cast<int>(warp_lanes)) {
    threads[current].barrier = &barrier;
    wait_for(Wait::signal);
  }
  ++barrier.waits;
}

void copy_async(void* to, const void* from, std::size_t size, std::size_t bytes) {
  if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % size != 0) {
    give_up("an asynchronous copy to or from an unaligned address");
  }
  std::memset(to, 0xff, size);
  threads[current].copies.push_back({to, from, size, bytes, threads[current].copy_groups});
}
void commit_copies() { ++threads[current].copy_groups; }
void wait_for_copies(std::size_t groups) {
  Thread& thread = threads[current];
  while (!thread.copies.empty() && thread.copies.front().group + groups < thread.copy_groups) {
    const Copy copy = thread.copies.front();
    thread.copies.pop_front();
    std::memset(copy.to, 0, copy.size);
    std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

}  // namespace emulator

void __syncthreads() { emulator::wait_for(emulator::Wait::block); }
void __syncwarp(unsigned) { emulator::wait_for(emulator::Wait::warp); }

unsigned __ballot_sync(unsigned, int predicate) {
  unsigned mask = 0;
  // One exchange a lane would do too; this is the same with fewer kinds of barrier.
  for (int lane = 0; lane < 32; ++lane) {
    if (emulator::from_lane(predicate != 0 ? 1u : 0u, lane) != 0) mask |= 1u << lane;
  }
  return mask;
}

// ----------------------------------------------------------------------------------------------------------- runtime

namespace {

cudaError_t last_error = cudaSuccess;
constexpr std::size_t alignment = 256;

std::size_t memory_used = 0;
std::mutex memory_mutex;

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    default: return "cudaErrorUnknown";
  }
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = cudaDeviceProp();
  std::snprintf(properties->name, sizeof properties->name, "CUDA emulated on the host");
  std::memcpy(properties->uuid.bytes, "riverhorse-emul", 16);
  properties->totalGlobalMem = memory_total();
  properties->sharedMemPerBlockOptin = shared_limit();
  properties->major = 9;
  properties->multiProcessorCount = 4;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  const std::lock_guard lock(memory_mutex);
  *total_bytes = memory_total();
  *free_bytes = *total_bytes - std::min(*total_bytes, memory_used);
  return cudaSuccess;
}
// The size stands before the block, so that free knows it.
cudaError_t cudaMalloc(void** address, std::size_t bytes) {
  const std::lock_guard lock(memory_mutex);
  const std::size_t total = memory_total();
  if (memory_used > total || bytes > total - memory_used) return last_error = cudaErrorMemoryAllocation;
  auto* block =
      static_cast<std::byte*>(std::aligned_alloc(alignment, (bytes + 2 * alignment - 1) / alignment * alignment));
  if (block == nullptr) return last_error = cudaErrorMemoryAllocation;
  std::memcpy(block, &bytes, sizeof bytes);
  memory_used += bytes;
  *address = block + alignment;
  return cudaSuccess;
}
cudaError_t cudaFree(void* address) {
  if (address == nullptr) return cudaSuccess;
  const std::lock_guard lock(memory_mutex);
  auto* block = static_cast<std::byte*>(address) - alignment;
  std::size_t bytes = 0;
  std::memcpy(&bytes, block, sizeof bytes);
  memory_used -= bytes;
  std::free(block);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** address, std::size_t bytes, unsigned) { return cudaMalloc(address, bytes); }
cudaError_t cudaFreeHost(void* address) { return cudaFree(address); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  emulator::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t stream) {
  emulator::enqueue(stream, [=] {
    for (std::size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t stream) {
  emulator::enqueue(stream, [=] { std::memset(address, value, bytes); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capture = std::make_unique<EmulatedGraph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capture.release();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const auto& node : executable->nodes) node();
  return cudaSuccess;
}
// The two graph types are one here, and so these are one function.
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return cudaGraphDestroy(executable); }
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new EmulatedEvent();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  emulator::enqueue(stream, [=] { event->time = std::chrono::steady_clock::now(); });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}
