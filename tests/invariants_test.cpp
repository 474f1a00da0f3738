// The three invariants of the design, for the whole model on every device:
//   1. a text read whole, in pieces from a carried state, or token by token leaves the same state and logits;
//   2. changing a token leaves every output before it the same, bit for bit;
//   3. saving, loading, cloning and rewinding change nothing (engine_session_test.cpp).
#include "engine_fixture.h"
#include "model/initialization.h"

namespace riverhorse::test {
namespace {

constexpr std::uint64_t seed = 20240607;

// As small as a model can be that has every kind of layer: software devices go through lengths of 4097 with it.
ModelConfig small_config(std::int64_t head_dim = 1) {
  ModelConfig config;
  config.n_embd = 16;
  config.n_layer = 3;
  config.attn_layer_idx = {1};
  config.attn_n_head = 2;
  config.attn_rotary_dim = 8;
  config.ssm_head_dim = head_dim;
  config.ssm_d_state = 16;
  config.vocab_size = 32;
  config.pad_vocab_size_multiple = 1;
  config.initializer_range = 0.3;  // large enough that every layer matters
  return config;
}

std::vector<std::int32_t> random_ids(std::int64_t length, std::int64_t vocabulary) {
  std::vector<std::int32_t> ids;
  std::uint64_t state = seed;
  for (std::int64_t i = 0; i < length; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    ids.push_back(static_cast<std::int32_t>((state >> 33) % static_cast<std::uint64_t>(vocabulary)));
  }
  return ids;
}

class Invariants : public OnDevice {
 protected:
  bool software() const { return device_->info().type == DeviceType::software; }

  // The logits after reading `ids` in pieces of `piece`.
  std::vector<float> read(Engine& engine, std::span<const std::int32_t> ids, std::int64_t piece) {
    const auto session = engine.create_session();
    for (std::size_t begin = 0; begin < ids.size(); begin += static_cast<std::size_t>(piece)) {
      session->append(ids.subspan(begin, std::min(static_cast<std::size_t>(piece), ids.size() - begin)));
    }
    return session->logits();
  }
};

constexpr double tolerance = 1e-4;  // of logits; fp32 sums in another order, over up to 4097 tokens

TEST_P(Invariants, WholeEqualsPiecesEqualsTokens) {
  ModelConfig without_attention = small_config();
  without_attention.attn_layer_idx.clear();
  for (const ConvAlgorithm conv : conv_ways(*device_)) {
    EngineOptions options;
    options.conv = conv;
    options.max_sessions = 1;
    options.context_tokens = 8192;
    options.prefill_piece_tokens = 4096;
    Engine hybrid(device_, random_checkpoint(small_config(), seed), options);
    Engine pure(device_, random_checkpoint(without_attention, seed), options);
    std::vector<std::int64_t> lengths = {1, 2, 63, 64, 65, 127, 130, 1000, 4097};
    if (software()) lengths = {1, 65, 130, 1025, 4097};
    for (const std::int64_t length : lengths) {
      // Attention's work grows with the square of the length: software devices take a minute for 4097 tokens of it.
      Engine& engine = software() && length > 1025 ? pure : hybrid;
      const std::vector<std::int32_t> ids = random_ids(length, engine.config().vocab_size);
      const std::vector<float> whole = read(engine, ids, length);
      for (const std::int64_t piece : {1, 7, 64, 100}) {
        if (piece >= length) continue;
        // On software devices a submission and a transform of a new length are slow: short pieces stop at 130 tokens,
        // and the long text is read in one size of piece by FFT.
        if (software() && length > 130 && (piece < 64 || (piece < 100 && conv == ConvAlgorithm::fft))) continue;
        SCOPED_TRACE(fmt::format("conv {} length {} piece {} seed {}", static_cast<int>(conv), length, piece, seed));
        EXPECT_LE(relative_error(read(engine, ids, piece), whole), tolerance);
      }
    }
  }
}

TEST_P(Invariants, HeadDimensionsToo) {
  for (const bool fast_order : {false, true}) {
    ModelConfig config = small_config(4);
    config.ssm_use_fast_fttconv = fast_order;
    EngineOptions options;
    options.max_sessions = 1;
    Engine engine(device_, random_checkpoint(config, seed), options);
    const std::vector<std::int32_t> ids = random_ids(150, config.vocab_size);
    const std::vector<float> whole = read(engine, ids, 150);
    for (const std::int64_t piece : {1, 7, 64, 100}) {
      SCOPED_TRACE(fmt::format("fast order {} piece {}", fast_order, piece));
      EXPECT_LE(relative_error(read(engine, ids, piece), whole), tolerance);
    }
  }
}

TEST_P(Invariants, ConvolutionsAgree) {
  const Checkpoint checkpoint = random_checkpoint(small_config(), seed);
  const std::vector<std::int32_t> ids = random_ids(1031, checkpoint.config.vocab_size);
  std::vector<std::vector<float>> results;
  for (const ConvAlgorithm conv : conv_ways(*device_)) {
    EngineOptions options;
    options.conv = conv;
    Engine engine(device_, checkpoint, options);
    results.push_back(all_logits(engine, ids, 1, 1031));
  }
  if (results.size() < 2) GTEST_SKIP() << GetParam() << " has one algorithm only";
  EXPECT_LE(relative_error(results[0], results[1]), tolerance);
}

// The parallel prefill at one length, and one token at a time: what was written before a changed token is the same
// to the last bit. (By FFT every output depends on every input through the transform's rounding, so there the outputs
// before the change agree to rounding only.)
TEST_P(Invariants, Causality) {
  for (const ConvAlgorithm conv : conv_ways(*device_)) {
    EngineOptions options;
    options.conv = conv;
    Engine engine(device_, random_checkpoint(small_config(), seed), options);
    const std::int64_t vocabulary = engine.config().padded_vocab_size();
    for (const std::int64_t length : {std::int64_t{70}, std::int64_t{300}}) {
      if (software() && conv == ConvAlgorithm::fft && length > 70) continue;  // a transform of another size
      const std::vector<std::int32_t> ids = random_ids(length, engine.config().vocab_size);
      const std::vector<float> before = all_logits(engine, ids, 1, length);
      for (const std::int64_t changed : {std::int64_t{1}, std::int64_t{64}, length - 1}) {
        SCOPED_TRACE(fmt::format("conv {} length {} token {}", static_cast<int>(conv), length, changed));
        std::vector<std::int32_t> other = ids;
        std::int32_t& token = other[static_cast<std::size_t>(changed)];
        token = static_cast<std::int32_t>((token + 1) % engine.config().vocab_size);
        const std::vector<float> after = all_logits(engine, other, 1, length);
        const auto past = static_cast<std::size_t>(changed * vocabulary);
        const std::span<const float> kept = std::span(before).first(past);
        if (conv == ConvAlgorithm::chunked) {
          EXPECT_TRUE(std::equal(kept.begin(), kept.end(), after.begin()));
        } else {
          EXPECT_LE(relative_error(std::span(after).first(past), kept), 2e-5);
        }
        EXPECT_GT(relative_error(after, before), 1e-3) << "the token must matter after it";
      }
    }
  }
}

RIVERHORSE_ON_EVERY_DEVICE(Invariants);

}  // namespace
}  // namespace riverhorse::test
