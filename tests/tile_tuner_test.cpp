// The tuner of tiles: what it chooses by which times, what it keeps on disk, and that texts do not depend on it.
#include "vulkan/tile_tuner.h"

#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "base/log.h"
#include "engine/engine.h"
#include "model/initialization.h"
#include "vulkan/device_impl.h"
#include "vulkan/linear.h"
#include "vulkan/pipeline_cache_file.h"
#include "vulkan_support.h"

namespace riverhorse {
namespace {

namespace fs = std::filesystem;
using vulkan::choose_tile;
using vulkan::median_of_rounds;
using vulkan::TileMs;
using vulkan::TileOffer;
using vulkan::TileTimes;
using Products = std::map<std::string, TileMs>;

class TileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) / ("tile_tuner_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    set_log_sink([this](LogLevel level, std::string_view message) {
      if (level >= LogLevel::warning) warnings_.emplace_back(message);
    });
  }
  void TearDown() override {
    set_log_sink({});
    fs::remove_all(folder_);
  }
  std::string read(const fs::path& path) const {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const fs::path& path, const std::string& text) const { std::ofstream(path, std::ios::binary) << text; }
  std::vector<fs::path> files(std::string_view prefix) const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
    }
    return found;
  }

  fs::path folder_;
  std::vector<std::string> warnings_;
};

TEST(TileChoice, TheRulesTileWinsUnlessAnotherIsClearlyFaster) {
  const auto choose = [](std::initializer_list<double> ms) {
    std::vector<TileOffer> offers;
    for (const double each : ms) offers.push_back({.ms = each});
    return choose_tile(offers);
  };
  EXPECT_EQ(choose({}), 0u);
  EXPECT_EQ(choose({1.0}), 0u);
  EXPECT_EQ(choose({1.0, 0.96, 0.951}), 0u);
  EXPECT_EQ(choose({1.0, 0.96, 0.94}), 2u);
  EXPECT_EQ(choose({1.0, 0.5, 0.6}), 1u);
  EXPECT_EQ(choose({1.0, 0.0, 2.0}), 0u) << "one that was not measured";
  EXPECT_EQ(choose({0.0, 0.5, 0.4}), 0u) << "where the rule's was not, nothing is known of its bits";
  EXPECT_EQ(choose({1.0, 1.0}), 0u);
}

TEST(TileChoice, TimesAreScaledByTheTurnsOfTheProductAtHand) {
  // The second is faster for 1024 rows, which it divides; for 600 it has as many turns, the first has fewer.
  EXPECT_EQ(choose_tile(std::vector<TileOffer>{{1.0, 16, 16}, {0.8, 8, 8}}), 1u);
  EXPECT_EQ(choose_tile(std::vector<TileOffer>{{1.0, 16, 10}, {0.8, 8, 8}}), 0u);
  EXPECT_EQ(choose_tile(std::vector<TileOffer>{{1.0, 16, 10}, {0.8, 8, 5}}), 1u);
}

TEST(TileChoice, RowsAreTimedByPowersOfTwo) {
  EXPECT_EQ(vulkan::timed_rows_for(9), 16u);
  EXPECT_EQ(vulkan::timed_rows_for(16), 16u);
  EXPECT_EQ(vulkan::timed_rows_for(600), 1024u);
  EXPECT_EQ(vulkan::timed_rows_for(1024), 1024u);
  EXPECT_EQ(vulkan::timed_rows_for(~0u), 1u << 31);
}

TEST(TileRounds, TheMedianOfWhatFollowsTheWarmUpCounts) {
  // A clock that rises, and another program in one of the rounds.
  const std::vector<std::vector<double>> rounds = {{90, 80}, {3, 2}, {2, 40}, {50, 1}, {1, 3}, {4, 4}, {5, 5}};
  std::size_t asked = 0;
  const std::vector<double> medians = median_of_rounds([&] { return rounds.at(asked++); }, [] { return true; });
  EXPECT_EQ(medians, (std::vector<double>{3, 3}));
  EXPECT_EQ(asked, 6u) << "one to warm up and five";
}

TEST(TileRounds, EndWhenTheTimeIsUp) {
  for (std::size_t most = 0; most < 5; ++most) {
    std::size_t asked = 0;
    const std::vector<double> medians = median_of_rounds(
        [&] {
          ++asked;
          return std::vector<double>{1.0, 2.0};
        },
        [&] { return asked <= most; });
    EXPECT_EQ(asked, 1 + most);
    EXPECT_EQ(medians.size(), most >= 3 ? 2u : 0u) << most << " rounds";
  }
  std::size_t asked = 0;
  const auto fewer = [&] { return std::vector<double>(++asked < 3 ? 2u : 1u, 1.0); };
  EXPECT_TRUE(median_of_rounds(fewer, [] { return true; }).empty()) << "a round without all of its times";
}

