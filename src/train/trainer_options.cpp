#include "train/trainer_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace riverhorse {
namespace {

template <typename Enum>
void visit_choice(OptionVisitor& visitor, const char* name, const char* help, Enum& value,
                  const std::vector<std::string>& names) {
  int index = static_cast<int>(value);
  visitor.choice(name, help, index, names);
  value = static_cast<Enum>(index);
}

class Writer : public OptionVisitor {
 public:
  void text(const char* name, const char*, std::string& value) override { json[name] = value; }
  void texts(const char* name, const char*, std::vector<std::string>& value) override { json[name] = value; }
  void flag(const char* name, const char*, bool& value) override { json[name] = value; }
  void integer(const char* name, const char*, std::int64_t& value, std::int64_t, std::int64_t) override {
    json[name] = value;
  }
  void number(const char* name, const char*, double& value, double, double) override { json[name] = value; }
  void optional_number(const char* name, const char*, std::optional<double>& value, double, double) override {
    json[name] = value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  }
  void choice(const char* name, const char*, int& value, const std::vector<std::string>& names) override {
    json[name] = names.at(static_cast<std::size_t>(value));
  }

  nlohmann::ordered_json json;
};

class Reader : public OptionVisitor {
 public:
  Reader(const nlohmann::json& json, const std::string& origin) : json_(json), origin_(origin) {}

  void text(const char* name, const char*, std::string& value) override {
    const nlohmann::json* found = find(name);
    if (found == nullptr) return;
    require(found->is_string(), name, *found, "a text");
    value = found->get<std::string>();
  }
  void texts(const char* name, const char*, std::vector<std::string>& value) override {
    const nlohmann::json* found = find(name);
    if (found == nullptr) return;
    if (found->is_string()) {
      value = {found->get<std::string>()};
      return;
    }
    const auto is_text = [](const nlohmann::json& each) { return each.is_string(); };
    require(found->is_array() && std::all_of(found->begin(), found->end(), is_text), name, *found, "a list of texts");
    value = found->get<std::vector<std::string>>();
  }
  void flag(const char* name, const char*, bool& value) override {
    const nlohmann::json* found = find(name);
    if (found == nullptr) return;
    require(found->is_boolean(), name, *found, "true or false");
    value = found->get<bool>();
  }
  void integer(const char* name, const char*, std::int64_t& value, std::int64_t low, std::int64_t high) override {
    const nlohmann::json* found = find(name);
    if (found == nullptr) return;
    const bool fits = found->is_number_integer() &&
                      (!found->is_number_unsigned() ||
                       found->get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()});
    require(fits && found->get<std::int64_t>() >= low && found->get<std::int64_t>() <= high, name, *found,
            fmt::format("an integer from {} to {}", low, high));
    value = found->get<std::int64_t>();
  }
  void number(const char* name, const char*, double& value, double low, double high) override {
    const nlohmann::json* found = find(name);
    if (found == nullptr) return;
    require(found->is_number() && found->get<double>() >= low && found->get<double>() <= high, name, *found,
            fmt::format("a number from {} to {}", low, high));
    value = found->get<double>();
  }
  void optional_number(const char* name, const char* help, std::optional<double>& value, double low,
                       double high) override {
    if (find(name) == nullptr) return;
    number(name, help, value.emplace(), low, high);
  }
  void choice(const char* name, const char*, int& value, const std::vector<std::string>& names) override {
    const nlohmann::json* found = find(name);
    if (found == nullptr) return;
    const auto chosen = std::find(names.begin(), names.end(), found->is_string() ? found->get<std::string>() : "");
    require(chosen != names.end(), name, *found, fmt::format("{}", fmt::join(names, ", ")));
    value = static_cast<int>(chosen - names.begin());
  }

 private:
  const nlohmann::json* find(const char* name) const {
    const auto found = json_.find(name);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  void require(bool good, const char* name, const nlohmann::json& value, const std::string& limit) const {
    if (good) return;
    fail(StatusCode::invalid_argument, "{}: {} is {}; it must be {}", origin_, name, value.dump(), limit);
  }

  const nlohmann::json& json_;
  const std::string& origin_;
};

}  // namespace

