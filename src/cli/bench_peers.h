// Other implementations of the same work, measured by Python scripts where there is a Python with PyTorch and a GPU.
// The scripts (tests/peers) are part of the program.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cli/bench.h"

namespace riverhorse::cli {

// Their rows beside `ours`, which say what was measured; none, and a line in the log that says why, where Python,
// PyTorch or its GPU is missing.
std::vector<BenchRow> bench_peers(const DeviceInfo& device, const BenchOptions& options,
                                  const std::vector<BenchRow>& ours);

// File names and texts of the scripts.
const std::vector<std::pair<std::string, std::string>>& peer_scripts();

}  // namespace riverhorse::cli
