#include "cli/train_flags.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "train/trainer_options.h"

namespace riverhorse::cli {
namespace {

// Limits are checked where the options are parsed, for flags and checkpoints alike.
class FlagVisitor : public OptionVisitor {
 public:
  FlagVisitor(CLI::App& command, nlohmann::json& given) : command_(command), given_(given) {}

  void text(const char* name, const char* help, std::string& value) override {
    add<std::string>(name, value.empty() ? help : fmt::format("{} (default: {})", help, value), "TEXT");
  }
  void texts(const char* name, const char* help, std::vector<std::string>&) override {
    add<std::vector<std::string>>(name, help, "FILES");
  }
  void flag(const char* name, const char* help, bool&) override {
    // --tensorboard=false takes back in --resume what the training had.
    const auto keep = [&given = given_, name](std::int64_t count) { given[name] = count > 0; };
    command_.add_flag_function(flag_name(name), keep, help);
  }
  void integer(const char* name, const char* help, std::int64_t& value, std::int64_t, std::int64_t) override {
    add<std::int64_t>(name, fmt::format("{} (default: {})", help, value), "N");
  }
  void number(const char* name, const char* help, double& value, double, double) override {
    add<double>(name, fmt::format("{} (default: {})", help, value), "X");
  }
  void optional_number(const char* name, const char* help, std::optional<double>&, double, double) override {
    add<double>(name, fmt::format("{} (default: by the recipe)", help), "X");
  }
  void choice(const char* name, const char* help, int& value, const std::vector<std::string>& names) override {
    const std::string& usual = names.at(static_cast<std::size_t>(value));
    add<std::string>(name, fmt::format("{} (default: {})", help, usual), "NAME")->check(CLI::IsMember(names));
  }

 private:
  template <typename Value>
  CLI::Option* add(const std::string& name, const std::string& help, const char* type) {
    const auto keep = [&given = given_, name](const Value& value) { given[name] = value; };
    return command_.add_option_function<Value>(flag_name(name), keep, help)->type_name(type);
  }

  CLI::App& command_;
  nlohmann::json& given_;
};

}  // namespace

std::string flag_name(std::string option) {
  std::replace(option.begin(), option.end(), '_', '-');
  return "--" + option;
}

void add_trainer_flags(CLI::App& command, nlohmann::json& given) {
  TrainerOptions defaults;
  FlagVisitor visitor(command, given);
  visit_options(defaults, visitor);
}

}  // namespace riverhorse::cli
