// The riverhorse program: parses the command line, runs one command, and turns what goes wrong into one line on
// stderr and an exit status: 0 done, 1 failed, 2 bad usage, 130 stopped by Ctrl-C.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/train_ranks.h"

namespace riverhorse::cli {
namespace {

constexpr const char* examples = R"(Examples:
  riverhorse devices
  riverhorse convert --input H3-125M.pt --preset 125m --output models/h3-125m
  riverhorse generate --model models/h3-125m --prompt "The hippopotamus is" --max-tokens 64
  riverhorse generate --model models/h3-125m --prompt "Once" --temperature 0.8 --top-k 40 --backend vulkan
  riverhorse tokenize --input books/*.txt --train-bpe 4096 --output books.tokens
  riverhorse train --preset tiny --data books.tokens --output runs/tiny --steps 200
  riverhorse eval --model models/h3-125m --data held-out.txt --window 1024 --stride 512
  riverhorse bench decode --preset 125m --dtype f16 --json

"riverhorse COMMAND --help" explains the options of a command.)";

void point_log_at_stderr(LogLevel lowest) {
  set_log_sink([lowest](LogLevel level, std::string_view message) {
    if (level < lowest) return;
    const char* prefix = level == LogLevel::debug     ? "debug: "
                         : level == LogLevel::warning ? "warning: "
                         : level == LogLevel::error   ? "error: "
                                                      : "";
    std::fprintf(stderr, "riverhorse: %s%.*s\n", prefix, static_cast<int>(message.size()), message.data());
  });
}

void add_log_level_option(CLI::App& app) {
  app.add_option_function<std::string>(
         "--log-level",
         [](const std::string& name) {
           point_log_at_stderr(name == "debug"     ? LogLevel::debug
                               : name == "info"    ? LogLevel::info
                               : name == "warning" ? LogLevel::warning
                                                   : LogLevel::error);
         },
         "Lowest level of messages on stderr: debug, info, warning or error (default: info)")
      ->type_name("LEVEL")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->trigger_on_parse();
}

int report_usage(const CLI::App& app, const std::string& message) {
  const std::string who = let_first_rank_tell();
  std::string command = "riverhorse";
  for (const CLI::App* chosen : app.get_subcommands()) command += " " + chosen->get_name();
  std::fprintf(stderr, "riverhorse: %s%s\nRun \"%s --help\" for the options.\n", who.c_str(), message.c_str(),
               command.c_str());
  return exit_status(StatusCode::invalid_argument);
}

int report_error(const Error& error) {
  std::fprintf(stderr, "riverhorse: %s\n", error.what());
  return exit_status(error.code());
}

int run(int argc, char** argv) {
  point_log_at_stderr(LogLevel::info);
  install_interrupt_handler();

  CLI::App app("Runs H3 state-space language models on the CPU and on any Vulkan device.", "riverhorse");
  app.set_version_flag("--version", "riverhorse " RIVERHORSE_VERSION);
  app.require_subcommand(1);
  add_log_level_option(app);

  add_devices_command(app);
  add_info_command(app);
  add_convert_command(app);
  add_generate_command(app);
  add_forward_command(app);
  add_eval_command(app);
  add_tokenize_command(app);
  add_train_command(app);
  add_selftest_command(app);
  add_bench_command(app);
  add_plan_command(app);
  app.footer(examples);  // after the commands, which would take it over
  for (CLI::App* command : app.get_subcommands({})) add_log_level_option(*command);  // may stand behind it too

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and --version
    const std::vector<std::string> unknown = app.remaining();
    if (app.get_subcommands().empty() && !unknown.empty()) {
      return report_usage(app, "there is no command or option " + unknown.front());
    }
    return report_usage(app, error.what());
  } catch (const Error& error) {
    return report_error(error);
  } catch (const std::bad_alloc&) {
    return report_error(Error(StatusCode::out_of_memory, "out of memory"));
  } catch (const std::exception& error) {
    return report_error(Error(StatusCode::internal, std::string("internal error: ") + error.what()));
  }
  return std::fflush(stdout) == 0 ? 0 : report_error(Error(StatusCode::io_error, "cannot write to stdout"));
}

}  // namespace
}  // namespace riverhorse::cli

int main(int argc, char** argv) { return riverhorse::cli::run(argc, argv); }
