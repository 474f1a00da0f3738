// Sessions: every way back to a state gives what follows from it, bit for bit; files survive damage and machines.
#include <filesystem>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "engine_fixture.h"

namespace riverhorse::test {
namespace {

constexpr std::int64_t new_tokens = 10;

std::vector<std::int32_t> prompt(std::int64_t length, std::int64_t vocabulary, int salt = 0) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < length; ++i) {
    ids.push_back(static_cast<std::int32_t>((i * i * 7 + i * 31 + salt * 13 + 5) % vocabulary));
  }
  return ids;
}

SamplingOptions lively(std::uint64_t seed) {
  SamplingOptions sampling;
  sampling.temperature = 1.2;
  sampling.top_k = 50;
  sampling.top_p = 0.95;
  sampling.seed = seed;
  return sampling;
}

std::vector<std::int32_t> steps(Session& session, std::int64_t count) {
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < count; ++i) tokens.push_back(session.step());
  return tokens;
}

std::string temporary_path(const std::string& name) {
  return (std::filesystem::temp_directory_path() / fmt::format("riverhorse-{}-{}", ::getpid(), name)).string();
}

StatusCode code_of(const std::function<void()>& call, std::string* message = nullptr) {
  try {
    call();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  return StatusCode::ok;
}

class SessionTest : public OnDevice {
 protected:
  // The hybrid: H3 and attention layers.
  Engine& engine() {
    if (!engine_) {
      EngineOptions options;
      options.context_tokens = 16;  // so that the KV cache has to grow
      options.prefill_piece_tokens = 24;
      engine_ = std::make_unique<Engine>(device_, golden_checkpoint("h3-hybrid"), options);
    }
    return *engine_;
  }
  std::int64_t vocabulary() { return engine().config().vocab_size; }

 private:
  std::unique_ptr<Engine> engine_;
};

TEST_P(SessionTest, CloneSnapshotRewindAndFileChangeNothingThatFollows) {
  const std::string path = temporary_path("session-" + safe_name(GetParam()));
  const auto session = engine().create_session(lively(11));
  session->append(prompt(40, vocabulary()));
  steps(*session, 3);
  session->checkpoint();
  const std::int64_t middle = session->position();
  const auto snapshot = session->snapshot();
  session->save(path);
  const auto clone = session->clone();
  const std::vector<std::int32_t> expected = steps(*session, new_tokens);

  EXPECT_EQ(steps(*clone, new_tokens), expected) << "clone";
  EXPECT_EQ(clone->tokens(), session->tokens());

  EXPECT_EQ(session->rewind(middle), 0) << "the checkpoint is exactly here";
  EXPECT_EQ(session->position(), middle);
  EXPECT_EQ(steps(*session, new_tokens), expected) << "rewind to a checkpoint";

  session->restore(snapshot);
  EXPECT_EQ(steps(*session, new_tokens), expected) << "snapshot";

  const auto loaded = engine().create_session();
  loaded->append(prompt(5, vocabulary(), 3));
  const LoadReport report = loaded->load(path);
  EXPECT_EQ(report.tokens_reused, middle);
  EXPECT_EQ(loaded->position(), middle);
  EXPECT_EQ(loaded->sampling().top_k, 50);
  EXPECT_EQ(steps(*loaded, new_tokens), expected) << "file";

  // After clear() nothing of the old text is left: a fresh session does the same.
  loaded->clear();
  EXPECT_EQ(loaded->position(), 0);
  loaded->set_sampling(lively(12));
  loaded->append(prompt(21, vocabulary(), 1));
  const std::vector<std::int32_t> after_clear = steps(*loaded, new_tokens);
  clone->clear();
  clone->set_sampling(lively(12));
  clone->append(prompt(21, vocabulary(), 1));
  EXPECT_EQ(steps(*clone, new_tokens), after_clear) << "clear";
  std::filesystem::remove(path);
}

TEST_P(SessionTest, MarksAreReturnedToFromWhereverTheTextHasGone) {
  const auto session = engine().create_session(lively(11));
  const auto start = session->mark();
  session->append(prompt(40, vocabulary()));
  const std::vector<std::int32_t> text = session->tokens();
  steps(*session, 3);
  const auto mark = session->mark();
  const std::vector<std::int32_t> expected = steps(*session, new_tokens);
  session->set_sampling(lively(5));
  EXPECT_EQ(session->return_to(mark), 0);
  EXPECT_EQ(steps(*session, new_tokens), expected) << "sampling and its random stream are those of the mark";

  EXPECT_EQ(session->return_to(start), 0);
  EXPECT_EQ(session->position(), 0);
  session->append(prompt(60, vocabulary(), 2));
  EXPECT_EQ(session->return_to(mark), 42) << "another text is in the KV cache";
  EXPECT_EQ(steps(*session, new_tokens), expected);
  EXPECT_EQ(session->return_to(mark), 0) << "a mark may be returned to again";

  // Before the mark the KV cache is that of the text still.
  EXPECT_EQ(session->rewind(30), 30);
  EXPECT_EQ(session->tokens(), std::vector<std::int32_t>(text.begin(), text.begin() + 30));

  Engine other(device_, golden_checkpoint("h3-hybrid"), {});
  EXPECT_EQ(code_of([&] { other.create_session()->return_to(mark); }), StatusCode::invalid_argument);
  EXPECT_EQ(code_of([&] { session->return_to(nullptr); }), StatusCode::invalid_argument);
}

TEST_P(SessionTest, RewindWithoutCheckpointReadsAgain) {
  const auto session = engine().create_session();
  const std::vector<std::int32_t> text = prompt(50, vocabulary());
  session->append(text);
  steps(*session, 4);
  EXPECT_EQ(session->rewind(30), 30);
  EXPECT_EQ(session->tokens(), std::vector<std::int32_t>(text.begin(), text.begin() + 30));
  const auto fresh = engine().create_session();
  fresh->append(std::span(text).first(30));
  EXPECT_EQ(steps(*session, new_tokens), steps(*fresh, new_tokens));
  EXPECT_EQ(session->rewind(0), 0);
  EXPECT_EQ(session->position(), 0);
  EXPECT_EQ(code_of([&] { session->step(); }), StatusCode::invalid_argument);
  EXPECT_EQ(code_of([&] { session->rewind(1); }), StatusCode::invalid_argument);
}

TEST_P(SessionTest, FileGoesToAnotherBackend) {
  const std::string path = temporary_path("backend-" + safe_name(GetParam()));
  Engine on_cpu_engine(device("cpu"), golden_checkpoint("h3-hybrid"), {});
  const auto session = on_cpu_engine.create_session();
  session->append(prompt(33, vocabulary()));
  steps(*session, 4);
  session->save(path);
  const auto loaded = engine().create_session();
  EXPECT_EQ(loaded->load(path).tokens_reused, 37);
  EXPECT_LE(relative_error(loaded->logits(), session->logits()), 2e-4);
  const std::vector<std::int32_t> expected = steps(*session, new_tokens);
  EXPECT_EQ(steps(*loaded, new_tokens), expected);
  std::filesystem::remove(path);
}

TEST_P(SessionTest, BadFilesAreRefusedAndChangeNothing) {
  const std::string path = temporary_path("bad-" + safe_name(GetParam()));
  const auto session = engine().create_session(lively(3));
  session->append(prompt(20, vocabulary()));
  session->save(path);
  std::string good(std::filesystem::file_size(path), '\0');
  std::ifstream(path, std::ios::binary).read(good.data(), static_cast<std::streamsize>(good.size()));

  const auto victim = engine().create_session();
  victim->append(prompt(9, vocabulary(), 2));
  const std::vector<std::int32_t> tokens_before = victim->tokens();
  const std::vector<float> logits_before = victim->logits();
  const auto refuse = [&](const std::string& bytes, const std::string& reason) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
    std::string message;
    EXPECT_EQ(code_of([&] { victim->load(path); }, &message), StatusCode::bad_file) << reason;
    EXPECT_NE(message.find(reason), std::string::npos) << message;
    EXPECT_NE(message.find(path), std::string::npos) << message;
  };
  refuse("", "only 0 bytes");
  refuse("RVHSESSX" + good.substr(8), "does not begin");
  std::string changed = good;
  changed[8] = 9;
  refuse(changed, "version is 9");
  for (const std::size_t byte : {std::size_t{12}, std::size_t{40}, good.size() / 2, good.size() - 1}) {
    changed = good;
    changed[byte] = static_cast<char>(changed[byte] ^ 0x10);
    refuse(changed, "damaged");
  }
  refuse(good.substr(0, good.size() - 100), "damaged");
  EXPECT_EQ(code_of([&] { victim->load(path + ".absent"); }), StatusCode::not_found);

  Engine other(device_, golden_checkpoint("h3-pure"), {});
  const auto foreign = other.create_session();
  std::ofstream(path, std::ios::binary | std::ios::trunc) << good;
  std::string message;
  EXPECT_EQ(code_of([&] { foreign->load(path); }, &message), StatusCode::bad_file);
  EXPECT_NE(message.find("model"), std::string::npos) << message;

  EXPECT_EQ(victim->tokens(), tokens_before);
  EXPECT_EQ(victim->logits(), logits_before);
  std::filesystem::remove(path);
}

