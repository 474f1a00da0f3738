#include "train/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "formats/json.h"

namespace riverhorse {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t state_limit_bytes = std::uint64_t{1} << 20;
constexpr std::uint64_t tokenizer_limit_bytes = std::uint64_t{256} << 20;
constexpr std::string_view folder_prefix = "step-";
constexpr std::string_view temporary_prefix = "tmp-step-";

std::string folder_name(std::int64_t step) { return fmt::format("{}{:08}", folder_prefix, step); }

// Empty for what is no checkpoint's name.
std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(folder_prefix)) return std::nullopt;
  const std::string digits = name.substr(folder_prefix.size());
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  return std::stoll(digits);
}

void write_text(const fs::path& path, std::string_view text) {
  AtomicFileWriter writer(path);
  writer.write(text);
  writer.commit();
}

void rename_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) {
    fail(StatusCode::io_error, "cannot rename {} to {}: {}", from.string(), to.string(), error.message());
  }
  sync_folder(to.parent_path());
}

void remove_folder(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) log_warning(fmt::format("cannot remove {}: {}", folder.string(), error.message()));
}

// Out of the way under a name that remove_leftovers() knows.
fs::path retire(const fs::path& folder) {
  const fs::path retired = folder.parent_path() / fmt::format("tmp-{}-old", folder.filename().string());
  rename_folder(folder, retired);
  return retired;
}

void remove_leftovers(const fs::path& run) {
  std::vector<fs::path> leftovers;
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, ignored)) {
    if (entry.path().filename().string().starts_with(temporary_prefix)) leftovers.push_back(entry.path());
  }
  for (const fs::path& folder : leftovers) remove_folder(folder);
}

// Those of later steps, which did not load when this training went on from an earlier one, do not count.
void remove_old(const fs::path& run, const TrainerState& state) {
  std::int64_t kept = 0;
  for (const fs::path& folder : list_checkpoints(run)) {
    const std::int64_t step = *step_of(folder);
    if (step > state.step || ++kept <= state.options.keep || (state.best_loss && step == state.best_step)) continue;
    remove_folder(retire(folder));
  }
}

nlohmann::ordered_json state_json(const TrainerState& state) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json;
  json["riverhorse"] = RIVERHORSE_VERSION;
  json["step"] = state.step;
  json["samples"] = state.samples;
  json["tokens"] = state.tokens;
  json["micro_batches"] = state.micro_batches;
  json["data_tokens"] = state.data_tokens;
  json["validation_loss"] = optional(state.validation_loss);
  json["best_loss"] = optional(state.best_loss);
  json["best_step"] = state.best_step;
  json["loss_scale"] = state.loss_scale.value;
  json["loss_scale_good_steps"] = state.loss_scale.good_steps;
  json["options"] = trainer_options_json(state.options);
  return json;
}

struct SavedState {
  TrainerState state;
  std::optional<ShardIndex> shards;
};

ShardIndex parse_shards(const nlohmann::json& json, const std::string& origin) {
  constexpr std::int64_t limit = 1 << 20;  // ranks
  ShardIndex index;
  if (json.is_object() && json.contains("count") && json["count"].is_number_unsigned() && json.contains("save") &&
      json["save"].is_string()) {
    const auto count = json["count"].get<std::uint64_t>();
    if (count <= limit) index = {static_cast<std::int64_t>(count), json["save"].get<std::string>()};
  }
  if (index.count == 0) {
    fail(StatusCode::bad_file,
         "{}: field \"optimizer_shards\" is {}; it must have a \"count\" from 1 to {} and a \"save\", a text", origin,
         json.dump(), limit);
  }
  return index;
}

SavedState parse_state(const fs::path& path) {
  const std::string origin = path.string();
  const nlohmann::json json = parse_json(read_text_file(path, state_limit_bytes), origin);
  const auto field = [&](const char* name) {
    if (!json.is_object() || !json.contains(name)) {
      fail(StatusCode::bad_file, "{}: field \"{}\" is missing", origin, name);
    }
    return json.at(name);
  };
  const auto count = [&](const char* name) {
    const nlohmann::json value = field(name);
    constexpr std::int64_t limit = std::int64_t{1} << 62;
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > static_cast<std::uint64_t>(limit)) {
      fail(StatusCode::bad_file, "{}: field \"{}\" is {}; it must be an integer from 0 to {}", origin, name,
           value.dump(), limit);
    }
    return value.get<std::int64_t>();
  };
  const auto loss = [&](const char* name) -> std::optional<double> {
    const nlohmann::json value = field(name);
    if (value.is_null()) return std::nullopt;
    if (!value.is_number()) {
      fail(StatusCode::bad_file, "{}: field \"{}\" is {}; it must be a number or null", origin, name, value.dump());
    }
    return value.get<double>();
  };
  SavedState saved;
  TrainerState& state = saved.state;
  state.step = count("step");
  state.samples = count("samples");
  state.micro_batches = count("micro_batches");
  state.data_tokens = count("data_tokens");
  state.validation_loss = loss("validation_loss");
  state.best_loss = loss("best_loss");
  state.best_step = count("best_step");
  try {
    state.options = parse_trainer_options(field("options"), origin);
  } catch (const Error& error) {
    throw Error(StatusCode::bad_file, error.what());
  }
  if (json.contains("loss_scale")) {
    state.loss_scale.good_steps = count("loss_scale_good_steps");
    const nlohmann::json value = field("loss_scale");
    const bool good =
        value.is_number() && value.get<double>() >= LossScale::smallest && value.get<double>() <= LossScale::largest;
    if (!good) {
      fail(StatusCode::bad_file, "{}: field \"loss_scale\" is {}; it must be from {} to {}", origin, value.dump(),
           LossScale::smallest, LossScale::largest);
    }
    state.loss_scale.value = value.get<double>();
  }
  // What wrote no tokens had no padding.
  state.tokens = json.contains("tokens") ? count("tokens") : state.samples * state.options.length;
  if (json.contains("optimizer_shards")) saved.shards = parse_shards(json["optimizer_shards"], origin);
  return saved;
}

