#include "model/training_memory.h"

#include <fmt/format.h>

#include <numeric>

namespace riverhorse {

namespace {

std::string line(std::string_view name, std::uint64_t bytes) {
  return fmt::format("\n  {:<30} {:>9.1f} MiB", name, static_cast<double>(bytes) / 0x1p20);
}

}  // namespace

std::string_view memory_category_name(MemoryCategory category) {
  switch (category) {
    case MemoryCategory::parameters: return "parameters";
    case MemoryCategory::operands: return "rounded copies of parameters";
    case MemoryCategory::gradients: return "gradients";
    case MemoryCategory::optimizer: return "optimizer state";
    case MemoryCategory::filters: return "filters of state spaces";
    case MemoryCategory::activations: return "kept activations";
    case MemoryCategory::working: return "working buffers";
    case MemoryCategory::batch: return "batch";
    case MemoryCategory::scratch: return "scratch of operations";
  }
  return "?";
}

std::uint64_t MemoryPlan::total_bytes() const {
  return std::accumulate(bytes_.begin(), bytes_.end(), std::uint64_t{0});
}

std::string MemoryPlan::table() const {
  std::string text;
  for (const MemoryCategory category : memory_categories)
    text += line(memory_category_name(category), bytes(category));
  return text + line("total", total_bytes());
}

Tensor TrainingMemory::allocate(MemoryCategory category, DType dtype, Shape shape, MemoryUse use) const {
  if (estimate_ == nullptr) return device_->allocate_tensor(dtype, shape, use);
  Tensor tensor{nullptr, 0, dtype, shape};
  tensor.buffer = std::make_shared<Buffer>(tensor.size_bytes());
  estimate_->add(category, tensor.size_bytes());
  return tensor;
}

std::unique_ptr<Recording> TrainingMemory::record(const RecordFunction& function) const {
  if (estimate_ == nullptr) return device_->record(function, {});
  estimate_->add(MemoryCategory::scratch, device_->scratch_bytes(function));
  return nullptr;
}

}  // namespace riverhorse
