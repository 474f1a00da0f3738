// Counts what operator new hands out, for tests that bound memory. Linking allocation_meter.cpp replaces the
// operators of the whole program.
#pragma once

#include <cstddef>

namespace riverhorse::test {

// Starts a new measurement: the peak is counted from what is in use now.
void reset_allocation_peak();
std::size_t allocation_peak_bytes();

}  // namespace riverhorse::test
