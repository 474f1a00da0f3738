// riverhorse train on several ranks of this machine: under mpirun on the cpu; and as --gpus and torchrun's variables
// make them, on the emulated CUDA.
#include <algorithm>
#include <cmath>

#include "train_cli_fixture.h"

namespace riverhorse {
namespace {

const ChildEnvironment mpi_environment = {
    {"OMP_NUM_THREADS", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT", "1"}, {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"}};

class Ranks : public TrainCli {
 protected:
  void SetUp() override {
    const std::string launcher = RIVERHORSE_MPIEXEC;
    if (launcher.empty()) GTEST_SKIP() << "this build has no MPI (libopenmpi-dev and openmpi-bin)";
  }

  static std::vector<std::string> launch(int count) {
    return {RIVERHORSE_MPIEXEC, "--oversubscribe", "-np", std::to_string(count)};
  }
  // On one rank without a launcher.
  static ChildResult train_on(int count, const std::string& more, const ChildEnvironment& extra = {}) {
    const std::vector<std::string> arguments = joined({"train", "--backend", "cpu"}, words(more));
    ChildEnvironment environment = mpi_environment;
    environment.insert(extra.begin(), extra.end());
    if (count == 1) return run(arguments, environment);
    return run_command(joined(joined(launch(count), {RIVERHORSE_PROGRAM}), arguments), environment);
  }
  // `script` on every rank, where $program is the program and $rank the rank.
  static ChildResult script_on(int count, const std::string& script) {
    const std::string whole = "program='" RIVERHORSE_PROGRAM "'; rank=$OMPI_COMM_WORLD_RANK; " + script;
    return run_command(joined(launch(count), {"sh", "-c", whole}), mpi_environment);
  }

  // What has ended and nobody asked for yet does not.
  static bool runs(long process) {
    const std::string status = read_whole_file("/proc/" + std::to_string(process) + "/stat");
    return !status.empty() && status.find(") Z ") == std::string::npos;
  }

  // Failed with this status, and one of the ranks said why, once.
  static void expect_one_message(const ChildResult& result, int status, const std::string& message) {
    EXPECT_EQ(result.status, status) << result.out << result.err;
    const std::size_t first = result.err.find(message);
    ASSERT_NE(first, std::string::npos) << "stderr should say \"" << message << "\": " << result.err;
    EXPECT_EQ(result.err.find(message, first + 1), std::string::npos) << result.err;
  }

  static void expect_same(const std::vector<nlohmann::json>& given, const std::vector<nlohmann::json>& whole) {
    ASSERT_EQ(given.size(), whole.size());
    for (std::size_t i = 0; i < given.size(); ++i) {
      const auto same = [&](const char* field, double tolerance) {
        if (whole[i][field].is_null()) {
          EXPECT_TRUE(given[i][field].is_null()) << field << " of step " << i + 1;
          return;
        }
        EXPECT_NEAR(given[i][field].get<double>(), whole[i][field].get<double>(), tolerance)
            << field << " of step " << i + 1;
      };
      same("loss", 1e-5);
      same("validation_loss", 1e-5);
      same("gradient_norm", 1e-4 * whole[i]["gradient_norm"].get<double>());
      EXPECT_EQ(given[i]["step"], whole[i]["step"]);
      EXPECT_EQ(given[i]["tokens"], whole[i]["tokens"]);
    }
  }

