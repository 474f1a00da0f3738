// What an engine takes: said before, held to, and refused with what would fit; and what loading takes on the host.
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "backend/frame_recording.h"
#include "engine_fixture.h"
#include "model/initialization.h"

namespace riverhorse::test {
namespace {

ModelConfig medium_model() {
  ModelConfig config;
  config.n_embd = 128;
  config.n_layer = 4;
  config.n_inner = 512;
  config.attn_layer_idx = {1};
  config.attn_n_head = 4;
  config.ssm_d_state = 16;
  config.vocab_size = 2003;
  return config;
}

std::vector<std::int32_t> some_ids(std::int64_t count, std::int64_t vocabulary) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i) ids.push_back(static_cast<std::int32_t>((i * i * 7 + 3 * i) % vocabulary));
  return ids;
}

Checkpoint with_weights(const ModelConfig& config, std::optional<DType> weights) {
  Checkpoint checkpoint = random_checkpoint(config, 3);
  if (weights) checkpoint.file.tensors = quantise_parameters(checkpoint, *weights);
  return checkpoint;
}

// A device of its own, on which nothing is held yet.
std::shared_ptr<Device> fresh_device(const std::string& name) {
  if (name == "cpu") return open_cpu_device(cpu_device_info(), {});
  for (const DeviceInfo& info : list_devices().devices) {
    if (info.id() == name) return open_device(info, {});
  }
  return nullptr;
}

class EngineMemoryOnDevice : public OnDevice {};

TEST_P(EngineMemoryOnDevice, TakesWhatWasSaid) {
  struct Case {
    DType dtype;
    std::optional<DType> weights;
    std::int64_t sessions, context;
  };
  for (const Case& each :
       {Case{DType::f32, {}, 2, 600}, Case{DType::f16, {}, 1, 2048}, Case{DType::f32, DType::q8, 3, 300},
        Case{DType::f32, DType::q4, 24, 300}, Case{DType::f16, DType::q4, 1, 2048}}) {
    if (each.dtype != DType::f32 && !device_->supports(half_feature(each.dtype)).supported) continue;
    SCOPED_TRACE(fmt::format("{} {} sessions", dtype_name(each.dtype), each.sessions));
    const Checkpoint checkpoint = with_weights(medium_model(), each.weights);
    const std::shared_ptr<Device> device = fresh_device(GetParam());
    EngineOptions options;
    options.dtype = each.dtype;
    options.max_sessions = each.sessions;
    options.context_tokens = each.context;
    options.prefill_piece_tokens = 256;
    const MemoryEstimate estimate =
        estimate_memory(checkpoint.config, options, {each.dtype, &checkpoint.file}, *device);
    EXPECT_EQ(device->memory_usage().used_bytes, 0u) << "an estimate allocates nothing";
    Engine engine(device, checkpoint, options);
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> batch;
    for (std::int64_t i = 0; i < each.sessions; ++i) {
      sessions.push_back(engine.create_session());
      sessions.back()->append(some_ids(i == 0 ? 290 : 3, checkpoint.config.vocab_size));
      batch.push_back(sessions.back().get());
    }
    engine.step(batch);
    batch[0]->step();
    batch[0]->snapshot();
    const auto used = static_cast<double>(device->memory_usage().peak_used_bytes);
    const auto said = static_cast<double>(estimate.total_bytes());
    EXPECT_NEAR(said, used, 0.05 * used) << estimate.text();
    // What is held from the driver and not handed out is little.
    EXPECT_LE(static_cast<double>(device->memory_usage().allocated_bytes), 1.15 * said + 3 * 0x1p20);
  }
}