TEST(TileBits, ATileThatMakesOtherBitsIsForgotten) {
  const std::vector<std::string> tiles = {"rule", "same", "other", "slow", "untimed"};
  const std::vector<double> ms = {1.0, 0.9, 0.1, 1.6, 0.0};
  std::vector<std::size_t> asked;
  const auto same = [&](std::size_t tile) {
    asked.push_back(tile);
    return tile != 2;
  };
  EXPECT_EQ(vulkan::tiles_to_keep(tiles, ms, same), (TileMs{{"rule", 1.0}, {"same", 0.9}}));
  EXPECT_EQ(asked, (std::vector<std::size_t>{1, 2}));
  EXPECT_TRUE(vulkan::tiles_to_keep(tiles, {}, same).empty()) << "the time was up";
  EXPECT_TRUE(vulkan::tiles_to_keep(tiles, std::vector<double>{0, 1, 1, 1, 1}, same).empty());
  EXPECT_EQ(asked.size(), 2u);
}

TEST(TileChoice, AWholeRecordingMustGain) {
  EXPECT_TRUE(vulkan::is_confirmed(1.0, 0.98));
  EXPECT_FALSE(vulkan::is_confirmed(1.0, 0.995));
  EXPECT_FALSE(vulkan::is_confirmed(1.0, 1.1));
  EXPECT_FALSE(vulkan::is_confirmed(0.0, 0.0));
}

const Products some_products = {{"f16 768 -> 2304, 88, 1024 rows", {{"linear_coopmat-128-32", 0.0315}, {"b", 1e-5}}},
                                {"left to the rule", {}}};

TEST_F(TileTest, TimesComeBackAsTheyWere) {
  EXPECT_EQ(vulkan::parse_tile_times(vulkan::tile_times_text(some_products)), some_products);
  const fs::path path = folder_ / "tiles.bin";
  TileTimes times(path, "key");
  EXPECT_EQ(times.find("a"), std::nullopt);
  for (const auto& [name, ms] : some_products) times.add(name, ms);
  times.save();
  const TileTimes again(path, "key");
  for (const auto& [name, ms] : some_products) EXPECT_EQ(again.find(name), ms);
  EXPECT_EQ(again.find("a"), std::nullopt);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(TileTest, FilesThatAreNotRightAreNamedAndIgnored) {
  const fs::path path = folder_ / "tiles.bin";
  TileTimes times(path, "key");
  for (const auto& [name, ms] : some_products) times.add(name, ms);
  times.save();
  const std::string good = read(path);
  std::size_t expected = 0;
  const auto is_void = [&](const std::string& key, const std::string& what) {
    EXPECT_EQ(TileTimes(path, key).find("left to the rule"), std::nullopt) << what;
    ASSERT_EQ(warnings_.size(), ++expected) << what;
    EXPECT_NE(warnings_.back().find(path.string()), std::string::npos) << warnings_.back();
  };
  is_void("key of another driver", "a foreign file");
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << i % 8));
    write(path, bad);
    is_void("key", fmt::format("byte {}", i));
    write(path, good.substr(0, i));
    is_void("key", fmt::format("cut at {}", i));
  }
  // Right to the last bit, but not what we write.
  for (const std::string text : {"a\tb\n", "a\tb\t-1\n", "a\tb\t1x\n", "a\tb\tinf\n", "a\t\t1\n", "\tb\t1\n", "\n",
                                 "a\tb\t1\tc\n", "a\tb\t\n"}) {
    vulkan::write_pipeline_cache(path, "key", std::as_bytes(std::span(text)));
    is_void("key", text);
  }
  fs::remove(path);
  fs::create_directory(path);
  is_void("key", "a folder");
}

TEST_F(TileTest, AFolderThatCannotBeWrittenIsAWarning) {
  TileTimes times(folder_ / "absent" / "tiles.bin", "key");
  times.add("a", {});
  times.save();
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("the times of tiles are not kept"), std::string::npos) << warnings_[0];
  TileTimes({}, "key").save();
  EXPECT_EQ(warnings_.size(), 1u) << "without a cache folder nobody expects it";
}

