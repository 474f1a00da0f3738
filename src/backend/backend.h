// The backend interface. Everything above this line of the house (model, engine, training) knows a GPU only
// through these classes.
//
// Record, never run: operations are appended to an Encoder inside a recording function. A recording is prepared
// (pipelines, plans, workspace: everything slow), recorded once, and then submitted as often as one likes.
// Positions, token ids and sampler settings live in device memory, so that a replayed step needs no new recording.
//
// Thread rules: a Device and what was made from it are used by one thread at a time, except `prepare`, which may
// run on another thread while recordings are submitted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/ops.h"
#include "backend/tensor.h"
#include "backend/training_ops.h"

namespace riverhorse {

enum class BackendKind { cpu, vulkan, cuda };
enum class DeviceType { cpu, discrete_gpu, integrated_gpu, virtual_gpu, software, other };

std::string_view backend_name(BackendKind kind);     // "cpu", "vulkan", "cuda"
std::string_view device_type_name(DeviceType type);  // "discrete GPU", ...

struct DeviceInfo {
  BackendKind backend = BackendKind::cpu;
  int index = 0;     // within the backend; "vulkan:0" chooses it
  std::string name;  // "NVIDIA H100 80GB HBM3"
  DeviceType type = DeviceType::other;
  std::string driver;                   // name and version
  std::string api;                      // "Vulkan 1.3.230"
  std::array<std::uint8_t, 16> uuid{};  // of the physical device; all zero when unknown
  std::uint64_t memory_total_bytes = 0;
  std::uint64_t memory_free_bytes = 0;  // an estimate at the time of listing; equals the total when unknown

  std::string id() const;  // "vulkan:0"
};

// f16 and bf16: activations stored so. quantised_weights: products and embed read q8 and q4. conv_chunked and
// conv_fft: the algorithms that h3_mixer can be told to use.
enum class Feature { f16, bf16, quantised_weights, conv_chunked, conv_fft, cooperative_matrix, timestamps, training };
std::string_view feature_name(Feature feature);
// What activations of `dtype`, f16 or bf16, need.
constexpr Feature half_feature(DType dtype) { return dtype == DType::bf16 ? Feature::bf16 : Feature::f16; }

struct Support {
  bool supported = true;
  std::string reason;  // when not: what is missing and what to do
};

enum class MemoryUse {
  device,    // large, used by operations only; upload and download go through a staging buffer
  upload,    // small, the host writes it often (ids, slots, sampler rows); mapped where possible
  readback,  // small, the host reads it often (drawn tokens, logits); mapped where possible
};

// What a debug build and the tests count: a replayed step must add nothing to the first three.
struct DeviceCounters {
  std::uint64_t allocations = 0;
  std::uint64_t pipelines_created = 0;
  std::uint64_t recordings = 0;
  std::uint64_t submissions = 0;
  std::uint64_t host_waits = 0;
  std::uint64_t products_timed = 0;  // by Device::tune, rather than known from the cache folder
};

struct MemoryUsage {
  std::uint64_t allocated_bytes = 0;  // held from the driver now
  std::uint64_t used_bytes = 0;       // of that, handed out
  std::uint64_t peak_used_bytes = 0;
};

// Appends operations. The public methods check the arguments once for every backend (shapes, dtypes; an
// invalid_argument error names operation and tensor) and call the backend's record_ method of the same name.
class Encoder {
 public:
  virtual ~Encoder() = default;
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;

  void copy(const CopyArgs& args);
  void advance(const AdvanceArgs& args);
  void embed(const EmbedArgs& args);
  void add_layer_norm(const AddLayerNormArgs& args);
  void linear(const LinearArgs& args);
  void out_mlp(const OutMlpArgs& args);
  void discretize(const DiscretizeArgs& args);
  void ssm_kernel(const SsmKernelArgs& args);
  void h3_mixer(const H3MixerArgs& args);
  void h3_step(const H3StepArgs& args);
  void h3_block(const H3BlockArgs& args);
  void fft_conv(const FftConvArgs& args);
  void rotary(const RotaryArgs& args);
  void attention(const AttentionArgs& args);
  void attention_step(const AttentionArgs& args);
  void sample(const SampleArgs& args);

