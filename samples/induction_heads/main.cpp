// Induction heads: one special token among random ones, at the end again; what followed it the first time? Trains H3,
// pure attention and pure S4D on it, and draws how well each has learnt to look back. --help lists the options.
#include "synthetic_tasks/experiment.h"

int main(int argc, char** argv) {
  synthetic_tasks::experiment what;
  what.title = "induction heads";
  what.published = {100.0, 100.0, 35.6};
  what.how.epochs = 400;
  what.how.cosine = true;
  what.how.final_fraction = 0.1;
  what.make_data = [](const synthetic_tasks::recipe& how) {
    return synthetic_tasks::make_data_set(synthetic_tasks::induction_heads(), how.train_examples, how.test_examples,
                                          how.seed);
  };
  return synthetic_tasks::run(argc, argv, what);
}