  // Padding, so that ranks have different numbers of targets; dropout, of which each rank draws its part.
  static std::string options(const std::string& output, const std::string& more, int steps = 30, int batch = 6) {
    return model_options("tiny-hybrid", output, more + " --length 40", steps, batch);
  }
  // `more` comes last, and has the length.
  static std::string model_options(const std::string& model, const std::string& output, const std::string& more,
                                   int steps, int batch) {
    std::string documents;
    for (int i = 0; i < 40; ++i) {
      documents += "{\"text\": \"" + std::to_string(i * i * 7919) + " river horses swim at night" +
                   std::string(static_cast<std::size_t>(i), '.') + "\"}\n";
    }
    return "--preset " + model + " --set resid_pdrop=0.1 --set embed_pdrop=0.1 --set attn_pdrop=0.1 --data " +
           write_file("documents.jsonl", documents) +
           " --validation-percent 20 --reset-state-at-documents --learning-rate 1e-3 --validate-every "
           "10" +
           " --batch " + std::to_string(batch) + " --steps " + std::to_string(steps) + " --output " + output + " " +
           more;
  }
};

TEST_F(Ranks, TwoAndThreeTrainAsOneDoes) {
  int number = 0;
  for (const std::string more :
       {"--accumulation 1", "--accumulation 2", "--shard optimizer",
        // Tensors that do not end where the next one begins.
        "--shard gradients --accumulation 2 --clip 0.5 --set n_embd=20 --set attn_n_head=2 --recompute block"}) {
    const std::string one = temporary("one_" + std::to_string(++number));
    expect_success(train_on(1, options(one, more)));
    for (const int count : {2, 3}) {
      SCOPED_TRACE(std::to_string(count) + " ranks, " + more);
      const std::string folder = temporary("ranks_" + std::to_string(count) + "_" + std::to_string(number));
      const ChildResult result = train_on(count, options(folder, more));
      expect_success(result);
      EXPECT_NE(result.out.find("on each of " + std::to_string(count) + " ranks"), std::string::npos) << result.out;
      EXPECT_NE(result.out.find("done: " + folder + "/step-00000030"), std::string::npos) << result.out;
      EXPECT_EQ(result.out.find("configuration"), result.out.rfind("configuration")) << "one rank alone prints";
      expect_same(rows(folder), rows(one));
    }
  }
}

TEST_F(Ranks, SequencesAreShared) {
  struct Shared {
    int ranks;
    const char *model, *training;  // of one rank and of several
    const char* shared;            // of several alone
    int batch = 2;
  };
  const std::string no_dropout = " --set resid_pdrop=0 --set embed_pdrop=0 --set attn_pdrop=0";
  const Shared all[] = {
      // Whose keys reach back beyond the rank before; dropout; rotary positions; more than one channel a head.
      {3, "tiny-rotary", "--set attn_n_head=2 --set n_embd=48 --length 24", "--sequence-parallel 1", 3},
      {2, "tiny-rotary", "--length 48", "--sequence-parallel 2"},
      {3, "tiny-headdim", "--set attn_n_head=3 --set n_embd=48 --length 36", "--sequence-parallel 3"},
      {4, "tiny-hybrid", "--length 16 --accumulation 2", "--sequence-parallel 2 --shard gradients", 4},
      {2, "tiny-hybrid", "--length 40 --recompute block", "--sequence-parallel 2", 1},
  };
  int number = 0;
  for (const Shared& each : all) {
    SCOPED_TRACE(std::string(each.model) + " " + each.training + " " + each.shared);
    const std::string one = temporary("whole_" + std::to_string(++number)),
                      several = temporary("shared_" + std::to_string(number));
    const std::string same = std::string(each.training) + (each.batch > 1 ? no_dropout : "");
    expect_success(train_on(1, model_options(each.model, one, same, 30, each.batch)));
    expect_success(
        train_on(each.ranks, model_options(each.model, several, same + " " + each.shared, 30, each.batch)));
    expect_same(rows(several), rows(one));
  }
  // Alone it goes on with whole sequences.
  const std::string folder = temporary("shared_2");
  expect_one_message(train_on(1, "--resume " + folder + " --steps 31"), 2, "1 ranks cannot share each sequence");
  expect_success(train_on(1, "--resume " + folder + " --steps 31 --sequence-parallel 1"));
}

TEST_F(Ranks, WhatCannotBeSharedIsRefused) {
  const auto refused = [&](const char* model, const std::string& more, int batch, const std::string& message) {
    expect_one_message(train_on(2, model_options(model, temporary("not_shared"), more, 30, batch)), 2, message);
  };
  refused("tiny", "--length 32 --sequence-parallel 3", 2, "2 ranks cannot share each sequence among 3");
  refused("tiny", "--length 33 --sequence-parallel 2", 1, "a sequence of 33 tokens (--length) does not divide");
  refused("tiny", "--length 32 --sequence-parallel 2 --conv fft", 1, "by fft has no gradient");
  refused("tiny", "--length 32 --sequence-parallel 2", 2, "choose a batch of one sequence");
  refused("tiny-hybrid", "--length 32 --sequence-parallel 2 --set attn_n_head=1", 1, "the 1 heads");
}

TEST_F(Ranks, AnotherNumberOfRanksGoesOn) {
  const std::string whole = temporary("whole"), parts = temporary("parts");
  expect_success(train_on(1, options(whole, "--schedule constant", 40)));
  expect_success(train_on(2, options(parts, "--schedule constant --shard optimizer", 10)));
  expect_success(train_on(3, "--resume " + parts + " --steps 20 --shard gradients"));
  expect_success(train_on(2, "--resume " + parts + " --steps 30 --shard none"));
  expect_success(train_on(1, "--resume " + parts + " --steps 40"));
  expect_same(rows(parts), rows(whole));

  // The same where every rank saves its part of the moments.
  const std::string saved = temporary("saved_in_parts");
  expect_success(train_on(3, options(saved, "--schedule constant --shard optimizer --sharded-save", 10)));
  const std::string third = saved + "/step-00000010/optimizer-00003-of-00003.safetensors";
  EXPECT_TRUE(std::filesystem::exists(third));
  EXPECT_FALSE(std::filesystem::exists(saved + "/step-00000010/optimizer.safetensors"));
  for (const char* command : {"info --model ", "generate --prompt A --max-tokens 2 --backend cpu --model "}) {
    expect_success(run(words(command + saved + "/step-00000010")));
  }
  expect_success(train_on(2, "--resume " + saved + " --steps 20 --shard gradients"));
  expect_success(train_on(3, "--resume " + saved + " --steps 30 --shard none"));
  expect_success(train_on(1, "--resume " + saved + " --steps 40"));
  expect_same(rows(saved), rows(whole));
  const auto files = [&](const std::string& step) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(saved + "/step-000000" + step)) {
      count += entry.path().filename().string().starts_with("optimizer");
    }
    return count;
  };
  EXPECT_EQ(files("20"), 2);
  EXPECT_EQ(files("30"), 3);
  EXPECT_EQ(files("40"), 1);
}

