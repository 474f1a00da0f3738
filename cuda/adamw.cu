#include "encoder.h"
#include "kernel.cuh"

namespace riverhorse::cuda {}  // namespace riverhorse::cuda
