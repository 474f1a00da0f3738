// Models with quantised weights: on every device what the same numbers give in f32; and what the rounding of the
// weights costs the model that ships, in perplexity.
#include <cmath>

#include "data/tokenizer.h"
#include "engine/text_scorer.h"
#include "engine_fixture.h"
#include "model/h3_model.h"
#include "model/initialization.h"
#include "model/upload.h"

namespace riverhorse::test {
namespace {

constexpr DType schemes[] = {DType::q8, DType::q4};

// Logits, by the measure of relative_error: those of plain weights in the same dtype (model_golden_test.cpp), since
// the quantised ones are used as the numbers that they stand for.
constexpr double f32_tolerance = 2e-4;
constexpr double f16_tolerance = 2e-2;
constexpr double bf16_tolerance = 8 * f16_tolerance;

ModelConfig small_model() {
  ModelConfig config;
  config.n_embd = 64;
  config.n_layer = 3;
  config.n_inner = 160;
  config.attn_layer_idx = {1};
  config.attn_n_head = 4;
  config.ssm_d_state = 16;
  config.vocab_size = 131;
  config.initializer_range = 0.1;
  return config;
}

Checkpoint quantised(Checkpoint checkpoint, DType weights) {
  checkpoint.file.tensors = quantise_parameters(checkpoint, weights);
  return checkpoint;
}

Checkpoint dequantised(Checkpoint checkpoint) {
  for (auto& [name, tensor] : checkpoint.file.tensors) tensor = convert_floats(tensor, DType::f32, name);
  return checkpoint;
}

std::vector<std::int32_t> some_ids(std::int64_t count, std::int64_t vocabulary) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>((i * i * 7 + 3 * i) % vocabulary));
  return ids;
}

class QuantisedModel : public OnDevice {};

TEST_P(QuantisedModel, IsTheModelOfTheNumbersThatItStandsFor) {
  ModelConfig plain_ssm = small_model();
  plain_ssm.ssm_gating = false;
  plain_ssm.tie_word_embeddings = false;
  for (const ModelConfig& config : {small_model(), plain_ssm}) {
    const std::int64_t batch = 2, length = 40;
    const std::vector<std::int32_t> ids = some_ids(batch * length, config.vocab_size);
    for (const DType weights : schemes) {
      const Checkpoint checkpoint = quantised(random_checkpoint(config, 11), weights);
      Engine oracle(device("cpu"), dequantised(checkpoint), {});
      const std::vector<float> expected = all_logits(oracle, ids, batch, length);
      for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
        if (dtype != DType::f32 && !device_->supports(half_feature(dtype)).supported) continue;
        SCOPED_TRACE(fmt::format("{} {}", dtype_name(weights), dtype_name(dtype)));
        const double tolerance = dtype == DType::f32   ? f32_tolerance
                                 : dtype == DType::f16 ? f16_tolerance
                                                       : bf16_tolerance;
        EngineOptions options;
        options.dtype = dtype;
        Engine engine(device_, checkpoint, options);
        EXPECT_LE(relative_error(all_logits(engine, ids, batch, length), expected), tolerance);

        // Token by token, as generation reads weights.
        const auto session = engine.create_session();
        const auto vocabulary = static_cast<std::size_t>(config.padded_vocab_size());
        for (std::size_t t = 0; t < 12; ++t) {
          session->append(std::span(ids).subspan(t, 1));
          EXPECT_LE(relative_error(session->logits(), std::span(expected).subspan(t * vocabulary, vocabulary)),
                    tolerance)
              << "token " << t;
        }
      }
    }
  }
}

TEST_P(QuantisedModel, TakesTheMemoryThatWasEstimated) {
  const ModelConfig config = small_model();
  const Checkpoint plain = random_checkpoint(config, 11);
  const std::uint64_t f32 = model_memory(config, {}).weights_bytes;
  {
    const H3Model first(device_, plain, DType::f32, ConvAlgorithm::automatic, {});
  }  // what a device makes once stays
  for (const DType weights : schemes) {
    const Checkpoint checkpoint = quantised(plain, weights);
    const ModelMemory memory = model_memory(config, {DType::f32, &checkpoint.file});
    std::uint64_t stored = 0;  // but for the SSM's parameters, all that is uploaded
    for (const ParameterSpec& parameter : parameter_table(config)) {
      const bool of_ssm = parameter.name.find("kernel") != std::string::npos || parameter.name.ends_with("mixer.D") ||
                          parameter.name.ends_with("ssm_k_D");
      if (!of_ssm) stored += checkpoint.file.at(parameter.name).bytes.size();
    }
    EXPECT_EQ(memory.weights_bytes, stored);
    EXPECT_LT(memory.weights_bytes, f32 * (weights == DType::q8 ? 40 : 28) / 100);
    EXPECT_EQ(memory.dequantised_bytes, static_cast<std::uint64_t>(3 * 64 * 64 * 4));
    EXPECT_EQ(model_memory(config, {DType::f32, &plain.file}).dequantised_bytes, 0u);

    // Where memory is counted, what loading allocates is what was said before.
    const std::uint64_t before = device_->memory_usage().used_bytes;
    const H3Model model(device_, checkpoint, DType::f32, ConvAlgorithm::automatic, {});
    const std::uint64_t used = device_->memory_usage().used_bytes - before;
    EXPECT_NEAR(static_cast<double>(used), static_cast<double>(memory.weights_bytes + memory.filters_bytes),
                0.02 * static_cast<double>(used) + 512.0 * static_cast<double>(checkpoint.file.tensors.size()));
  }
}

