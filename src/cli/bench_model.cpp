// riverhorse bench prefill and decode: a whole model, with random weights unless one is given.
#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "base/error.h"
#include "base/log.h"
#include "base/quantised.h"
#include "cli/bench.h"
#include "engine/engine.h"
#include "engine/trace.h"
#include "model/initialization.h"

namespace riverhorse::cli {
namespace {

constexpr int traced_steps = 8;

struct ModelCosts {
  double weight_bytes = 0;       // read once a step: everything, the tied embedding once (for the logits)
  double matrix_parameters = 0;  // of the layers' GEMMs
  double embedding_parameters = 0;
  double embedding_bytes = 0;
  double state_bytes = 0;  // SSM state of one sequence, read
  double state_written_bytes = 0;
  double cache_bytes_per_token = 0;  // keys and values of one token of one sequence
  double attention_layers = 0;
};

ModelCosts costs_of(const Checkpoint& checkpoint, DType dtype) {
  const ModelConfig& config = checkpoint.config;
  ModelCosts costs;
  for (const ParameterSpec& spec : parameter_table(config)) {
    double count = 1;
    for (const std::int64_t dimension : spec.shape) count *= static_cast<double>(dimension);
    const HostTensor& stored = checkpoint.file.at(spec.name);
    const double bytes = is_quantised(stored.dtype) ? static_cast<double>(stored.size_bytes())
                                                    : count * (spec.matrix ? dtype_size_bytes(dtype) : 4);
    costs.weight_bytes += bytes;
    const bool embedding = spec.name.find("embedding") != std::string::npos || spec.name.find("lm_head") == 0;
    if (embedding) {
      costs.embedding_parameters = count;
      costs.embedding_bytes = bytes;
    }
    if (spec.matrix && !embedding) costs.matrix_parameters += count;
  }
  costs.attention_layers = static_cast<double>(config.attn_layer_idx.size());
  const double ssm_layers = static_cast<double>(config.n_layer) - costs.attention_layers;
  const double width = static_cast<double>(config.n_embd), states = static_cast<double>(config.ssm_d_state);
  const double shift = width * states, modes = width * static_cast<double>(config.ssm_head_dim) * states;
  costs.state_bytes = ssm_layers * (shift + modes) * 4;
  costs.state_written_bytes = ssm_layers * (width + modes) * 4;  // the shift state is a ring: one key replaced
  costs.cache_bytes_per_token = costs.attention_layers * 2 * width * dtype_size_bytes(dtype);
  return costs;
}

// Bytes and operations of a step of sequences that have `positions` tokens together.
void add_step_costs(BenchRow& row, const ModelCosts& costs, const ModelConfig& config, double sequences,
                    double positions) {
  row.bytes = costs.weight_bytes + sequences * (costs.state_bytes + costs.state_written_bytes) +
              costs.cache_bytes_per_token * positions;
  row.flops = sequences * 2 * (costs.matrix_parameters + costs.embedding_parameters) +
              4 * costs.attention_layers * static_cast<double>(config.n_embd) * positions;
}

// Behind the measurement, since it slows down what it times.
void trace_some(Engine& engine, const std::shared_ptr<Trace>& trace, const std::function<void()>& work) {
  if (trace == nullptr || interrupted()) return;
  engine.set_trace(trace);
  work();
  engine.set_trace(nullptr);
  trace->write(engine.device().info());
}

// Of single steps, each waited for.
struct StepTimes {
  std::vector<double> device, wall;
};
StepTimes time_steps(Engine& engine, const std::vector<Session*>& batch, std::int64_t count) {
  StepTimes times;
  for (std::int64_t i = 0; i < count && !interrupted(); ++i) {
    const auto before = Clock::now();
    engine.step(batch);
    times.wall.push_back(milliseconds_since(before));
    const Engine::Timing timing = engine.last_timing();
    if (timing.device_ms > 0) times.device.push_back(timing.device_ms);
  }
  return times;
}

}  // namespace

std::string benchmark_model_name(const BenchOptions& options) {
  if (!options.model.model.empty()) return options.model.model;
  return options.preset + (options.weights.empty() ? "" : " " + options.weights);
}

Checkpoint benchmark_checkpoint(const BenchOptions& options) {
  if (!options.model.model.empty()) {
    CheckpointOptions checkpoint_options;
    checkpoint_options.config_path = options.model.config;
    return load_checkpoint(options.model.model, checkpoint_options);
  }
  const auto config = model_preset(options.preset);
  if (!config) {
    std::string names;
    for (const std::string& name : model_preset_names()) names += (names.empty() ? "" : ", ") + name;
    fail(StatusCode::invalid_argument, "--preset {}: there is no such preset; there are {}", options.preset, names);
  }
  Checkpoint checkpoint = random_checkpoint(*config, 1);
  if (const auto weights = quantised_dtype(options.weights)) {
    checkpoint.file.tensors = quantise_parameters(checkpoint, *weights);
  }
  return checkpoint;
}

std::vector<std::int32_t> benchmark_ids(std::int64_t count, std::int64_t vocab_size) {
  std::vector<std::int32_t> ids;
  std::uint32_t state = 7;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    ids.push_back(static_cast<std::int32_t>((state >> 8) % static_cast<std::uint32_t>(vocab_size)));
  }
  return ids;
}