void visit_options(TrainerOptions& options, OptionVisitor& visitor) {
  constexpr std::int64_t many = std::int64_t{1} << 40, wide = std::int64_t{1} << 24;
  OptimizerOptions& optimizer = options.optimizer;
  ScheduleOptions& schedule = options.schedule;
  visitor.texts("data",
                "What to train on: text (.txt, .csv, .json, .jsonl; patterns too), a file of riverhorse tokenize, or "
                "a .safetensors with tokens (N), I32 or I64",
                options.data);
  visitor.texts("validation_data", "What to validate on, of the same kinds", options.validation_data);
  visitor.text("column", "Column of .csv files", options.column);
  visitor.text("field", "Field of .json and .jsonl files", options.field);
  visitor.number("validation_percent",
                 "Share of the documents of text to validate on instead; of a single document, its end",
                 options.validation_percent, 0, 99.9);
  visitor.integer("steps", "Steps in all", options.steps, 1, many);
  visitor.integer("batch", "Sequences of a micro-batch", options.batch, 1, wide);
  visitor.integer("accumulation", "Micro-batches of a step", options.accumulation, 1, wide);
  visitor.integer("length", "Tokens of a sequence", options.length, 1, wide);
  visit_choice(visitor, "recipe", "What decays, and how fast the dynamics learn", optimizer.recipe,
               {"grouped", "safari"});
  visitor.number("learning_rate", "The largest learning rate", optimizer.learning_rate, 0, 10);
  visitor.optional_number("ssm_learning_rate", "Of the dynamics of the SSMs", optimizer.ssm_learning_rate, 0, 10);
  visitor.number("beta1", "AdamW's decay of the first moment", optimizer.beta1, 0, 0.999999);
  visitor.number("beta2", "AdamW's decay of the second moment", optimizer.beta2, 0, 0.999999);
  visitor.number("epsilon", "AdamW's epsilon", optimizer.epsilon, 1e-30, 1);
  visitor.number("weight_decay", "AdamW's weight decay", optimizer.weight_decay, 0, 10);
  visitor.number("clip", "Largest gradient norm, larger ones are scaled down; 0: no clipping", optimizer.clip_norm, 0,
                 1e30);
  visitor.number("skip_above", "Leaves steps of a larger gradient norm out; 0: only those not finite",
                 optimizer.skip_above, 0, 1e30);
  visit_choice(visitor, "schedule", "Of the learning rate, after the warm-up", schedule.kind,
               {"constant", "linear", "cosine", "wsd"});
  visitor.integer("warmup", "Steps in which the learning rate rises from 0", schedule.warmup_steps, 0, many);
  visitor.number("final_fraction", "Of the learning rate, reached at the last step", schedule.final_fraction, 0, 1);
  visitor.number("decay_fraction", "Of the steps, the decay of wsd", schedule.decay_fraction, 0, 1);
  visitor.integer("validate_every", "Steps between validations; 0: with checkpoints only", options.validate_every, 0,
                  many);
  visitor.integer("validation_tokens", "Most tokens of a validation; 0: all", options.validation_tokens, 0, many);
  visitor.integer("checkpoint_every", "Steps between checkpoints", options.checkpoint_every, 1, many);
  visitor.integer("keep", "Checkpoints that are kept, besides the best", options.keep, 1, many);
  visitor.flag("sharded_save",
               "Every rank writes its part of the optimizer's moments into a checkpoint, all at once, instead of the "
               "first rank all of them; into a folder that all see",
               options.sharded_save);
  visitor.flag("reset_state_at_documents", "No sequence crosses the end of a document; the rest of it is padding",
               options.reset_state_at_documents);
  visitor.flag("auto_batch", "Where memory is short, a smaller batch and as much more accumulation",
               options.auto_batch);
  visitor.flag("tensorboard", "Also writes event files for TensorBoard", options.tensorboard);
  visitor.number("peak_tflops", "Peak of the device in this dtype, in 10^12 operations a second, for MFU; 0: no MFU",
                 options.peak_tflops, 0, 1e9);
  visitor.integer("sample_every", "Steps between texts generated to look at; 0: never", options.sample_every, 0,
                  many);
  visitor.integer("sample_tokens", "Tokens of such a text", options.sample_tokens, 1, wide);
  visitor.text("prompt", "What such a text begins with", options.prompt);
  visitor.integer("seed", "Of the order of the data, dropout and new weights", options.seed, 0,
                  std::numeric_limits<std::int64_t>::max());
  visit_choice(visitor, "dtype",
               "Of activations and of the matrices in products; what is learnt is kept in f32, and f16 has a loss "
               "scale",
               options.dtype, {"f32", "f16", "bf16"});
  visit_choice(visitor, "logits",
               "Bits of a logit before the softmax of the loss; 16, in f16 and bf16 only, is faster, and rounds each "
               "logit, and by as much its gradient",
               options.logits, {"32", "16"});
  visit_choice(visitor, "conv", "Long convolution", options.conv, {"auto", "chunked", "fft"});
  visit_choice(visitor, "recompute",
               "What the backward pass makes again instead of keeping it, for less memory and the same gradients: "
               "none, all of a layer before its MLP (mixer), or all of it (block)",
               options.recompute, {"none", "mixer", "block"});
  visit_choice(
      visitor, "shard",
      "What several ranks divide among them for less memory: nothing (none), the optimizer's moments, or these and "
      "the gradients",
      options.shard, {"none", "optimizer", "gradients"});
  visit_choice(visitor, "reduce_dtype",
               "Of the gradients between several ranks; bf16 is half the traffic, and rounds them",
               options.reduce_dtype, {"f32", "bf16"});
  visitor.integer("sequence_parallel",
                  "Ranks that share each sequence, a part of its tokens each, for longer ones; divides their number",
                  options.sequence_parallel, 1, 1 << 16);
}

nlohmann::ordered_json trainer_options_json(const TrainerOptions& options) {
  TrainerOptions copy = options;
  Writer writer;
  visit_options(copy, writer);
  return writer.json;
}

TrainerOptions parse_trainer_options(const nlohmann::json& json, const std::string& origin) {
  TrainerOptions options;
  Reader reader(json, origin);
  visit_options(options, reader);
  return options;
}

}  // namespace riverhorse
