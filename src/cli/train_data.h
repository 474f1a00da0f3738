// What a training reads: token files as they are, and text, which is tokenized once and kept in the cache.
#pragma once

#include <memory>
#include <string>

#include "data/token_source.h"
#include "data/tokenizer.h"
#include "train/trainer_options.h"

namespace riverhorse::cli {

struct TrainingData {
  std::unique_ptr<TokenSource> train;
  std::unique_ptr<TokenSource> validation;  // null: none
};

// Opens what options.data and options.validation_data name, for a model of `vocabulary` tokens. A single name that is
// no kind of text (.txt, .csv, .json, .jsonl) and no pattern is a file of tokens. Text goes through `tokenizer`,
// which fits the model (null: there is none), and is kept in the folder `cache`, as open_dataset. Errors:
// invalid_argument for what does not go together; those of TokenFile, read_safetensors and open_dataset; cancelled at
// Ctrl-C.
TrainingData open_training_data(const TrainerOptions& options, const Tokenizer* tokenizer, std::int64_t vocabulary,
                                const std::string& cache);

}  // namespace riverhorse::cli
