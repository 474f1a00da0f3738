// What an engine chooses for `--conv auto`: measured once, kept in the cache folder, taken from there the next time;
// and nothing depends on it but the time.
#include <unistd.h>

#include <filesystem>

#include "engine_fixture.h"
#include "model/initialization.h"

namespace riverhorse::test {
namespace {

class ConvChoice : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    folder_ = std::filesystem::path(testing::TempDir()) / ("conv_choice_test_" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
  }
  void TearDown() override {
    OnDevice::TearDown();
    std::filesystem::remove_all(folder_);
  }

  Engine engine(std::int64_t piece_tokens = 64) const {
    ModelConfig config;
    config.n_embd = 8;
    config.n_layer = 2;
    config.ssm_d_state = 8;
    config.vocab_size = 32;
    config.pad_vocab_size_multiple = 1;
    config.initializer_range = 0.3;  // large enough that the mixers matter
    EngineOptions options;
    options.max_sessions = 1;
    options.prefill_piece_tokens = piece_tokens;
    options.cache_folder = folder_.string();
    return {device_, random_checkpoint(config, 7), options};
  }

  std::vector<std::filesystem::path> entries() const {
    std::vector<std::filesystem::path> paths;
    if (!std::filesystem::exists(folder_)) return paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) paths.push_back(entry.path());
    return paths;
  }
  // As if the device had been measured so.
  void write(const std::filesystem::path& path, double chunked_ms, double fft_ms) const {
    nlohmann::json json = nlohmann::json::parse(std::ifstream(path));
    json["chunked_ms"] = chunked_ms;
    json["fft_ms"] = fft_ms;
    std::ofstream(path) << json;
  }

  std::filesystem::path folder_;
};

TEST_P(ConvChoice, IsMeasuredOnceAndKept) {
  Engine first = engine();
  if (device_->info().backend != BackendKind::cuda) {
    EXPECT_EQ(first.options().conv, ConvAlgorithm::automatic);
    EXPECT_TRUE(entries().empty());
    return;
  }
  EXPECT_NE(first.options().conv, ConvAlgorithm::automatic);
  ASSERT_EQ(entries().size(), 1u);
  const std::filesystem::path entry = entries().front();
  EXPECT_GT(nlohmann::json::parse(std::ifstream(entry)).at("fft_ms").get<double>(), 0.0);

  const std::vector<std::int32_t> ids = {1, 5, 2, 9, 30, 4, 4, 17, 8, 3, 1, 11};
  std::vector<std::vector<float>> logits;
  for (const ConvAlgorithm way : {ConvAlgorithm::chunked, ConvAlgorithm::fft}) {
    const bool fft = way == ConvAlgorithm::fft;
    write(entry, fft ? 2.0 : 1.0, fft ? 1.0 : 2.0);
    Engine again = engine();
    EXPECT_EQ(again.options().conv, way);
    logits.push_back(all_logits(again, ids, 1, static_cast<std::int64_t>(ids.size())));
  }
  EXPECT_LT(relative_error(logits[1], logits[0]), 1e-5);
  EXPECT_NE(logits[1], logits[0]) << "both engines went the same way";

  engine(128);  // another length, another entry
  EXPECT_EQ(entries().size(), 2u);
  std::ofstream(entry) << "{\"key\": 1";  // damaged: measured again
  engine();
  EXPECT_GT(nlohmann::json::parse(std::ifstream(entry)).at("chunked_ms").get<double>(), 0.0);
}

RIVERHORSE_ON_EVERY_DEVICE(ConvChoice);

}  // namespace
}  // namespace riverhorse::test
