// Well-formed tensor files that are not the model that the configuration describes, and bad configurations.
#include <fmt/core.h>

#include <bit>
#include <cstring>
#include <limits>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"

namespace riverhorse::test {
namespace {

using Tensors = std::map<std::string, HostTensor>;

const std::string embedding = "backbone.embeddings.word_embeddings.weight";
const std::string log_dt = "backbone.layers.0.mixer.kernel.kernel.log_dt";
const std::string mixer = "backbone.layers.0.mixer.";

// The small model with a change, in both formats.
void add_changed(std::vector<BadFile>& files, const std::string& name, const std::function<void(Tensors&)>& change,
                 const std::vector<std::string>& expected, bool check_finite = false) {
  const auto changed = [change] {
    Tensors tensors = small_tensors();
    change(tensors);
    return tensors;
  };
  files.push_back({name + ", safetensors", FileKind::safetensors, [changed] { return safetensors_bytes(changed()); },
                   expected, check_finite});
  files.push_back(
      {name + ", pt", FileKind::pytorch, [changed] { return torch_bytes(changed()); }, expected, check_finite});
}

HostTensor with_value(const HostTensor& tensor, std::size_t index, float value) {
  std::vector<float> values = to_floats(tensor);
  values.at(index) = value;
  return make_host_tensor(values, tensor.shape);
}

BadFile config(const std::string& name, const std::string& from, const std::string& to,
               std::vector<std::string> expected) {
  return {name, FileKind::config, [from, to] { return replaced(small_config, from, to); }, std::move(expected)};
}

// An additional field.
BadFile config_field(const std::string& field, const std::string& value, const std::string& limit) {
  return {fmt::format("{} = {}", field, value),
          FileKind::config,
          [field, value] { return replaced(small_config, "{", fmt::format("{{\"{}\": {}, ", field, value)); },
          {fmt::format("\"{}\" is {}", field, value), limit}};
}

}  // namespace

std::vector<BadFile> bad_checkpoint_files() {
  std::vector<BadFile> files;
  add_changed(files, "a tensor missing", [](Tensors& tensors) { tensors.erase(log_dt); }, {"1 missing", log_dt});
  add_changed(files, "no tensors at all", [](Tensors& tensors) { tensors.clear(); },
              {"40 missing", embedding, "and 30 more"});
  add_changed(files, "a tensor too many",
              [](Tensors& tensors) { tensors["backbone.layers.2.norm1.weight"] = tensors[log_dt]; },
              {"1 not part of the model", "backbone.layers.2.norm1.weight"});
  add_changed(files, "twelve tensors too many",
              [](Tensors& tensors) {
                for (int i = 0; i < 12; ++i) tensors[fmt::format("extra.{:02}", i)] = tensors[log_dt];
              },
              {"12 not part of the model", "extra.00", "extra.09", "and 2 more"});
  add_changed(files, "a wrong shape",
              [](Tensors& tensors) { tensors[log_dt] = make_host_tensor(std::vector<float>(9), {9}); },
              {log_dt + " is (9) and must be (8)"});
  add_changed(files, "a transposed shape",
              [](Tensors& tensors) {
                HostTensor& weight = tensors["backbone.layers.0.mlp.fc1.weight"];
                std::swap(weight.shape[0], weight.shape[1]);
              },
              {"fc1.weight is (8, 12) and must be (12, 8)"});
  add_changed(files, "integers for weights",
              [](Tensors& tensors) { tensors[log_dt] = make_host_tensor(std::vector<std::int64_t>(8), {8}); },
              {"1 not floating point", log_dt + " is i64"});
  add_changed(files, "a head that is not the embedding",
              [](Tensors& tensors) { tensors["lm_head.weight"] = with_value(tensors[embedding], 3, 99.0f); },
              {"\"lm_head.weight\" differs from the embedding", "tie_word_embeddings"});
  add_changed(
      files, "NaN on request",
      [](Tensors& tensors) {
        tensors[mixer + "D"] = with_value(tensors[mixer + "D"], 5, std::numeric_limits<float>::quiet_NaN());
      },
      {"not finite", mixer + "D (element 5)"}, true);
  add_changed(
      files, "infinity on request",
      [](Tensors& tensors) {
        tensors[embedding] = with_value(tensors[embedding], 95, -std::numeric_limits<float>::infinity());
      },
      {"not finite", embedding + " (element 95)"}, true);
  const auto add_quantised = [&](const std::string& name, const std::string& tensor,
                                 const std::vector<std::string>& expected) {
    files.push_back({name, FileKind::safetensors,
                     [tensor] {
                       Tensors tensors = small_tensors();
                       const HostTensor ones = make_host_tensor(std::vector<float>(8 * 32, 1.0f), {8, 32});
                       tensors[tensor] = quantise(ones, DType::q8, tensor);
                       return safetensors_bytes(tensors);
                     },
                     expected});
  };
  add_quantised("a quantised matrix of wrong shape", embedding, {"of wrong shape", embedding + " is (8, 32)"});
  add_quantised("a quantised parameter of the SSM", log_dt, {"of wrong shape", log_dt + " is (8, 32)"});
  add_changed(files, "an old and a new name for one tensor",
              [](Tensors& tensors) { tensors["embedding.weight"] = tensors[embedding]; },
              {"two tensors stand for", embedding});
  return files;
}

std::vector<BadFile> bad_config_files() {
  const std::string heads = "\"attn_n_head\": 2";
  return {
      {"config empty", FileKind::config, [] { return std::string(); }, {"not valid JSON"}},
      {"config cut", FileKind::config, [] { return std::string(small_config).substr(0, 60); }, {"not valid JSON"}},
      {"config is an array", FileKind::config, [] { return std::string("[1, 2]"); }, {"must be a JSON object"}},
      {"config is a binary",
       FileKind::config,
       [] {
         return std::string(
             "\x7f"
             "ELF\x02\x01\x01\0",
             8);
       },
       {"config"}},
      {"config of two megabytes", FileKind::config, [] { return std::string(2 << 20, ' '); }, {"limit of 1048576"}},
      {"config deeply nested", FileKind::config, [] { return std::string(1 << 20, '['); }, {"deeper than 16 levels"}},
      {"config not UTF-8",
       FileKind::config,
       [] { return replaced(small_config, "{", "{\"architectures\": [\"\xe9\x74\xe9\"], "); },
       {"invalid UTF-8 at byte 20", "0xe9"}},
      {"config with a number too large for JSON",
       FileKind::config,
       [] { return replaced(small_config, "\"n_embd\": 8", "\"n_embd\": 1e999"); },
       {"not valid JSON"}},
      config("a field twice", "{", "{\"n_embd\": 8, ", {"\"n_embd\" occurs twice"}),
      config("n_embd missing", "\"n_embd\": 8, ", "", {"\"n_embd\" is missing"}),
      config("n_layer missing", "\"n_layer\": 2, ", "", {"\"n_layer\" is missing"}),
      config("vocab_size missing", "\"vocab_size\": 10, ", "", {"\"vocab_size\" is missing"}),
      config("n_embd is a string", "\"n_embd\": 8", "\"n_embd\": \"8\"", {"\"n_embd\" is \"8\"", "1 to 65536"}),
      config("n_embd is a fraction", "\"n_embd\": 8", "\"n_embd\": 8.5", {"\"n_embd\" is 8.5"}),
      config("n_embd is zero", "\"n_embd\": 8", "\"n_embd\": 0", {"\"n_embd\" is 0", "1 to 65536"}),
      config("n_embd is negative", "\"n_embd\": 8", "\"n_embd\": -8", {"\"n_embd\" is -8"}),
      config("n_embd is huge", "\"n_embd\": 8", "\"n_embd\": 18446744073709551615", {"18446744073709551615"}),
      config("n_layer is huge", "\"n_layer\": 2", "\"n_layer\": 100000", {"1 to 1024"}),
      config("n_inner is zero", "\"n_inner\": 12", "\"n_inner\": 0", {"\"n_inner\" is 0"}),
      config("attention layer beyond the last", "[1]", "[2]", {"\"attn_layer_idx\" is [2]", "0 to 1"}),
      config("attention layer negative", "[1]", "[-1]", {"\"attn_layer_idx\" is [-1]"}),
      config("attention layer twice", "[1]", "[1, 1]", {"\"attn_layer_idx\" is [1,1]", "different"}),
      config("attention layers are a number", "[1]", "1", {"\"attn_layer_idx\" is 1", "list"}),
      config("attention layer is a string", "[1]", "[\"1\"]", {"\"attn_layer_idx\" is [\"1\"]"}),
      config("attention heads missing", heads + ", ", "", {"\"attn_n_head\" is missing", "divisor of n_embd = 8"}),
      config("attention heads null", heads, "\"attn_n_head\": null", {"\"attn_n_head\" is null", "divisor"}),
      config("attention heads do not divide", heads, "\"attn_n_head\": 3", {"\"attn_n_head\" is 3", "divisor"}),
      config("ssm_d_state odd", "\"ssm_d_state\": 4", "\"ssm_d_state\": 5", {"\"ssm_d_state\" is 5", "even"}),
      config("ssm_d_state huge", "\"ssm_d_state\": 4", "\"ssm_d_state\": 4096", {"2 to 1024"}),
      config("vocab_size huge", "\"vocab_size\": 10", "\"vocab_size\": 1000000000", {"1 to 16777216"}),
      config("padding zero", "multiple\": 4", "multiple\": 0", {"\"pad_vocab_size_multiple\" is 0"}),
      config_field("attn_rotary_dim", "3", "even and at most 4"),
      config_field("attn_rotary_dim", "6", "even and at most 4"),
      config_field("attn_bias", "1", "true or false"),
      config_field("ssm_head_dim", "3", "divisor of n_embd = 8"),
      config_field("ssm_head_dim", "0", "1 to 64"),
      config_field("ssm_mode", "\"dplr\"", "\"diag\""),
      config_field("ssm_mode", "7", "a string"),
      config_field("ssm_measure", "\"legt\"", "\"diag-lin\""),
      config_field("ssm_disc", "\"euler\"", "\"bilinear\" or \"zoh\""),
      config_field("ssm_use_fast_fttconv", "\"yes\"", "true or false"),
      config_field("resid_pdrop", "1.0", "below 1"),
      config_field("embed_pdrop", "-0.1", "at least 0"),
      config_field("attn_pdrop", "\"0\"", "a number"),
      config_field("ssm_pdrop", "2", "below 1"),
      config_field("layer_norm_epsilon", "0", "above 0"),
      config_field("initializer_range", "-1", "at least 0"),
      config_field("bos_token_id", "12", "0 to 11"),
      config_field("eos_token_id", "-1", "0 to 11"),
      config_field("tie_word_embeddings", "0", "true or false"),
      config("both spellings, different", "{", "{\"ssm_use_fast_fttconv\": true, \"ssm_use_fast_fftconv\": false, ",
             {"\"ssm_use_fast_fftconv\" is false", "same as ssm_use_fast_fttconv"}),
      config("untied without a head", "{", "{\"tie_word_embeddings\": false, ", {"1 missing: lm_head.weight"}),
      config("another model's configuration", "\"n_embd\": 8", "\"n_embd\": 16", {"of wrong shape", "and must be"}),
  };
}

std::vector<BadFile> all_bad_files() {
  std::vector<BadFile> all;
  for (const auto& group :
       {bad_safetensors_files(), bad_pickle_files(), bad_zip_files(), bad_checkpoint_files(), bad_config_files()}) {
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

}  // namespace riverhorse::test
