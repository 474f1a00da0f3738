// riverhorse selftest: compares a device with the cpu backend on a quick set of operations.
#include "engine/selftest.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace riverhorse::cli {
namespace {

struct SelfTestOptions {
  DeviceChoiceOptions device;
  double seconds = 2.0;
  bool json = false;
};

nlohmann::ordered_json number_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

void print_json(const DeviceInfo& info, const SelfTestReport& report) {
  nlohmann::ordered_json cases = nlohmann::ordered_json::array();
  for (const SelfTestCase& result : report.cases) {
    cases.push_back({{"case", result.name},
                     {"result", !result.supported ? "unsupported"
                                : result.passed   ? "passed"
                                                  : "failed"},
                     {"error", number_or_null(result.error)},
                     {"tolerance", result.tolerance},
                     {"message", result.message}});
  }
  const nlohmann::ordered_json root = {
      {"device", info.id()},       {"name", info.name},         {"driver", info.driver}, {"passed", report.passed()},
      {"seconds", report.seconds}, {"untried", report.untried}, {"cases", cases}};
  fmt::print("{}\n", root.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

// One line an operation and dtype: how many cases passed and the worst error against its tolerance.
void print_table(const DeviceInfo& info, const SelfTestReport& report) {
  struct Row {
    int passed = 0, failed = 0, unsupported = 0;
    double worst_share = -1.0, error = 0.0, tolerance = 0.0;
    std::string lacking;
  };
  std::map<std::string, Row> rows;
  for (const SelfTestCase& result : report.cases) {
    const std::size_t first = result.name.find('.'), last = result.name.rfind('.');
    Row& row = rows[result.name.substr(0, first) + " " + result.name.substr(last + 1)];
    if (!result.supported) {
      ++row.unsupported;
      row.lacking = result.message;
      continue;
    }
    ++(result.passed ? row.passed : row.failed);
    const double share = result.tolerance > 0 ? result.error / result.tolerance : result.error;
    if (share > row.worst_share) {
      row.worst_share = share;
      row.error = result.error;
      row.tolerance = result.tolerance;
    }
  }
  fmt::print("{}  {}  {}\n", info.id(), info.name, info.driver);
  for (const auto& [name, row] : rows) {
    if (row.passed + row.failed == 0) {
      fmt::print("  {:<20} not supported: {}\n", name, row.lacking);
    } else {
      fmt::print("  {:<20} {}  {:2} of {:2}  worst error {:.1e} (tolerance {:.1e})\n", name,
                 row.failed == 0 ? "ok  " : "FAIL", row.passed, row.passed + row.failed, row.error, row.tolerance);
    }
  }
  for (const SelfTestCase& result : report.cases) {
    if (result.supported && !result.passed) fmt::print("  {}\n", result.message);
  }
  fmt::print("{}: {} cases passed in {:.1f} s{}\n", report.passed() ? "passed" : "FAILED", report.passed_count(),
             report.seconds, report.untried > 0 ? fmt::format(", {} not tried for time", report.untried) : "");
}

void run(const SelfTestOptions& options) {
  DeviceChoiceOptions choice = options.device;
  choice.no_selftest = true;  // it is what follows
  const std::shared_ptr<Device> device = open_chosen_device(choice);
  const SelfTestReport report = run_self_test(*device, options.seconds);
  options.json ? print_json(device->info(), report) : print_table(device->info(), report);
  if (!report.passed()) {
    fail(StatusCode::unsupported, "{} ({}) failed the self test: {}", device->info().id(), device->info().name,
         report.first_failure());
  }
}

}  // namespace

void add_selftest_command(CLI::App& app) {
  auto options = std::make_shared<SelfTestOptions>();
  CLI::App* command = app.add_subcommand("selftest", "Compare a device with the cpu backend, operation by operation");
  add_device_options(*command, options->device);
  command->add_option("--seconds", options->seconds, "Start no further case after this time (default: 2)")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { run(*options); });
}

}  // namespace riverhorse::cli