// Bit for bit, as the next step and what is saved after it are.
TEST_F(Ranks, PartsHoldTheMomentsOfTheWhole) {
  int number = 0;
  for (const char* shard : {"none", "gradients"}) {
    const std::string folders[] = {temporary("at_once_" + std::to_string(++number)),
                                   temporary("in_parts_" + std::to_string(number))};
    for (const std::string& folder : folders) {
      const std::string save = &folder == &folders[0] ? "" : " --sharded-save";
      expect_success(train_on(2, options(folder, "--schedule constant --shard " + std::string(shard) + save, 2)));
      expect_success(train_on(1, "--resume " + folder + " --steps 3 --shard none --sharded-save=false"));
    }
    EXPECT_EQ(rows(folders[0]), rows(folders[1]));
    EXPECT_EQ(read_whole_file(folders[0] + "/step-00000003/optimizer.safetensors"),
              read_whole_file(folders[1] + "/step-00000003/optimizer.safetensors"));
  }
}

TEST_F(Ranks, PartsNeedAFolderThatAllSee) {
  for (const char* rank : {"0", "1"}) std::filesystem::create_directories(temporary("host") + rank);
  const std::string start = "cd " + temporary("host") + "$rank; $program train --backend cpu --sharded-save ";
  expect_one_message(script_on(2, start + options("run", "", 2)), 1,
                     "--sharded-save needs a folder that all ranks share");
  std::filesystem::create_directories(temporary("host1") + "/run/tmp-step-00000002");
  expect_one_message(script_on(2, start + options("run", "", 2)), 1, "does not see what rank 1 wrote there");
  EXPECT_FALSE(std::filesystem::exists(temporary("host0") + "/run/step-00000002"));
}

TEST_F(Ranks, TheFirstCheckpointIsOneProcessCheckpoint) {
  const std::string one = temporary("first_one"), two = temporary("first_two");
  expect_success(train_on(1, options(one, "", 1)));
  expect_success(train_on(2, options(two, "", 1)));
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(read_whole_file(one + "/step-00000001/" + file).size(),
              read_whole_file(two + "/step-00000001/" + file).size());
  }
  expect_success(
      run({"generate", "--model", two + "/step-00000001", "--prompt", "A", "--max-tokens", "2", "--backend", "cpu"}));
}