// The file is whole whoever reads it when, and what one program added stays when another adds to it later.
TEST_F(TileTest, ProgramsThatWriteAtOnceLeaveAWholeFile) {
  const fs::path path = folder_ / "tiles.bin";
  std::vector<pid_t> writers;
  for (int writer = 0; writer < 4; ++writer) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int i = 0; i < 20; ++i) {
        TileTimes times(path, "key");  // a warning, if it is there and not whole
        times.add(fmt::format("{} {}", writer, i), {{"tile", 1.0 + i}});
        times.save();
      }
      _exit(warnings_.empty() ? 0 : 1);
    }
    writers.push_back(child);
  }
  for (const pid_t child : writers) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "a writer met a file that was not whole";
  }
  EXPECT_EQ(files("tiles").size(), 1u) << "temporary files are left";
  TileTimes first(path, "key"), second(path, "key");
  EXPECT_TRUE(warnings_.empty());
  first.add("of the first", {});
  second.add("of the second", {});
  first.save();
  second.save();
  const TileTimes all(path, "key");
  EXPECT_TRUE(all.find("of the first").has_value());
  EXPECT_TRUE(all.find("of the second").has_value());
}

TEST(Tilings, TheRulesIsTheFirstAndNoneTwice) {
  for (const std::uint32_t units : {4u, 32u, 132u}) {
    for (const std::uint32_t shared_bytes : {32768u, 49152u, 65536u}) {
      vulkan::VulkanLimits limits;
      limits.shared_bytes = shared_bytes;
      limits.invocations = 1024;
      limits.compute_units = units;
      for (const std::uint32_t rows : {9u, 64u, 1000u, 16384u}) {
        const vulkan::ProductSize size{rows, 1024, 3072};
        const std::vector<vulkan::MatrixTile> tiles = vulkan::matrix_tiles_for(limits, 32, size);
        EXPECT_EQ(tiles.front(), vulkan::choose_matrix_tile(limits, 32, size));
        for (const vulkan::MatrixTile& tile : tiles) EXPECT_LE(tile.shared_bytes(), shared_bytes);
        const std::vector<vulkan::Tiling> plain = vulkan::tilings_for(limits, false, false, size);
        const vulkan::PlainTile chosen = vulkan::choose_plain_tile(limits, false, size);
        EXPECT_EQ(plain.front().tile_m, chosen.tile_m);
        EXPECT_EQ(plain.size(), 5u);
        std::set<std::string> names;
        for (const vulkan::Tiling& tiling : plain) names.insert(tiling.name());
        EXPECT_EQ(names.size(), plain.size());
      }
    }
  }
  const vulkan::VulkanLimits minimal;
  for (const vulkan::PlainTile& tile : vulkan::plain_tiles_for(minimal, false, {1000, 768, 3072})) {
    EXPECT_LE(tile.shared_bytes(), minimal.shared_bytes);
    EXPECT_LE(tile.group, minimal.invocations);
  }
}

// ---------------------------------------------------------------------------------------------------- on a device

class TunerTest : public TileTest {
 protected:
  void SetUp() override {
    TileTest::SetUp();
    if (test::vulkan_devices().empty()) GTEST_SKIP() << "no Vulkan device";
  }
  std::shared_ptr<vulkan::VulkanDevice> open(Tuning tuning) {
    DeviceOptions options = test::test_options();
    options.cache_folder = folder_.string();
    options.tuning = tuning;
    options.tuning_limit_ms = 1e6;  // a software device takes its time
    return test::open_vulkan(options);
  }

  // Products that the tests tune: f32 in two layouts.
  struct Operands {
    LinearArgs plain, turned;
    void record(Encoder& encoder) const {
      encoder.linear(plain);
      encoder.linear(turned);
    }
  };
  static Operands operands(Device& device, std::int64_t rows) {
    constexpr std::int64_t inputs = 40, outputs = 76;
    std::mt19937 generator(77);
    const auto floats = [&](Shape shape) {
      std::vector<float> values(static_cast<std::size_t>(shape.count()));
      for (float& value : values) value = static_cast<float>(generator() >> 8) * 0x1p-23f - 1.0f;
      return test::put(device, DType::f32, shape, values);
    };
    Operands made;
    made.plain.x = floats({rows, inputs});
    made.plain.weight = floats({outputs, inputs});
    made.plain.bias = floats({outputs});
    made.plain.activation = Activation::gelu_tanh;
    made.plain.y = device.allocate_tensor(DType::f32, {rows, outputs});
    made.turned.x = floats({inputs, rows});
    made.turned.x_transposed = true;
    made.turned.weight = floats({outputs, inputs});
    made.turned.accumulate = true;
    made.turned.y = device.allocate_tensor(DType::f32, {rows, outputs});
    return made;
  }
  static void tune(Device& device, std::int64_t rows) {
    const Operands made = operands(device, rows);
    const RecordFunction functions[] = {[&](Encoder& encoder) { made.record(encoder); }};
    device.tune(functions, nullptr);
  }
  static std::vector<float> results(Device& device, std::int64_t rows) {
    const Operands made = operands(device, rows);
    device.run([&](Encoder& encoder) { made.record(encoder); });
    std::vector<float> values = test::fetch<float>(device, made.plain.y);
    const std::vector<float> turned = test::fetch<float>(device, made.turned.y);
    values.insert(values.end(), turned.begin(), turned.end());
    return values;
  }
  // The pipelines that a recording would take.
  static std::vector<vulkan::PipelineKey> pipelines(vulkan::VulkanDevice& device, std::int64_t rows) {
    const Operands made = operands(device, rows);
    vulkan::VulkanEncoder encoder(device, nullptr, nullptr);
    made.record(encoder);
    return {encoder.wanted_pipelines().begin(), encoder.wanted_pipelines().end()};
  }
};