TEST_P(EngineMemoryOnDevice, RefusesWhatDoesNotFitTheBudgetAndSaysWhatWould) {
  const Checkpoint checkpoint = with_weights(medium_model(), {});
  const MatrixTypes types{DType::f32, &checkpoint.file};
  EngineOptions options;
  options.max_sessions = 40;
  options.context_tokens = 4096;
  options.prefill_piece_tokens = 128;
  const std::shared_ptr<Device> device = fresh_device(GetParam());
  const auto needs = [&] { return estimate_memory(checkpoint.config, options, types, *device).total_bytes(); };
  const auto refusal = [&] {
    try {
      const Engine engine(device, checkpoint, options);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), StatusCode::out_of_memory);
      return std::string(error.what());
    }
    return std::string();
  };
  const std::uint64_t all = needs();
  options.max_sessions = 17;
  options.memory_budget_bytes = needs() + 1000;
  options.max_sessions = 40;
  EXPECT_LT(options.memory_budget_bytes, all);
  const std::string message = refusal();
  for (const char* part : {"weights", "filters", "states", "KV cache", "workspace", "in all", "memory budget of",
                           "; 17 sessions would take", "; a context of "}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  }
  EXPECT_EQ(message.find("18 sessions"), std::string::npos) << message;
  EXPECT_EQ(device->counters().allocations, 0u);
  // Both are true, to the last of them.
  const auto context = std::stoll(message.substr(message.find("a context of ") + 13));
  options.context_tokens = context + 1;
  EXPECT_NE(refusal(), "");
  options.context_tokens = context;
  EXPECT_EQ(refusal(), "");
  options.context_tokens = 4096;
  options.max_sessions = 17;
  Engine engine(device, checkpoint, options);
  EXPECT_LE(device->memory_usage().used_bytes, options.memory_budget_bytes);

  // A text that outgrows the cache is refused too, and goes on as far as the cache reaches.
  const auto session = engine.create_session();
  session->append(some_ids(10, checkpoint.config.vocab_size));
  EXPECT_THROW(session->append(some_ids(5000, checkpoint.config.vocab_size)), Error);
  EXPECT_EQ(session->position(), 10);
  session->step();
  EXPECT_LE(device->memory_usage().peak_used_bytes, options.memory_budget_bytes);
}

TEST_P(EngineMemoryOnDevice, OffersQuantisedWeightsWhereTheyFit) {
  const Checkpoint checkpoint = with_weights(medium_model(), {});
  const std::shared_ptr<Device> device = fresh_device(GetParam());
  EngineOptions options;
  options.max_sessions = 1;
  options.context_tokens = 1;
  options.prefill_piece_tokens = 1;
  const MatrixTypes q4{DType::f32, nullptr, DType::q4};
  options.memory_budget_bytes = estimate_memory(checkpoint.config, options, q4, *device).total_bytes() + 1000;
  try {
    const Engine engine(device, checkpoint, options);
    ADD_FAILURE() << "it loaded";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("; weights of convert --weights q4 would take"), std::string::npos) << message;
    EXPECT_EQ(message.find("--weights q8"), std::string::npos) << message;
    EXPECT_EQ(message.find("session"), std::string::npos) << "there is but one: " << message;
  }
  EXPECT_EQ(device->counters().allocations, 0u);
  Engine engine(device, with_weights(medium_model(), DType::q4), options);
  EXPECT_LE(device->memory_usage().used_bytes, options.memory_budget_bytes);
}

// In smaller pieces where all rows of logits at once do not fit.
TEST_P(EngineMemoryOnDevice, WholeForwardPassesKeepToTheBudget) {
  const Checkpoint checkpoint = with_weights(medium_model(), {});
  const std::vector<std::int32_t> ids = some_ids(2 * 200, checkpoint.config.vocab_size);
  const std::shared_ptr<Device> device = fresh_device(GetParam());
  EngineOptions options;
  options.max_sessions = 1;
  options.context_tokens = 1;
  options.prefill_piece_tokens = 512;
  std::vector<float> expected;
  {
    Engine free(device, checkpoint, options);
    expected = all_logits(free, ids, 2, 200);
  }
  const std::uint64_t kept = device->memory_usage().used_bytes;
  options.forward_tokens = 200;
  const std::uint64_t least =
      estimate_memory(checkpoint.config, options, {DType::f32, &checkpoint.file}, *device).total_bytes();
  options.memory_budget_bytes = kept + least + 2000;
  Engine engine(device, checkpoint, options);
  EXPECT_LE(relative_error(all_logits(engine, ids, 2, 200), expected), 2e-5);
  EXPECT_THROW(engine.forward(some_ids(20000, 2000), 1, 20000, [](std::int64_t, std::span<const float>) {}), Error);
}

