// Associative recall: pairs of a key and a value, then a key again; what was its value? Trains H3, pure attention and
// pure S4D on it, and draws how well each has learnt to look back. --help lists the options.
#include "synthetic_tasks/experiment.h"

int main(int argc, char** argv) {
  synthetic_tasks::associative_recall task;  // the sizes that the published figures are of
  task.vocab_size = 10;
  task.input_length = 20;
  synthetic_tasks::experiment what;
  what.title = "associative recall";
  what.published = {99.8, 100.0, 86.0};
  what.make_data = [task](const synthetic_tasks::recipe& how) {
    return synthetic_tasks::make_data_set(task, how.train_examples, how.test_examples, how.seed);
  };
  return synthetic_tasks::run(argc, argv, what);
}