TEST_P(SessionTest, BatchedStepsEqualSeparateSteps) {
  std::vector<std::unique_ptr<Session>> together;
  std::vector<std::vector<std::int32_t>> expected;
  for (int i = 0; i < 3; ++i) {
    SamplingOptions sampling = lively(static_cast<std::uint64_t>(100 + i));
    if (i == 1) sampling.repetition_penalty = 1.3;
    if (i == 2) sampling.logit_bias = {{7, 4.0f}, {8, -100.0f}};
    const auto alone = engine().create_session(sampling);
    alone->append(prompt(10 + 7 * i, vocabulary(), i));
    expected.push_back(steps(*alone, new_tokens));
  }
  for (int i = 0; i < 3; ++i) {
    SamplingOptions sampling = lively(static_cast<std::uint64_t>(100 + i));
    if (i == 1) sampling.repetition_penalty = 1.3;
    if (i == 2) sampling.logit_bias = {{7, 4.0f}, {8, -100.0f}};
    together.push_back(engine().create_session(sampling));
    together.back()->append(prompt(10 + 7 * i, vocabulary(), i));
  }
  // Five tokens in one order, then the others in another, so that slots and rows do not stay in step.
  std::vector<Session*> order = {together[0].get(), together[1].get(), together[2].get()};
  std::vector<std::vector<std::int32_t>> actual(3);
  for (std::int64_t i = 0; i < new_tokens; ++i) {
    if (i == 5) std::swap(order[0], order[2]);
    const std::vector<std::int32_t> tokens = engine().step(order);
    for (std::size_t b = 0; b < 3; ++b) actual[i < 5 ? b : 2 - b].push_back(tokens[b]);
  }
  EXPECT_EQ(actual, expected);
}

