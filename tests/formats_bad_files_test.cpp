// Every bad file of the corpus gives one clear error: it names the file and says what is wrong. No crash, no large
// allocation, no long wait, nothing executed.
#include <gtest/gtest.h>

#include <chrono>
#include <ostream>
#include <set>

#include "bad_files/allocation_meter.h"
#include "bad_files/bad_files.h"
#include "bad_files/builders.h"
#include "bad_files/temporary_folder.h"
#include "base/error.h"
#include "model/checkpoint.h"

namespace riverhorse::test {

void PrintTo(const BadFile& file, std::ostream* out) { *out << file.name; }

namespace {

// The limits of the readers (opcodes, objects, budget of unpacked bytes) are chosen to stay below this.
constexpr std::size_t allocation_limit_bytes = std::size_t{48} << 20;
constexpr double time_limit_seconds = 5.0;  // some tens of milliseconds are usual; sanitizers cost a factor of ten

struct Outcome {
  std::string message;  // empty: it loaded
  StatusCode code = StatusCode::ok;
  std::size_t peak_bytes = 0;
  double seconds = 0;
};

Outcome load(const std::filesystem::path& path, bool check_finite) {
  Outcome outcome;
  CheckpointOptions options;
  options.check_finite = check_finite;
  reset_allocation_peak();
  const auto start = std::chrono::steady_clock::now();
  try {
    load_checkpoint(path, options);
  } catch (const Error& error) {
    outcome.message = error.what();
    outcome.code = error.code();
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.peak_bytes = allocation_peak_bytes();
  return outcome;
}

// Writes a model folder with the bad bytes in their place; returns what to load and which file is at fault.
struct Model {
  std::filesystem::path path;
  std::string culprit;
};
Model write_model(const ScratchFolder& folder, const BadFile& file) {
  const std::string bytes = file.make();
  if (file.kind == FileKind::config) {
    folder.write("model.safetensors", safetensors_bytes(small_tensors()));
    folder.write("config.json", bytes);
    return {folder.path(), "config.json"};
  }
  const std::string name = file.kind == FileKind::pytorch ? "model.pt" : "model.safetensors";
  folder.write("config.json", small_config);
  return {folder.write(name, bytes), name};
}

class BadFiles : public testing::TestWithParam<BadFile> {};

TEST_P(BadFiles, GivesOneClearError) {
  const BadFile& file = GetParam();
  const ScratchFolder folder;
  const Model model = write_model(folder, file);
  const Outcome outcome = load(model.path, file.check_finite);
  ASSERT_NE(outcome.message, "") << "it loaded";
  EXPECT_EQ(outcome.code, StatusCode::bad_file) << outcome.message;
  EXPECT_NE(outcome.message.find(model.culprit), std::string::npos) << outcome.message;
  for (const std::string& part : file.expected) {
    EXPECT_NE(outcome.message.find(part), std::string::npos) << "no \"" << part << "\" in: " << outcome.message;
  }
  EXPECT_EQ(outcome.message.find('\n'), std::string::npos) << outcome.message;
  EXPECT_LT(outcome.message.size(), 2000u) << outcome.message;
  EXPECT_LT(outcome.peak_bytes, allocation_limit_bytes);
  EXPECT_LT(outcome.seconds, time_limit_seconds);
  EXPECT_FALSE(std::filesystem::exists("/tmp/riverhorse-was-here")) << "a pickle ran a command";
}

std::string test_name(const testing::TestParamInfo<BadFile>& info) {
  std::string name = fmt::format("{:03}_", info.index);
  for (const char c : info.param.name) name += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Corpus, BadFiles, testing::ValuesIn(all_bad_files()), test_name);

TEST(BadFileCorpus, HasSixtyDifferentFiles) {
  std::set<std::string> names;
  for (const BadFile& file : all_bad_files()) {
    EXPECT_TRUE(names.insert(std::to_string(static_cast<int>(file.kind)) + file.name).second) << file.name;
  }
  EXPECT_GE(names.size(), 60u);
}

TEST(BadFileCorpus, TheSmallModelItselfIsGood) {
  const ScratchFolder folder;
  folder.write("config.json", small_config);
  for (const bool deflate : {false, true}) {
    const auto path = folder.write("model.pt", torch_bytes(small_tensors(), deflate));
    EXPECT_EQ(load(path, true).message, "");
  }
  EXPECT_EQ(load(folder.write("model.safetensors", safetensors_bytes(small_tensors())), true).message, "");
}

TEST(BadFileCorpus, NotFiniteWeightsLoadUnlessAskedFor) {
  for (const BadFile& file : bad_checkpoint_files()) {
    if (!file.check_finite) continue;
    const ScratchFolder folder;
    EXPECT_EQ(load(write_model(folder, file).path, false).message, "") << file.name;
  }
}

// Every prefix of a small file, so that each read of each reader meets the end of the file once.
TEST(BadFileCorpus, EveryTruncationIsAnError) {
  std::map<std::string, HostTensor> tensors;
  tensors["a"] = make_host_tensor(std::vector<float>{1, 2, 3, 4}, {2, 2});
  tensors["b"] = make_host_tensor(std::vector<float>{5}, {1});
  for (const bool pytorch : {false, true}) {
    const std::string whole = pytorch ? torch_bytes(tensors) : safetensors_bytes(tensors);
    for (std::size_t size = 0; size < whole.size(); ++size) {
      // A copy of exactly this size, so that a sanitizer sees any read beyond it.
      const std::vector<char> part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      const auto bytes = std::as_bytes(std::span(part));
      EXPECT_THROW(pytorch ? parse_pytorch(bytes, nullptr, "cut") : parse_safetensors(bytes, nullptr, "cut"), Error)
          << size << " of " << whole.size() << " bytes";
    }
  }
}

}  // namespace
}  // namespace riverhorse::test
