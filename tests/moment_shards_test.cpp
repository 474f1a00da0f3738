// Moments in several files: there and back, what is damaged, and what ranks that are killed leave.
#include "train/moment_shards.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "base/error.h"
#include "train/rendezvous.h"
#include "trainer_fixture.h"

namespace riverhorse::test {
namespace {

namespace fs = std::filesystem;

const Checkpoint& model() {
  static const Checkpoint loaded = tiny_model();
  return loaded;
}

// Moments of the model's parameters as ranks divide them: second ones are the parameters, first ones twice them.
MomentShard part_of_moments(std::int64_t shard, std::int64_t count) {
  std::int64_t whole = 0;
  for (const auto& [name, tensor] : model().file.tensors) whole += tensor.count();
  const std::int64_t first = shard * whole / count, last = (shard + 1) * whole / count;
  MomentShard moments;
  std::int64_t begin = 0;
  for (const auto& [name, tensor] : model().file.tensors) {
    const std::int64_t from = std::max(first, begin) - begin, to = std::min(last, begin + tensor.count()) - begin;
    begin += tensor.count();
    if (from >= to) continue;
    const std::vector<float> values = to_floats(tensor);
    const std::span<const float> own =
        std::span(values).subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
    std::vector<float> twice(own.begin(), own.end());
    for (float& value : twice) value *= 2;
    moments[name] = {from, make_host_tensor(std::span<const float>(twice), {to - from}),
                     make_host_tensor(own, {to - from})};
  }
  return moments;
}

void write_all(const fs::path& folder, const ShardIndex& index) {
  for (std::int64_t shard = 0; shard < index.count; ++shard) {
    write_moment_shard(folder, index, shard, part_of_moments(shard, index.count));
  }
}

// Of what is read from `folder` nothing, for a reason with all of `texts`.
void expect_refusal(const fs::path& folder, const ShardIndex& index, const std::vector<std::string>& texts) {
  try {
    read_moment_shards(folder, index, model().config);
    ADD_FAILURE() << texts[0] << " was taken";
  } catch (const Error& error) {
    for (const std::string& text : texts) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << text << ": " << error.what();
    }
    EXPECT_NE(std::string(error.what()).find("copy it anew"), std::string::npos) << error.what();
  }
}

TEST(MomentShards, AnyNumberThereAndBack) {
  for (const std::int64_t count : {1, 2, 3, 7, 200}) {  // the last has parameters in many files
    SCOPED_TRACE(count);
    const TemporaryFolder folder;
    const ShardIndex index{count, "a save"};
    write_all(folder / "", index);
    const WholeMoments read = read_moment_shards(folder / "", index, model().config);
    ASSERT_EQ(read.first.size(), model().file.tensors.size());
    for (const auto& [name, tensor] : model().file.tensors) {
      EXPECT_EQ(read.second.at(name).shape, tensor.shape);
      EXPECT_TRUE(std::ranges::equal(read.second.at(name).bytes, tensor.bytes)) << name;
      const std::vector<float> once = to_floats(tensor), twice = to_floats(read.first.at(name));
      for (std::size_t i = 0; i < once.size(); ++i) ASSERT_EQ(twice[i], 2 * once[i]) << name;
    }
  }
}

TEST(MomentShards, WhatIsWrongIsNamed) {
  const TemporaryFolder folder;
  const fs::path good = folder / "good", bad = folder / "bad";
  const ShardIndex index{3, "a save"};
  fs::create_directories(good);
  write_all(good, index);
  const auto damaged = [&](const auto& damage, const std::vector<std::string>& texts) {
    fs::remove_all(bad);
    fs::copy(good, bad);
    damage();
    expect_refusal(bad, index, texts);
  };
  const fs::path first = shard_path(bad, 0, 3), second = shard_path(bad, 1, 3);
  EXPECT_EQ(second.filename(), "optimizer-00002-of-00003.safetensors");
  damaged([&] { fs::remove(second); }, {second.string() + " is missing", "one of 3 files"});
  damaged([&] { fs::resize_file(second, fs::file_size(second) - 4); }, {second.string(), "truncated"});
  damaged([&] { fs::resize_file(second, 3); }, {second.string(), "too few for a safetensors file"});
  damaged([&] { fs::copy_file(first, second, fs::copy_options::overwrite_existing); },
          {second.string() + " is a copy of another file", "it is shard 1 of 3"});
  damaged(
      [&] {
        write_moment_shard(bad, {3, "another save"}, 1, part_of_moments(1, 3));
      },
      {second.string() + " belongs to another checkpoint", "\"another save\"", "\"a save\""});

  const MomentShard part = part_of_moments(1, 3);
  const std::string name = part.begin()->first;  // which began in the file before
  ASSERT_GT(part.begin()->second.begin, 0);
  const auto with = [&](MomentPiece piece) {
    MomentShard changed = part;
    changed[name] = std::move(piece);
    return [&, changed] { write_moment_shard(bad, index, 1, changed); };
  };
  MomentPiece piece = part.at(name);
  --piece.begin;
  damaged(with(piece), {second.string(), "\"" + name + "\"", "are in another file too"});
  piece.begin += 2;
  for (HostTensor* values : {&piece.first, &piece.second}) {
    values->bytes = values->bytes.subspan(sizeof(float));
    --values->shape[0];
  }
  damaged(with(piece), {"the moments of \"" + name + "\" from element"});
  piece.begin = 1 << 30;
  damaged(with(piece), {second.string(), "first_moment." + name, "where it begins: it is \"1073741824\""});
  piece = part.at(name);
  piece.second.dtype = DType::i32;
  damaged(with(piece), {second.string(), "second_moment." + name, "must be F32"});
  MomentShard less = part;
  less.erase(name);
  damaged([&] { write_moment_shard(bad, index, 1, less); }, {"\"" + name + "\" from element"});
}

TrainingCheckpoint checkpoint_of(std::int64_t step) {
  TrainingCheckpoint checkpoint;
  checkpoint.model = model();
  checkpoint.state.step = step;
  checkpoint.state.options = tiny_options();
  checkpoint.state.options.keep = 1;
  return checkpoint;
}

TEST(MomentShards, TheIndexIsChecked) {
  const TemporaryFolder folder;
  save_sharded_checkpoint(folder / "run", checkpoint_of(4), part_of_moments(0, 1), {});
  const fs::path checkpoint = checkpoint_path(folder / "run", 4), path = checkpoint / "trainer_state.json";
  EXPECT_EQ(load_training_checkpoint(checkpoint).second_moments.size(), model().file.tensors.size());
  EXPECT_FALSE(fs::exists(checkpoint / "optimizer.safetensors"));
  const nlohmann::json good = nlohmann::json::parse(std::ifstream(path));
  for (const char* wrong :
       {"3", "{\"count\": 0, \"save\": \"x\"}", "{\"count\": 1}", "{\"count\": 99999999999, \"save\": \"x\"}"}) {
    nlohmann::json bad = good;
    bad["optimizer_shards"] = nlohmann::json::parse(wrong);
    std::ofstream(path) << bad;
    EXPECT_THROW(load_training_checkpoint(checkpoint), Error) << wrong;
  }
  // One that was left out is in the way of nothing.
  save_sharded_checkpoint(folder / "run", checkpoint_of(4), part_of_moments(0, 1), {});
  EXPECT_NO_THROW(load_newest_checkpoint(folder / "run"));
}

// Two processes save in a loop, and the second is killed at some moment, soon after it the first.
TEST(MomentShards, KilledWhileSaving) {
  const TemporaryFolder folder;
  const fs::path run = folder / "run";
  std::mt19937 random(5);
  std::int64_t step = 0;
  int interrupted = 0;
  save_sharded_checkpoint(run, checkpoint_of(step), part_of_moments(0, 1), {});
  for (int attempt = 0; attempt < 15; ++attempt) {
    int told[2];
    ASSERT_EQ(pipe(told), 0);
    const int port = free_port();
    pid_t children[2];
    for (int rank = 0; rank < 2; ++rank) {
      if ((children[rank] = fork()) > 0) continue;
      RendezvousOptions options;
      options.rank = options.local_rank = rank;
      options.size = options.local_size = 2;
      options.address = "127.0.0.1";
      options.port = port;
      const Ranks ranks{join_at(options), nullptr};
      for (std::int64_t next = step + 1;; ++next) {
        save_sharded_checkpoint(run, checkpoint_of(next), part_of_moments(rank, 2), ranks);
        if (rank == 0 && write(told[1], &next, sizeof next) != sizeof next) _exit(1);
      }
    }
    close(told[1]);
    std::int64_t last = step;
    ASSERT_EQ(read(told[0], &last, sizeof last), static_cast<ssize_t>(sizeof last));  // they have begun
    usleep(std::uniform_int_distribution<useconds_t>(500, 60'000)(random));
    for (const int rank : {1, 0}) {
      kill(children[rank], SIGKILL);
      if (rank == 1) usleep(20'000);
    }
    for (const pid_t child : children) {
      int status = 0;
      waitpid(child, &status, 0);
      ASSERT_TRUE(WIFSIGNALED(status)) << "a child failed by itself";
    }
    for (std::int64_t value = 0; read(told[0], &value, sizeof value) == sizeof value;) last = value;
    close(told[0]);
    for (const auto& entry : fs::directory_iterator(run)) {
      interrupted += entry.path().filename().string().starts_with("tmp-step-");
    }
    for (const fs::path& checkpoint : list_checkpoints(run)) EXPECT_NO_THROW(load_training_checkpoint(checkpoint));
    step = load_newest_checkpoint(run).state.step;
    EXPECT_GE(step, last);
  }
  EXPECT_GT(interrupted, 5) << "most kills must have come in the middle of a save";
  std::printf("[  NOTE    ] %lld saves, %d of 15 kills left a temporary folder\n", static_cast<long long>(step),
              interrupted);
  save_sharded_checkpoint(run, checkpoint_of(step + 1), part_of_moments(0, 1), {});
  EXPECT_EQ(std::distance(fs::directory_iterator(run), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace riverhorse::test
