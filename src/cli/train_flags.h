// The flags of the options of a training.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace CLI {
class App;
}

namespace riverhorse::cli {

// "--learning-rate" of "learning_rate".
std::string flag_name(std::string option);

// A flag for every option of visit_options(). What the user gives is put into
// `given` under the option's name; `given` outlives the parse.
void add_trainer_flags(CLI::App& command, nlohmann::json& given);

}  // namespace riverhorse::cli
