// riverhorse bench frames: a model in the frames of a program that draws, at several budgets; and what such a program
// does with sessions in between: clones, rewinds, saved games.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "backend/frame_loop.h"
#include "base/log.h"
#include "cli/bench.h"
#include "engine/engine.h"

namespace riverhorse::cli {
namespace {

constexpr std::int64_t default_position = 10000;
constexpr std::int64_t default_tokens = 64;
constexpr std::int64_t warm_up_tokens = 4;
constexpr std::int64_t rewound_tokens = 8;
constexpr int session_repetitions = 9;
constexpr double frames_per_second = 60;
constexpr double no_budget = 1e9;
constexpr std::int64_t most_frames = 1000000;  // of one budget

// Of sorted values: the smallest that is not below `share` of them.
double percentile(const std::vector<double>& sorted, double share) {
  if (sorted.empty()) return 0;
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<std::size_t>(rank, 1, sorted.size()) - 1];
}

struct Frames {
  std::vector<double> us;  // of GPU time each
  std::int64_t tokens = 0;
};

Frames draw_in_frames(Session& text, FrameLoop& loop, std::int64_t tokens, double budget_us) {
  Frames frames;
  text.start_frames(tokens);
  for (std::int64_t i = 0; i < most_frames && !interrupted(); ++i) {
    const Session::FrameWork work = text.record_frame(loop.begin(), budget_us);
    loop.end();
    const Session::FrameReport report = text.poll_frames([&](std::int32_t) {
      ++frames.tokens;
      return true;
    });
    // A frame in which a dispatch longer than the budget waits for its turn has no work.
    frames.us.push_back(work.pieces > 0 ? report.measured_us : 0);
    if (!report.running) break;
  }
  return frames;
}

BenchRow frames_row(const BenchOptions& options, Frames frames, double budget_us, std::int64_t position) {
  BenchRow row;
  row.name = "frames";
  row.dtype = options.dtype;
  row.shape = fmt::format("{}, position {}, budget {} us", benchmark_model_name(options), position, budget_us);
  row.repetitions = static_cast<int>(frames.us.size());
  std::sort(frames.us.begin(), frames.us.end());
  row.device_ms = percentile(frames.us, 0.5) * 1e-3;
  FrameFigures figures;
  figures.budget_us = budget_us;
  figures.tokens = frames.tokens;
  figures.tokens_per_second = frames.us.empty() ? 0
                                                : static_cast<double>(frames.tokens) * frames_per_second /
                                                      static_cast<double>(row.repetitions);
  figures.p50_us = percentile(frames.us, 0.5);
  figures.p99_us = percentile(frames.us, 0.99);
  figures.p999_us = percentile(frames.us, 0.999);
  figures.longest_us = percentile(frames.us, 1);
  row.frames = figures;
  return row;
}

// Wall times of what is done between frames, until the call returns; `prepare` is not timed.
template <typename Prepare, typename Action>
BenchRow session_row(const char* name, const BenchOptions& options, const Session& text, double bytes,
                     const Prepare& prepare, const Action& action) {
  std::vector<double> times;
  for (int i = -1; i < session_repetitions && !interrupted(); ++i) {
    prepare();
    const auto before = Clock::now();
    action();
    if (i >= 0) times.push_back(milliseconds_since(before));  // the first one warms up
  }
  BenchRow row;
  row.name = name;
  row.dtype = options.dtype;
  row.shape = fmt::format("{}, position {}", benchmark_model_name(options), text.position());
  row.wall_ms = median(times);
  row.repetitions = static_cast<int>(times.size());
  row.bytes = bytes;
  return row;
}

}  // namespace

std::vector<BenchRow> bench_frames(const std::shared_ptr<Device>& device, const BenchOptions& options) {
  const std::unique_ptr<FrameLoop> loop = make_frame_loop(*device);
  const std::int64_t position = options.prompt_tokens > 0 ? options.prompt_tokens : default_position;
  const std::int64_t tokens = options.tokens > 0 ? options.tokens : default_tokens;
  const Checkpoint checkpoint = benchmark_checkpoint(options);
  EngineOptions engine_options = benchmark_engine_options(options);
  engine_options.max_sessions = 3;
  engine_options.frame_sessions = 1;
  engine_options.context_tokens = position + std::max(tokens, rewound_tokens) + 16;
  Engine engine(device, checkpoint, engine_options);
  engine.prepare();
  const std::unique_ptr<Session> text = engine.create_session();
  text->append(benchmark_ids(position, checkpoint.config.vocab_size));
  text->checkpoint();

  std::vector<BenchRow> rows;
  for (const double budget_us : options.budgets) {
    if (interrupted()) break;
    const std::unique_ptr<Session> speaker = text->clone();
    draw_in_frames(*speaker, *loop, warm_up_tokens, no_budget);
    speaker->rewind(position);
    rows.push_back(frames_row(options, draw_in_frames(*speaker, *loop, tokens, budget_us), budget_us, position));
  }

  const auto bytes = static_cast<double>(text->saved_size_bytes());
  std::unique_ptr<Session> other;
  const auto nothing = [] {};
  rows.push_back(session_row(
      "clone", options, *text, bytes, [&] { other.reset(); }, [&] { other = text->clone(); }));
  rows.push_back(session_row(
      "rewind", options, *text, bytes, [&] { other->generate(rewound_tokens, {}); },
      [&] { other->rewind(position); }));
  rows.back().shape += fmt::format(", {} tokens back to a checkpoint", rewound_tokens);
  std::vector<std::byte> saved;
  rows.push_back(session_row("save", options, *text, bytes, nothing, [&] { saved = text->save_bytes(); }));
  rows.push_back(session_row("load", options, *text, bytes, nothing, [&] { other->load_bytes(saved); }));
  return rows;
}

}  // namespace riverhorse::cli