TEST_P(EngineMemoryOnDevice, CountsSessionsInFrames) {
  if (dynamic_cast<FrameDevice*>(device_.get()) == nullptr) GTEST_SKIP() << "no frames";
  const Checkpoint checkpoint = with_weights(medium_model(), {});
  const std::shared_ptr<Device> device = fresh_device(GetParam());
  EngineOptions options;
  options.max_sessions = 3;
  options.context_tokens = 300;
  options.prefill_piece_tokens = 512;
  const auto estimate = [&] {
    return estimate_memory(checkpoint.config, options, {DType::f32, &checkpoint.file}, *device);
  };
  const MemoryEstimate none = estimate();
  EXPECT_EQ(none.frames_bytes, 0u);
  EXPECT_EQ(none.text().find("frames"), std::string::npos) << none.text();
  options.frame_sessions = 3;
  const MemoryEstimate said = estimate();
  EXPECT_EQ(said.total_bytes(), none.total_bytes() + said.frames_bytes);

  // Two fit, and so it is said; three do not, and nothing is allocated.
  options.frame_sessions = 2;
  options.memory_budget_bytes = estimate().total_bytes() + 1000;
  options.frame_sessions = 3;
  try {
    const Engine engine(device, checkpoint, options);
    ADD_FAILURE() << "it loaded";
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(", sessions in frames "), std::string::npos) << message;
    EXPECT_NE(message.find("; 2 sessions in frames would take"), std::string::npos) << message;
  }
  EXPECT_EQ(device->counters().allocations, 0u);

  options.memory_budget_bytes = said.total_bytes() + 1000;
  Engine engine(device, checkpoint, options);
  std::vector<std::unique_ptr<Session>> sessions;
  for (int i = 0; i < 3; ++i) {
    sessions.push_back(engine.create_session());
    sessions.back()->append(some_ids(3, checkpoint.config.vocab_size));
    sessions.back()->step();
  }
  sessions[0]->snapshot();  // transfers take what they take
  const auto before = device->memory_usage().used_bytes;
  for (const auto& session : sessions) session->start_frames(4);
  sessions[0]->enqueue_frames(some_ids(200, checkpoint.config.vocab_size));
  const auto used = static_cast<double>(device->memory_usage().peak_used_bytes - before);
  EXPECT_NEAR(static_cast<double>(said.frames_bytes), used, 0.05 * used) << said.text();
  const auto all = static_cast<double>(device->memory_usage().peak_used_bytes);
  EXPECT_NEAR(static_cast<double>(said.total_bytes()), all, 0.05 * all) << said.text();
}

RIVERHORSE_ON_EVERY_DEVICE(EngineMemoryOnDevice);

std::uint64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::stoull(line.substr(key.size() + 1)) << 10;
  }
  return 0;
}

// Looks at this process's memory all the time that it lives.
class MemoryWatch {
 public:
  MemoryWatch() : thread_([this] { watch(); }) {}
  ~MemoryWatch() { stop(); }
  void stop() {
    if (!thread_.joinable()) return;
    stopped_ = true;
    thread_.join();
  }
  std::uint64_t most_anonymous() const { return anonymous_; }
  std::uint64_t most_of_files() const { return of_files_; }

 private:
  void watch() {
    while (!stopped_) {
      anonymous_ = std::max(anonymous_, status_bytes("RssAnon:"));
      of_files_ = std::max(of_files_, status_bytes("RssFile:"));
    }
  }

  std::uint64_t anonymous_ = 0, of_files_ = 0;
  std::atomic<bool> stopped_{false};
  std::thread thread_;
};

// A file of 67 MB of f16, of which one matrix takes 42, used as 134 MB of f32: no second copy, not even of a tensor.
TEST(EngineLoading, StreamsWeightsFromTheFile) {
  ModelConfig config = medium_model();
  config.n_embd = 1024;
  config.n_inner = 4096;
  config.n_layer = 1;
  config.attn_layer_idx = {0};
  config.attn_n_head = 8;
  config.vocab_size = 20480;
  config.pad_vocab_size_multiple = 1;
  const auto path =
      std::filesystem::path(testing::TempDir()) / fmt::format("engine_memory_test_{}.safetensors", ::getpid());
  {
    const Checkpoint checkpoint = random_checkpoint(config, 1);
    std::map<std::string, HostTensor> halves;
    for (const auto& [name, tensor] : checkpoint.file.tensors) {
      halves.emplace(name, convert_floats(tensor, DType::f16, name));
    }
    write_safetensors(path, halves, {});
  }
  ASSERT_GT(std::filesystem::file_size(path), 60u << 20);
  const std::shared_ptr<Device> device = fresh_device("cpu");
  if (status_bytes("RssAnon:") == 0) GTEST_SKIP() << "this system does not say what memory a process has";
  const std::uint64_t anonymous_before = status_bytes("RssAnon:"), files_before = status_bytes("RssFile:");
  EngineOptions options;
  options.max_sessions = 1;
  options.context_tokens = 16;
  options.prefill_piece_tokens = 16;
  MemoryWatch watch;
  CheckpointOptions load;
  load.config = config;
  const Checkpoint checkpoint = load_checkpoint(path, load);
  const Engine engine(device, checkpoint, options);
  watch.stop();
  std::filesystem::remove(path);
  const std::uint64_t held = device->memory_usage().used_bytes;
  EXPECT_LE(watch.most_anonymous() - anonymous_before, held + (12u << 20)) << "besides what the device holds";
  EXPECT_LE(watch.most_of_files() - files_before, (40u << 20) + (6u << 20)) << "one tensor at a time";
  EXPECT_LE(status_bytes("RssFile:") - files_before, 6u << 20) << "what was read of the file is let go of";
}

}  // namespace
}  // namespace riverhorse::test
