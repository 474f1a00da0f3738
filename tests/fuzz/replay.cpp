// Runs a fuzz target without libFuzzer: over its seeds, and over mutations of them, the same in every run.
//   NAME_replay [ROUNDS]             mutations to try (default 5000)
//   NAME_replay --write-seeds DIR    the seeds as files, to start libFuzzer from
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>

#include "fuzz/fuzz_target.h"

namespace {

constexpr std::uint64_t seed = 20230117;

// Only the engine's raw numbers: distributions differ between standard libraries.
class Mutator {
 public:
  std::string mutate(std::string bytes, const std::string& other) {
    const std::uint64_t edits = 1 + next(4);
    for (std::uint64_t i = 0; i < edits; ++i) edit(bytes, other);
    return bytes;
  }
  std::uint64_t next(std::uint64_t bound) { return engine_() % bound; }

 private:
  void edit(std::string& bytes, const std::string& other) {
    const std::size_t at = bytes.empty() ? 0 : next(bytes.size());
    switch (next(8)) {
      case 0:
        if (!bytes.empty()) bytes[at] = static_cast<char>(bytes[at] ^ (1 << next(8)));
        break;
      case 1:
        if (!bytes.empty()) bytes[at] = static_cast<char>(next(256));
        break;
      case 2: bytes.insert(at, 1 + next(8), static_cast<char>(next(256))); break;
      case 3: bytes.erase(at, 1 + next(8)); break;
      case 4: bytes.resize(at); break;
      case 5: {  // a number that breaks sums: all ones, a sign bit, one
        const std::uint64_t values[] = {~std::uint64_t{0}, std::uint64_t{1} << 63, 0x7fffffff, 0xffffffff, 1};
        const std::uint64_t value = values[next(5)];
        const std::size_t width = std::size_t{1} << next(4);
        for (std::size_t i = 0; i < width && at + i < bytes.size(); ++i) {
          bytes[at + i] = static_cast<char>(value >> (8 * i) & 0xff);
        }
        break;
      }
      case 6: {  // a part of this again, elsewhere
        const std::string part = bytes.substr(at, 1 + next(32));
        bytes.insert(bytes.empty() ? 0 : next(bytes.size()), part);
        break;
      }
      default: {  // a part of another seed
        const std::size_t from = other.empty() ? 0 : next(other.size());
        bytes.insert(at, other.substr(from, 1 + next(32)));
        break;
      }
    }
  }

  std::mt19937_64 engine_{seed};
};

// In a buffer of exactly its size, so that a sanitizer sees the first byte read too many.
void run(const std::string& input) {
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[input.size()]);
  std::copy(input.begin(), input.end(), exact.get());
  LLVMFuzzerTestOneInput(exact.get(), input.size());
}

int write_seeds(const std::filesystem::path& folder) {
  std::filesystem::create_directories(folder);
  int index = 0;
  for (const std::string& bytes : fuzz_seeds()) {
    std::ofstream(folder / ("seed" + std::to_string(index++)), std::ios::binary) << bytes;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--write-seeds") return write_seeds(argv[2]);
  const long rounds = argc > 1 ? std::atol(argv[1]) : 5000;
  const std::vector<std::string> seeds = fuzz_seeds();
  std::string current;
  long round = -1;
  try {
    for (const std::string& bytes : seeds) run(current = bytes);
    Mutator mutator;
    for (round = 0; round < rounds; ++round) {
      const std::string& base = seeds[mutator.next(seeds.size())];
      const std::string& other = seeds[mutator.next(seeds.size())];
      run(current = mutator.mutate(base, other));
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "round %ld of seed %llu, input of %zu bytes: %s\n", round,
                 static_cast<unsigned long long>(seed), current.size(), error.what());
    std::ofstream("failing-input", std::ios::binary) << current;
    return 1;
  }
  std::printf("%zu seeds and %ld mutations of seed %llu\n", seeds.size(), rounds,
              static_cast<unsigned long long>(seed));
  return 0;
}
