// A small CUDA on the host: the part of the runtime that this backend uses, and kernels run as plain C++, one fiber a
// thread. Sources of the backend compile against it unchanged, so that machines without a GPU (the tests' above all)
// run the very kernels: results, memory bounds, and barriers that not every thread reaches. It says nothing about
// speed, and a race shows only if another order of threads shows it: odd blocks run their threads backwards.
//
// Blocks run one after the other on the calling thread; one launch at a time in the process.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1) : x(x_size), y(y_size), z(z_size) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// ---------------------------------------------------------------------------------------------- runtime (a subset)

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorIllegalAddress = 700,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
constexpr unsigned cudaStreamNonBlocking = 1, cudaHostAllocDefault = 0;

struct EmulatedStream;
struct EmulatedGraph;
struct EmulatedEvent;
using cudaStream_t = EmulatedStream*;
using cudaGraph_t = EmulatedGraph*;
using cudaGraphExec_t = EmulatedGraph*;
using cudaEvent_t = EmulatedEvent*;

struct cudaDeviceProp {
  char name[256];
  struct {
    char bytes[16];
  } uuid;
  std::size_t totalGlobalMem;
  std::size_t sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount, integrated;
};

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes);
cudaError_t cudaMalloc(void** address, std::size_t bytes);
cudaError_t cudaFree(void* address);
cudaError_t cudaHostAlloc(void** address, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* address);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* address, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

// --------------------------------------------------------------------------------------------------- inside kernels

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace emulator {

// Runs `work` now, or when the graph runs that the stream captures.
void enqueue(cudaStream_t stream, std::function<void()> work);
// `thread` is the body of one thread; the variables above tell which.
void launch(dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream, std::function<void()> thread);
void* dynamic_shared_memory();
// Leaves `value` for the other lanes of the warp, waits for all of them, returns what lane 0 left; that of lane i
// lies i lane_bytes after it. Good until the next but one exchange.
constexpr std::size_t lane_bytes = 64;
const std::byte* exchange(const void* value, std::size_t bytes);
int lane_of_thread();

template <typename T>
T from_lane(T value, int lane) {
  T result;
  std::memcpy(&result, exchange(&value, sizeof(T)) + lane_bytes * static_cast<std::size_t>(lane), sizeof(T));
  return result;
}

// Waits until `count` threads of the block are at that barrier, 1 to 15.
void sync_some(unsigned barrier, std::size_t count);

// By which the lanes of one warp let those of another go on.
struct Barrier {
  std::int32_t signals = 0, waits = 0;  // of lanes
};
void signal(Barrier& barrier);
void wait(Barrier& barrier, int turn);

// Copies that take place when they are waited for; until then there is NaN. The rest of `size` bytes becomes zero.
void copy_async(void* to, const void* from, std::size_t size, std::size_t bytes);
void commit_copies();
// Waits for all but the last `groups` that the thread has committed.
void wait_for_copies(std::size_t groups);

}  // namespace emulator

void __syncthreads();
inline void __threadfence_block() {}
void __syncwarp(unsigned mask = 0xffffffffu);

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return emulator::from_lane(value, lane & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulator::from_lane(value, emulator::lane_of_thread() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int lane = emulator::lane_of_thread();
  return emulator::from_lane(value, lane < static_cast<int>(delta) ? lane : lane - static_cast<int>(delta));
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const int lane = emulator::lane_of_thread();
  return emulator::from_lane(value, lane + static_cast<int>(delta) > 31 ? lane : lane + static_cast<int>(delta));
}
unsigned __ballot_sync(unsigned mask, int predicate);

template <typename T>
T __ldg(const T* address) {
  return *address;
}
template <typename T>
void __stcs(T* address, T value) {
  *address = value;
}
template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address = before + value;
  return before;
}
inline unsigned atomicMax(unsigned* address, unsigned value) {
  const unsigned before = *address;
  if (value > before) *address = value;
  return before;
}
inline unsigned atomicMin(unsigned* address, unsigned value) {
  const unsigned before = *address;
  if (value < before) *address = value;
  return before;
}
using std::isfinite;
using std::isinf;
using std::isnan;
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __clz(unsigned value) { return value == 0 ? 32 : __builtin_clz(value); }
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline double rsqrt(double value) { return 1.0 / std::sqrt(value); }
inline void sincospif(float value, float* sine, float* cosine) {
  const double angle = 3.141592653589793 * static_cast<double>(value);
  *sine = static_cast<float>(std::sin(angle));
  *cosine = static_cast<float>(std::cos(angle));
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
// One rounding each, never contracted.
inline float __fadd_rn(float a, float b) {
  volatile float sum = a + b;
  return sum;
}
inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
inline float __fmul_rn(float a, float b) {
  volatile float product = a * b;
  return product;
}
inline float __fdiv_rn(float a, float b) {
  volatile float quotient = a / b;
  return quotient;
}
