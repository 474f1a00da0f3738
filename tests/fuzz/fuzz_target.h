// What a fuzz target is: the function that libFuzzer calls, and the good inputs to start from. Built with Clang and
// RIVERHORSE_FUZZERS, libFuzzer drives it; in every build, replay.cpp drives it with mutations of a fixed seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// Must return for every input: the code under test may throw riverhorse::Error and nothing else.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

std::vector<std::string> fuzz_seeds();
