// Induction heads: one special token among random ones, at the end again; what followed it the first time? Trains H3,
// pure attention and pure S4D on it, and draws how well each has learnt to look back. --help lists the options.
#include "synthetic_tasks/experiment.h"

int main(int argc, char** argv) {
  return synthetic_tasks::run(
      argc, argv, "induction heads", {100.0, 100.0, 35.6}, [](const synthetic_tasks::recipe& how) {
        return synthetic_tasks::make_data_set(synthetic_tasks::induction_heads(), how.train_examples,
                                              how.test_examples, how.seed);
      });
}
