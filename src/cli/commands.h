// The subcommands of the program, one file each. An add_ function declares the options of its command and a
// callback that runs it; the callback throws Error on failure (main turns it into one line and an exit status),
// writes results to stdout and everything meant for people to stderr or the log.
#pragma once

namespace CLI {
class App;
}

namespace riverhorse::cli {

void add_devices_command(CLI::App& app);
void add_info_command(CLI::App& app);
void add_convert_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_forward_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_tokenize_command(CLI::App& app);
void add_train_command(CLI::App& app);
void add_selftest_command(CLI::App& app);
void add_bench_command(CLI::App& app);
void add_plan_command(CLI::App& app);

}  // namespace riverhorse::cli
