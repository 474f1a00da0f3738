// A tavern whose guests speak by a language model that runs inside the game's own frames, on its own VkDevice.
// README.md tells how to play; the file to read first is this one.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <utility>

#include "interface.h"
#include "measurement.h"
#include "options.h"
#include "renderer.h"
#include "scene.h"
#include "screenshot.h"
#include "statistics.h"
#include "tavern.h"
#include "window.h"

namespace tavern {
namespace {

namespace rh = riverhorse_api;

class Game {
 public:
  Game(const Options& options, const Gpu& gpu, Window* window)
      : options_(options),
        gpu_(gpu),
        window_(window),
        renderer_(gpu, window != nullptr ? window->extent() : VkExtent2D{options.width, options.height}),
        scene_(gpu, renderer_.render_pass()),
        interface_(gpu, renderer_, window, options.font),
        adopted_(gpu.lent()),
        model_(options.model, model_options()),
        tavern_(model_, {options.seed, options.reply_tokens, options.letters_per_second}),
        script_(options.script),
        budget_us_(options.budget_us) {
    if (model_.info().has_tokenizer == 0) {
      throw std::runtime_error("the model " + options.model + " has no tokenizer: it cannot speak");
    }
    std::fprintf(stderr, "%lld parameters on %s\n", static_cast<long long>(model_.info().parameter_count),
                 model_.info().device_name);
  }

  void run() {
    auto before = std::chrono::steady_clock::now();
    for (std::int64_t frame = 0; options_.frames == 0 || frame < options_.frames; ++frame) {
      if (window_ != nullptr && !window_->poll()) break;
      hear();
      script_.step([&] { return tavern_.is_speaking(); }, [&](const Command& command) { carry_out(command); });
      if (options_.has_script && script_.is_done() && options_.frames == 0) break;
      const auto now = std::chrono::steady_clock::now();
      const double real_seconds = std::chrono::duration<double>(now - before).count();
      before = now;
      draw_frame(real_seconds);
    }
    if (options_.has_script && !script_.is_done()) {
      throw std::runtime_error("the script was not done after " + std::to_string(options_.frames) + " frames");
    }
    if (!options_.screenshot.empty()) take_screenshot(options_.screenshot);
  }

  // tavern --measure: the same frames, at sixty a second.
  void run_measurement() {
    const MeasureSettings settings{options_.measure_seconds, options_.budgets, most_measured_tokens};
    const auto draw = [&](double budget_us) {
      budget_us_ = budget_us;
      const std::int64_t tokens = hear();
      const auto begin = std::chrono::steady_clock::now();
      draw_frame(1.0 / 60);
      const std::chrono::duration<double, std::milli> cpu = std::chrono::steady_clock::now() - begin;
      const FrameTimes& times = renderer_.times();
      return MeasuredFrame{1000 * times.model_ms, 1000 * times.drawing_ms, times.since_last_ms, cpu.count(), tokens};
    };
    const std::vector<MeasuredRow> rows = measure(tavern_, settings, draw);
    const MeasuredOn on{gpu_.name,      gpu_.driver,    options_.model, model_.info().parameter_count,
                        options_.width, options_.height};
    std::fputs(measurement_table(on, rows).c_str(), stdout);
    if (!options_.output.empty()) write(options_.output, measurement_json(on, settings, rows));
  }

 private:
  // Of a measured text, and what the attention cache has room for: one that grew would stall frames.
  static constexpr std::int64_t most_measured_tokens = 7168, measured_context = 8192;

  riverhorse_model_options model_options() const {
    riverhorse_model_options options = rh::model_options();
    options.adopted_device = adopted_.get();
    options.prefill_piece_tokens = 64;  // what is said is read in frames: no dispatch longer than there is time for
    if (options_.measure_seconds > 0) options.context_tokens = measured_context;
    return options;
  }

  // What earlier frames have brought.
  std::int64_t hear() {
    const std::int64_t tokens = tavern_.poll();
    tokens_heard_ += tokens;
    return tokens;
  }

  void draw_frame(double real_seconds) {
    const double seconds = options_.headless ? 1.0 / 60 : real_seconds;
    time_ += seconds;
    if (window_ != nullptr && window_->resize_if_needed()) renderer_.resize(window_->extent());
    tavern_.advance(seconds);
    wish(interface_.build(renderer_.extent(), seconds, tavern_, budget_us_, statistics_));

    // This frame: the picture, which is shown as soon as it is done; behind it what the budget allows of the replies.
    const VkCommandBuffer picture = renderer_.begin();
    scene_.draw(picture, renderer_.extent(), time_, tavern_.guests());
    interface_.draw(picture);
    const auto shown = window_ != nullptr ? window_->acquire() : std::nullopt;
    renderer_.finish_picture(shown ? &*shown : nullptr);
    if (shown) window_->present();
    const VkCommandBuffer work = renderer_.begin_work();
    if (budget_us_ > 0) tavern_.record(work, budget_us_);
    renderer_.finish_work();

    statistics_.frame_ms.add(1000 * real_seconds);
    statistics_.drawing_ms.add(renderer_.times().drawing_ms);
    statistics_.model_ms.add(renderer_.times().model_ms);
    statistics_.add_tokens(static_cast<std::size_t>(std::exchange(tokens_heard_, 0)), real_seconds);
  }