TEST_P(SessionTest, SessionsComeStepTogetherAndGoWithoutRecordingAnything) {
  EngineOptions options;
  options.max_sessions = 3;
  options.context_tokens = 64;
  Engine engine(device_, golden_checkpoint("h3-hybrid"), options);
  const std::int64_t lengths[] = {9, 17, 2, 17};
  const auto join = [&](int i) {
    auto session = engine.create_session(lively(static_cast<std::uint64_t>(40 + i)));
    session->append(prompt(lengths[i], engine.config().vocab_size, i));
    return session;
  };
  std::vector<std::vector<std::int32_t>> expected;
  for (int i = 0; i < 4; ++i) expected.push_back(steps(*join(i), 8));
  engine.prepare_sessions();

  const DeviceCounters before = device_->counters();
  std::vector<std::vector<std::int32_t>> actual(4);
  std::map<int, std::unique_ptr<Session>> members;
  const auto step_together = [&](int count) {
    for (int i = 0; i < count; ++i) {
      std::vector<Session*> batch;
      for (const auto& [name, session] : members) batch.push_back(session.get());
      const std::vector<std::int32_t> tokens = engine.step(batch);
      std::size_t row = 0;
      for (const auto& [name, session] : members) actual[static_cast<std::size_t>(name)].push_back(tokens[row++]);
    }
  };
  members[0] = join(0);
  step_together(2);
  members[1] = join(1);
  step_together(3);
  members[2] = join(2);
  step_together(3);
  members.erase(0);
  members[3] = join(3);  // into the slot that became free
  step_together(2);
  members.erase(1);
  step_together(3);
  members.erase(2);
  step_together(3);
  EXPECT_EQ(actual, expected);
  const DeviceCounters after = device_->counters();
  EXPECT_EQ(after.recordings, before.recordings);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.pipelines_created, before.pipelines_created);
}

