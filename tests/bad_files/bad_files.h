// The corpus of bad files: what is wrong, how the bytes are made, and what the error must say.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace riverhorse::test {

enum class FileKind {
  safetensors,  // the bytes of a model.safetensors, loaded with small_config
  pytorch,      // the same for a model.pt
  config,       // the bytes of a config.json, beside good weights
};

struct BadFile {
  std::string name;
  FileKind kind = FileKind::safetensors;
  std::function<std::string()> make;
  std::vector<std::string> expected;  // parts of the message, beside the file's name
  bool check_finite = false;
};

std::vector<BadFile> bad_safetensors_files();
std::vector<BadFile> bad_pickle_files();
std::vector<BadFile> bad_zip_files();
std::vector<BadFile> bad_checkpoint_files();
std::vector<BadFile> bad_config_files();
std::vector<BadFile> all_bad_files();

}  // namespace riverhorse::test
