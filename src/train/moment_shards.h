// The moments of the optimiser in several files, which the ranks of a training write at once, one each:
//
//   optimizer-00002-of-00003.safetensors   of some parameters some elements: first_moment.<parameter> and
//                                          second_moment.<parameter>, (count) f32; in the metadata begin.<parameter>,
//                                          which element of it is their first, and save, shard and shards
//
// What the files have of a parameter makes it whole, each element once. Nothing in them depends on how the ranks
// divided the parameters, so that any number of ranks reads them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "model/checkpoint.h"

namespace riverhorse {

// Of a moment's name in a file, before the parameter's.
constexpr const char* first_moment_prefix = "first_moment.";
constexpr const char* second_moment_prefix = "second_moment.";

// Of one parameter the elements from `begin` on.
struct MomentPiece {
  std::int64_t begin = 0;
  HostTensor first, second;  // (count) f32
};
using MomentShard = std::map<std::string, MomentPiece>;  // by parameter

// What shards belong together.
struct ShardIndex {
  std::int64_t count = 0;
  std::string save;  // differs from one save to another
};

// `shard` counts from 0.
std::filesystem::path shard_path(const std::filesystem::path& folder, std::int64_t shard, std::int64_t count);

// Errors: io_error.
void write_moment_shard(const std::filesystem::path& folder, const ShardIndex& index, std::int64_t shard,
                        const MomentShard& moments);

// Of every parameter of the model, whole; what is in one file alone stays there until it is used. Errors: not_found
// and bad_file, naming the file: one that is missing, not whole, of another save, or there twice.
struct WholeMoments {
  std::map<std::string, HostTensor> first, second;
};
WholeMoments read_moment_shards(const std::filesystem::path& folder, const ShardIndex& index,
                                const ModelConfig& config);

}  // namespace riverhorse