TEST_F(TunerTest, TimesOnceAndKnowsFromThenOn) {
  std::vector<float> expected;
  {
    const auto device = open(Tuning::off);
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 0u);
    expected = results(*device, 27);
  }
  EXPECT_TRUE(files("tiles").empty()) << "switched off";
  std::vector<vulkan::PipelineKey> first;
  {
    const auto device = open(Tuning::on);
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 2u);
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 2u) << "they are known";
    const std::uint64_t submissions = device->counters().submissions;
    first = pipelines(*device, 27);
    EXPECT_EQ(device->counters().submissions, submissions) << "nothing is timed but in tune()";
    EXPECT_EQ(results(*device, 27), expected) << "not the same bits";
    EXPECT_EQ(device->validation_messages(), 0u);
  }
  ASSERT_EQ(files("tiles").size(), 1u);
  {
    const auto device = open(Tuning::on);
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 0u) << "a second start";
    EXPECT_EQ(pipelines(*device, 27), first);
    tune(*device, 16);
    EXPECT_EQ(device->counters().products_timed, 2u) << "products of other rows";
  }
  write(files("tiles")[0], "damaged");
  {
    const auto device = open(Tuning::on);
    EXPECT_EQ(warnings_.size(), 1u);
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 2u);
    EXPECT_EQ(device->validation_messages(), 0u);
  }
  EXPECT_EQ(warnings_.size(), 1u);
}

// As if each tile in turn had been the fastest: it is the one that is recorded, and every bit stays.
TEST_F(TunerTest, EveryTileThatItMayChooseMakesTheSameBits) {
  const auto device = open(Tuning::on);
  tune(*device, 32);
  std::vector<TileMs> known;
  std::vector<std::string> names;
  {
    const Operands made = operands(*device, 32);
    vulkan::VulkanEncoder encoder(*device, nullptr, nullptr);
    encoder.watch_products([&](const vulkan::LinearPart& part) { names.push_back(product_name(part, part.rows)); });
    made.record(encoder);
  }
  ASSERT_EQ(names.size(), 2u);
  std::set<std::string> tiles;
  for (const std::string& name : names) {
    const auto times = device->tile_times().find(name);
    ASSERT_TRUE(times.has_value()) << name;
    EXPECT_FALSE(times->empty()) << name;
    for (const auto& [tile, ms] : *times) tiles.insert(tile);
  }
  const std::vector<vulkan::Tiling> tilings =
      vulkan::tilings_for(device->limits(), false, device->info().type == DeviceType::software, {32, 40, 76});
  std::vector<float> expected;
  std::set<std::vector<vulkan::PipelineKey>> recorded;
  for (const vulkan::Tiling& fastest : tilings) {
    for (const std::string& name : names) {
      TileMs times;
      for (const vulkan::Tiling& tiling : tilings)
        times[tiling.name()] = tiling.name() == fastest.name() ? 1e-9 : 1.0;
      device->tile_times().add(name, times);
    }
    recorded.insert(pipelines(*device, 32));
    const std::vector<float> values = results(*device, 32);
    if (expected.empty()) expected = values;
    EXPECT_EQ(values, expected) << fastest.name();
  }
  EXPECT_EQ(recorded.size(), tilings.size());
  EXPECT_GE(tilings.size(), tiles.size());
  EXPECT_EQ(device->validation_messages(), 0u);
}

