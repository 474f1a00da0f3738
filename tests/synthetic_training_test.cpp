// A reduced run of what the samples of the synthetic tasks do: smaller tasks, larger steps.
#include <gtest/gtest.h>

#include "synthetic_tasks/experiment.h"

namespace synthetic_tasks {
namespace {

const mixer h3 = {"H3", R"("ssm_d_state": 16)"};
const mixer s4d = {"S4D", R"("ssm_d_state": 16, "ssm_gating": false)"};

recipe reduced() {
  recipe how;
  how.epochs = 12;
  how.train_examples = 1000;
  how.test_examples = 200;
  how.batch = 16;
  how.learning_rate = 5e-3;
  how.dropout = 0;
  return how;
}

// Trains until `enough` percent of the answers are right, or the epochs are over.
std::vector<epoch_result> train_until(double enough, const mixer& model, const data_set& data, const recipe& how) {
  riverhorse_device_options on = riverhorse_api::device_options();
  on.backend = "cpu";
  return train(riverhorse_api::device(on), model, data, how,
               [&](int, const epoch_result& result) { return result.accuracy < enough; });
}

// Chance is 33 percent, and 60 to guess among the values that there are.
TEST(SyntheticTraining, H3RecallsAssociations) {
  const data_set data = make_data_set(associative_recall{8, 12, 1, false}, 1000, 200, 1);
  const std::vector<epoch_result> epochs = train_until(95, h3, data, reduced());
  EXPECT_LT(epochs.front().accuracy, 80);
  EXPECT_GE(epochs.back().accuracy, 90);
}

// Chance is 17 percent, where S4D, which compares nothing with nothing, stays.
TEST(SyntheticTraining, H3HasInductionHeadsAndS4DHasNone) {
  const data_set data = make_data_set(induction_heads{8, 10, 1, 1}, 1000, 200, 1);
  const std::vector<epoch_result> epochs = train_until(95, h3, data, reduced());
  EXPECT_LT(epochs.front().accuracy, 50);
  EXPECT_GE(epochs.back().accuracy, 90);
  recipe as_long = reduced();
  as_long.epochs = static_cast<int>(epochs.size());
  EXPECT_LT(train_until(95, s4d, data, as_long).back().accuracy, 50);
}

// Of all models one epoch: the same seed gives the same numbers.
TEST(SyntheticTraining, SeedsDecide) {
  recipe how = reduced();
  how.epochs = 1;
  const data_set data = make_data_set(induction_heads(), 100, 20, 1);
  for (const mixer& model : mixers()) {
    const double loss = train_until(100, model, data, how).front().train_loss;
    EXPECT_EQ(train_until(100, model, data, how).front().train_loss, loss) << model.name;
  }
}

}  // namespace
}  // namespace synthetic_tasks
