#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"
#include "formats/json.h"

namespace riverhorse {
namespace {

using Json = nlohmann::json;

// Limits that no real model comes near; with them no product of sizes can overflow 64 bits.
constexpr std::int64_t width_limit = 65'536;
constexpr std::int64_t inner_limit = 1'048'576;
constexpr std::int64_t layer_limit = 1'024;
constexpr std::int64_t head_dim_limit = 64;
constexpr std::int64_t state_limit = 1'024;
constexpr std::int64_t vocabulary_limit = 16'777'216;
constexpr std::int64_t padding_limit = 65'536;

// Fields that the originals and the common tools write and that change nothing about the result here.
constexpr std::array ignored_fields = {"architectures", "model_type",           "torch_dtype", "transformers_version",
                                       "fused_mlp",     "fused_dropout_add_ln", "use_cache",   "residual_in_fp32",
                                       "_name_or_path"};

constexpr std::array measures = {"diag-lin", "diag-inv", "diag-legs", "diag"};

// What a value looks like in a message: short, on one line.
std::string value_text(const Json& value) {
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// Takes fields out of a parsed object one by one; what is left over is unknown.
class FieldReader {
 public:
  FieldReader(const Json& object, const std::string& origin) : object_(object), origin_(origin) {}

  [[noreturn]] void bad(const std::string& field, const std::string& limit) const {
    const auto found = object_.find(field);
    if (found == object_.end())
      fail(StatusCode::bad_file, "{}: field \"{}\" is missing; it must be {}", origin_, field, limit);
    fail(StatusCode::bad_file, "{}: field \"{}\" is {}; it must be {}", origin_, field, value_text(*found), limit);
  }

  // The value, or null when the field is absent or null.
  const Json* find(const std::string& field) {
    used_.insert(field);
    const auto found = object_.find(field);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }

  std::optional<std::int64_t> optional_integer(const std::string& field, std::int64_t low, std::int64_t high) {
    const Json* value = find(field);
    if (value == nullptr) return std::nullopt;
    return integer_value(field, *value, low, high, fmt::format("an integer from {} to {}", low, high));
  }
  std::int64_t required_integer(const std::string& field, std::int64_t low, std::int64_t high) {
    const auto value = optional_integer(field, low, high);
    if (!value) bad(field, fmt::format("an integer from {} to {}", low, high));
    return *value;
  }
  void integer(const std::string& field, std::int64_t low, std::int64_t high, std::int64_t& target) {
    target = optional_integer(field, low, high).value_or(target);
  }

  void boolean(const std::string& field, bool& target) {
    const Json* value = find(field);
    if (value == nullptr) return;
    if (!value->is_boolean()) bad(field, "true or false");
    target = value->get<bool>();
  }

  // low <= value < high; `low_open`: low < value.
  void number(const std::string& field, double low, double high, bool low_open, double& target) {
    const Json* value = find(field);
    if (value == nullptr) return;
    const double number = value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
    const bool inside = (low_open ? number > low : number >= low) && number < high;
    if (!inside) bad(field, fmt::format("a number, {} {} and below {}", low_open ? "above" : "at least", low, high));
    target = number;
  }

  void string(const std::string& field, std::string& target) {
    const Json* value = find(field);
    if (value == nullptr) return;
    if (!value->is_string()) bad(field, "a string");
    target = value->get<std::string>();
  }

  void integers(const std::string& field, std::int64_t low, std::int64_t high, std::vector<std::int64_t>& target) {
    const Json* value = find(field);
    if (value == nullptr) return;
    const std::string limit = fmt::format("a list of different integers from {} to {}", low, high);
    if (!value->is_array()) bad(field, limit);
    std::vector<std::int64_t> values;
    for (const Json& item : *value) values.push_back(integer_value(field, item, low, high, limit));
    std::sort(values.begin(), values.end());
    if (std::adjacent_find(values.begin(), values.end()) != values.end()) bad(field, limit);
    target = std::move(values);
  }

  void warn_unknown(std::vector<std::string>& warnings) const {
    for (const auto& [field, value] : object_.items()) {
      if (!used_.contains(field)) {
        warnings.push_back(fmt::format("{}: unknown field {} is ignored", origin_, value_text(Json(field))));
      }
    }
  }

 private:
  std::int64_t integer_value(const std::string& field, const Json& value, std::int64_t low, std::int64_t high,
                             const std::string& limit) const {
    if (!value.is_number_integer()) bad(field, limit);
    if (value.is_number_unsigned() &&
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      bad(field, limit);
    }
    const auto integer = value.get<std::int64_t>();
    if (integer < low || integer > high) bad(field, limit);
    return integer;
  }

  const Json& object_;
  const std::string& origin_;
  std::set<std::string> used_;
};

void read_attention(FieldReader& fields, ModelConfig& config) {
  fields.integers("attn_layer_idx", 0, config.n_layer - 1, config.attn_layer_idx);
  config.attn_n_head = fields.optional_integer("attn_n_head", 1, config.n_embd);
  fields.boolean("attn_bias", config.attn_bias);
  fields.integer("attn_rotary_dim", 0, width_limit, config.attn_rotary_dim);
  if (config.attn_layer_idx.empty()) return;
  if (!config.attn_n_head || config.n_embd % *config.attn_n_head != 0) {
    fields.bad("attn_n_head", fmt::format("a divisor of n_embd = {}, as there are attention layers", config.n_embd));
  }
  const std::int64_t head_width = config.n_embd / *config.attn_n_head;
  if (config.attn_rotary_dim % 2 != 0 || config.attn_rotary_dim > head_width) {
    fields.bad("attn_rotary_dim", fmt::format("even and at most {}, the width of a head", head_width));
  }
}

void read_state_space(FieldReader& fields, ModelConfig& config) {
  fields.integer("ssm_head_dim", 1, head_dim_limit, config.ssm_head_dim);
  if (config.n_embd % config.ssm_head_dim != 0) {
    fields.bad("ssm_head_dim", fmt::format("a divisor of n_embd = {}", config.n_embd));
  }
  fields.integer("ssm_d_state", 2, state_limit, config.ssm_d_state);
  if (config.ssm_d_state % 2 != 0) fields.bad("ssm_d_state", "even");
  fields.string("ssm_mode", config.ssm_mode);
  if (config.ssm_mode != "diag") fields.bad("ssm_mode", "\"diag\"");
  fields.string("ssm_measure", config.ssm_measure);
  if (std::find(measures.begin(), measures.end(), config.ssm_measure) == measures.end()) {
    fields.bad("ssm_measure", "\"diag-lin\", \"diag-inv\", \"diag-legs\" or \"diag\"");
  }
  std::string discretization = config.ssm_disc == Discretization::zoh ? "zoh" : "bilinear";
  fields.string("ssm_disc", discretization);
  if (discretization != "bilinear" && discretization != "zoh") fields.bad("ssm_disc", "\"bilinear\" or \"zoh\"");
  config.ssm_disc = discretization == "zoh" ? Discretization::zoh : Discretization::bilinear;

  fields.boolean("ssm_gating", config.ssm_gating);
  if (!config.ssm_gating && config.ssm_head_dim != 1) {
    fields.bad("ssm_gating", fmt::format("true where ssm_head_dim is {}, not 1", config.ssm_head_dim));
  }

  // The original misspells this field; people who correct it mean the same.
  fields.boolean("ssm_use_fast_fttconv", config.ssm_use_fast_fttconv);
  if (fields.find("ssm_use_fast_fftconv") != nullptr) {
    const bool both = fields.find("ssm_use_fast_fttconv") != nullptr;
    const bool first = config.ssm_use_fast_fttconv;
    fields.boolean("ssm_use_fast_fftconv", config.ssm_use_fast_fttconv);
    if (both && first != config.ssm_use_fast_fttconv) {
      fields.bad("ssm_use_fast_fftconv", "the same as ssm_use_fast_fttconv");
    }
  }
}

void read_vocabulary(FieldReader& fields, ModelConfig& config) {
  config.vocab_size = fields.required_integer("vocab_size", 1, vocabulary_limit);
  fields.integer("pad_vocab_size_multiple", 1, padding_limit, config.pad_vocab_size_multiple);
  config.bos_token_id = fields.optional_integer("bos_token_id", 0, config.padded_vocab_size() - 1);
  config.eos_token_id = fields.optional_integer("eos_token_id", 0, config.padded_vocab_size() - 1);
  fields.boolean("tie_word_embeddings", config.tie_word_embeddings);
}

}  // namespace

std::int64_t ModelConfig::padded_vocab_size() const {
  return (vocab_size + pad_vocab_size_multiple - 1) / pad_vocab_size_multiple * pad_vocab_size_multiple;
}

bool ModelConfig::is_attention(std::int64_t layer) const {
  return std::find(attn_layer_idx.begin(), attn_layer_idx.end(), layer) != attn_layer_idx.end();
}

ModelConfig parse_model_config(std::string_view json, const std::string& origin, std::vector<std::string>& warnings) {
  const Json object = parse_json(json, origin);
  if (!object.is_object()) fail(StatusCode::bad_file, "{}: a configuration must be a JSON object", origin);
  FieldReader fields(object, origin);
  ModelConfig config;
  config.n_embd = fields.required_integer("n_embd", 1, width_limit);
  config.n_layer = fields.required_integer("n_layer", 1, layer_limit);
  config.n_inner = fields.optional_integer("n_inner", 1, inner_limit);
  read_attention(fields, config);
  read_state_space(fields, config);
  read_vocabulary(fields, config);
  for (const auto& [field, target] :
       {std::pair{"resid_pdrop", &config.resid_pdrop}, std::pair{"embed_pdrop", &config.embed_pdrop},
        std::pair{"attn_pdrop", &config.attn_pdrop}, std::pair{"ssm_pdrop", &config.ssm_pdrop}}) {
    fields.number(field, 0.0, 1.0, false, *target);
  }
  fields.number("layer_norm_epsilon", 0.0, 1.0, true, config.layer_norm_epsilon);
  fields.number("initializer_range", 0.0, 10.0, false, config.initializer_range);
  for (const char* field : ignored_fields) fields.find(field);
  fields.warn_unknown(warnings);
  return config;
}

std::string model_config_json(const ModelConfig& config) {
  const auto optional = [](const std::optional<std::int64_t>& value) { return value ? Json(*value) : Json(nullptr); };
  nlohmann::ordered_json json;
  json["architectures"] = {"SSMLMHeadModel"};
  json["n_embd"] = config.n_embd;
  json["n_inner"] = optional(config.n_inner);
  json["n_layer"] = config.n_layer;
  json["attn_layer_idx"] = config.attn_layer_idx;
  json["attn_n_head"] = optional(config.attn_n_head);
  json["attn_pdrop"] = config.attn_pdrop;
  json["attn_rotary_dim"] = config.attn_rotary_dim == 0 ? Json(nullptr) : Json(config.attn_rotary_dim);
  json["attn_bias"] = config.attn_bias;
  json["ssm_head_dim"] = config.ssm_head_dim;
  json["ssm_d_state"] = config.ssm_d_state;
  json["ssm_pdrop"] = config.ssm_pdrop;
  json["ssm_mode"] = config.ssm_mode;
  json["ssm_measure"] = config.ssm_measure;
  json["ssm_disc"] = config.ssm_disc == Discretization::zoh ? "zoh" : "bilinear";
  if (!config.ssm_gating) json["ssm_gating"] = false;  // what is H3 has the original's fields and no other
  json["ssm_use_fast_fttconv"] = config.ssm_use_fast_fttconv;
  json["resid_pdrop"] = config.resid_pdrop;
  json["embed_pdrop"] = config.embed_pdrop;
  json["vocab_size"] = config.vocab_size;
  json["pad_vocab_size_multiple"] = config.pad_vocab_size_multiple;
  json["layer_norm_epsilon"] = config.layer_norm_epsilon;
  json["initializer_range"] = config.initializer_range;
  json["bos_token_id"] = optional(config.bos_token_id);
  json["eos_token_id"] = optional(config.eos_token_id);
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  return json.dump(1) + "\n";
}

}  // namespace riverhorse
