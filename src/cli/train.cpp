// riverhorse train: a model from a configuration, from weights, or from where an earlier training stopped.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/tokenizer_option.h"
#include "cli/train_data.h"
#include "cli/train_flags.h"
#include "cli/train_ranks.h"
#include "cli/train_samples.h"
#include "model/initialization.h"
#include "train/trainer.h"

namespace riverhorse::cli {
namespace {

constexpr std::uint64_t config_limit_bytes = std::uint64_t{1} << 20;

struct TrainCommand {
  std::string preset, config, from, resume, output, tokenizer;
  std::vector<std::string> settings;  // key=value
  nlohmann::json given = nlohmann::json::object();
  DeviceChoiceOptions device;
  int gpus = 0;  // processes to make; 0: as they were started
};

// `config` with every key=value put in.
ModelConfig with_settings(const ModelConfig& config, const std::vector<std::string>& settings) {
  if (settings.empty()) return config;
  nlohmann::json json = nlohmann::json::parse(model_config_json(config));
  json.emplace("ssm_gating", config.ssm_gating);  // written only where it is off
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    const std::string key = setting.substr(0, equals);
    if (equals == std::string::npos || !json.contains(key)) {
      std::string keys;
      for (const auto& [name, value] : json.items()) keys += (keys.empty() ? "" : ", ") + name;
      fail(StatusCode::invalid_argument, "--set {}: it must be key=value, with a key of {}", setting, keys);
    }
    const std::string text = setting.substr(equals + 1);
    nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
    json[key] = value.is_discarded() ? nlohmann::json(text) : value;  // --set ssm_disc=zoh needs no quotes
  }
  try {
    std::vector<std::string> warnings;  // none: every key is known
    return parse_model_config(json.dump(), "--set", warnings);
  } catch (const Error& error) {
    throw Error(StatusCode::invalid_argument, error.what());
  }
}

Checkpoint starting_model(const TrainCommand& command, std::uint64_t seed) {
  if (!command.from.empty()) {
    CheckpointOptions load;
    load.config_path = command.config;
    Checkpoint checkpoint = load_checkpoint(command.from, load);
    if (command.settings.empty()) return checkpoint;
    load.config = with_settings(checkpoint.config, command.settings);
    return load_checkpoint(command.from, load);
  }
  ModelConfig config;
  std::vector<std::string> warnings;
  if (command.preset.empty()) {
    config = parse_model_config(read_text_file(command.config, config_limit_bytes), command.config, warnings);
  } else {
    config = *model_preset(command.preset);
  }
  Checkpoint checkpoint = random_checkpoint(with_settings(config, command.settings), seed);
  checkpoint.warnings = warnings;
  return checkpoint;
}

void check_usage(const TrainCommand& command) {
  const int begun = !command.preset.empty() + !command.from.empty() + !command.resume.empty() +
                    (!command.config.empty() && command.from.empty());
  if (begun != 1) {
    fail(StatusCode::invalid_argument,
         "a training begins with one of --preset, --config, --from (with --config for a bare file) and --resume");
  }
  if (!command.resume.empty()) {
    if (!command.output.empty() || !command.tokenizer.empty() || !command.settings.empty()) {
      fail(StatusCode::invalid_argument, "--resume goes on in its folder: no --output, --tokenizer or --set");
    }
    for (const char* fixed : {"length", "seed", "reset_state_at_documents"}) {
      if (command.given.contains(fixed)) {
        fail(StatusCode::invalid_argument, "{} cannot change in a training that goes on (--resume)",
             flag_name(fixed));
      }
    }
    return;
  }
  if (command.output.empty()) fail(StatusCode::invalid_argument, "--output is required: the folder of the training");
  if (!command.given.contains("data"))
    fail(StatusCode::invalid_argument, "--data is required: text or tokens to train on");
  if (!list_checkpoints(command.output).empty()) {
    fail(StatusCode::invalid_argument,
         "{} has checkpoints of an earlier training; go on with --resume {}, or choose "
         "another folder",
         command.output, command.output);
  }
}

TrainingCheckpoint starting_point(const TrainCommand& command) {
  if (!command.resume.empty()) {
    TrainingCheckpoint start = load_newest_checkpoint(command.resume);
    nlohmann::json options = trainer_options_json(start.state.options);
    options.update(command.given);
    start.state.options = parse_trainer_options(options, "train");
    return start;
  }
  TrainingCheckpoint start;
  start.state.options = parse_trainer_options(command.given, "train");
  start.model = starting_model(command, static_cast<std::uint64_t>(start.state.options.seed));
  for (const std::string& warning : start.model.warnings) log_warning(warning);
  if (!command.tokenizer.empty()) {
    start.tokenizer_files = read_tokenizer_files(command.tokenizer);
  } else if (!command.from.empty()) {
    start.tokenizer_files = read_tokenizer_files(start.model.folder);
  }
  return start;
}

// The one that text goes through, which is the one that the checkpoints have files of; null when there is none.
std::unique_ptr<Tokenizer> find_training_tokenizer(const TrainCommand& command, const Checkpoint& model) {
  if (!command.tokenizer.empty()) {
    std::unique_ptr<Tokenizer> tokenizer = load_named_tokenizer(command.tokenizer);
    if (tokenizer->vocab_size() > model.config.vocab_size) {
      fail(StatusCode::invalid_argument,
           "the tokenizer {} has {} tokens, and the model's vocabulary {}; make the model with --set vocab_size={}",
           command.tokenizer, tokenizer->vocab_size(), model.config.vocab_size, tokenizer->vocab_size());
    }
    return tokenizer;
  }
  if (!command.from.empty() || !command.resume.empty()) return find_tokenizer(model.folder, model.config.vocab_size);
  return fitting_byte_tokenizer(model.config.vocab_size);
}

// Tokenized by one process of a host, and read from the cache by the others.
TrainingData open_data(const TrainCommand& command, const TrainerOptions& options, const Tokenizer* tokenizer,
                       std::int64_t vocabulary, const Ranks& ranks) {
  const bool waits = ranks && ranks.host->local_rank() != 0;
  if (waits) ranks.host->barrier();
  TrainingData data = open_training_data(options, tokenizer, vocabulary, command.device.cache);
  if (ranks && !waits) ranks.host->barrier();
  require_same(ranks, "the tokens of the data", data.train->size());
  return data;
}

void print_plan(const ModelConfig& config, const TrainerOptions& options, const std::string& run, Device& device,
                std::int64_t done, const Ranks& ranks) {
  fmt::print("configuration {}", model_config_json(config));
  fmt::print("options {}\n", trainer_options_json(options).dump(1));
  fmt::print("{} parameters; {} tokens a step; steps {} to {}; {:.1f} MB on {} ({}){}; folder {}\n",
             parameter_count(config), options.samples_per_step() * options.length, done + 1, options.steps,
             static_cast<double>(device.memory_usage().used_bytes) / 1e6, device.info().id(), device.info().name,
             ranks ? fmt::format(", and as much on each of {} ranks", ranks.size()) : "", run);
  std::fflush(stdout);
}

// On a terminal one line that changes; elsewhere a line now and then. Validations and the last step stay.
ReportFunction progress() {
  using Clock = std::chrono::steady_clock;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const std::chrono::milliseconds pause(terminal ? 200 : 10'000);
  return [terminal, pause, drawn = Clock::time_point()](const StepReport& report) mutable {
    const bool stays = report.validation_loss || report.step == report.steps || interrupted();
    if (!stays && drawn != Clock::time_point() && Clock::now() - drawn < pause) return;
    drawn = Clock::now();
    fmt::print(stderr, "{}{}{}", terminal ? "\r\033[K" : "", report_line(report), stays || !terminal ? "\n" : "");
    std::fflush(stderr);
  };
}

void train(const TrainCommand& command, const std::shared_ptr<Communicator>& host) {
  check_usage(command);
  TrainingCheckpoint start = starting_point(command);
  const ModelConfig config = start.model.config;
  TrainerOptions options = start.state.options;
  const std::int64_t done = start.state.step;
  const std::string run_folder = command.resume.empty() ? command.output : command.resume;
  Ranks ranks{host, host};  // of tensors soon
  require_same(ranks, "the steps of the newest checkpoint", done);
  if (done >= options.steps) {
    if (ranks.first()) fmt::print("{}: all {} steps are done; more with --steps\n", run_folder, options.steps);
    return;
  }
  const std::unique_ptr<Tokenizer> tokenizer = find_training_tokenizer(command, start.model);
  DeviceChoiceOptions choice = command.device;
  if (ranks) choose_device_of_rank(*host, choice);
  const std::shared_ptr<Device> device = open_training_device(choice);
  if (ranks) ranks.tensors = device->tensor_communicator(host);
  const TrainingData data = open_data(command, options, tokenizer.get(), config.padded_vocab_size(), ranks);
  TrainSamples samples(device, tokenizer.get(), options, run_folder, done);
  const auto trainer = make_trainer(device, std::move(start), *data.train, data.validation.get(), run_folder, ranks);
  options = trainer->state().options;
  if (ranks.first()) print_plan(config, options, run_folder, *device, done, ranks);
  const auto report = [&, line = progress()](const StepReport& step) {
    if (!ranks.first()) return;
    line(step);
    if (samples.wanted(step.step)) samples.add(trainer->model(), step.step);
  };
  const bool finished = trainer->run(interrupted, report);
  if (!ranks.first()) return;
  const std::string newest = checkpoint_path(run_folder, trainer->state().step).string();
  if (finished) {
    fmt::print("done: {}\n", newest);
  } else {
    fmt::print("stopped after step {} of {}, saved {}; go on with --resume {}\n", trainer->state().step,
               options.steps, newest, run_folder);
  }
}

void run(const TrainCommand& command) {
  const std::shared_ptr<Communicator> host = command.gpus > 0 ? fork_ranks(command.gpus) : join_launched_ranks();
  run_as_rank(host, [&] { train(command, host); });
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command = app.add_subcommand("train", "Train a model");
  command->footer(
      "Begins with one of --preset, --config, --from and --resume. A training stops at Ctrl-C after the step, "
      "saves,\n"
      "and goes on with --resume FOLDER exactly as if it had not stopped, with the options it had unless given "
      "anew.\n"
      "The folder gets a checkpoint (a model folder) every so many steps, train.csv and train.jsonl; tensorboard/ "
      "and\n"
      "samples.jsonl where they are asked for.\n"
      "--gpus N, and \"mpirun -np N riverhorse train ...\", train one model on N ranks, each with its part of every\n"
      "micro-batch; so do other launchers that set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.");
  command->add_option("--preset", options->preset, "A new model: tiny, tiny-hybrid, 125m, 355m, ...")
      ->type_name("NAME")
      ->check(CLI::IsMember(model_preset_names()));
  command->add_option("--config", options->config, "A new model of this config.json")->type_name("FILE");
  command->add_option("--set", options->settings, "Changes a field of the configuration; several times if needed")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--from", options->from, "The weights of a model folder, .safetensors or .pt file")
      ->type_name("PATH");
  command->add_option("--resume", options->resume, "The folder of a training to go on with")->type_name("FOLDER");
  command->add_option("-o,--output", options->output, "The folder of a new training; made if absent")
      ->type_name("FOLDER");
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "A model folder or a tokenizer.json: text goes through it, and its files into the checkpoints "
                   "(default: that of --from; bytes for a new model of at most 512 tokens)")
      ->type_name("PATH");
  add_trainer_flags(*command, options->given);
  add_device_options(*command, options->device);
  command
      ->add_option("--memory-limit", options->device.memory_limit_mib,
                   "cpu: most memory that tensors may take (default: what is free)")
      ->type_name("MIB")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--gpus", options->gpus, "Trains on so many GPUs of this machine, a process each")
      ->type_name("N")
      ->check(CLI::Range(1, 1024));
  command->callback([options] { run(*options); });
}

}  // namespace riverhorse::cli
