// The device memory of a training, by what it is for. All tensors of a training are asked of a TrainingMemory, and
// one that only estimates counts them instead: what is said before the start is counted by the code that then
// allocates.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "backend/backend.h"

namespace riverhorse {

enum class MemoryCategory {
  parameters,   // f32
  operands,     // their copies in the activations' dtype
  gradients,    // of the parameters, f32
  optimizer,    // its state
  filters,      // of the state spaces, and their gradients
  activations,  // kept from the forward to the backward pass, of every layer
  working,      // shared by the layers, among them the stages that are made again
  batch,        // ids, targets, losses
  scratch,      // within operations, among it the logits of a chunk of tokens
};
inline constexpr std::array memory_categories = {
    MemoryCategory::parameters, MemoryCategory::operands, MemoryCategory::gradients,
    MemoryCategory::optimizer,  MemoryCategory::filters,  MemoryCategory::activations,
    MemoryCategory::working,    MemoryCategory::batch,    MemoryCategory::scratch};
std::string_view memory_category_name(MemoryCategory category);

// Bytes by category.
class MemoryPlan {
 public:
  void add(MemoryCategory category, std::uint64_t bytes) { bytes_[static_cast<std::size_t>(category)] += bytes; }
  std::uint64_t bytes(MemoryCategory category) const { return bytes_[static_cast<std::size_t>(category)]; }
  std::uint64_t total_bytes() const;
  std::string table() const;  // for people: a line for each category and one for the total, each after a line break

 private:
  std::array<std::uint64_t, memory_categories.size()> bytes_{};
};

class TrainingMemory {
 public:
  explicit TrainingMemory(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  // Only counts, in `estimate`, which must live as long: its tensors can be recorded with, not used.
  TrainingMemory(std::shared_ptr<Device> device, MemoryPlan& estimate)
      : device_(std::move(device)), estimate_(&estimate) {}

  const std::shared_ptr<Device>& device() const { return device_; }
  // Zero-filled. Errors: out_of_memory.
  Tensor allocate(MemoryCategory category, DType dtype, Shape shape, MemoryUse use = MemoryUse::device) const;
  // Errors: out_of_memory. Null where only an estimate is made.
  std::unique_ptr<Recording> record(const RecordFunction& function) const;

 private:
  std::shared_ptr<Device> device_;
  MemoryPlan* estimate_ = nullptr;
};

}  // namespace riverhorse