TEST_P(SessionTest, GenerateEqualsStepsAndUndoesWhatWasAhead) {
  for (const bool penalties : {false, true}) {
    SamplingOptions sampling = lively(21);
    if (penalties) sampling.frequency_penalty = 0.5;
    const auto stepped = engine().create_session(sampling);
    stepped->append(prompt(12, vocabulary()));
    const std::vector<std::int32_t> expected = steps(*stepped, 130);

    const auto session = engine().create_session(sampling);
    session->append(prompt(12, vocabulary()));
    std::vector<std::int32_t> tokens;
    const auto take_until = [&](std::size_t count) {
      return [&tokens, count](std::int32_t token) {
        tokens.push_back(token);
        return tokens.size() < count;
      };
    };
    EXPECT_EQ(session->generate(100, take_until(1000)), 100);  // to the number
    EXPECT_EQ(session->generate(100, take_until(115)), 15);    // stopped from the callback
    EXPECT_EQ(session->position(), 12 + 115);
    EXPECT_THROW(session->generate(100,
                                   [&](std::int32_t token) -> bool {
                                     tokens.push_back(token);
                                     if (tokens.size() == 120) throw std::runtime_error("from the callback");
                                     return true;
                                   }),
                 std::runtime_error);
    EXPECT_EQ(session->position(), 12 + 120);
    for (int i = 0; i < 10; ++i) tokens.push_back(session->step());
    EXPECT_EQ(tokens, expected);
    EXPECT_EQ(session->generate(0, {}), 0);
  }
}

TEST_P(SessionTest, ReplayedStepsAllocateRecordAndWaitForNothing) {
  for (const std::int64_t batch : {1, 3}) {
    EngineOptions options;
    options.context_tokens = 256;
    Engine engine(device_, golden_checkpoint("h3-hybrid"), options);
    std::vector<std::unique_ptr<Session>> sessions;
    std::vector<Session*> order;
    for (std::int64_t i = 0; i < batch; ++i) {
      sessions.push_back(engine.create_session(lively(static_cast<std::uint64_t>(i))));
      sessions.back()->append(prompt(8, engine.config().vocab_size));
      order.push_back(sessions.back().get());
    }
    engine.step(order);  // the first records
    const DeviceCounters before = device_->counters();
    constexpr std::uint64_t count = 20;
    for (std::uint64_t i = 0; i < count; ++i) engine.step(order);
    const DeviceCounters after = device_->counters();
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.pipelines_created, before.pipelines_created);
    EXPECT_EQ(after.recordings, before.recordings);
    EXPECT_EQ(after.submissions - before.submissions, count);
    EXPECT_LE(after.host_waits - before.host_waits, count) << "one wait a step: for its token";
  }
}