TEST_F(TunerTest, WhenTheTimeIsUpTheRestIsLeftToTheRule) {
  DeviceOptions options = test::test_options();
  options.cache_folder = folder_.string();
  options.tuning = Tuning::on;
  options.tuning_limit_ms = 0;
  {
    const auto device = test::open_vulkan(options);
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 0u);
    EXPECT_EQ(device->counters().submissions, 0u);
  }
  const auto device = open(Tuning::on);
  tune(*device, 32);
  EXPECT_EQ(device->counters().products_timed, 0u) << "and that is remembered";
}

TEST(TunerDefault, IsForGpusOfOnesOwnWhereTimesAreKept) {
  DeviceInfo info;
  info.name = "AMD Radeon RX 7900 XTX (RADV NAVI31)";
  for (const DeviceType type : {DeviceType::discrete_gpu, DeviceType::integrated_gpu, DeviceType::virtual_gpu}) {
    info.type = type;
    EXPECT_TRUE(vulkan::tunes_by_itself(info, false, true));
    EXPECT_FALSE(vulkan::tunes_by_itself(info, true, true)) << "lent by a game, which may be drawing";
    EXPECT_FALSE(vulkan::tunes_by_itself(info, false, false)) << "every start would do it again";
  }
  for (const DeviceType type : {DeviceType::software, DeviceType::cpu, DeviceType::other}) {
    info.type = type;
    EXPECT_FALSE(vulkan::tunes_by_itself(info, false, true));
  }
  info.name = "NVIDIA H100 80GB HBM3", info.type = DeviceType::discrete_gpu;
  EXPECT_FALSE(vulkan::tunes_by_itself(info, false, true)) << "the rule is from there";
}

TEST_F(TunerTest, ADeviceIsAskedByItsOptions) {
  const auto device = open(Tuning::automatic);
  const bool timestamps = device->supports(Feature::timestamps).supported;
  EXPECT_EQ(vulkan::wants_tuning(*device), timestamps && vulkan::tunes_by_itself(device->info(), false, true));
  if (!vulkan::wants_tuning(*device)) {
    tune(*device, 32);
    EXPECT_EQ(device->counters().products_timed, 0u);
    EXPECT_TRUE(files("tiles").empty());
  }
  EXPECT_EQ(vulkan::wants_tuning(*open(Tuning::on)), timestamps);
  EXPECT_FALSE(vulkan::wants_tuning(*open(Tuning::off)));
  EXPECT_FALSE(vulkan::wants_tuning(*test::open_vulkan())) << "without a cache folder";
}

// A model: loading times its products, and nothing does afterwards.
TEST_F(TunerTest, AModelIsTunedWhenItIsLoadedAndNeverLater) {
  ModelConfig config;
  config.n_embd = 32;
  config.n_layer = 2;
  config.attn_layer_idx = {1};
  config.attn_n_head = 2;
  config.ssm_d_state = 8;
  config.vocab_size = 64;
  config.pad_vocab_size_multiple = 1;
  config.initializer_range = 0.3;
  const Checkpoint checkpoint = random_checkpoint(config, 7);
  EngineOptions options;
  options.max_sessions = 1;
  options.context_tokens = 64;
  options.prefill_piece_tokens = 16;
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 59; ++i) ids.push_back(i * 7 % 64);
  const auto drawn = [&](Engine& engine) {
    engine.prepare();
    const auto session = engine.create_session();
    session->append(ids);
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 8; ++i) tokens.push_back(session->step());
    return std::pair(tokens, session->logits());
  };
  std::pair<std::vector<std::int32_t>, std::vector<float>> by_rule;
  {
    Engine engine(open(Tuning::off), checkpoint, options);
    by_rule = drawn(engine);
  }
  {
    const auto device = open(Tuning::on);
    Engine engine(device, checkpoint, options);
    const std::uint64_t timed = device->counters().products_timed;
    EXPECT_GT(timed, 0u);
    EXPECT_EQ(drawn(engine), by_rule);
    Engine another(device, checkpoint, options);
    EXPECT_EQ(drawn(another), by_rule);
    EXPECT_EQ(device->counters().products_timed, timed);
    EXPECT_EQ(device->validation_messages(), 0u);
  }
  const auto device = open(Tuning::on);
  Engine engine(device, checkpoint, options);
  EXPECT_EQ(device->counters().products_timed, 0u) << "the next start of the program";
  EXPECT_EQ(drawn(engine), by_rule);
  EXPECT_EQ(device->validation_messages(), 0u);
  EXPECT_TRUE(warnings_.empty());
}

}  // namespace
}  // namespace riverhorse
