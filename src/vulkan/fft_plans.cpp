#include "vulkan/fft_plans.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/cache_folder.h"
#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "vulkan/grid.h"

namespace riverhorse::vulkan {
namespace {

constexpr std::size_t temporary_workspace = 2;

// Few different plans: a power of two up to 16 rows, then a multiple of 16.
std::uint32_t rounded_rows(std::uint32_t rows) {
  return rows <= 16 ? std::bit_ceil(std::max(rows, 1u)) : divide_up(rows, 16) * 16;
}

}  // namespace

std::uint32_t fft_size_for(std::uint32_t tokens) { return 2 * std::bit_ceil(std::max(tokens, 128u)); }

void FftPlan::transform(VulkanEncoder& encoder, bool inverse) const {
  std::vector<Binding> touched = {{rows_, Access::read_write}};
  if (temporary_) touched.push_back({temporary_, Access::read_write});
  const double passes = temporary_ ? 4 : 2;
  encoder.external(touched, passes * static_cast<double>(rows_.size_bytes()),
                   [this, inverse](VkCommandBuffer commands) { application_->append(commands, inverse); });
}

FftPlans::FftPlans(VulkanDevice& device)
    : device_(device), folder_(resolve_cache_folder(device.options().cache_folder)) {}

FftPlans::~FftPlans() = default;

FftPlans::Counts FftPlans::counts() const {
  std::scoped_lock lock(mutex_);
  return counts_;
}

// Grows by replacing: plans made before keep the old one.
Tensor FftPlans::workspace(std::size_t which, std::uint64_t bytes) {
  std::shared_ptr<Buffer>& buffer = workspaces_[which];
  if (buffer == nullptr || buffer->size_bytes() < bytes) {
    buffer = device_.allocate(std::max<std::uint64_t>(bytes, 1 << 20), MemoryUse::device);
  }
  Tensor tensor;
  tensor.buffer = buffer;
  tensor.dtype = DType::f32;
  tensor.shape = {static_cast<std::int64_t>(bytes / sizeof(float))};
  return tensor;
}

const FftPlan& FftPlans::get(const VulkanEncoder& encoder, Role role, std::uint32_t size, std::uint32_t rows) {
  const FftShape shape{.size = size, .rows = rounded_rows(rows), .forward_only = role == Role::filter};
  std::scoped_lock lock(mutex_);
  std::unique_ptr<FftPlan>& plan = plans_[{role, shape}];
  if (plan != nullptr) return *plan;
  if (!encoder.preparing()) fail(StatusCode::internal, "an FFT plan of {} x {} was not prepared", shape.rows, size);

  auto made = std::make_unique<FftPlan>();
  made->shape_ = shape;
  const std::uint64_t bytes = std::uint64_t{shape.rows} * (size + 2) * sizeof(float);
  made->rows_ = workspace(static_cast<std::size_t>(role), bytes).reshape({shape.rows, std::int64_t{size} + 2});
  VkfftApplication::Memory memory;
  FftPlan* target = made.get();
  memory.rows = [this, target] { return device_.range(target->rows_); };
  memory.temporary = [this, target, bytes] {
    if (!target->temporary_) target->temporary_ = workspace(temporary_workspace, 2 * bytes);
    return device_.range(target->temporary_);
  };
  if (const std::vector<std::byte> saved = read_saved(shape); !saved.empty()) {
    try {
      made->application_ = std::make_unique<VkfftApplication>(device_, shape, memory, saved);
      ++counts_.loaded;
    } catch (const Error& error) {  // the checksum was right and yet it does not load: made anew and replaced
      log_warning(fmt::format("{}: {}; it is made again", file_of(shape).string(), error.what()));
    }
  }
  if (made->application_ == nullptr) {
    made->application_ = std::make_unique<VkfftApplication>(device_, shape, memory, std::span<const std::byte>());
    ++counts_.compiled;
    write_saved(shape, made->application_->saved_form());
  }
  plan = std::move(made);
  return *plan;
}

std::filesystem::path FftPlans::file_of(const FftShape& shape) const {
  const std::string header = header_of(shape);
  return *folder_ / fmt::format("fft-{:016x}.plan", hash_bytes(std::as_bytes(std::span(header))));
}

// The whole identity of a plan, in text: the file begins with it, and another text makes the file void.
std::string FftPlans::header_of(const FftShape& shape) const {
  return fmt::format("riverhorse FFT plan 2; {}; VkFFT {}; {} x {}{}\n", device_.cache_key(),
                     VkfftApplication::version(), shape.rows, shape.size, shape.forward_only ? ", forward" : "");
}

std::vector<std::byte> FftPlans::read_saved(const FftShape& shape) const {
  if (!folder_) return {};
  const std::filesystem::path path = file_of(shape);
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  try {
    const MappedFile file(path);
    const std::span<const std::byte> bytes = file.bytes();
    const std::string header = header_of(shape);
    const std::size_t begin = header.size() + sizeof(std::uint64_t);
    std::uint64_t checksum = 0;
    if (bytes.size() > begin && std::memcmp(bytes.data(), header.data(), header.size()) == 0) {
      std::memcpy(&checksum, bytes.data() + header.size(), sizeof(checksum));
      const std::span<const std::byte> form = bytes.subspan(begin);
      if (hash_bytes(form) == checksum) return {form.begin(), form.end()};
    }
    log_info(fmt::format("{} is damaged or of another version; it is made again", path.string()));
  } catch (const Error& error) {
    log_debug(error.what());
  }
  return {};
}

void FftPlans::write_saved(const FftShape& shape, std::span<const std::byte> form) const {
  if (!folder_ || form.empty()) return;
  try {
    AtomicFileWriter writer(file_of(shape));
    const std::uint64_t checksum = hash_bytes(form);
    writer.write(header_of(shape));
    writer.write(std::as_bytes(std::span(&checksum, 1)));
    writer.write(form);
    writer.commit();
  } catch (const Error& error) {  // a cache must never be the reason that something fails
    log_debug(error.what());
  }
}

std::shared_ptr<FftPlans> make_fft_plans(VulkanDevice& device) { return std::make_shared<FftPlans>(device); }

}  // namespace riverhorse::vulkan
