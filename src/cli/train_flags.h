// The flags of the options of a training.
#pragma once

#include <nlohmann/json.hpp>

namespace CLI {
class App;
}

namespace riverhorse::cli {

// A flag for every option of visit_options(): --learning-rate for learning_rate. What the user gives is put into
// `given` under the option's name; `given` outlives the parse.
void add_trainer_flags(CLI::App& command, nlohmann::json& given);

}  // namespace riverhorse::cli