TEST_F(Ranks, ErrorsEndAllRanksWithOneMessage) {
  const std::string folder = temporary("never");
  expect_one_message(train_on(2, options(folder, "", 30, 5)), 2,
                     "a micro-batch of 5 sequences (--batch) does not divide among 2 ranks");
  expect_one_message(train_on(2, "--preset tiny --output " + folder), 2, "--data is required");
  expect_one_message(train_on(3, "--no-such-flag"), 2, "--no-such-flag");
  // What one rank alone finds, while the other waits for it.
  const std::string file = write_file("a_file", "");
  expect_one_message(train_on(2, options(file + "/run", "")), 1, "a_file");
  expect_one_message(
      script_on(2, "$program train --backend cpu --preset tiny --steps 2 --output " + folder + " --data " +
                       tokens_file("mine0.safetensors", 30).substr(0, temporary("mine").size()) +
                       "$rank.safetensors --length 24 --batch 2"),
      1, "mine1.safetensors");
  tokens_file("mine1.safetensors", 29);
  expect_one_message(script_on(2, "$program train --backend cpu --preset tiny --steps 2 --output " + folder +
                                      " --data " + temporary("mine") + "$rank.safetensors --length 24 --batch 2"),
                     2, "all ranks must see the same files");
  EXPECT_FALSE(std::filesystem::exists(folder + "/step-00000002"));
}

TEST_F(Ranks, WhatMpiStartedDoesNotTrainAlone) {
  const std::string folder = temporary("alone");
  const ChildResult absent = run(joined({"train", "--backend", "cpu"}, words(options(folder, ""))),
                                 {{"OMPI_COMM_WORLD_SIZE", "2"}, {"RIVERHORSE_MPI_LIBRARY", "/nowhere/mpi.so"}});
  expect_failure(absent, 1, "one of 2 processes that MPI started, and they cannot be joined: /nowhere/mpi.so");
  const ChildResult other =
      run(joined({"train", "--backend", "cpu"}, words(options(folder, ""))), {{"PMI_SIZE", "3"}});
  expect_failure(other, 1, "MPI started 3 processes");
  EXPECT_FALSE(std::filesystem::exists(folder));
}

TEST_F(Ranks, TheScriptForMpirunBeginsAndGoesOn) {
  const std::string folder = temporary("cluster"), hosts = write_file("hosts", "localhost slots=4\n");
  ChildEnvironment environment = mpi_environment;
  environment.insert({{"RIVERHORSE", RIVERHORSE_PROGRAM},
                      {"RUN", folder},
                      {"PRESET", "tiny"},
                      {"DTYPE", "f32"},
                      {"DATA", tokens_file("cluster.safetensors", 20)},
                      {"BATCH", "4"},
                      {"LENGTH", "24"},
                      {"STEPS", "2"}});
  const std::string script = RIVERHORSE_SOURCE_DIR "/samples/cluster/mpirun.sh";
  expect_success(run_command({script, hosts, "2", "--backend", "cpu"}, environment));
  EXPECT_EQ(rows(folder).size(), 2u);
  expect_success(run_command({script, hosts, "4", "--backend", "cpu", "--steps", "3"}, environment));
  EXPECT_EQ(rows(folder).size(), 3u);
}

TEST_F(Ranks, AKilledRankEndsAllAndLeavesTheLastCheckpoint) {
  const std::string folder = temporary("killed"), stem = temporary("rank");
  std::filesystem::create_directories(folder);
  const std::string checkpoint = folder + "/step-00000004";
  const std::string arguments =
      "train --backend cpu " +
      options(folder, "--schedule constant --checkpoint-every 2 --keep 100000 --sharded-save", 100000);
  ChildResult result;
  std::thread training([&] { result = script_on(3, "echo $$ > " + stem + "$rank; exec $program " + arguments); });
  for (int i = 0; i < 6000 && !std::filesystem::exists(checkpoint); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const auto killed = std::chrono::steady_clock::now();
  const std::string pid = read_whole_file(stem + "2");
  ASSERT_FALSE(pid.empty());
  EXPECT_EQ(kill(static_cast<pid_t>(std::stol(pid)), SIGKILL), 0);
  training.join();
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(60));
  EXPECT_NE(result.status, 0);
  EXPECT_NE(result.err.find("signal 9"), std::string::npos) << result.err;
  for (const char* rank : {"0", "1"}) {
    const std::string process = read_whole_file(stem + rank);
    while (runs(std::stol(process)) && std::chrono::steady_clock::now() - killed < std::chrono::seconds(60)) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_FALSE(runs(std::stol(process))) << "rank " << rank;
  }

  // What was saved before is whole: the log goes on from it without a gap.
  ASSERT_TRUE(std::filesystem::exists(checkpoint));
  const std::size_t done = rows(folder).size();
  expect_success(train_on(2, "--resume " + folder + " --steps " + std::to_string(done + 4)));
  const auto log = rows(folder);
  ASSERT_EQ(log.size(), done + 4);
  for (std::size_t i = 0; i < log.size(); ++i) EXPECT_EQ(log[i]["step"], i + 1);
}