TEST_P(SessionTest, RepeatedPrefillLengthsAreRecordedOnce) {
  EngineOptions options;
  options.prefill_piece_tokens = 24;
  Engine engine(device_, golden_checkpoint("h3-hybrid"), options);
  const auto session = engine.create_session();
  session->append(prompt(25 + 7, vocabulary()));  // reads a piece of 24, and 7
  const DeviceCounters before = device_->counters();
  session->append(prompt(24, vocabulary()));
  session->append(prompt(7, vocabulary()));
  const DeviceCounters after = device_->counters();
  EXPECT_EQ(after.recordings, before.recordings);
  EXPECT_EQ(after.allocations, before.allocations);
  EXPECT_EQ(after.submissions, before.submissions + 2);
}

TEST_P(SessionTest, LogitsAreThoseTheStepDrawsFrom) {
  const auto session = engine().create_session(lively(5));
  session->append(prompt(17, vocabulary()));
  const std::vector<float> peeked = session->logits();
  EXPECT_EQ(session->logits(), peeked) << "asking changes nothing";
  EXPECT_EQ(session->position(), 17);
  session->step();
  EXPECT_EQ(engine().step_logits(), peeked);
  const std::vector<float> forward = all_logits(engine(), prompt(17, vocabulary()), 1, 17);
  EXPECT_LE(relative_error(peeked, std::span(forward).last(peeked.size())), on_cpu() ? 2e-5 : 2e-4);
}

TEST_P(SessionTest, BadCallsAreRefusedByName) {
  const auto session = engine().create_session();
  std::string message;
  const auto padded = static_cast<std::int32_t>(engine().config().padded_vocab_size());
  for (const std::int32_t id : {-1, padded, padded + 1000000}) {
    const std::int32_t ids[] = {1, 2, id};
    EXPECT_EQ(code_of([&] { session->append(ids); }, &message), StatusCode::invalid_argument);
    EXPECT_NE(message.find(std::to_string(id)), std::string::npos) << message;
    EXPECT_EQ(session->position(), 0) << "nothing is read";
    EXPECT_EQ(code_of([&] { engine().forward(ids, 1, 3, {}); }), StatusCode::invalid_argument);
  }
  EXPECT_EQ(code_of([&] { session->step(); }), StatusCode::invalid_argument);
  EXPECT_EQ(code_of([&] { session->generate(1, {}); }), StatusCode::invalid_argument);
  EXPECT_EQ(code_of([&] { session->logits(); }), StatusCode::invalid_argument);
  EXPECT_EQ(code_of([&] { session->restore(nullptr); }), StatusCode::invalid_argument);
  session->append(prompt(2, vocabulary()));
  Session* twice[] = {session.get(), session.get()};
  EXPECT_EQ(code_of([&] { engine().step(twice); }), StatusCode::invalid_argument);
  EXPECT_TRUE(engine().step({}).empty());

  const auto refuse = [&](const std::string& field, const std::function<void(SamplingOptions&)>& change) {
    SamplingOptions options;
    change(options);
    EXPECT_EQ(code_of([&] { session->set_sampling(options); }, &message), StatusCode::invalid_argument) << field;
    EXPECT_NE(message.find(field), std::string::npos) << message;
  };
  refuse("temperature", [](SamplingOptions& o) { o.temperature = -1; });
  refuse("temperature", [](SamplingOptions& o) { o.temperature = std::nan(""); });
  refuse("top_k", [](SamplingOptions& o) { o.top_k = -1; });
  refuse("top_p", [](SamplingOptions& o) { o.top_p = 0; });
  refuse("top_p", [](SamplingOptions& o) { o.top_p = 1.5; });
  refuse("min_p", [](SamplingOptions& o) { o.min_p = 1.5; });
  refuse("repetition_penalty", [](SamplingOptions& o) { o.repetition_penalty = 0; });
  refuse("presence_penalty", [](SamplingOptions& o) { o.presence_penalty = 1e9; });
  refuse("frequency_penalty", [](SamplingOptions& o) { o.frequency_penalty = -1e9; });
  refuse("logit_bias", [](SamplingOptions& o) { o.logit_bias = {{1 << 20, 1.0f}}; });
  refuse("logit_bias", [](SamplingOptions& o) { o.logit_bias = {{1, std::nanf("")}}; });

  std::vector<std::unique_ptr<Session>> all;
  EXPECT_EQ(code_of([&] {
              for (int i = 0; i < 10; ++i) all.push_back(engine().create_session());
            }),
            StatusCode::out_of_memory);
  EXPECT_EQ(all.size(), 3u) << "four slots, one of them in use";
  all.clear();
  EXPECT_EQ(code_of([&] { engine().create_session(); }), StatusCode::ok) << "slots come back";
}

