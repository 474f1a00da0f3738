#include "train/moment_shards.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/error.h"

namespace riverhorse {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view begin_prefix = "begin.";
constexpr std::string_view remedy = "copy it anew, or go on from an earlier checkpoint";

std::string metadata_of(const TensorFile& file, const std::string& key) {
  const auto found = file.metadata.find(key);
  return found == file.metadata.end() ? "" : found->second;
}

// Errors: as read_moment_shards().
TensorFile read_shard(const fs::path& folder, const ShardIndex& index, std::int64_t shard) {
  const fs::path path = shard_path(folder, shard, index.count);
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    fail(StatusCode::not_found, "{} is missing, one of {} files that the optimizer's moments are in; {}",
         path.string(), index.count, remedy);
  }
  TensorFile file;
  try {
    file = read_safetensors(path);
  } catch (const Error& error) {
    throw Error(error.code(), fmt::format("{}; {}", error.what(), remedy));
  }
  if (const std::string save = metadata_of(file, "save"); save != index.save) {
    fail(StatusCode::bad_file, "{} belongs to another checkpoint: its save is \"{}\", and this one's \"{}\"; {}",
         path.string(), save, index.save, remedy);
  }
  const std::string number = metadata_of(file, "shard"), count = metadata_of(file, "shards");
  if (number != std::to_string(shard + 1) || count != std::to_string(index.count)) {
    fail(StatusCode::bad_file, "{} is a copy of another file: it says that it is shard {} of {}; {}", path.string(),
         number, count, remedy);
  }
  return file;
}

struct Part {
  std::int64_t begin = 0;
  HostTensor values;
  fs::path file;
};

// What `file` has of one moment of a parameter; nothing if nothing.
void add_part(std::vector<Part>& parts, const TensorFile& file, std::string_view prefix,
              const ParameterSpec& parameter) {
  const auto found = file.tensors.find(fmt::format("{}{}", prefix, parameter.name));
  if (found == file.tensors.end()) return;
  const HostTensor& values = found->second;
  const std::string text = metadata_of(file, fmt::format("{}{}", begin_prefix, parameter.name));
  std::int64_t whole = 1, begin = -1;
  for (const std::int64_t dimension : parameter.shape) whole *= dimension;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), begin);
  const bool number = error == std::errc() && end == text.data() + text.size();
  const bool fits = number && begin >= 0 && begin <= whole && values.count() <= whole - begin;
  if (!fits || values.shape.size() != 1 || values.dtype != DType::f32) {
    fail(StatusCode::bad_file,
         "{}: tensor \"{}\" of {} elements must be F32 and a row within the {} of the parameter, and its metadata "
         "\"{}{}\" say where it begins: it is \"{}\"; {}",
         file.path.string(), found->first, values.count(), whole, begin_prefix, parameter.name, text, remedy);
  }
  parts.push_back({begin, values, file.path});
}

HostTensor joined(std::vector<Part> parts, const ParameterSpec& parameter, const fs::path& folder) {
  std::sort(parts.begin(), parts.end(), [](const Part& a, const Part& b) { return a.begin < b.begin; });
  HostTensor whole{DType::f32, parameter.shape, {}, nullptr};
  std::int64_t end = 0;
  for (const Part& part : parts) {
    if (part.begin < end) {
      fail(StatusCode::bad_file, "{}: elements of \"{}\" from {} on are in another file too; {}", part.file.string(),
           parameter.name, part.begin, remedy);
    }
    if (part.begin > end) break;
    end += part.values.count();
  }
  if (end != whole.count()) {
    fail(StatusCode::bad_file, "{}: the moments of \"{}\" from element {} on are in no optimizer-*.safetensors; {}",
         folder.string(), parameter.name, end, remedy);
  }
  if (parts.size() == 1) {
    whole.bytes = parts[0].values.bytes;
    whole.owner = parts[0].values.owner;
    return whole;
  }
  const auto bytes = std::make_shared<std::vector<std::byte>>();
  bytes->reserve(whole.size_bytes());
  for (const Part& part : parts) bytes->insert(bytes->end(), part.values.bytes.begin(), part.values.bytes.end());
  whole.bytes = *bytes;
  whole.owner = bytes;
  return whole;
}

}  // namespace

fs::path shard_path(const fs::path& folder, std::int64_t shard, std::int64_t count) {
  return folder / fmt::format("optimizer-{:05}-of-{:05}.safetensors", shard + 1, count);
}

void write_moment_shard(const fs::path& folder, const ShardIndex& index, std::int64_t shard,
                        const MomentShard& moments) {
  std::map<std::string, HostTensor> tensors;
  std::map<std::string, std::string> metadata = {
      {"save", index.save}, {"shard", std::to_string(shard + 1)}, {"shards", std::to_string(index.count)}};
  for (const auto& [name, piece] : moments) {
    tensors.emplace(fmt::format("{}{}", first_moment_prefix, name), piece.first);
    tensors.emplace(fmt::format("{}{}", second_moment_prefix, name), piece.second);
    metadata.emplace(fmt::format("{}{}", begin_prefix, name), std::to_string(piece.begin));
  }
  write_safetensors(shard_path(folder, shard, index.count), tensors, metadata);
}

WholeMoments read_moment_shards(const fs::path& folder, const ShardIndex& index, const ModelConfig& config) {
  std::vector<TensorFile> files;
  for (std::int64_t shard = 0; shard < index.count; ++shard) files.push_back(read_shard(folder, index, shard));
  WholeMoments moments;
  for (const ParameterSpec& parameter : parameter_table(config)) {
    std::vector<Part> first, second;
    for (const TensorFile& file : files) {
      add_part(first, file, first_moment_prefix, parameter);
      add_part(second, file, second_moment_prefix, parameter);
    }
    moments.first.emplace(parameter.name, joined(std::move(first), parameter, folder));
    moments.second.emplace(parameter.name, joined(std::move(second), parameter, folder));
  }
  return moments;
}

}  // namespace riverhorse