// The moments of every parameter of the table, checked as the loader checks those.
std::map<std::string, HostTensor> moments(const TensorFile& file, const char* prefix, const ModelConfig& config) {
  std::map<std::string, HostTensor> tensors;
  for (const ParameterSpec& parameter : parameter_table(config)) {
    const std::string name = prefix + parameter.name;
    const HostTensor& tensor = file.at(name);
    if (tensor.shape != parameter.shape || tensor.dtype != DType::f32) {
      fail(StatusCode::bad_file, "{}: tensor \"{}\" must be F32 of the parameter's shape ({})", file.path.string(),
           name, fmt::join(parameter.shape, ", "));
    }
    tensors.emplace(parameter.name, tensor);
  }
  return tensors;
}

void write_model(const fs::path& folder, const TrainingCheckpoint& checkpoint) {
  for (const auto& [name, text] : checkpoint.tokenizer_files) write_text(folder / name, text);
  write_text(folder / "config.json", model_config_json(checkpoint.model.config));
  write_safetensors(folder / "model.safetensors", checkpoint.model.file.tensors, {{"format", "pt"}});
}

void write_state(const fs::path& folder, const nlohmann::ordered_json& json) {
  write_text(folder / "trainer_state.json", json.dump(1) + "\n");
}

void write_checkpoint(const fs::path& folder, const TrainingCheckpoint& checkpoint) {
  make_folder(folder);
  write_model(folder, checkpoint);
  std::map<std::string, HostTensor> optimizer;
  for (const auto& [name, tensor] : checkpoint.first_moments) optimizer.emplace(first_moment_prefix + name, tensor);
  for (const auto& [name, tensor] : checkpoint.second_moments) optimizer.emplace(second_moment_prefix + name, tensor);
  write_safetensors(folder / "optimizer.safetensors", optimizer, {});
  write_state(folder, state_json(checkpoint.state));
}

fs::path temporary_path(const fs::path& run, std::int64_t step) {
  return run / fmt::format("tmp-{}", folder_name(step));
}

void rename_to_final(const fs::path& temporary, const fs::path& final_name) {
  std::error_code ignored;
  if (fs::exists(final_name, ignored)) retire(final_name);  // it did not load
  rename_folder(temporary, final_name);
}

// The same for what is the same: the state, and the vectors among the weights, which every step changes.
std::string save_name(const TrainingCheckpoint& checkpoint) {
  Hash hash;
  hash.add(state_json(checkpoint.state).dump());
  for (const auto& [name, tensor] : checkpoint.model.file.tensors) {
    if (tensor.shape.size() == 1) hash.add(name).add(tensor.bytes);
  }
  return fmt::format("{:016x}", hash.value());
}

// Of `sizes` bytes each, as the ranks wrote them. Errors: io_error.
void check_shards_are_seen(const fs::path& folder, const std::vector<double>& sizes) {
  const auto count = static_cast<std::int64_t>(sizes.size());
  for (std::int64_t shard = 0; shard < count; ++shard) {
    std::error_code error;
    const std::uintmax_t size = fs::file_size(shard_path(folder, shard, count), error);
    if (!error && static_cast<double>(size) == sizes[static_cast<std::size_t>(shard)]) continue;
    fail(StatusCode::io_error,
         "{}: the first rank does not see what rank {} wrote there: --sharded-save needs a folder that all ranks "
         "share, as by a network file system; choose such a one, or leave --sharded-save out",
         shard_path(folder, shard, count).string(), shard);
  }
}

}  // namespace

