// Event files for TensorBoard, read back byte by byte; and the count of operations behind MFU.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "train/training_flops.h"
#include "trainer_fixture.h"

namespace riverhorse::test {
namespace {

std::uint32_t crc_of(const std::string& text) { return crc32c(std::as_bytes(std::span(text))); }

TEST(Crc32cTest, KnownVectors) {
  EXPECT_EQ(crc_of(""), 0u);
  EXPECT_EQ(crc_of("123456789"), 0xE3069283u);
  // RFC 3720, B.4.
  EXPECT_EQ(crc_of(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc_of(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string rising;
  for (char i = 0; i < 32; ++i) rising += i;
  EXPECT_EQ(crc_of(rising), 0x46DD794Eu);
}

// What one can know of an event without its schema: fields in order, as (number, value).
struct Field {
  std::uint64_t number = 0;
  std::uint64_t integer = 0;  // of varint and fixed fields: the bits
  std::string bytes;
};

template <typename Number>
Number take(std::string& text) {
  Number value{};
  EXPECT_GE(text.size(), sizeof value);
  std::memcpy(&value, text.data(), sizeof value);
  text.erase(0, sizeof value);
  return value;
}

std::uint64_t take_varint(std::string& text) {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = take<std::uint8_t>(text);
    value |= std::uint64_t{byte & 127u} << shift;
    if (byte < 128) break;
  }
  return value;
}

std::vector<Field> fields_of(std::string text) {
  std::vector<Field> fields;
  while (!text.empty()) {
    const std::uint64_t key = take_varint(text);
    Field field{key >> 3, 0, {}};
    switch (key & 7) {
      case 0: field.integer = take_varint(text); break;
      case 1: field.integer = take<std::uint64_t>(text); break;
      case 5: field.integer = take<std::uint32_t>(text); break;
      case 2: {
        const std::uint64_t length = take_varint(text);
        field.bytes = text.substr(0, length);
        text.erase(0, length);
        break;
      }
      default: ADD_FAILURE() << "wire type " << (key & 7); return fields;
    }
    fields.push_back(field);
  }
  return fields;
}

// The Event messages of a file, every CRC checked.
std::vector<std::vector<Field>> events_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto expect_crc = [&](const std::string& bytes, std::uint32_t masked) {
    const std::uint32_t crc = masked - 0xA282EAD8u;
    EXPECT_EQ((crc << 15) | (crc >> 17), crc_of(bytes));
  };
  std::vector<std::vector<Field>> events;
  while (!text.empty()) {
    const std::string length_bytes = text.substr(0, 8);
    const auto length = take<std::uint64_t>(text);
    expect_crc(length_bytes, take<std::uint32_t>(text));
    const std::string event = text.substr(0, length);
    text.erase(0, length);
    expect_crc(event, take<std::uint32_t>(text));
    events.push_back(fields_of(event));
  }
  return events;
}

std::map<std::string, float> scalars_of(const std::vector<Field>& event) {
  std::map<std::string, float> scalars;
  EXPECT_EQ(event.at(2).number, 5u) << "a summary";
  for (const Field& value : fields_of(event.at(2).bytes)) {
    EXPECT_EQ(value.number, 1u);
    const std::vector<Field> parts = fields_of(value.bytes);
    EXPECT_EQ(parts.at(0).number, 1u);
    EXPECT_EQ(parts.at(1).number, 2u);
    const auto bits = static_cast<std::uint32_t>(parts.at(1).integer);
    std::memcpy(&scalars[parts.at(0).bytes], &bits, sizeof bits);
  }
  return scalars;
}

std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

TEST(TensorboardTest, EventsReadBack) {
  const TemporaryFolder folder;
  {
    TrainingLog log(folder / "", 0, true);
    StepReport report;
    report.step = 200;  // two bytes of a varint
    report.loss = 2.5;
    report.learning_rate = 1e-3;
    report.gradient_norm = 0.75;
    report.tokens_per_second = 1234.5;
    log.add(report);
    report.step = 201;
    report.validation_loss = 3.25;
    log.add(report);
    log.sync();
  }
  const auto files = files_of(folder / "tensorboard");
  ASSERT_EQ(files.size(), 1u);
  EXPECT_NE(files[0].filename().string().find("tfevents"), std::string::npos) << "TensorBoard looks for this";
  const auto events = events_of(files[0]);
  ASSERT_EQ(events.size(), 3u);
  for (const auto& event : events) {
    double wall_time = 0;
    EXPECT_EQ(event.at(0).number, 1u);
    std::memcpy(&wall_time, &event.at(0).integer, sizeof wall_time);
    EXPECT_NEAR(wall_time, static_cast<double>(time(nullptr)), 60);
    EXPECT_EQ(event.at(1).number, 2u);
  }
  EXPECT_EQ(events[0].at(2).number, 3u);
  EXPECT_EQ(events[0].at(2).bytes, "brain.Event:2");
  EXPECT_EQ(events[1].at(1).integer, 200u);
  std::map<std::string, float> expected = {
      {"loss/train", 2.5f}, {"learning_rate", 1e-3f}, {"gradient_norm", 0.75f}, {"tokens_per_second", 1234.5f}};
  EXPECT_EQ(scalars_of(events[1]), expected);
  expected["loss/validation"] = 3.25f;
  EXPECT_EQ(events[2].at(1).integer, 201u);
  EXPECT_EQ(scalars_of(events[2]), expected);
}

// Going on after step 200 tells TensorBoard to forget what the interrupted session wrote of later steps.
TEST(TensorboardTest, GoingOnBeginsASession) {
  const TemporaryFolder folder;
  { TrainingLog log(folder / "", 0, true); }
  { TrainingLog log(folder / "", 200, true); }
  const auto files = files_of(folder / "tensorboard");
  ASSERT_EQ(files.size(), 2u);
  const auto events = events_of(files[1]);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].at(1).integer, 201u);
  EXPECT_EQ(events[1].at(2).number, 7u) << "a session log";
  EXPECT_EQ(fields_of(events[1].at(2).bytes).at(0).integer, 1u) << "its start";
  { TrainingLog log(folder / "", 0, true); }
  EXPECT_EQ(files_of(folder / "tensorboard").size(), 1u) << "a new training starts anew";
}

TEST(TrainingFlopsTest, CountedByHand) {
  ModelConfig config;
  config.n_embd = 8;
  config.n_layer = 2;
  config.attn_layer_idx = {1};
  config.attn_n_head = 2;
  config.ssm_d_state = 4;
  config.vocab_size = 10;  // padded to 16
  const double layers = 2 * (4 * 8 * 8 + 2 * 8 * 32), head = 16 * 8;
  const double attention = 2 * 8 * (9 + 1), recurrence = 6 * 4 * 8;
  EXPECT_DOUBLE_EQ(training_flops_per_token(config, 9), 3 * (2 * (layers + head) + attention + recurrence));
  config.tie_word_embeddings = false;
  EXPECT_DOUBLE_EQ(training_flops_per_token(config, 9), 3 * (2 * (layers + head) + attention + recurrence));
}

}  // namespace
}  // namespace riverhorse::test