  // Training (training_ops.h). Errors: unsupported on a device that does not train.
  void zero(const ZeroArgs& args);
  void accumulate(const AccumulateArgs& args);
  void copy_columns(const CopyColumnsArgs& args);
  void embed_backward(const EmbedBackwardArgs& args);
  void residual_norm(const ResidualNormArgs& args);
  void residual_norm_backward(const ResidualNormBackwardArgs& args);
  void linear_backward(const LinearBackwardArgs& args);
  void h3_mixer_backward(const H3MixerBackwardArgs& args);
  void discretize_backward(const DiscretizeBackwardArgs& args);
  void ssm_kernel_backward(const SsmKernelBackwardArgs& args);
  void fft_conv_backward(const FftConvBackwardArgs& args);
  void attention_backward(const AttentionBackwardArgs& args);
  void cross_entropy(const CrossEntropyArgs& args);
  void grad_norm(const GradNormArgs& args);
  void adamw(const AdamwArgs& args);
  void communicate(const CommunicateArgs& args);
  void await_ranks(const AwaitRanksArgs& args);

  // Memory that lives within the recording. Freed in reverse order by ScratchScope; the same bytes are then used
  // again, so a scratch tensor must not be read after its scope ends. Contents are undefined at first.
  Tensor scratch(DType dtype, Shape shape);

  std::uint64_t scratch_peak_bytes() const { return scratch_peak_bytes_; }

 protected:
  // `workspace` backs the scratch tensors. Null means preparing: scratch tensors then share a placeholder buffer
  // that no operation may touch, and only their sizes count.
  explicit Encoder(std::shared_ptr<Buffer> workspace);
  bool preparing() const { return preparing_; }
  // The buffer that scratch tensors share while preparing; else null.
  const Buffer* placeholder() const { return preparing_ ? workspace_.get() : nullptr; }

  virtual void record_copy(const CopyArgs& args) = 0;
  virtual void record_advance(const AdvanceArgs& args) = 0;
  virtual void record_embed(const EmbedArgs& args) = 0;
  virtual void record_add_layer_norm(const AddLayerNormArgs& args) = 0;
  virtual void record_linear(const LinearArgs& args) = 0;
  // Only where fuses_out_mlp() says so; else it is three linear operations.
  virtual void record_out_mlp(const OutMlpArgs& args);
  virtual bool fuses_out_mlp(const OutMlpArgs& /*args*/) const { return false; }
  virtual void record_discretize(const DiscretizeArgs& args) = 0;
  virtual void record_ssm_kernel(const SsmKernelArgs& args) = 0;
  virtual void record_h3_mixer(const H3MixerArgs& args) = 0;
  virtual void record_h3_step(const H3StepArgs& args) = 0;
  // Whether record_h3_step takes these arguments with their projection; else it gets qkv, made by linear.
  virtual bool fuses_projection(const H3StepArgs& /*args*/) const { return false; }
  // Only where fuses_h3_block() says so; else it is h3_step and out_mlp.
  virtual void record_h3_block(const H3BlockArgs& args);
  virtual bool fuses_h3_block(const H3BlockArgs& /*args*/) const { return false; }
  virtual void record_fft_conv(const FftConvArgs& args) = 0;
  virtual void record_rotary(const RotaryArgs& args) = 0;
  virtual void record_attention(const AttentionArgs& args) = 0;
  virtual void record_attention_step(const AttentionArgs& args) = 0;
  virtual void record_sample(const SampleArgs& args) = 0;

  // A backend that trains overrides all of these; the checks let no other get there.
  virtual bool trains() const { return false; }
  virtual void record_zero(const ZeroArgs& args);
  virtual void record_accumulate(const AccumulateArgs& args);
  virtual void record_copy_columns(const CopyColumnsArgs& args);
  virtual void record_embed_backward(const EmbedBackwardArgs& args);
  virtual void record_residual_norm(const ResidualNormArgs& args);
  virtual void record_residual_norm_backward(const ResidualNormBackwardArgs& args);
  virtual void record_linear_backward(const LinearBackwardArgs& args);
  virtual void record_h3_mixer_backward(const H3MixerBackwardArgs& args);
  virtual void record_discretize_backward(const DiscretizeBackwardArgs& args);
  virtual void record_ssm_kernel_backward(const SsmKernelBackwardArgs& args);
  virtual void record_fft_conv_backward(const FftConvBackwardArgs& args);
  virtual void record_attention_backward(const AttentionBackwardArgs& args);
  virtual void record_cross_entropy(const CrossEntropyArgs& args);
  virtual void record_grad_norm(const GradNormArgs& args);
  virtual void record_adamw(const AdamwArgs& args);
  virtual void record_communicate(const CommunicateArgs& args);
  virtual void record_await_ranks(const AwaitRanksArgs& args);

