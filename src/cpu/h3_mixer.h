#pragma once

#include <cstdint>

#include "backend/ops.h"

namespace riverhorse::cpu {

// One head of one sequence, for any number of tokens. q, k, v, y point at channel 0, token 0 of the sequence.
struct H3HeadArgs {
  const float* q;
  const float* k;
  const float* v;
  float* y;
  std::int64_t channel_stride;  // elements from one channel to the next
  std::int64_t tokens;          // L, consecutive in memory
  const H3Filter& filter;
  int head_dim;
  HeadOrder head_order;
  ConvAlgorithm algorithm;
  std::int64_t head, slot, position;
  const H3State& state;           // empty: nothing before this call, nothing kept
  float* entry_states = nullptr;  // of this sequence: (ceil(L / superchunk), 2 n), written; or null. head_dim 1
};

void h3_mix_head(const H3HeadArgs& args);

}  // namespace riverhorse::cpu
