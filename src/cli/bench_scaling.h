// riverhorse bench scaling: training steps on several ranks, next to one.
#pragma once

#include "cli/bench.h"

namespace riverhorse::cli {

// Rows of one rank and of all that a launcher started, or of each number of GPUs that the options name. Empty where
// another rank has them. Errors: invalid_argument for one rank without such numbers; as fork_ranks(), run_as_rank()
// and TrainerCore. Ends this process when a rank fails.
std::optional<BenchReport> bench_scaling(const BenchOptions& options);

}  // namespace riverhorse::cli