// Rows of one rank and of `count`, whose figures belong together.
void expect_scaling(const nlohmann::json& report, int count, double sent_of_parameters) {
  EXPECT_EQ(report["benchmark"], "scaling");
  ASSERT_EQ(report["rows"].size(), 2u);
  const nlohmann::json &one = report["rows"][0], &all = report["rows"][1];
  const auto number = [](const nlohmann::json& row, const char* field) { return row[field].get<double>(); };
  EXPECT_EQ(one["ranks"], 1);
  EXPECT_EQ(all["sequence_parallel"], 1);
  EXPECT_EQ(one["tokens"], 2 * 24);
  EXPECT_EQ(one["sent_bytes"], 0);
  EXPECT_EQ(one["efficiency_percent"], 100);
  EXPECT_TRUE(one["communication_ms"].is_null() && one["hidden_percent"].is_null()) << one;
  EXPECT_EQ(all["ranks"], count);
  EXPECT_EQ(all["tokens"], count * 2 * 24);
  EXPECT_EQ(all["repetitions"], 3);
  const double parameters = number(all, "bytes") / 28;
  EXPECT_NEAR(number(all, "sent_bytes"), sent_of_parameters * 4 * parameters * (count - 1) / count, 1);
  EXPECT_NEAR(number(all, "efficiency_percent"), 100 * number(one, "wall_ms") / number(all, "wall_ms"), 1e-6);
  const double communication = number(all, "communication_ms");
  EXPECT_GT(communication, 0);
  const double shown = 1 - (number(all, "wall_ms") - number(all, "compute_ms")) / communication;
  EXPECT_NEAR(number(all, "hidden_percent"), 100 * std::min(std::max(shown, 0.0), 1.0), 1e-6);
}

constexpr const char* few_steps = "bench scaling --preset tiny-hybrid --tokens 24 --batch 2 --repetitions 3";

TEST_F(Ranks, BenchScalingComparesThemWithOne) {
  const auto bench = [](int count, const std::string& more) {
    return run_command(
        joined(joined(launch(count), {RIVERHORSE_PROGRAM}), words(few_steps + std::string(" --backend cpu ") + more)),
        mpi_environment);
  };
  const std::string file = temporary("scaling.json");
  const ChildResult two = bench(2, "--output " + file);
  expect_success(two);
  expect_scaling(nlohmann::json::parse(read_whole_file(file)), 2, 2);
  EXPECT_NE(two.out.find("% hidden"), std::string::npos) << two.out;
  EXPECT_NE(two.out.find("scaling (tiny-hybrid, 2 x 2 x 24 tokens)"), std::string::npos) << two.out;
  const ChildResult three = bench(3, "--json --shard gradients");
  expect_success(three);
  expect_scaling(three.json(), 3, 2);

  // Of shared sequences a rank has as many tokens as one alone, and sends states and heads too.
  const ChildResult shared = bench(2, "--json --sequence-parallel 2");
  expect_success(shared);
  const nlohmann::json report = shared.json(), &one = report["rows"][0], &both = report["rows"][1];
  EXPECT_EQ(one["shape"], "tiny-hybrid, 1 x 2 x 12 tokens");
  EXPECT_EQ(one["sequence_parallel"], 1);
  EXPECT_EQ(one["tokens"], 24);
  EXPECT_EQ(both["shape"], "tiny-hybrid, 1 x 2 x 24 tokens, 2 ranks a sequence");
  EXPECT_EQ(both["ranks"], 2);
  EXPECT_EQ(both["sequence_parallel"], 2);
  EXPECT_EQ(both["tokens"], 48);
  const double gradients = both["bytes"].get<double>() / 7;  // 4 of 28 bytes a parameter
  const double states = 2 * 2 * 64 * 2 * 4 * 16;             // layers, sequences, channels, (1 + head_dim) 4 N
  const double heads = 2 * 4 * (24 * 64 * 4) / 2.0;          // there and back, q, k, v and y, tokens x D, half of it
  EXPECT_NEAR(both["sent_bytes"].get<double>(), gradients + states + heads, 1);
  EXPECT_NEAR(both["efficiency_percent"].get<double>(),
              100 * one["wall_ms"].get<double>() / both["wall_ms"].get<double>(), 1e-6);
  EXPECT_GT(both["communication_ms"].get<double>(), 0);
  EXPECT_TRUE(both["hidden_percent"].is_null());
  expect_one_message(bench(2, "--sequence-parallel 3"), 2, "2 ranks cannot share each sequence among 3");
  expect_one_message(bench(2, "--gpus 2"), 2, "--gpus is for a training without a launcher");
}

