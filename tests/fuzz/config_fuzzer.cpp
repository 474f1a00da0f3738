#include <string_view>

#include "bad_files/bad_files.h"
#include "bad_files/builders.h"
#include "base/error.h"
#include "fuzz/fuzz_target.h"
#include "model/checkpoint.h"

namespace test = riverhorse::test;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> warnings;
  try {
    const riverhorse::ModelConfig config = riverhorse::parse_model_config(json, "input", warnings);
    // What was accepted can be written, read back the same, and counted without overflow.
    const std::string written = riverhorse::model_config_json(config);
    if (riverhorse::model_config_json(riverhorse::parse_model_config(written, "written", warnings)) != written) {
      __builtin_trap();
    }
    if (riverhorse::parameter_count(config) <= 0) __builtin_trap();
  } catch (const riverhorse::Error&) {
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds = {test::small_config};
  for (const std::string& name : riverhorse::model_preset_names()) {
    seeds.push_back(riverhorse::model_config_json(*riverhorse::model_preset(name)));
  }
  for (const test::BadFile& file : test::bad_config_files()) {
    const std::string bytes = file.make();
    if (bytes.size() < 4096) seeds.push_back(bytes);
  }
  return seeds;
}
