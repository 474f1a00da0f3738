// What every handle of the C API begins with. Builds with RIVERHORSE_CHECK_HANDLES, which debug and sanitized ones
// are, know the last handles that were freed and refuse them: their memory is kept, with a mark, until so many others
// were freed after them. Other builds do not look, and the use of such a handle is undefined there.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <utility>

namespace riverhorse::api {

#ifdef RIVERHORSE_CHECK_HANDLES

class Handle {
 public:
  Handle() = default;
  bool freed() const { return mark_ != alive_mark; }

  // Not inlined: GCC would compare what is within one with the other's name.
  [[gnu::noinline]] static void* operator new(std::size_t size) { return ::operator new(size); }
  // A freed handle is the mark alone, in the place where the handle was.
  [[gnu::noinline]] static void operator delete(void* memory) {
    static auto* const kept = new Kept;  // never taken down: handles may be freed as late as in exit handlers
    ::new (memory) Handle(freed_mark);
    {
      const std::scoped_lock lock(kept->mutex);
      std::swap(memory, kept->memory[kept->oldest]);
      kept->oldest = (kept->oldest + 1) % most_kept;
    }
    ::operator delete(memory);
  }

 private:
  static constexpr std::size_t most_kept = 1024;
  static constexpr std::uint32_t alive_mark = 0x68336833, freed_mark = 0xdeadc0de;
  struct Kept {
    std::mutex mutex;
    std::array<void*, most_kept> memory{};
    std::size_t oldest = 0;
  };

  explicit Handle(std::uint32_t mark) : mark_(mark) {}
  volatile std::uint32_t mark_ = alive_mark;  // read through pointers that no compiler expects to be used
};

#else

struct Handle {
  static constexpr bool freed() { return false; }
};

#endif

}  // namespace riverhorse::api
