#include "model/key_names.h"

#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace riverhorse {
namespace {

using Tensors = std::map<std::string, HostTensor>;

constexpr std::string_view wrapper_prefix = "state_dict.";
constexpr std::string_view model_prefix = "model.";
constexpr std::string_view layers_prefix = "backbone.layers.";

bool any_begins_with(const Tensors& tensors, std::string_view prefix) {
  const auto found = tensors.lower_bound(std::string(prefix));
  return found != tensors.end() && found->first.starts_with(prefix);
}

// Keeps the tensors below `prefix`, without it; names a few of the others in a warning.
void keep_below(TensorFile& file, std::string_view prefix, std::vector<std::string>& warnings) {
  Tensors kept;
  std::vector<std::string> dropped;
  for (auto& [name, tensor] : file.tensors) {
    if (name.starts_with(prefix)) {
      kept.emplace(name.substr(prefix.size()), std::move(tensor));
    } else {
      dropped.push_back(name);
    }
  }
  file.tensors = std::move(kept);
  if (dropped.empty()) return;
  warnings.push_back(fmt::format("{}: {} tensors beside the model's are ignored, \"{}\" first", file.path.string(),
                                 dropped.size(), dropped.front()));
}

void unwrap(TensorFile& file, std::vector<std::string>& warnings) {
  if (any_begins_with(file.tensors, wrapper_prefix)) keep_below(file, wrapper_prefix, warnings);
  if (any_begins_with(file.tensors, model_prefix)) keep_below(file, model_prefix, warnings);
}

std::string replace_prefix(const std::string& name) {
  const auto replaced = [&](std::string_view from, std::string_view to) -> std::optional<std::string> {
    if (!name.starts_with(from)) return std::nullopt;
    return std::string(to) + name.substr(from.size());
  };
  if (const auto result = replaced("embedding.", "backbone.embeddings.word_embeddings.")) return *result;
  if (const auto result = replaced("s4seq.encoder.norm.", "backbone.ln_0.")) return *result;
  if (const auto result = replaced("s4seq.encoder.", "backbone.")) return *result;
  if (const auto result = replaced("backbone.norm.", "backbone.ln_0.")) return *result;
  return name;
}

// "backbone.layers.3.norm1.weight" -> layer 3, "norm1", "weight".
struct LayerNormName {
  std::int64_t layer = 0;
  std::string_view norm;
  std::string_view part;
};

std::optional<LayerNormName> parse_layer_norm(std::string_view name) {
  if (!name.starts_with(layers_prefix)) return std::nullopt;
  name.remove_prefix(layers_prefix.size());
  LayerNormName result;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), result.layer);
  if (error != std::errc{} || result.layer < 0 || result.layer > 1'000'000) return std::nullopt;
  name.remove_prefix(static_cast<std::size_t>(end - name.data()));
  for (const std::string_view norm : {".norm1.", ".norm2."}) {
    if (!name.starts_with(norm)) continue;
    result.norm = norm.substr(1, 5);
    result.part = name.substr(norm.size());
    return result;
  }
  return std::nullopt;
}

std::int64_t last_layer_with_norm(const Tensors& tensors) {
  std::int64_t last = -1;
  for (const auto& [name, tensor] : tensors) {
    if (const auto norm = parse_layer_norm(name)) last = std::max(last, norm->layer);
  }
  return last;
}

// The old code had one norm before the first block and numbered the others by the branch they come after; today they
// are numbered by the branch they come before.
std::string moved_norm(const std::string& name, std::int64_t last_layer) {
  constexpr std::string_view first_norm = "backbone.ln_0.";
  if (name.starts_with(first_norm)) {
    return fmt::format("{}0.norm1.{}", layers_prefix, name.substr(first_norm.size()));
  }
  const auto norm = parse_layer_norm(name);
  if (!norm) return name;
  if (norm->norm == "norm1") return fmt::format("{}{}.norm2.{}", layers_prefix, norm->layer, norm->part);
  if (norm->layer == last_layer) return fmt::format("backbone.ln_f.{}", norm->part);
  return fmt::format("{}{}.norm1.{}", layers_prefix, norm->layer + 1, norm->part);
}

template <typename Rename>
std::size_t rename_all(TensorFile& file, Rename rename) {
  Tensors renamed;
  std::size_t changes = 0;
  for (auto& [name, tensor] : file.tensors) {
    const std::string new_name = rename(name);
    if (new_name != name) ++changes;
    if (!renamed.emplace(new_name, std::move(tensor)).second) {
      fail(StatusCode::bad_file, "{}: two tensors stand for \"{}\", one of them \"{}\"", file.path.string(), new_name,
           name);
    }
  }
  file.tensors = std::move(renamed);
  return changes;
}

}  // namespace

void modernize_names(TensorFile& file, std::vector<std::string>& warnings) {
  unwrap(file, warnings);
  std::erase_if(file.tensors, [](const auto& entry) { return entry.first.ends_with("rotary_emb.inv_freq"); });
  std::size_t changes = rename_all(file, replace_prefix);
  if (any_begins_with(file.tensors, "backbone.ln_0.")) {
    const std::int64_t last_layer = last_layer_with_norm(file.tensors);
    changes += rename_all(file, [&](const std::string& name) { return moved_norm(name, last_layer); });
  }
  if (changes != 0) {
    warnings.push_back(
        fmt::format("{}: tensors have the names of an older version; they were renamed", file.path.string()));
  }
}

}  // namespace riverhorse