std::map<std::string, std::string> read_tokenizer_files(const fs::path& path) {
  std::map<std::string, std::string> files;
  std::error_code ignored;
  const bool is_file = fs::is_regular_file(path, ignored);
  if (is_file && path.extension() == ".json" && path.filename() != "vocab.json") {
    return {{"tokenizer.json", read_text_file(path, tokenizer_limit_bytes)}};
  }
  const fs::path folder = is_file ? path.parent_path() : path;
  for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt"}) {
    if (fs::exists(folder / name, ignored)) files[name] = read_text_file(folder / name, tokenizer_limit_bytes);
  }
  return files;
}

fs::path checkpoint_path(const fs::path& run, std::int64_t step) { return run / folder_name(step); }

std::vector<fs::path> list_checkpoints(const fs::path& run) {
  std::vector<fs::path> checkpoints;
  std::error_code absent;
  for (const fs::directory_entry& entry : fs::directory_iterator(run, absent)) {
    if (step_of(entry.path())) checkpoints.push_back(entry.path());
  }
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const fs::path& a, const fs::path& b) { return step_of(a) > step_of(b); });
  return checkpoints;
}

void save_training_checkpoint(const fs::path& run, const TrainingCheckpoint& checkpoint) {
  make_folder(run);
  remove_leftovers(run);
  const fs::path temporary = temporary_path(run, checkpoint.state.step);
  try {
    write_checkpoint(temporary, checkpoint);
    rename_to_final(temporary, checkpoint_path(run, checkpoint.state.step));
  } catch (...) {
    remove_folder(temporary);
    throw;
  }
  remove_old(run, checkpoint.state);
}

void save_sharded_checkpoint(const fs::path& run, const TrainingCheckpoint& checkpoint, const MomentShard& moments,
                             const Ranks& ranks) {
  const fs::path temporary = temporary_path(run, checkpoint.state.step);
  ShardIndex index{ranks.size(), std::string(16, ' ')};
  ranks.together([&] {
    if (!ranks.first()) return;
    index.save = save_name(checkpoint);
    make_folder(run);
    remove_leftovers(run);
    make_folder(temporary);
  });
  if (ranks) ranks.host->broadcast(std::as_writable_bytes(std::span(index.save)), 0);
  try {
    double size = 0;
    ranks.together([&] {
      std::error_code ignored;
      if (!fs::is_directory(temporary, ignored)) {
        fail(
            StatusCode::io_error,
            "{} is not there, which the first rank made: --sharded-save needs a folder that all ranks share, as by a "
            "network file system; choose such a one, or leave --sharded-save out",
            temporary.string());
      }
      write_moment_shard(temporary, index, ranks.rank(), moments);
      size = static_cast<double>(fs::file_size(shard_path(temporary, ranks.rank(), index.count)));
      if (ranks.first()) write_model(temporary, checkpoint);
    });
    std::vector<double> sizes(static_cast<std::size_t>(ranks.size()), size);
    if (ranks) {
      ranks.host->all_gather(std::as_bytes(std::span(&size, 1)), std::as_writable_bytes(std::span(sizes)));
    }
    ranks.together([&] {
      if (!ranks.first()) return;
      check_shards_are_seen(temporary, sizes);
      nlohmann::ordered_json json = state_json(checkpoint.state);
      json["optimizer_shards"] = {{"count", index.count}, {"save", index.save}};
      write_state(temporary, json);
      rename_to_final(temporary, checkpoint_path(run, checkpoint.state.step));
    });
  } catch (...) {
    if (ranks.first()) remove_folder(temporary);
    throw;
  }
  if (ranks.first()) remove_old(run, checkpoint.state);
}

TrainingCheckpoint load_training_checkpoint(const fs::path& folder) {
  TrainingCheckpoint checkpoint;
  SavedState saved = parse_state(folder / "trainer_state.json");
  checkpoint.state = std::move(saved.state);
  checkpoint.model = load_checkpoint(folder, {});
  checkpoint.tokenizer_files = read_tokenizer_files(folder);
  if (saved.shards) {
    WholeMoments moments = read_moment_shards(folder, *saved.shards, checkpoint.model.config);
    checkpoint.first_moments = std::move(moments.first);
    checkpoint.second_moments = std::move(moments.second);
    return checkpoint;
  }
  const TensorFile optimizer = read_safetensors(folder / "optimizer.safetensors");
  checkpoint.first_moments = moments(optimizer, first_moment_prefix, checkpoint.model.config);
  checkpoint.second_moments = moments(optimizer, second_moment_prefix, checkpoint.model.config);
  return checkpoint;
}

TrainingCheckpoint load_newest_checkpoint(const fs::path& run) {
  for (const fs::path& folder : list_checkpoints(run)) {
    try {
      return load_training_checkpoint(folder);
    } catch (const Error& error) {
      log_warning(fmt::format("the checkpoint {} is left out: {}", folder.string(), error.what()));
    }
  }
  fail(StatusCode::not_found, "{}: there is no whole checkpoint (step-*) in this folder", run.string());
}

}  // namespace riverhorse