 private:
  friend class ScratchScope;

  std::shared_ptr<Buffer> workspace_;
  bool preparing_;
  std::uint64_t scratch_used_bytes_ = 0;
  std::uint64_t scratch_peak_bytes_ = 0;
};

// Gives back on destruction what was taken from the encoder's scratch memory since construction.
class ScratchScope {
 public:
  explicit ScratchScope(Encoder& encoder) : encoder_(encoder), mark_(encoder.scratch_used_bytes_) {}
  ~ScratchScope() { encoder_.scratch_used_bytes_ = mark_; }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

 private:
  Encoder& encoder_;
  std::uint64_t mark_;
};

using RecordFunction = std::function<void(Encoder&)>;

struct OpTiming {
  std::string name;  // of the operation, "linear"
  double time_ms = 0;
  double start_ms = 0;  // from when the first operation began
};

// Commands that can be submitted again and again. Keeps every tensor it uses alive.
class Recording {
 public:
  virtual ~Recording() = default;
  // The operations of the last finished submission, in order; empty unless recorded with timestamps.
  virtual std::vector<OpTiming> timings() = 0;
  // Device time from the first to the last operation of the last finished submission, by the device's own clock
  // where it has one; needs RecordOptions::timestamps.
  virtual double total_time_ms() = 0;
};

struct RecordOptions {
  bool timestamps = false;     // of the whole recording (total_time_ms): two a recording, free
  bool op_timestamps = false;  // of each operation too (timings): serialises them
  // Backs the scratch tensors where it is large enough; else the recording has memory of its own. Recordings that
  // run one after another may share it.
  std::shared_ptr<Buffer> workspace = {};
};

using ProgressFunction = std::function<void(std::uint64_t done, std::uint64_t total)>;

class Device {
 public:
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  virtual const DeviceInfo& info() const = 0;
  virtual Support supports(Feature feature) const = 0;

  // Zero-filled. Errors: out_of_memory, with the numbers and what to do.
  virtual std::shared_ptr<Buffer> allocate(std::uint64_t size_bytes, MemoryUse use) = 0;
  virtual MemoryUsage memory_usage() const = 0;
  virtual std::uint64_t memory_free_bytes() const = 0;
  // What the first upload and the first download will take for good, of memory_usage(); 0 from then on.
  virtual std::uint64_t staging_bytes() const { return 0; }
  // The largest tensor one operation can be given (maxStorageBufferRange on Vulkan).
  virtual std::uint64_t max_tensor_bytes() const = 0;

  // Blocking; sizes must equal the tensor's. Waits for earlier submissions that might touch the tensor.
  virtual void upload(const Tensor& tensor, std::span<const std::byte> bytes) = 0;
  virtual void download(const Tensor& tensor, std::span<std::byte> bytes) = 0;
  // Host memory of an `upload` or `readback` tensor, valid while its buffer lives. The caller orders its accesses
  // with submissions and wait().
  virtual std::span<std::byte> mapped(const Tensor& tensor) = 0;
  template <typename T>
  std::span<T> mapped_as(const Tensor& tensor) {
    const std::span<std::byte> bytes = mapped(tensor);
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }

