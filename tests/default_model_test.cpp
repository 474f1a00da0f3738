// The model that ships says the same on every device: its greedy text is the one that training wrote down on the cpu.
#include "data/tokenizer.h"
#include "engine_fixture.h"

namespace riverhorse::test {
namespace {

const std::string folder = RIVERHORSE_SOURCE_DIR "/samples/models/default";

class DefaultModel : public OnDevice {};

TEST_P(DefaultModel, GreedyText) {
  Checkpoint checkpoint = load_checkpoint(folder, {});
  const auto tokenizer = find_tokenizer(folder, checkpoint.config.vocab_size);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), checkpoint.config.vocab_size);
  EXPECT_EQ(tokenizer->end_of_text(), checkpoint.config.eos_token_id);

  const nlohmann::json greedy = nlohmann::json::parse(std::ifstream(folder + "/greedy.json"));
  const auto expected = greedy.at("greedy_ids").get<std::vector<std::int32_t>>();
  ASSERT_GE(expected.size(), 32u);
  Engine engine(device_, std::move(checkpoint), {});
  const auto session = engine.create_session();
  session->append(tokenizer->encode(greedy.at("prompt").get<std::string>(), false));
  std::vector<std::int32_t> ids;
  while (ids.size() < expected.size()) ids.push_back(session->step());
  EXPECT_EQ(ids, expected) << tokenizer->decode(ids) << "\ninstead of\n" << tokenizer->decode(expected);
}

TEST(DefaultModelFolder, IsSmallEnoughToShip) {
  std::uintmax_t bytes = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) bytes += entry.file_size();
  EXPECT_LE(bytes, 24'000'000u);
}

RIVERHORSE_ON_EVERY_DEVICE(DefaultModel);

}  // namespace
}  // namespace riverhorse::test