EngineOptions benchmark_engine_options(const BenchOptions& options) {
  EngineOptions engine_options;
  engine_options.dtype = options.dtype;
  engine_options.conv = options.conv;
  engine_options.cache_folder = options.device.cache;
  engine_options.memory_budget_bytes = options.memory_budget_bytes;
  engine_options.progress = progress_line("loading");
  return engine_options;
}

std::vector<BenchRow> bench_prefill(const std::shared_ptr<Device>& device, const BenchOptions& options) {
  const std::int64_t length = options.tokens > 0 ? options.tokens : 1024;
  const std::shared_ptr<Trace> trace = make_trace(options.trace);
  const Checkpoint checkpoint = benchmark_checkpoint(options);
  EngineOptions engine_options = benchmark_engine_options(options);
  engine_options.max_sessions = 1;
  engine_options.context_tokens = length + 1;
  engine_options.prefill_piece_tokens = std::min(length, most_prefill_piece_tokens);  // longer texts in pieces
  Engine engine(device, checkpoint, engine_options);
  engine.prepare();
  const auto session = engine.create_session();
  // The newest token of a text is read by the step that follows it: length + 1 tokens make a prefill of `length`.
  const std::vector<std::int32_t> ids = benchmark_ids(length + 1, checkpoint.config.vocab_size);

  // Until the clocks are up: an idle GPU runs at a fraction of its rate for the first tenths of a second.
  const auto warm_up = Clock::now();
  do {
    session->clear();
    session->append(ids);
  } while (!interrupted() && milliseconds_since(warm_up) < 300.0);

  std::vector<double> device_times, wall_times, first_token_times;
  const auto start = Clock::now();
  const int most = options.repetitions > 0 ? options.repetitions : 20;
  for (int i = -1; i < most && !interrupted(); ++i) {
    constexpr double budget_ms = 10000;
    if (options.repetitions == 0 && i >= 1 && milliseconds_since(start) > budget_ms) break;
    session->clear();
    Engine::Timing timing;  // of all pieces
    const auto before = Clock::now();
    session->append(ids, [&](std::uint64_t, std::uint64_t) {
      const Engine::Timing piece = engine.last_timing();
      timing.device_ms += piece.device_ms;
      timing.tokens += piece.tokens;
    });
    const double wall = milliseconds_since(before);
    session->step();
    const double first_token = milliseconds_since(before);
    if (i < 0) continue;  // warm-up
    wall_times.push_back(wall);
    first_token_times.push_back(first_token);
    if (timing.tokens == length && timing.device_ms > 0) device_times.push_back(timing.device_ms);
  }
  trace_some(engine, trace, [&] {
    session->clear();
    session->append(ids);
    session->step();
  });
  const ModelCosts costs = costs_of(checkpoint, options.dtype);
  const auto tokens = static_cast<double>(length);
  BenchRow row;
  row.name = "prefill";
  row.dtype = options.dtype;
  row.shape = fmt::format("{}, {} tokens", benchmark_model_name(options), length);
  row.device_ms = median(device_times);
  row.wall_ms = median(wall_times);
  row.repetitions = static_cast<int>(wall_times.size());
  row.tokens = length;
  // GEMMs of every token and causal attention; the rest is small. No logits: only the last token needs them.
  row.flops = 2 * costs.matrix_parameters * tokens +
              2 * costs.attention_layers * static_cast<double>(checkpoint.config.n_embd) * tokens * tokens;
  row.bytes =
      costs.weight_bytes - costs.embedding_bytes + costs.state_written_bytes + costs.cache_bytes_per_token * tokens;
  row.gemm_bound = true;
  BenchRow first = row;
  first.name = "first token";
  first.shape += " read, 1 drawn";
  first.device_ms = 0;
  first.wall_ms = median(first_token_times);
  first.flops += 2 * costs.embedding_parameters;
  return {row, first};
}

