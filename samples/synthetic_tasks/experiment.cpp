#include "synthetic_tasks/experiment.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "synthetic_tasks/curves.h"

namespace synthetic_tasks {
namespace {

namespace rh = riverhorse_api;

struct command_line {
  recipe how;
  std::string backend = "cpu", out, model;
};

[[noreturn]] void usage(std::FILE* to, const char* program, const command_line& given) {
  std::fprintf(to,
               "usage: %s [options]\n"
               "  --epochs N      passes over the training data (default %d)\n"
               "  --examples N    of the training data, and a tenth as many of the test data (default %zu)\n"
               "  --seed N        of the data, the models and the order of the examples (default 1)\n"
               "  --backend NAME  one that trains (default cpu)\n"
               "  --model NAME    only one of them: H3, attention or S4D\n"
               "  --out FILE      where the curves go (default %s)\n",
               program, given.how.epochs, given.how.train_examples, given.out.c_str());
  std::exit(to == stdout ? 0 : 2);
}

command_line read_command_line(int argc, char** argv, const command_line& defaults) {
  command_line given = defaults;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name == "--help") usage(stdout, argv[0], defaults);
    if (i + 1 == argc) usage(stderr, argv[0], defaults);
    const std::string value = argv[i + 1];
    char* end = nullptr;
    const long long number = std::strtoll(value.c_str(), &end, 10);
    const bool is_count = *end == '\0' && !value.empty() && number >= 0 && number < 1'000'000'000;
    if (name == "--epochs" && is_count && number > 0) {
      given.how.epochs = static_cast<int>(number);
    } else if (name == "--examples" && is_count && number >= 10) {
      given.how.train_examples = static_cast<std::size_t>(number);
      given.how.test_examples = given.how.train_examples / 10;
    } else if (name == "--seed" && is_count) {
      given.how.seed = static_cast<std::uint64_t>(number);
    } else if (name == "--backend") {
      given.backend = value;
    } else if (name == "--model" && std::any_of(mixers().begin(), mixers().end(),
                                                [&](const mixer& model) { return model.name == value; })) {
      given.model = value;
    } else if (name == "--out") {
      given.out = value;
    } else {
      std::fprintf(stderr, "%s cannot be %s\n", name.c_str(), value.c_str());
      usage(stderr, argv[0], defaults);
    }
  }
  return given;
}

std::string config_json(const mixer& model, const data_set& data, const recipe& how) {
  return "{\"n_embd\": " + std::to_string(how.width) + ", \"n_layer\": " + std::to_string(how.layers) +
         ", \"vocab_size\": " + std::to_string(data.vocab_size) +
         ", \"embed_pdrop\": " + std::to_string(how.dropout) +
         ", \"initializer_range\": " + std::to_string(how.initial_range) + ", " + model.fields + "}";
}

}  // namespace

const std::vector<mixer>& mixers() {
  // Attention needs to be told where a token is; the state-space layers know.
  static const std::vector<mixer> all = {
      {"H3", "\"ssm_d_state\": 64"},
      {"attention", "\"attn_layer_idx\": [0, 1], \"attn_n_head\": 1, \"attn_rotary_dim\": 32"},
      {"S4D", "\"ssm_d_state\": 64, \"ssm_gating\": false"}};
  return all;
}

