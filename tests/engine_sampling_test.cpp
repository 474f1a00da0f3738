// Drawing tokens through real steps: reproducible, distributed as the options say, and by the options' names.
#include <set>

#include "engine_fixture.h"
#include "model/initialization.h"

namespace riverhorse::test {
namespace {

constexpr std::uint64_t model_seed = 77;

ModelConfig tiny_config() {
  ModelConfig config;
  config.n_embd = 8;
  config.n_layer = 1;
  config.ssm_d_state = 4;
  config.vocab_size = 10;
  config.pad_vocab_size_multiple = 4;  // two padding columns, which must never be drawn
  config.initializer_range = 0.5;
  return config;
}

class Sampling : public OnDevice {
 protected:
  void SetUp() override {
    OnDevice::SetUp();
    EngineOptions options;
    options.max_sessions = 2;
    engine_ = std::make_unique<Engine>(device_, random_checkpoint(tiny_config(), model_seed), options);
  }

  // Draws `count` first tokens after the same text: one step each, taken back by a snapshot whose random stream goes
  // on (a new seed for each draw).
  std::vector<std::int32_t> first_tokens(SamplingOptions sampling, int count) {
    const std::int32_t text[] = {1, 5, 2, 5};
    const auto session = engine_->create_session();
    session->append(text);
    const auto snapshot = session->snapshot();
    logits_ = session->logits();
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < count; ++i) {
      session->restore(snapshot);
      sampling.seed = static_cast<std::uint64_t>(i) * 7919 + 13;
      session->set_sampling(sampling);
      tokens.push_back(session->step());
    }
    return tokens;
  }

  std::vector<double> probabilities(double temperature) const {
    std::vector<double> p(10);
    double sum = 0;
    for (std::size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(logits_[i] / temperature);
    for (double& value : p) value /= sum;
    return p;
  }

  std::unique_ptr<Engine> engine_;
  std::vector<float> logits_;
};

TEST_P(Sampling, FollowsTheSoftmax) {
  constexpr int count = 1500;
  SamplingOptions sampling;
  sampling.temperature = 1.5;
  const std::vector<std::int32_t> tokens = first_tokens(sampling, count);
  const std::vector<double> p = probabilities(1.5);
  std::vector<int> seen(10);
  for (const std::int32_t token : tokens) {
    ASSERT_GE(token, 0);
    ASSERT_LT(token, 10) << "a padding column was drawn";
    ++seen[static_cast<std::size_t>(token)];
  }
  double chi_square = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    chi_square += (seen[i] - count * p[i]) * (seen[i] - count * p[i]) / (count * p[i]);
  }
  EXPECT_LT(chi_square, 27.9) << "9 degrees of freedom, one in a thousand; the seeds are fixed";
  EXPECT_GT(chi_square, 1.15) << "suspiciously regular";
}

TEST_P(Sampling, OptionsNarrowTheChoice) {
  SamplingOptions sampling;
  sampling.temperature = 2;
  const auto distinct = [&](const SamplingOptions& options) {
    const std::vector<std::int32_t> tokens = first_tokens(options, 200);
    return std::set<std::int32_t>(tokens.begin(), tokens.end());
  };
  std::vector<std::int32_t> order(10);
  const auto all = distinct(sampling);
  EXPECT_GT(all.size(), 6u);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits_[static_cast<std::size_t>(a)] > logits_[static_cast<std::size_t>(b)];
  });

  sampling.top_k = 2;
  EXPECT_EQ(distinct(sampling), (std::set<std::int32_t>{order[0], order[1]})) << "top_k";
  sampling.top_k = 0;
  const std::vector<double> p = probabilities(2);
  const double first_two = p[static_cast<std::size_t>(order[0])] + p[static_cast<std::size_t>(order[1])];
  sampling.top_p = first_two * 0.99;
  EXPECT_EQ(distinct(sampling), (std::set<std::int32_t>{order[0], order[1]})) << "top_p";
  sampling.top_p = 1;
  sampling.min_p = 0.999 * p[static_cast<std::size_t>(order[2])] / p[static_cast<std::size_t>(order[0])];
  EXPECT_EQ(distinct(sampling), (std::set<std::int32_t>{order[0], order[1], order[2]})) << "min_p";
  sampling.min_p = 0;
  sampling.logit_bias = {{order[9], 100.0f}};
  EXPECT_EQ(distinct(sampling), (std::set<std::int32_t>{order[9]})) << "logit_bias";
  sampling = {};
  EXPECT_EQ(distinct(sampling), (std::set<std::int32_t>{order[0]})) << "greedy";
}

TEST_P(Sampling, SeedsReproduceAndDiffer) {
  const auto text_of = [&](std::uint64_t seed) {
    SamplingOptions sampling;
    sampling.temperature = 1.5;
    sampling.seed = seed;
    const auto session = engine_->create_session(sampling);
    const std::int32_t text[] = {3};
    session->append(text);
    session->generate(40, {});
    return session->tokens();
  };
  EXPECT_EQ(text_of(1), text_of(1));
  EXPECT_NE(text_of(1), text_of(2));
  EXPECT_NE(text_of(1), text_of(std::uint64_t{1} << 40)) << "all 64 bits of a seed count";
}

TEST_P(Sampling, PenaltiesCountTheWholeText) {
  const std::int32_t text[] = {1, 5, 2, 5};
  const auto greedy_with = [&](const std::function<void(SamplingOptions&)>& change) {
    SamplingOptions sampling;
    change(sampling);
    const auto session = engine_->create_session(sampling);
    session->append(text);
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 9; ++i) tokens.push_back(session->step());
    return tokens;
  };
  // A presence penalty of 100 forbids what was seen: the first seven tokens are the seven not in the text.
  const std::vector<std::int32_t> present = greedy_with([](SamplingOptions& o) { o.presence_penalty = 100; });
  std::set<std::int32_t> fresh(present.begin(), present.begin() + 7);
  EXPECT_EQ(fresh, (std::set<std::int32_t>{0, 3, 4, 6, 7, 8, 9}));
  // A frequency penalty of 100 levels the counts: after seven new ones and one each of 1 and 2, all but 5 stand at
  // one or two.
  const std::vector<std::int32_t> frequent = greedy_with([](SamplingOptions& o) { o.frequency_penalty = 100; });
  EXPECT_EQ(std::set<std::int32_t>(frequent.begin(), frequent.begin() + 7), fresh);
  for (const std::int32_t token : frequent) EXPECT_NE(token, 5) << "seen twice from the start";
  EXPECT_NE(greedy_with([](SamplingOptions& o) { o.repetition_penalty = 100; }),
            greedy_with([](SamplingOptions&) {}));
}

RIVERHORSE_ON_EVERY_DEVICE(Sampling);

}  // namespace
}  // namespace riverhorse::test