  // Makes everything that recording `function` would need, without recording it. May be called from another thread.
  virtual void prepare(const RecordFunction& function, const ProgressFunction& progress) = 0;
  // Finds out how the device makes the products of these recordings fastest, where it has several ways that give the
  // same bits and does not know yet; what is recorded later goes that way. Runs their products and, again and again,
  // themselves, for a few times DeviceOptions::tuning_limit_ms. `workspace`, where it is large enough, backs scratch
  // memory. For when things are loaded: nothing else is timed by the backend. A device without a choice does nothing.
  virtual void tune(std::span<const RecordFunction> /*functions*/, const std::shared_ptr<Buffer>& /*workspace*/) {}
  // What the scratch tensors of a recording of `function` take. The tensors that it uses need no memory: any Buffer
  // of their size does.
  virtual std::uint64_t scratch_bytes(const RecordFunction& function);
  // Prepares what is not prepared yet, then records. `function` is called more than once and must do the same.
  virtual std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) = 0;

  // Starts the recording after everything submitted before; returns a ticket that rises by one each time.
  // Errors: device_lost.
  virtual std::uint64_t submit(Recording& recording) = 0;
  virtual void wait(std::uint64_t ticket) = 0;

  virtual DeviceCounters counters() const = 0;

  // A communicator for this device's tensors, made by all ranks at once; `host` is one of those ranks. A device whose
  // tensors that one moves as well gives it back. Errors: unsupported, with what is missing.
  virtual std::shared_ptr<Communicator> tensor_communicator(const std::shared_ptr<Communicator>& host);

  // Conveniences over the above.
  // Errors: unsupported where activations cannot be `dtype`, naming those that can.
  void require_activation(DType dtype) const;
  Tensor allocate_tensor(DType dtype, Shape shape, MemoryUse use = MemoryUse::device);
  void run(const RecordFunction& function);  // record, submit, wait

 protected:
  Device() = default;
  // The memory behind the `scratch_bytes` of a recording.
  std::shared_ptr<Buffer> workspace_for(const RecordOptions& options, std::uint64_t scratch_bytes);
};

// ---------------------------------------------------------------------------------------------------- registry

// Whether Device::tune measures. `automatic`: on a GPU of one's own that has timestamps, where there is a cache
// folder to remember it in.
enum class Tuning { automatic, on, off };

struct DeviceOptions {
  // Pretends the device has no more than 16 KiB of shared memory and 128 invocations and none of the optional
  // features: the path that must work everywhere. For tests, and what a failed self test falls back to.
  bool minimal_features = false;
  // Vulkan: whether workgroups may wait for others that have begun (VulkanLimits); unset: by the driver.
  std::optional<bool> groups_may_wait = {};
  bool validation = false;               // Vulkan: the validation layer, messages counted; an error if it is absent
  double submission_limit_ms = 8.0;      // no submission is longer, by measured time, so that no desktop freezes
  std::uint64_t memory_limit_bytes = 0;  // cpu: no more is given to tensors, as if that were all; 0: no limit
  std::string cache_folder;              // pipeline and plan cache; empty: the user's cache folder; "none": no cache
  Tuning tuning = Tuning::automatic;     // Vulkan: tiles of products
  double tuning_limit_ms = 200;          // of trials in one call of Device::tune; compiling and checks come on top
};

// Why a backend shows no device: "no Vulkan loader (libvulkan.so.1) was found; install ...".
struct BackendAbsence {
  BackendKind backend = BackendKind::cpu;
  std::string reason;
};

struct DeviceList {
  std::vector<DeviceInfo> devices;  // CUDA, then Vulkan by rank, then cpu
  std::vector<BackendAbsence> absences;
};

// Never throws for a missing or broken driver: that is an absence.
DeviceList list_devices();

// Chooses by DESIGN section 2: `backend` "" or "auto", "cpu", "vulkan", "cuda"; `device` "" or an index, an id
// ("vulkan:1"), or a part of a name. Software devices are taken only when named or when the only one of an
// explicitly chosen backend. Errors: not_found, invalid_argument; never another device than asked for.
DeviceInfo choose_device(const DeviceList& list, std::string_view backend, std::string_view device);

// For a training. A choice by name is choose_device's, whether it trains or not; otherwise the first device for which
// `training` says yes, software devices left out, and each that is passed over is named with the reason in the log.
// Errors: those of choose_device; unsupported when none trains.
DeviceInfo choose_training_device(const DeviceList& list, std::string_view backend, std::string_view device,
                                  const std::function<Support(const DeviceInfo&)>& training);

std::unique_ptr<Device> open_device(const DeviceInfo& info, const DeviceOptions& options);

}  // namespace riverhorse