TEST_F(Ranks, BenchScalingNeedsSeveral) {
  const auto refused = [](const std::string& command, int status, const std::string& message) {
    const ChildResult result = run(words(command + " --backend cpu"));
    EXPECT_EQ(result.status, status) << result.err;
    EXPECT_NE(result.err.find(message), std::string::npos) << result.err;
  };
  refused(few_steps, 2, "bench scaling needs several ranks: --gpus 1,2,4, or a launcher");
  // The process that a number of GPUs is measured in hands its figures over.
  const ChildResult alone =
      run(words(few_steps + std::string(" --backend cpu --gpus 1 --json")), {{"OMP_NUM_THREADS", "1"}});
  expect_success(alone);
  ASSERT_EQ(alone.json()["rows"].size(), 1u);
  EXPECT_EQ(alone.json()["rows"][0]["tokens"], 2 * 24);
  EXPECT_EQ(alone.json()["rows"][0]["repetitions"], 3);
  EXPECT_GT(alone.json()["rows"][0]["wall_ms"].get<double>(), 0);
  refused(std::string(few_steps) + " --gpus 2", 1, "ranks of the cpu backend are joined by MPI");
  refused(std::string(few_steps) + " --gpus 1,3 --sequence-parallel 2", 2,
          "3 ranks cannot share each sequence among 2");
  refused(std::string(few_steps) + " --gpus 5 --sequence-parallel 5", 2, "a sequence of 24 tokens (--tokens)");
  refused("bench train --sequence-parallel 2", 2, "--sequence-parallel is not for bench train, but for scaling");
  refused("bench train --gpus 2", 2, "--gpus is not for bench train, but for scaling");
  refused("bench train --shard optimizer", 2, "--shard is not for bench train");
  refused("bench train --reduce-dtype bf16", 2, "--reduce-dtype is not for bench train");
}

#ifdef EMULATED_CUDA_LIBRARY

class GpuRanks : public Ranks {
 protected:
  void SetUp() override {}

  static ChildResult train_gpus(const std::string& more) {
    return run(joined({"train", "--backend", "cuda"}, words(more)), emulated);
  }
  static std::string few(const std::string& output, const std::string& more) {
    return options(output, more + " --validation-tokens 40", 3, 2);
  }

  static inline const ChildEnvironment emulated = {{"OMP_NUM_THREADS", "1"},
                                                   {"RIVERHORSE_CUDA_LIBRARY", EMULATED_CUDA_LIBRARY}};
};

TEST_F(GpuRanks, TwoTrainAsOneDoes) {
  const std::string one = temporary("gpu_one");
  expect_success(train_gpus(few(one, "")));
  int number = 0;
  for (const std::string more : {"--gpus 2", "--gpus 2 --shard gradients --accumulation 1 --sharded-save"}) {
    SCOPED_TRACE(more);
    const std::string folder = temporary("gpus_" + std::to_string(++number));
    const ChildResult result = train_gpus(few(folder, more));
    expect_success(result);
    EXPECT_NE(result.out.find("on each of 2 ranks"), std::string::npos) << result.out;
    expect_same(rows(folder), rows(one));
  }
  // A training in bf16, whose gradients travel in it too: close, and not the same.
  const std::string half = temporary("gpu_half"), rounded = temporary("gpus_rounded");
  expect_success(train_gpus(few(half, "--dtype bf16")));
  expect_success(train_gpus(few(rounded, "--dtype bf16 --gpus 2 --reduce-dtype bf16 --shard gradients")));
  const auto whole = rows(half), given = rows(rounded);
  ASSERT_EQ(given.size(), whole.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    EXPECT_NEAR(given[i]["loss"].get<double>(), whole[i]["loss"].get<double>(), 2e-2);
    EXPECT_NE(given[i]["gradient_norm"], whole[i]["gradient_norm"]);
  }
}

