// A device that is not there: it takes every operation of a training, in every type of activation, and computes none.
// What a training would take elsewhere is counted with it, but for the scratch memory within operations, which is
// each backend's own; of that it has the largest, the logits of a chunk of tokens as CUDA cuts them.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace riverhorse {

// What the collectives that were recorded send, in bytes, by a rank; around a ring where all take part.
struct ShapesTraffic {
  double summed = 0;  // of sums, which overlap with what is recorded meanwhile
  double moved = 0;   // of all others, which are waited for
};

// `traffic`, where it is not null, gets what is recorded, and lives as long.
std::shared_ptr<Device> make_shapes_device(ShapesTraffic* traffic = nullptr);

// A rank whose others are not there either: it has a number, and moves nothing.
std::shared_ptr<Communicator> make_absent_ranks(int size, int rank);

}  // namespace riverhorse
