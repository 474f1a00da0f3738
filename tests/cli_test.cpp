// The program's manners: help, usage errors, devices on machines that lack this and that, models on disk.
#include <filesystem>
#include <regex>
#include <set>

#include "cli_fixture.h"

namespace riverhorse {
namespace {

class Cli : public ProgramTest {
 protected:
  static std::string write_file(const std::string& name, const std::string& text) {
    const std::string path = temporary(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path) << text;
    return path;
  }

  static std::vector<std::string> command_names() {
    return {"devices", "info", "convert", "generate", "forward", "eval", "tokenize", "train", "selftest", "bench"};
  }

  // Why a backend is absent; empty when it is not.
  static std::string absence(const nlohmann::json& listing, const std::string& backend) {
    for (const auto& absent : listing["absent"]) {
      if (absent["backend"] == backend) return absent["reason"];
    }
    return "";
  }

  // The environment has no usable Vulkan device: the program starts, lists the cpu, says why, and works.
  static void expect_cpu_only(const ChildEnvironment& environment, const std::string& reason) {
    const ChildResult listing = run({"devices", "--json"}, environment);
    expect_success(listing);
    ASSERT_EQ(listing.json()["devices"].size(), 1u) << listing.out;
    EXPECT_EQ(listing.json()["devices"][0]["id"], "cpu:0");
    EXPECT_TRUE(listing.json()["devices"][0]["default"]);
    EXPECT_EQ(listing.json()["devices"][0]["low_priority"], false);
    EXPECT_NE(absence(listing.json(), "vulkan").find(reason), std::string::npos)
        << "the reason should name \"" << reason << "\": " << listing.out;

    const ChildResult table = run({"devices"}, environment);
    expect_success(table);
    EXPECT_NE(table.out.find(absence(listing.json(), "vulkan")), std::string::npos) << table.out;

    const ChildResult refused = run({"selftest", "--backend", "vulkan"}, environment);
    expect_failure(refused, 1, reason);
    expect_success(run({"selftest", "--backend", "auto", "--seconds", "0.1"}, environment));
  }
};

// ------------------------------------------------------------------------------------------------------ usage

TEST_F(Cli, PrintsItsVersion) {
  const ChildResult result = run({"--version"});
  expect_success(result);
  EXPECT_TRUE(std::regex_match(result.out, std::regex("riverhorse [0-9]+\\.[0-9]+\\.[0-9]+\n"))) << result.out;
}

TEST_F(Cli, HelpNamesEveryCommandAndHasExamples) {
  const ChildResult help = run({"--help"});
  expect_success(help);
  EXPECT_EQ(help.err, "");
  for (const std::string& name : command_names()) {
    EXPECT_NE(help.out.find("\n  " + name + " "), std::string::npos) << name << " is not in:\n" << help.out;
    const ChildResult command_help = run({name, "--help"});
    expect_success(command_help);
    EXPECT_NE(command_help.out.find("--log-level"), std::string::npos)
        << name << " --help does not tell of the options that all commands share:\n"
        << command_help.out;
  }
  EXPECT_NE(help.out.find("Examples:"), std::string::npos);
  EXPECT_NE(help.out.find("riverhorse generate --model"), std::string::npos);
}

TEST_F(Cli, BadUsageIsStatus2) {
  expect_failure(run({}), 2, "subcommand");
  expect_failure(run({"fly"}), 2, "fly");
  expect_failure(run({"devices", "--fast"}), 2, "--fast");
  expect_failure(run({"devices", "extra"}), 2, "extra");
  expect_failure(run({"selftest", "--backend", "teapot"}), 2, "teapot");
  expect_failure(run({"selftest", "--seconds", "-1"}), 2, "--seconds");
  expect_failure(run({"generate", "--prompt", "x"}), 2, "--model");
  expect_failure(run({"forward", "--model", "x"}), 2, "--");
  expect_failure(run({"convert", "--input", "x"}), 2, "--output");
  expect_failure(run({"bench"}), 2, "what");
  expect_failure(run({"bench", "everything"}), 2, "everything");
  expect_failure(run({"bench", "decode", "--dtype", "f64"}), 2, "f64");
  expect_failure(run({"bench", "decode", "--conv", "slow"}), 2, "slow");
  expect_failure(run({"bench", "decode", "--tune", "twice"}), 2, "twice");
  expect_failure(run({"bench", "prefill", "--batch", "2"}), 2, "--batch");
  expect_failure(run({"bench", "decode", "--preset", "9000b", "--backend", "cpu"}), 2, "9000b");
  expect_failure(run({"devices", "--log-level", "loud"}), 2, "loud");
  // ... and the message says where the options are explained.
  EXPECT_NE(run({"devices", "--fast"}).err.find("riverhorse devices --help"), std::string::npos);
}

TEST_F(Cli, FailuresAreStatus1) {
  expect_failure(run({"info", "--model", "/no/such/model"}), 1, "/no/such/model");
  expect_failure(run({"generate", "--model", "/no/such/model", "--prompt", "x"}), 1, "/no/such/model");
  const std::string damaged = write_file("damaged.safetensors", "this is no such file");
  expect_failure(run({"generate", "--model", damaged, "--config", golden_folder + "/lm/h3-pure/config.json",
                      "--prompt-ids", "1"}),
                 1, damaged);
  expect_failure(run({"selftest", "--device", "a device that nobody has"}), 1, "a device that nobody has");
  expect_failure(run({"bench", "ops", "--filter", "no such case", "--backend", "cpu"}), 2, "no such case");
}

TEST_F(Cli, LogLevelChoosesTheMessages) {
  // An unknown field in a configuration is a warning by name; stdout stays clean.
  std::string config = read_whole_file(golden_folder + "/lm/h3-pure/config.json");
  config.replace(config.find('{'), 1, "{\"field_from_the_future\": 1,");
  const std::string path = write_file("log/config.json", config);
  const std::vector<std::string> info = {"info", "--model", golden_folder + "/lm/h3-pure/model.pt", "--config", path};
  const ChildResult usual = run(info);
  expect_success(usual);
  EXPECT_NE(usual.err.find("riverhorse: warning:"), std::string::npos) << usual.err;
  EXPECT_NE(usual.err.find("field_from_the_future"), std::string::npos) << usual.err;
  EXPECT_EQ(run(joined(info, {"--log-level", "error"})).err, "");
  EXPECT_NE(run(joined({"--log-level", "debug"}, info)).err.find("field_from_the_future"), std::string::npos);
}

// ---------------------------------------------------------------------------------------------------- devices

TEST_F(Cli, DevicesListsEveryBackend) {
  const ChildResult result = run({"devices", "--json"});
  expect_success(result);
  const nlohmann::json listing = result.json();
  std::set<std::string> backends;
  int defaults = 0;
  for (const auto& device : listing["devices"]) {
    backends.insert(device["backend"].get<std::string>());
    for (const char* field : {"id", "name", "type", "driver", "api", "uuid"}) EXPECT_TRUE(device[field].is_string());
    EXPECT_GT(device["memory_total_bytes"].get<std::uint64_t>(), 0u);
    EXPECT_LE(device["memory_free_bytes"].get<std::uint64_t>(), device["memory_total_bytes"].get<std::uint64_t>());
    EXPECT_TRUE(device["index"].is_number());
    defaults += device["default"].get<bool>() ? 1 : 0;
  }
  EXPECT_EQ(defaults, 1);
  for (const auto& absent : listing["absent"]) {
    EXPECT_GT(absent["reason"].get<std::string>().size(), 20u) << absent;
    backends.insert(absent["backend"].get<std::string>());
  }
  EXPECT_EQ(backends, (std::set<std::string>{"cpu", "cuda", "vulkan"})) << "each is there, or absent for a reason";

  const ChildResult table = run({"devices"});
  expect_success(table);
  for (const auto& device : listing["devices"]) {
    EXPECT_NE(table.out.find(device["name"].get<std::string>()), std::string::npos) << table.out;
  }
}

TEST_F(Cli, StartsWithoutACudaDriver) {
  // A file that is no library stands before every libcuda there may be.
  const std::string folder = std::filesystem::path(write_file("no_cuda/libcuda.so.1", "not a library")).parent_path();
  const ChildResult result = run({"devices", "--json"}, {{"LD_LIBRARY_PATH", folder}});
  expect_success(result);
  EXPECT_NE(absence(result.json(), "cuda").find("libcuda.so.1"), std::string::npos) << result.out;
  expect_failure(run({"selftest", "--backend", "cuda"}, {{"LD_LIBRARY_PATH", folder}}), 1, "cuda");
}

TEST_F(Cli, StartsWithoutAVulkanLoader) {
  write_file("no_loader/libvulkan.so", "not a library");
  const std::string folder =
      std::filesystem::path(write_file("no_loader/libvulkan.so.1", "not a library")).parent_path();
  expect_cpu_only({{"LD_LIBRARY_PATH", folder}}, "libvulkan.so.1");
}

ChildEnvironment with_driver_file(const std::string& path) {
  return {{"VK_DRIVER_FILES", path}, {"VK_ICD_FILENAMES", path}};
}

TEST_F(Cli, StartsWithoutAVulkanDriver) { expect_cpu_only(with_driver_file("/no/such/icd.json"), "driver"); }

TEST_F(Cli, StartsWithABrokenVulkanDriver) {
  const std::string not_json = write_file("icd/not_json.json", "{ \"file_format_version\": ");
  expect_cpu_only(with_driver_file(not_json), "driver");

  const auto icd = [&](const std::string& name, const std::string& library) {
    return write_file("icd/" + name, "{\"file_format_version\": \"1.0.0\", \"ICD\": {\"library_path\": \"" + library +
                                         "\", \"api_version\": \"1.1.0\"}}");
  };
  expect_cpu_only(with_driver_file(icd("missing.json", "/no/such/driver.so")), "driver");
  // A file that is no library, and a library that is no driver.
  const std::string garbage = write_file("icd/garbage.so",
                                         "\x7f"
                                         "ELF and then nothing");
  expect_cpu_only(with_driver_file(icd("garbage.json", garbage)), "driver");
  expect_cpu_only(with_driver_file(icd("libm.json", "libm.so.6")), "driver");
}

// --------------------------------------------------------------------------------------------- models on disk

TEST_F(Cli, InfoDescribesAModel) {
  const std::string model = golden_folder + "/lm/h3-hybrid/model.pt";
  const ChildResult json = run({"info", "--model", model, "--json", "--check-finite"});
  expect_success(json);
  EXPECT_EQ(json.json()["config"]["n_embd"], 48);
  EXPECT_EQ(json.json()["problem"], nullptr);
  EXPECT_GT(json.json()["parameters"].size(), 40u);
  EXPECT_EQ(json.json()["memory"].size(), 3u);
  const ChildResult text = run({"info", "-m", model});
  expect_success(text);
  EXPECT_NE(text.out.find("backbone.layers.0.mixer"), std::string::npos);
  const ChildResult preset = run({"info", "--preset", "125m"});
  expect_success(preset);
  EXPECT_NE(preset.out.find("126387456 parameters"), std::string::npos) << preset.out;
  expect_failure(run({"info"}), 2, "--model");
}

TEST_F(Cli, ConvertWritesAModelFolder) {
  const std::string folder = temporary("converted");
  const ChildResult result =
      run({"convert", "--input", golden_folder + "/lm/h3-hybrid/model_old_lightning.pt", "--config",
           golden_folder + "/lm/h3-hybrid/config.json", "--output", folder, "--dtype", "f16", "--check-finite"});
  expect_success(result);
  EXPECT_TRUE(std::filesystem::exists(folder + "/config.json"));
  EXPECT_TRUE(std::filesystem::exists(folder + "/model.safetensors"));
  expect_success(run({"info", "--model", folder}));
  expect_failure(
      run({"convert", "-i", golden_folder + "/lm/h3-hybrid/model.pt", "--preset", "125m", "-o", temporary("wrong")}),
      1, "model.pt");
}

// ------------------------------------------------------------------------------------------------ doors tried

TEST_F(Cli, EveryFlagIsInATest) {
  std::string tests;
  for (const auto& entry : std::filesystem::directory_iterator(RIVERHORSE_SOURCE_DIR "/tests")) {
    const std::string name = entry.path().filename().string();
    if (name.find("cli") != std::string::npos && name.ends_with("_test.cpp")) {
      tests += read_whole_file(entry.path().string());
    }
  }
  std::set<std::string> flags;
  for (const std::string& name : command_names()) {
    const std::string help = run({name, "--help"}).out;
    const std::regex flag("(--[a-z][a-z0-9-]+)");
    for (std::sregex_iterator it(help.begin(), help.end(), flag), end; it != end; ++it) flags.insert((*it)[1]);
  }
  EXPECT_GT(flags.size(), 30u);
  for (const std::string& flag : flags) {
    const std::regex use("[\" ]" + flag + "[\" ]");  // in a list of arguments, or among words("...")
    EXPECT_TRUE(std::regex_search(tests, use)) << flag << " is not used in any test";
  }
}

}  // namespace
}  // namespace riverhorse
