// Runs the built program as a child, as a user would, and gives what it wrote and how it ended.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace riverhorse {

inline std::string read_whole_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

struct ChildResult {
  int status = -1;  // exit status; 128 + n when signal n ended it
  std::string out, err;

  nlohmann::json json() const { return nlohmann::json::parse(out); }
};

// Variables to set; an empty optional removes one.
using ChildEnvironment = std::map<std::string, std::optional<std::string>>;

class ProgramTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::filesystem::path(testing::TempDir()) / ("riverhorse_cli_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  static void TearDownTestSuite() { std::filesystem::remove_all(folder_); }

  // A path in a folder of this program's own, which is removed at the end.
  static std::string temporary(const std::string& name) { return (folder_ / name).string(); }

  // `interrupt_after`: sends Ctrl-C once stdout has so many bytes.
  static ChildResult run(const std::vector<std::string>& arguments, const ChildEnvironment& environment = {},
                         std::optional<std::size_t> interrupt_after = {}) {
    return run_command(joined({RIVERHORSE_PROGRAM}, arguments), environment, interrupt_after);
  }
  // The same of any program: `command` is its name, or path, and its arguments.
  static ChildResult run_command(const std::vector<std::string>& command, const ChildEnvironment& environment = {},
                                 std::optional<std::size_t> interrupt_after = {}) {
    static int calls = 0;
    const std::string stem = temporary("child_" + std::to_string(calls++));
    const pid_t child = fork();
    if (child == 0) {
      redirect(stem + ".out", STDOUT_FILENO);
      redirect(stem + ".err", STDERR_FILENO);
      setenv("XDG_CACHE_HOME", (folder_ / "cache").c_str(), 1);  // shared by the tests, never the user's
      for (const auto& [name, value] : environment) {
        value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
      }
      std::vector<char*> argv;
      for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
      argv.push_back(nullptr);
      execvp(argv[0], argv.data());
      _exit(127);
    }
    if (interrupt_after) {
      for (int i = 0; i < 6000 && read_whole_file(stem + ".out").size() < *interrupt_after; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      kill(child, SIGINT);
    }
    int status = 0;
    waitpid(child, &status, 0);
    ChildResult result;
    result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    result.out = read_whole_file(stem + ".out");
    result.err = read_whole_file(stem + ".err");
    return result;
  }

  static void expect_success(const ChildResult& result) {
    EXPECT_EQ(result.status, 0) << "stdout: " << result.out << "\nstderr: " << result.err;
  }

  // Failed with this status, said why in one line that has `part` in it, and printed no result.
  static void expect_failure(const ChildResult& result, int status, const std::string& part) {
    EXPECT_EQ(result.status, status) << "stdout: " << result.out << "\nstderr: " << result.err;
    EXPECT_NE(result.err.find("riverhorse: "), std::string::npos) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << "stderr should name \"" << part << "\": " << result.err;
    EXPECT_EQ(result.out, "");
  }

  // Every word is an argument.
  static std::vector<std::string> words(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> result;
    for (std::string word; stream >> word;) result.push_back(word);
    return result;
  }

  static std::vector<std::string> joined(std::vector<std::string> first, const std::vector<std::string>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  }

  // The backends to try on this machine: cpu, and vulkan where there is a device of it.
  static std::vector<std::string> backends() {
    std::vector<std::string> result = {"cpu"};
    const nlohmann::json listing = run({"devices", "--json"}).json();
    for (const auto& device : listing["devices"]) {
      if (device["backend"] == "vulkan" && result.size() == 1) result.push_back("vulkan");
    }
    if (result.size() == 1) std::printf("vulkan is not tried: %s\n", listing["absent"].dump().c_str());
    return result;
  }

 private:
  static void redirect(const std::string& path, int descriptor) {
    const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    dup2(file, descriptor);
    close(file);
  }

  static inline std::filesystem::path folder_;
};

inline const std::string golden_folder = RIVERHORSE_TEST_DATA;

}  // namespace riverhorse