TEST_P(SessionTest, AppendCanBeCancelledAndContinued) {
  const std::vector<std::int32_t> text = prompt(100, vocabulary());
  const auto session = engine().create_session();
  int asked = 0;
  std::vector<std::uint64_t> progress;
  EXPECT_EQ(code_of([&] {
              session->append(
                  text, [&](std::uint64_t done, std::uint64_t) { progress.push_back(done); },
                  [&] { return ++asked == 2; });
            }),
            StatusCode::cancelled);
  EXPECT_EQ(progress, (std::vector<std::uint64_t>{24, 48}));
  EXPECT_EQ(session->position(), 49);
  session->append(std::span(text).subspan(49));
  EXPECT_EQ(session->tokens(), text);
  const auto whole = engine().create_session();
  whole->append(text);
  EXPECT_LE(relative_error(session->logits(), whole->logits()), 2e-5);
}

RIVERHORSE_ON_EVERY_DEVICE(SessionTest);

TEST(EngineMemory, EstimateAndRefusalWithNumbers) {
  const ModelConfig config = *model_preset("2.7b");
  EngineOptions options;
  const MemoryEstimate f32 = estimate_memory(config, options, {options.dtype});
  EXPECT_NEAR(static_cast<double>(f32.weights_bytes), 4.0 * static_cast<double>(parameter_count(config)),
              0.01 * static_cast<double>(f32.weights_bytes));
  options.dtype = DType::f16;
  EXPECT_NEAR(static_cast<double>(estimate_memory(config, options, {options.dtype}).weights_bytes),
              static_cast<double>(f32.weights_bytes) / 2, 0.02 * static_cast<double>(f32.weights_bytes));
  options.context_tokens *= 2;
  EXPECT_EQ(estimate_memory(config, options, {options.dtype}).cache_bytes,
            std::uint64_t{3} * 2 * 2560 * 2 * 4096 * 4);  // layers, k and v, width, f16, tokens, sessions

  // More sessions than any machine holds: refused before anything is allocated, with every number.
  const std::shared_ptr<Device> cpu = device("cpu");
  const std::uint64_t allocated = cpu->counters().allocations;
  EngineOptions huge;
  huge.max_sessions = 65536;
  huge.context_tokens = 1 << 28;
  std::string message;
  EXPECT_EQ(code_of([&] { Engine engine(cpu, golden_checkpoint("h3-hybrid"), huge); }, &message),
            StatusCode::out_of_memory);
  for (const char* part :
       {"weights", "filters", "states", "KV cache", "workspace", "in all", "free", "; a context of "}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << " in: " << message;
  }
  EXPECT_EQ(cpu->counters().allocations, allocated);
  EngineOptions wrong;
  wrong.max_sessions = 0;
  EXPECT_EQ(code_of([&] { Engine engine(cpu, golden_checkpoint("h3-pure"), wrong); }, &message),
            StatusCode::invalid_argument);
  EXPECT_NE(message.find("max_sessions"), std::string::npos);
}

TEST(EngineLifetime, SessionsMayOutliveTheEngine) {
  std::unique_ptr<Session> session;
  {
    Engine engine(device("cpu"), golden_checkpoint("h3-pure"), {});
    session = engine.create_session();
  }
  session->append(prompt(5, 512));
  session->step();
  EXPECT_EQ(session->position(), 6);
}

}  // namespace
}  // namespace riverhorse::test
