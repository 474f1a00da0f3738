// Trains H3, pure attention and pure S4D on one synthetic task, by the published recipe, and draws what they learnt.
#pragma once

#include <functional>
#include <riverhorse/riverhorse.hpp>
#include <string>
#include <vector>

#include "synthetic_tasks/tasks.h"

namespace synthetic_tasks {

struct mixer {
  std::string name;    // "H3"
  std::string fields;  // of config.json, which make the model's layers this
};
const std::vector<mixer>& mixers();

// The published recipe of associative recall with a vocabulary of 10. The rate rises over the first tenth of the
// steps, then falls to `final_fraction` of the largest one, along a straight line or a half wave.
struct recipe {
  int epochs = 200;
  bool cosine = false;
  double final_fraction = 0;
  std::uint64_t seed = 1;  // of data, initial values, dropout and the order of the examples
  std::size_t train_examples = 5000, test_examples = 500;
  std::int64_t batch = 32;
  int width = 32, layers = 2;  // of the model
  double learning_rate = 5e-4;
  double weight_decay = 0.1;
  double dropout = 0.1;  // of the embedding
  double initial_range =
      0.1;  // deviation of the initial weights: with the usual 0.02 so narrow a model starts slowly
};

struct epoch_result {
  double train_loss = 0;
  double test_loss = 0;
  double accuracy = 0;  // percent of the test data's answers
};

// Called after every epoch; false stops.
using epoch_function = std::function<bool(int epoch, const epoch_result& result)>;

// One model on one task. Throws riverhorse_api::api_error.
std::vector<epoch_result> train(const riverhorse_api::device& device, const mixer& model, const data_set& data,
                                const recipe& how, const epoch_function& after_epoch);

struct experiment {
  std::string title;              // "induction heads"
  std::vector<double> published;  // percent, for each of mixers()
  recipe how;                     // but for what the command line says
  std::function<data_set(const recipe&)> make_data;
};

// What a sample's main() does: reads the options, trains the models, prints a table and writes the curves. Returns
// the exit status.
int run(int argc, char** argv, const experiment& what);

}  // namespace synthetic_tasks