TEST_P(QuantisedModel, ProjectionsOfOneMatrixAreQuantisedAlike) {
  Checkpoint checkpoint = quantised(random_checkpoint(small_model(), 11), DType::q8);
  HostTensor& k = checkpoint.file.tensors.at("backbone.layers.0.mixer.k_proj.weight");
  k = convert_floats(k, DType::f32, "k");
  try {
    const H3Model model(device_, checkpoint, DType::f32, ConvAlgorithm::automatic, {});
    ADD_FAILURE() << "it loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::bad_file);
    EXPECT_NE(std::string(error.what()).find("k_proj.weight is f32"), std::string::npos) << error.what();
  }
}

// What trains has its parameters in f32.
TEST_P(QuantisedModel, IsNotTrained) {
  const HostTensor matrix = quantise(make_host_tensor(std::vector<float>(64, 0.5f), {2, 32}), DType::q4, "w");
  try {
    upload_converted(*device_, matrix, device_->allocate_tensor(DType::f32, {2, 32}), "fc1.weight");
    ADD_FAILURE() << "it was uploaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::bad_file);
    EXPECT_NE(std::string(error.what()).find("fc1.weight: it is q4, which is not trained"), std::string::npos)
        << error.what();
  }
}

RIVERHORSE_ON_EVERY_DEVICE(QuantisedModel);

// A backend that has no kernels for them says so before anything is loaded.
class WithoutQuantisedWeights final : public Device {
 public:
  const DeviceInfo& info() const override { return cpu_->info(); }
  Support supports(Feature feature) const override {
    if (feature == Feature::quantised_weights) return {false, "no kernels for them: use the cpu backend"};
    return cpu_->supports(feature);
  }
  std::shared_ptr<Buffer> allocate(std::uint64_t size_bytes, MemoryUse use) override {
    ++allocations;
    return cpu_->allocate(size_bytes, use);
  }
  MemoryUsage memory_usage() const override { return cpu_->memory_usage(); }
  std::uint64_t memory_free_bytes() const override { return cpu_->memory_free_bytes(); }
  std::uint64_t max_tensor_bytes() const override { return cpu_->max_tensor_bytes(); }
  void upload(const Tensor& tensor, std::span<const std::byte> bytes) override { cpu_->upload(tensor, bytes); }
  void download(const Tensor& tensor, std::span<std::byte> bytes) override { cpu_->download(tensor, bytes); }
  std::span<std::byte> mapped(const Tensor& tensor) override { return cpu_->mapped(tensor); }
  void prepare(const RecordFunction& function, const ProgressFunction& progress) override {
    cpu_->prepare(function, progress);
  }
  std::unique_ptr<Recording> record(const RecordFunction& function, const RecordOptions& options) override {
    return cpu_->record(function, options);
  }
  std::uint64_t submit(Recording& recording) override { return cpu_->submit(recording); }
  void wait(std::uint64_t ticket) override { cpu_->wait(ticket); }
  DeviceCounters counters() const override { return cpu_->counters(); }

  int allocations = 0;

 private:
  std::shared_ptr<Device> cpu_ = device("cpu");
};

TEST(QuantisedWeights, AreRefusedWhereTheyCannotBeUsed) {
  const auto lacking = std::make_shared<WithoutQuantisedWeights>();
  const Checkpoint plain = random_checkpoint(small_model(), 11);
  try {
    Engine engine(lacking, quantised(plain, DType::q4), {});
    ADD_FAILURE() << "it loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::unsupported);
    const std::string message = error.what();
    for (const char* part : {"cpu:0", "quantised weights", "use the cpu backend"}) {
      EXPECT_NE(message.find(part), std::string::npos) << message;
    }
  }
  EXPECT_EQ(lacking->allocations, 0);
  EXPECT_NO_THROW(Engine(lacking, plain, {}));
}

// Perplexity of the model that ships on a text, its weights rounded to 8 and to 4 bits.
TEST(QuantisedWeights, CostTheDefaultModelLittle) {
  const std::string folder = RIVERHORSE_SOURCE_DIR "/samples/models/default";
  const Checkpoint original = load_checkpoint(folder, {});
  const auto tokenizer = find_tokenizer(folder, original.config.vocab_size);
  std::ifstream book(RIVERHORSE_SOURCE_DIR "/samples/data/tom_sawyer.txt");
  std::string text(20000, ' ');
  book.read(text.data(), static_cast<std::streamsize>(text.size()));
  std::vector<std::int32_t> tokens = tokenizer->encode(text, false);
  constexpr std::size_t window = 1024;
  ASSERT_GT(tokens.size(), 4 * window);
  std::vector<TextToScore> texts;
  for (std::size_t begin = 0; begin + window <= tokens.size() && texts.size() < 4; begin += window) {
    const auto first = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    texts.push_back({.tokens = {first, first + window}});
  }
  const auto perplexity = [&](const Checkpoint& checkpoint) {
    Engine engine(device("cpu"), checkpoint, {});
    TextScorer scorer(engine, 4);
    double nats = 0, scored = 0;
    scorer.score(texts, [&](std::size_t, std::int64_t, const TokenScore& score) {
      nats -= score.log_probability;
      ++scored;
    });
    return std::exp(nats / scored);
  };
  const double plain = perplexity(original);
  const double q8 = perplexity(quantised(original, DType::q8)), q4 = perplexity(quantised(original, DType::q4));
  std::printf("perplexity %.4f, q8 %.4f (%+.3f %%), q4 %.4f (%+.3f %%)\n", plain, q8, 100 * (q8 / plain - 1), q4,
              100 * (q4 / plain - 1));
  EXPECT_NEAR(q8 / plain, 1.0, 0.001);
  EXPECT_NEAR(q4 / plain, 1.0, 0.02);
}

}  // namespace
}  // namespace riverhorse::test