std::vector<BenchRow> bench_decode(const std::shared_ptr<Device>& device, const BenchOptions& options) {
  const std::int64_t batch_size = options.batch > 0 ? options.batch : 1;
  const std::int64_t drawn = options.tokens > 0 ? options.tokens : 128;
  const std::int64_t prompt = options.prompt_tokens > 0 ? options.prompt_tokens : 1024;
  const std::shared_ptr<Trace> trace = make_trace(options.trace);
  const Checkpoint checkpoint = benchmark_checkpoint(options);
  EngineOptions engine_options = benchmark_engine_options(options);
  engine_options.max_sessions = batch_size;
  engine_options.context_tokens = prompt + 3 * drawn + 16 + traced_steps;
  engine_options.prefill_piece_tokens = std::min<std::int64_t>(prompt, 2048);
  Engine engine(device, checkpoint, engine_options);
  engine.prepare(batch_size);

  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Session*> batch;
  const std::vector<std::int32_t> ids = benchmark_ids(prompt, checkpoint.config.vocab_size);
  for (std::int64_t b = 0; b < batch_size; ++b) {
    sessions.push_back(engine.create_session());
    sessions.back()->append(ids);
    batch.push_back(sessions.back().get());
  }
  // Until the clocks are up: an idle GPU runs at a fraction of its rate for the first tenths of a second.
  const auto warm_up = Clock::now();
  do {
    engine.step(batch);
  } while (batch[0]->position() < prompt + drawn && milliseconds_since(warm_up) < 300.0);

  // As generation runs, with steps in flight, for the wall time; then step by step for the device's times.
  double wall_ms = 0;
  const std::int64_t position = batch[0]->position();
  if (batch_size == 1 && !interrupted()) {
    const auto before = Clock::now();
    const std::int64_t count = batch[0]->generate(drawn, [](std::int32_t) { return !interrupted(); });
    if (count > 0) wall_ms = milliseconds_since(before) / static_cast<double>(count);
  }
  const StepTimes times = time_steps(engine, batch, drawn);
  if (wall_ms == 0) wall_ms = median(times.wall);
  trace_some(engine, trace, [&] {
    for (int i = 0; i < traced_steps; ++i) engine.step(batch);
  });
  const auto sequences = static_cast<double>(batch_size);
  const double middle = static_cast<double>(position) + static_cast<double>(drawn) / 2;
  BenchRow row;
  row.name = "decode";
  row.dtype = options.dtype;
  row.shape = fmt::format("{}, {} sequence{}, position {}", benchmark_model_name(options), batch_size,
                          batch_size == 1 ? "" : "s", position);
  row.device_ms = median(times.device);
  row.wall_ms = wall_ms;
  row.repetitions = static_cast<int>(times.wall.size());
  row.tokens = batch_size;
  add_step_costs(row, costs_of(checkpoint, options.dtype), checkpoint.config, sequences, sequences * middle);
  return {row};
}

// Sessions of four different lengths step together, more and more of them.
std::vector<BenchRow> bench_sessions(const std::shared_ptr<Device>& device, const BenchOptions& options) {
  const bool host = device->info().type == DeviceType::cpu || is_software(device->info());
  const std::int64_t most = options.batch > 0 ? options.batch : host ? 8 : 64;
  const std::int64_t drawn = options.tokens > 0 ? options.tokens : 32;
  const std::int64_t longest = options.prompt_tokens > 0 ? options.prompt_tokens : 1024;
  constexpr std::int64_t lengths = 4;
  std::vector<std::int64_t> counts;
  for (std::int64_t count = 1; count < most; count *= 2) counts.push_back(count);
  counts.push_back(most);
  const std::shared_ptr<Trace> trace = make_trace(options.trace);
  const Checkpoint checkpoint = benchmark_checkpoint(options);
  EngineOptions engine_options = benchmark_engine_options(options);
  engine_options.max_sessions = most;
  engine_options.context_tokens = longest + static_cast<std::int64_t>(counts.size()) * (drawn + 2) + traced_steps + 2;
  engine_options.prefill_piece_tokens = std::min<std::int64_t>(longest, 2048);
  Engine engine(device, checkpoint, engine_options);
  engine.prepare_sessions();

  std::vector<std::unique_ptr<Session>> sessions;
  std::vector<Session*> batch;
  const ModelCosts costs = costs_of(checkpoint, options.dtype);
  std::vector<BenchRow> rows;
  for (const std::int64_t count : counts) {
    while (static_cast<std::int64_t>(sessions.size()) < count) {  // others go on meanwhile, where they are
      const auto index = static_cast<std::int64_t>(sessions.size());
      const std::int64_t length = std::max<std::int64_t>(2, longest * (lengths - index % lengths) / lengths);
      sessions.push_back(engine.create_session());
      sessions.back()->append(benchmark_ids(length, checkpoint.config.vocab_size));
      batch.push_back(sessions.back().get());
    }
    for (int i = 0; i < 2; ++i) engine.step(batch);  // warm-up
    double positions = 0;
    for (const Session* session : batch)
      positions += static_cast<double>(session->position()) + 0.5 * static_cast<double>(drawn);
    const StepTimes times = time_steps(engine, batch, drawn);
    if (times.wall.empty()) break;
    BenchRow row;
    row.name = "sessions";
    row.dtype = options.dtype;
    row.shape = fmt::format("{}, {} of up to {} tokens", benchmark_model_name(options), count, longest);
    row.device_ms = median(times.device);
    row.wall_ms = median(times.wall);
    row.repetitions = static_cast<int>(times.wall.size());
    row.tokens = count;
    add_step_costs(row, costs, checkpoint.config, static_cast<double>(count), positions);
    rows.push_back(row);
  }
  trace_some(engine, trace, [&] {
    for (int i = 0; i < traced_steps; ++i) engine.step(batch);
  });
  return rows;
}

}  // namespace riverhorse::cli