TEST_F(GpuRanks, SequencesAreShared) {
  const std::string same =
      "--length 40 --validation-tokens 40 --set resid_pdrop=0 --set embed_pdrop=0 --set attn_pdrop=0";
  const std::string one = temporary("gpu_whole"), two = temporary("gpus_shared");
  expect_success(train_gpus(model_options("tiny-rotary", one, same, 3, 2)));
  expect_success(train_gpus(model_options("tiny-rotary", two, same + " --gpus 2 --sequence-parallel 2", 3, 2)));
  expect_same(rows(two), rows(one));
}

TEST_F(GpuRanks, TheVariablesOfTorchrun) {
  const std::string folder = temporary("variables"), whole = temporary("variables_whole");
  const std::string port = std::to_string(20000 + getpid() % 20000);
  const std::string program = "'" RIVERHORSE_PROGRAM "' train --backend cuda " + few(folder, "");
  const auto launch_two = [&](const std::string& variables) {
    return run_command({"sh", "-c",
                        "export WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 " + variables + "; RANK=0 LOCAL_RANK=0 " + program +
                            " & RANK=1 LOCAL_RANK=1 " + program + "; status=$?; wait $! && exit $status"},
                       emulated);
  };
  expect_success(launch_two("MASTER_ADDR=localhost MASTER_PORT=" + port));
  expect_success(train_gpus(few(whole, "")));
  expect_same(rows(folder), rows(whole));
  const ChildResult incomplete = run(joined({"train"}, words(few(folder, ""))), {{"WORLD_SIZE", "2"}, {"RANK", "0"}});
  expect_failure(incomplete, 2, "WORLD_SIZE is 2, and LOCAL_RANK is not set");
  const ChildResult both =
      run(joined({"train", "--gpus", "2"}, words(few(folder, ""))), {{"OMPI_COMM_WORLD_SIZE", "2"}});
  expect_failure(both, 2, "--gpus is for a training without a launcher");
}

TEST_F(GpuRanks, TheCpuWantsMpi) {
  const ChildResult result =
      run(joined({"train", "--backend", "cpu", "--gpus", "2"}, words(few(temporary("no"), ""))));
  expect_one_message(result, 1, "ranks of the cpu backend are joined by MPI");
}

TEST_F(GpuRanks, AKilledOneEndsAll) {
  const std::string folder = temporary("gpu_killed"), stem = temporary("launcher");
  const std::string arguments = "train --backend cuda --gpus 2 " +
                                options(folder, "--checkpoint-every 1 --keep 1000 --schedule constant", 100000, 2);
  ChildResult result;
  std::thread training([&] {
    result =
        run_command({"sh", "-c", "echo $$ > " + stem + "; exec '" RIVERHORSE_PROGRAM "' " + arguments}, emulated);
  });
  for (int i = 0; i < 6000 && !std::filesystem::exists(folder + "/step-00000002"); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const auto killed = std::chrono::steady_clock::now();
  const std::string launcher = std::to_string(std::stol(read_whole_file(stem)));
  std::istringstream children(read_whole_file("/proc/" + launcher + "/task/" + launcher + "/children"));
  long first = 0, second = 0;
  children >> first >> second;
  ASSERT_GT(second, 0);
  EXPECT_EQ(kill(static_cast<pid_t>(second), SIGKILL), 0);
  training.join();
  EXPECT_LT(std::chrono::steady_clock::now() - killed, std::chrono::seconds(60));
  expect_one_message(result, 128 + SIGKILL, "rank 1 was killed by signal 9; all ranks end");
  EXPECT_FALSE(runs(first));
  const std::string last = std::to_string(rows(folder).size() + 1);
  expect_success(train_gpus("--resume " + folder + " --steps " + last));
  EXPECT_EQ(rows(folder).size(), static_cast<std::size_t>(std::stol(last)));
}

#endif  // EMULATED_CUDA_LIBRARY

}  // namespace
}  // namespace riverhorse
