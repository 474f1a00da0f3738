// riverhorse forward: logits and loss of given token ids, from a file to a file.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/engine.h"
#include "engine/loss.h"
#include "engine/trace.h"
#include "train/trainer_core.h"

namespace riverhorse::cli {
namespace {

struct ForwardOptions {
  ModelOptions model;
  DeviceChoiceOptions device;
  std::uint64_t memory_budget_bytes = 0;
  std::string trace;
  DType dtype = DType::f32;
  ConvAlgorithm conv = ConvAlgorithm::automatic;
  std::int64_t piece_tokens = 0;
  bool gradients = false;
  std::string input;
  std::string output;
};

struct Ids {
  std::vector<std::int32_t> values;
  std::int64_t batch = 0;
  std::int64_t length = 0;
};

Ids read_ids(const std::string& path) {
  const TensorFile file = read_safetensors(path);
  const HostTensor& tensor = file.at("input_ids");
  if (tensor.shape.size() != 2 || tensor.count() == 0) {
    fail(StatusCode::bad_file, "{}: input_ids must have the shape (B, L), neither of them 0", path);
  }
  Ids ids;
  ids.batch = tensor.shape[0];
  ids.length = tensor.shape[1];
  for (const std::int64_t id : to_integers(tensor)) {
    if (id < 0 || id > std::numeric_limits<std::int32_t>::max()) {
      fail(StatusCode::bad_file, "{}: input_ids holds {}, which is no token", path, id);
    }
    ids.values.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

// A safetensors file whose big tensor comes in pieces and whose small ones are known last: the header, which has all
// sizes, is written first, and the logits never lie in memory as a whole.
class OutputHeader {
 public:
  void add(const std::string& name, const std::vector<std::int64_t>& shape) {
    std::int64_t bytes = 4;
    for (const std::int64_t dimension : shape) bytes *= dimension;
    json_[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {end_, end_ + bytes}}};
    end_ += bytes;
  }
  std::string text() const {
    std::string text = json_.dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    const std::uint64_t size = text.size();
    return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
  }

 private:
  nlohmann::ordered_json json_;
  std::int64_t end_ = 0;
};

std::map<std::string, HostTensor> gradients_of(const std::shared_ptr<Device>& device, Checkpoint checkpoint,
                                               const Ids& ids, DType dtype, ConvAlgorithm conv) {
  // Of the function that the logits are of: without dropout.
  ModelConfig& config = checkpoint.config;
  config.resid_pdrop = config.embed_pdrop = config.attn_pdrop = config.ssm_pdrop = 0;
  TrainerCoreOptions options;
  options.micro_batch = {ids.batch, ids.length};
  options.dtype = dtype;
  options.conv = conv;
  TrainerCore core(device, checkpoint, options);
  core.gradients(ids.values, next_token_targets(ids.values, ids.length));
  return core.unscaled_gradients();
}

void check_gradients(const ForwardOptions& options, const Ids& ids, const Device& device) {
  if (ids.length < 2) {
    fail(StatusCode::invalid_argument, "--gradients are of the loss, and one token has no next one; {} has L = 1",
         options.input);
  }
  const Support support = device.supports(Feature::training);
  if (!support.supported) {
    fail(StatusCode::unsupported, "--gradients: {} cannot train: {}", device.info().id(), support.reason);
  }
}

void run(const ForwardOptions& options) {
  const Ids ids = read_ids(options.input);
  const std::shared_ptr<Trace> trace = make_trace(options.trace);
  CheckpointOptions load;
  load.config_path = options.model.config;
  const Checkpoint checkpoint = load_checkpoint(options.model.model, load);
  for (const std::string& warning : checkpoint.warnings) log_warning(warning);
  const std::shared_ptr<Device> device = open_chosen_device(options.device);
  if (options.gradients) check_gradients(options, ids, *device);

  EngineOptions engine_options;
  engine_options.dtype = options.dtype;
  engine_options.conv = options.conv;
  engine_options.cache_folder = options.device.cache;
  engine_options.max_sessions = 1;
  engine_options.context_tokens = 1;  // forward() has states of its own
  engine_options.prefill_piece_tokens = options.piece_tokens;
  engine_options.memory_budget_bytes = options.memory_budget_bytes;
  engine_options.forward_tokens = ids.length;
  engine_options.progress = progress_line("loading");
  Engine engine(device, checkpoint, engine_options);
  engine.set_trace(trace);

  const std::int64_t vocabulary = engine.config().padded_vocab_size();
  NextTokenLoss loss(ids.values, ids.batch, ids.length, vocabulary);
  std::map<std::string, HostTensor> gradients;
  if (options.gradients) gradients = gradients_of(device, checkpoint, ids, options.dtype, options.conv);
  OutputHeader header;
  header.add("logits", {ids.batch, ids.length, vocabulary});
  if (loss.defined()) header.add("loss", {1});
  for (const auto& [name, gradient] : gradients) header.add("grad." + name, gradient.shape);
  AtomicFileWriter writer(options.output);
  writer.write(header.text());
  const ProgressFunction progress = progress_line("reading");
  const std::int64_t rows = ids.batch * ids.length;
  std::optional<Trace::Span> span(std::in_place, trace.get(), "forward");
  engine.forward(ids.values, ids.batch, ids.length, [&](std::int64_t first_row, std::span<const float> logits) {
    if (interrupted()) fail(StatusCode::cancelled, "stopped; {} was not written", options.output);
    writer.write(std::as_bytes(logits));
    loss.add(first_row, logits);
    const std::int64_t done = first_row + static_cast<std::int64_t>(logits.size()) / vocabulary;
    if (progress) progress(static_cast<std::uint64_t>(done), static_cast<std::uint64_t>(rows));
  });
  span.reset();
  if (trace) trace->write(engine.device().info());
  if (loss.defined()) {
    const auto mean = static_cast<float>(loss.mean());
    writer.write(std::as_bytes(std::span(&mean, 1)));
  }
  for (const auto& [name, gradient] : gradients) writer.write(gradient.bytes);
  writer.commit();
  const DeviceInfo& info = engine.device().info();
  std::fprintf(
      stderr, "%s: logits (%lld, %lld, %lld), %s; %s, %s, %s\n", options.output.c_str(),
      static_cast<long long>(ids.batch), static_cast<long long>(ids.length), static_cast<long long>(vocabulary),
      loss.defined() ? fmt::format("loss {:.6f}", loss.mean()).c_str() : "no loss: one token has no next one",
      info.id().c_str(), info.name.c_str(), std::string(dtype_name(options.dtype)).c_str());
}

}  // namespace

void add_forward_command(CLI::App& app) {
  auto options = std::make_shared<ForwardOptions>();
  CLI::App* command = app.add_subcommand("forward", "Compute the logits and the loss of given token ids");
  command->footer(
      "Reads the tensor input_ids (B, L) of the input and writes logits (B, L, V) F32 and, where L > 1, loss (1) "
      "F32:\n"
      "the mean cross-entropy of the B (L - 1) next tokens, over all padded columns. With --gradients, also\n"
      "grad.<parameter> F32, the gradient of the loss by each parameter, in the parameter's shape.");
  add_model_options(*command, options->model);
  command->add_option("-i,--input", options->input, "A .safetensors file with input_ids (B, L), I64")
      ->type_name("FILE")
      ->required();
  command->add_option("-o,--output", options->output, "The .safetensors file to write")
      ->type_name("FILE")
      ->required();
  command->add_flag("--gradients", options->gradients, "Also the gradients of the loss, on devices that train");
  command->add_option("--piece", options->piece_tokens, "Tokens read in one piece (default: chosen)")
      ->type_name("N")
      ->check(CLI::Range(1, 65536));
  add_device_options(*command, options->device);
  add_memory_budget_option(*command, options->memory_budget_bytes);
  add_trace_option(*command, options->trace);
  command->get_option("--trace")->excludes(command->get_option("--gradients"));
  add_dtype_option(*command, options->dtype);
  add_conv_option(*command, options->conv);
  command->callback([options] { run(*options); });
}

}  // namespace riverhorse::cli