  // What the player wants. What cannot be done is said, and the evening goes on.
  void wish(const Wishes& wishes) {
    try {
      if (wishes.say) tavern_.say(*wishes.say);
      if (wishes.rewind && !tavern_.rewind()) interface_.tell("there is nothing to unsay");
      if (wishes.retell && !tavern_.retell()) interface_.tell("there is nothing to tell otherwise");
      if (wishes.save) tavern_.save(options_.saved_game), interface_.tell("saved to " + options_.saved_game);
      if (wishes.load) tavern_.load(options_.saved_game), interface_.tell("loaded from " + options_.saved_game);
    } catch (const std::exception& error) {
      interface_.tell(error.what());
    }
  }

  // A line of the script. What cannot be done ends the program.
  void carry_out(const Command& command) {
    using What = Command::What;
    try {
      switch (command.what) {
        case What::say: tavern_.say(command.text); break;
        case What::to: tavern_.address(who_is(command.text)); break;
        case What::unsay:
          if (!tavern_.rewind()) throw std::runtime_error("there is nothing to unsay");
          break;
        case What::retell:
          if (!tavern_.retell()) throw std::runtime_error("there is nothing to tell otherwise");
          break;
        case What::save: tavern_.save(command.text); break;
        case What::load: tavern_.load(command.text); break;
        case What::budget: budget_us_ = command.number; break;
        case What::overlay: interface_.show_overlay(command.text == "on"); break;
        case What::screenshot: take_screenshot(command.text); break;
        case What::transcript: write(command.text, tavern_.transcript()); break;
        case What::wait:
        case What::frames: break;  // Script's own
      }
    } catch (const std::exception& error) {
      throw std::runtime_error("line " + std::to_string(command.line) + " of the script: " + error.what());
    }
  }

  int who_is(const std::string& name) const {
    std::string known = "everyone";
    if (name == known) return Tavern::everyone;
    for (std::size_t i = 0; i < tavern_.size(); ++i) {
      if (tavern_.conversation(i).character().name == name) return static_cast<int>(i);
      known += ", " + tavern_.conversation(i).character().name;
    }
    throw std::runtime_error("there is no " + name + " here; there are " + known);
  }

  void take_screenshot(const std::string& path) {
    write_png(path, renderer_.extent().width, renderer_.extent().height, renderer_.read_pixels());
  }

  static void write(const std::string& path, const std::string& text) {
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (!file) throw std::runtime_error(path + " cannot be written");
  }

  const Options& options_;
  const Gpu& gpu_;
  Window* window_;
  Renderer renderer_;
  Scene scene_;
  Interface interface_;
  rh::adopted_device adopted_;
  rh::model model_;
  Tavern tavern_;
  Script script_;
  Statistics statistics_;
  double budget_us_;
  double time_ = 0;
  std::int64_t tokens_heard_ = 0;  // since the frame before
};

void play(const Options& options, std::atomic<int>& validation_messages) {
  std::unique_ptr<Window> window;
  if (!options.headless) window = std::make_unique<Window>(VkExtent2D{options.width, options.height}, "The tavern");
  const Gpu gpu(window ? window->presentation() : Presentation{}, options.device,
                options.validation ? &validation_messages : nullptr);
  struct Attached {  // the window's surface lives no longer than the device
    Window* window;
    ~Attached() {
      if (window != nullptr) window->detach();
    }
  } attached{window.get()};
  if (window) window->attach(gpu);
  Game game(options, gpu, window.get());
  if (options.measure_seconds > 0) {
    game.run_measurement();
  } else {
    game.run();
  }
}

}  // namespace
}  // namespace tavern

int main(int argc, char** argv) {
  tavern::Options options;
  try {
    options = tavern::read_options(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tavern: %s\n%s", error.what(), tavern::usage);
    return 2;
  }
  if (options.help) {
    std::fputs(tavern::usage, stdout);
    return 0;
  }
  std::atomic<int> validation_messages{0};
  try {
    tavern::play(options, validation_messages);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tavern: %s\n", error.what());
    return 1;
  }
  if (validation_messages != 0) {
    std::fprintf(stderr, "tavern: %d messages of the validation layer\n", validation_messages.load());
    return 1;
  }
  return 0;
}