std::vector<epoch_result> train(const rh::device& device, const mixer& model, const data_set& data, const recipe& how,
                                const epoch_function& after_epoch) {
  const std::string config = config_json(model, data, how);
  riverhorse_trainer_options options = rh::trainer_options();
  options.config_json = config.c_str();
  options.seed = how.seed;
  options.batch = how.batch;
  options.length = static_cast<std::int64_t>(data.train.length);
  options.learning_rate = how.learning_rate;
  options.recipe = RIVERHORSE_RECIPE_SAFARI;
  options.weight_decay = how.weight_decay;
  options.beta2 = 0.999;
  options.clip_norm = -1;
  const auto batches = static_cast<std::int64_t>((data.train.count + static_cast<std::size_t>(how.batch) - 1) /
                                                 static_cast<std::size_t>(how.batch));
  options.schedule = how.cosine ? RIVERHORSE_SCHEDULE_COSINE : RIVERHORSE_SCHEDULE_LINEAR;
  options.schedule_steps = batches * how.epochs;
  options.warmup_steps = options.schedule_steps / 10;
  options.final_fraction = how.final_fraction > 0 ? how.final_fraction : -1;
  rh::trainer trainer(device, options);

  random_source random(how.seed);
  std::vector<std::size_t> order(data.train.count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const std::size_t length = data.train.length, batch = static_cast<std::size_t>(how.batch);
  std::vector<epoch_result> results;
  for (int epoch = 1; epoch <= how.epochs; ++epoch) {
    random.shuffle(order);
    epoch_result result;
    std::int64_t scored = 0;
    for (std::size_t begin = 0; begin < order.size(); begin += batch) {
      sequence ids, targets;
      for (std::size_t i = begin; i < std::min(begin + batch, order.size()); ++i) {
        const auto row = static_cast<std::ptrdiff_t>(order[i] * length),
                   end = row + static_cast<std::ptrdiff_t>(length);
        ids.insert(ids.end(), data.train.ids.begin() + row, data.train.ids.begin() + end);
        targets.insert(targets.end(), data.train.targets.begin() + row, data.train.targets.begin() + end);
      }
      const riverhorse_step_result step = trainer.step(ids, targets);
      result.train_loss += step.loss * static_cast<double>(step.scored);
      scored += step.scored;
    }
    result.train_loss /= static_cast<double>(scored);
    const riverhorse_evaluation test = trainer.evaluate(data.test.ids, data.test.targets);
    result.test_loss = test.loss_sum / static_cast<double>(test.scored);
    result.accuracy = 100.0 * static_cast<double>(test.correct) / static_cast<double>(test.scored);
    results.push_back(result);
    if (!after_epoch(epoch, result)) break;
  }
  return results;
}

int run(int argc, char** argv, const experiment& what) {
  command_line defaults;
  defaults.how = what.how;
  defaults.out = what.title + ".svg";
  std::replace(defaults.out.begin(), defaults.out.end(), ' ', '_');
  const command_line given = read_command_line(argc, argv, defaults);
  try {
    const data_set data = what.make_data(given.how);
    riverhorse_device_options on = rh::device_options();
    on.backend = given.backend.c_str();
    const rh::device device(on);
    std::printf("%s: %zu examples of %zu tokens, %zu test examples, vocabulary %d\n", what.title.c_str(),
                data.train.count, data.train.length, data.test.count, data.vocab_size);

    std::vector<curve> curves;
    std::string table;
    for (std::size_t i = 0; i < mixers().size(); ++i) {
      const mixer& model = mixers()[i];
      if (!given.model.empty() && given.model != model.name) continue;
      const auto start = std::chrono::steady_clock::now();
      const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      };
      const auto report = [&](int epoch, const epoch_result& result) {
        std::printf("%-9s epoch %d/%d  loss %.4f  test loss %.4f  accuracy %.1f %%  %.0f s\n", model.name.c_str(),
                    epoch, given.how.epochs, result.train_loss, result.test_loss, result.accuracy, seconds());
        std::fflush(stdout);
        return true;
      };
      curve line{model.name, {}};
      for (const epoch_result& result : train(device, model, data, given.how, report)) {
        line.values.push_back(result.accuracy);
      }
      char row[128];
      std::snprintf(row, sizeof row, "%-9s  %6.1f  %6.1f  %9.1f  %6.0f\n", model.name.c_str(), line.values.back(),
                    *std::max_element(line.values.begin(), line.values.end()), what.published[i], seconds());
      table += row;
      curves.push_back(std::move(line));
    }
    std::printf("\naccuracy     last    best  published  seconds\n%s", table.c_str());
    write_curves(given.out, what.title + ": test accuracy in percent, by epoch", curves);
    std::printf("curves: %s\n", given.out.c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace synthetic_tasks
