// riverhorse train on the cpu, as a user calls it.
#pragma once

#include "cli_fixture.h"
#include "formats/tensor_file.h"

namespace riverhorse {

class TrainCli : public ProgramTest {
 protected:
  // Bytes of a repeated line, as the presets' byte vocabulary has them.
  static std::string tokens_file(const std::string& name, int repetitions, std::int64_t odd_one = 'x') {
    std::vector<std::int64_t> tokens;
    for (int i = 0; i < repetitions; ++i) {
      for (const char letter : std::string("A river horse swims at night and sleeps by day.\n"))
        tokens.push_back(letter);
    }
    tokens.push_back(odd_one);
    const std::string path = temporary(name);
    const auto count = static_cast<std::int64_t>(tokens.size());
    write_safetensors(path, {{"tokens", make_host_tensor(std::span<const std::int64_t>(tokens), {count})}}, {});
    return path;
  }

  static std::string write_file(const std::string& name, const std::string& text) {
    const std::string path = temporary(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  static ChildResult train(const std::string& more, std::optional<std::size_t> interrupt_after = {}) {
    return run(joined({"train", "--backend", "cpu"}, words(more)), {{"OMP_NUM_THREADS", "1"}}, interrupt_after);
  }
  static std::string small(const std::string& data, const std::string& output) {
    return "--data " + data + " --output " + output + " --batch 2 --length 24 --learning-rate 5e-3 ";
  }
  // The log, without what differs between two runs of the same.
  static std::vector<nlohmann::json> rows(const std::string& folder) {
    std::vector<nlohmann::json> rows;
    std::ifstream file(folder + "/train.jsonl");
    for (std::string line; std::getline(file, line);) {
      rows.push_back(nlohmann::json::parse(line));
      for (const char* clock : {"tokens_per_second", "mfu", "memory_bytes", "seconds_left"}) rows.back().erase(clock);
    }
    return rows;
  }
};

}  // namespace riverhorse
