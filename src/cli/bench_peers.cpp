#include "cli/bench_peers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"

namespace riverhorse::cli {
namespace {

// A folder with the scripts, removed at the end.
class ScriptFolder {
 public:
  ScriptFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "riverhorse-peers-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) {
      fail(StatusCode::io_error, "{}: no temporary folder can be made for the scripts of --peers", pattern);
    }
    path_ = pattern;
    for (const auto& [name, text] : peer_scripts()) std::ofstream(path_ / name, std::ios::binary) << text;
  }
  ~ScriptFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScriptFolder(const ScriptFolder&) = delete;
  ScriptFolder& operator=(const ScriptFolder&) = delete;
  std::filesystem::path operator/(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

// As one word of a shell's command.
std::string quoted(const std::string& text) {
  std::string word = "'";
  for (const char character : text) word += character == '\'' ? std::string("'\\''") : std::string(1, character);
  return word + "'";
}

std::string last_line(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string last;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) last = line;
  }
  return last;
}

std::string script_arguments(const DeviceInfo& device, const BenchOptions& options,
                             const std::vector<BenchRow>& ours) {
  std::string arguments = fmt::format(" --dtype {}", dtype_name(options.dtype));
  if (options.seconds > 0) arguments += fmt::format(" --seconds {}", options.seconds);
  if (device.backend == BackendKind::cuda) arguments += fmt::format(" --device {}", device.index);
  if (options.what == "train") {
    return arguments + fmt::format(" --batch {} --tokens {}", options.batch, options.tokens);
  }
  arguments += fmt::format(" --benchmark {}", options.what);
  if (ours.front().convolution->state > 0) arguments += fmt::format(" --state {}", ours.front().convolution->state);
  std::vector<std::string> shapes;
  for (const BenchRow& row : ours) {
    const ConvolutionShape& shape = *row.convolution;
    const std::string text = fmt::format("{}x{}x{}", shape.batch, shape.tokens, shape.width);
    if (std::find(shapes.begin(), shapes.end(), text) == shapes.end()) shapes.push_back(text);
  }
  return arguments + fmt::format(" --shapes {}", fmt::join(shapes, " "));
}

BenchRow peer_row(const nlohmann::json& json) {
  static const std::map<std::string, DType> dtypes = {
      {"f32", DType::f32}, {"f16", DType::f16}, {"bf16", DType::bf16}};
  BenchRow row;
  row.implementation = json.at("implementation");
  row.name = json.at("name");
  row.dtype = dtypes.at(json.at("dtype"));
  row.skipped = json.value("skipped", "");
  row.shape = fmt::format("{} x {}", json.at("batch").get<std::int64_t>(), json.at("length").get<std::int64_t>());
  if (json.contains("width")) {
    row.convolution = {json.at("batch"), json.at("width"), json.at("length")};
    row.shape += fmt::format(", D {}", row.convolution->width);
    row.operation = json.at("operation");
    if (row.operation != "mixer") row.name += ", " + row.operation;
  }
  if (!row.skipped.empty()) return row;
  (row.convolution ? row.device_ms : row.wall_ms) = json.at("ms");
  row.repetitions = json.at("repetitions");
  row.bytes = json.value("bytes", 0.0);
  row.tokens = json.value("tokens", std::int64_t{0});
  if (json.contains("relative_error") && json["relative_error"].is_number())
    row.errors = {{row.name, json.at("relative_error")}};
  return row;
}

}  // namespace

std::vector<BenchRow> bench_peers(const DeviceInfo& device, const BenchOptions& options,
                                  const std::vector<BenchRow>& ours) {
  std::vector<BenchRow> rows;
  if (ours.empty() || interrupted()) return rows;
  const ScriptFolder folder;
  const char* script = options.what == "train" ? "gpt2_training.py" : "long_convolution.py";
  const std::filesystem::path complaints = folder / "complaints.txt";
  const std::string command = fmt::format("{} {}{} 2> {}", quoted(options.peers), quoted((folder / script).string()),
                                          script_arguments(device, options, ours), quoted(complaints.string()));
  log_debug("peers: " + command);
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) fail(StatusCode::io_error, "--peers {}: no shell can be started", options.peers);
  std::string line, why;
  for (int character = 0; (character = std::fgetc(pipe)) != EOF;) {
    if (character != '\n') {
      line += static_cast<char>(character);
      continue;
    }
    try {
      const nlohmann::json json = nlohmann::json::parse(line);
      if (json.contains("implementation")) {
        rows.push_back(peer_row(json));
      } else {
        why = json.at("skipped");
      }
    } catch (const std::exception& error) {
      log_warning(fmt::format("peers: {} wrote \"{}\", which is no row: {}", script, line, error.what()));
    }
    line.clear();
  }
  const int status = pclose(pipe);
  if (status != 0) why = fmt::format("{} failed: {}", script, last_line(complaints));
  if (!why.empty()) log_warning(fmt::format("{} of peers: {}", rows.empty() ? "no rows" : "not all rows", why));
  return rows;
}

}  // namespace riverhorse::cli
