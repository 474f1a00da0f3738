// The sample game, driven by scripts: its pictures are alive, its conversations are saved, loaded and unsaid exactly,
// and Vulkan's validation layer is silent.
#include <gtest/gtest.h>
#include <png.h>
#include <sys/wait.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace {

struct Picture {
  std::uint32_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;

  explicit Picture(const std::string& path) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&image, path.c_str()) == 0) return;
    image.format = PNG_FORMAT_RGB;
    rgb.resize(PNG_IMAGE_SIZE(image));
    if (png_image_finish_read(&image, nullptr, rgb.data(), 0, nullptr) == 0) return;
    width = image.width;
    height = image.height;
  }
};

struct Region {  // in parts of the picture
  double left, top, right, bottom;
};
constexpr Region hearth{0.04, 0.60, 0.20, 0.90};
constexpr Region bar{0.25, 0.70, 0.34, 0.95};
constexpr Region bubbles{0.25, 0.02, 0.82, 0.33};
constexpr Region everything{0, 0, 1, 1};

template <typename Use>
void each_pixel(const Picture& picture, const Region& region, const Use& use) {
  for (auto y = static_cast<std::uint32_t>(region.top * picture.height); y < region.bottom * picture.height; ++y) {
    for (auto x = static_cast<std::uint32_t>(region.left * picture.width); x < region.right * picture.width; ++x) {
      use(std::size_t{3} * (std::size_t{y} * picture.width + x));
    }
  }
}

double brightness(const Picture& picture, const Region& region) {
  double sum = 0;
  std::int64_t count = 0;
  each_pixel(picture, region, [&](std::size_t at) {
    sum += picture.rgb[at] + picture.rgb[at + 1] + picture.rgb[at + 2];
    ++count;
  });
  return sum / (3.0 * 255 * static_cast<double>(count));
}

std::size_t colours(const Picture& picture) {
  std::set<std::uint32_t> seen;
  each_pixel(picture, everything, [&](std::size_t at) {
    seen.insert(picture.rgb[at] << 16u | picture.rgb[at + 1] << 8u | picture.rgb[at + 2]);
  });
  return seen.size();
}

// The part of a region's pixels that are another colour.
double difference(const Picture& one, const Picture& other, const Region& region) {
  std::int64_t changed = 0, count = 0;
  each_pixel(one, region, [&](std::size_t at) {
    int most = 0;
    for (std::size_t i = at; i < at + 3; ++i) most = std::max(most, std::abs(one.rgb[i] - other.rgb[i]));
    changed += most > 8 ? 1 : 0;
    ++count;
  });
  return static_cast<double>(changed) / static_cast<double>(count);
}

class TavernTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              (std::string("tavern_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name), std::ios::binary) << text;
  }
  std::string read(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  // Runs the game in the test's folder; its exit status, and what it said in output_.
  int run(const std::string& arguments, const std::string& before = "") {
    const std::string command =
        "cd '" + folder_.string() + "' && " + before + " '" TAVERN_PROGRAM "' " + arguments + " > output.txt 2>&1";
    const int status = std::system(command.c_str());
    output_ = read("output.txt");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // With a small model of the tests, which says a letter a token, whatever it is: the model that ships, which takes
  // several times as long here, speaks in the window. What the budget lets be recorded beyond the end of a reply is
  // work for nothing, so the budget is small.
  int play(const std::string& script, const std::string& more = "") {
    write("script.txt", script);
    return run(
        "--headless --size 256x144 --budget 20000 --letters 6000 --reply-tokens 6 --script script.txt "
        "--model '" RIVERHORSE_SOURCE_DIR "/tests/golden/lm/h3-pure' " +
        more);
  }

  std::filesystem::path folder_;
  std::string output_;
};

const std::string validation = TAVERN_VALIDATION ? "--validation" : "";

TEST_F(TavernTest, the_scene_is_alive_and_replies_appear) {
  ASSERT_EQ(play("overlay off\nframes 2\nscreenshot first.png\nframes 10\nscreenshot second.png\n"
                 "say Good evening!\nwait\nframes 1\n",
                 "--screenshot replies.png"),
            0)
      << output_;
  const Picture first(path("first.png")), second(path("second.png")), replies(path("replies.png"));
  ASSERT_EQ(first.width, 256u);
  ASSERT_EQ(first.height, 144u);
  ASSERT_EQ(second.rgb.size(), first.rgb.size());
  ASSERT_EQ(replies.rgb.size(), first.rgb.size());
  EXPECT_GT(colours(first), 3000u);
  EXPECT_GT(brightness(first, hearth), 0.35);
  EXPECT_GT(brightness(first, bar), 0.05);
  EXPECT_LT(brightness(first, bar), 0.6 * brightness(first, hearth));
  EXPECT_GT(difference(first, second, hearth), 0.05);  // the fire burns
  // Three bubbles of pale paper cover much of what is above the heads.
  EXPECT_LT(difference(first, second, bubbles), 0.05);
  EXPECT_GT(difference(second, replies, bubbles), 0.25);
  EXPECT_GT(brightness(replies, bubbles), brightness(second, bubbles) + 0.1);
}

TEST_F(TavernTest, saving_loading_and_unsaying_are_exact) {
  ASSERT_EQ(play("to Captain\nsay Good evening!\nwait\nsave evening.save\ntranscript saved.txt\n"
                 "say What of the whale?\nwait\ntranscript once.txt\n"
                 "unsay\ntranscript unsaid.txt\nsay What of the whale?\nwait\ntranscript again.txt\n"
                 "retell\nwait\ntranscript retold.txt\n"),
            0)
      << output_;
  EXPECT_NE(read("once.txt").find("> What of the whale?\n"), std::string::npos);
  EXPECT_EQ(read("unsaid.txt"), read("saved.txt"));
  EXPECT_EQ(read("again.txt"), read("once.txt"));
  EXPECT_NE(read("retold.txt"), read("once.txt"));

  ASSERT_EQ(play("load evening.save\ntranscript loaded.txt\nto Captain\nsay What of the whale?\nwait\n"
                 "transcript after.txt\n",
                 "--seed 99"),
            0)
      << output_;
  EXPECT_EQ(read("loaded.txt"), read("saved.txt"));
  EXPECT_EQ(read("after.txt"), read("once.txt"));

  const std::string saved = read("evening.save");
  write("short.save", saved.substr(0, saved.size() / 2));
  EXPECT_EQ(play("load short.save\n"), 1);
  EXPECT_NE(output_.find("in the middle of what was saved"), std::string::npos) << output_;
  write("other.save", "something else");
  EXPECT_EQ(play("load other.save\n"), 1);
  EXPECT_NE(output_.find("other.save is not a game saved by this program"), std::string::npos) << output_;
}

// Figures of both rows, with the model and without; what they are is the machine's.
TEST_F(TavernTest, frame_times_are_measured_at_a_budget) {
  const int status =
      run("--measure 1 --budgets 60000 --size 160x120 --reply-tokens 6 --output figures.json "
          "--model '" RIVERHORSE_SOURCE_DIR "/tests/golden/lm/h3-pure'");
  ASSERT_EQ(status, 0) << output_;
  EXPECT_NE(output_.find("\n  none "), std::string::npos) << output_;
  EXPECT_NE(output_.find("\n 60000 "), std::string::npos) << output_;
  const nlohmann::json figures = nlohmann::json::parse(read("figures.json"));
  EXPECT_EQ(figures.at("schema"), "riverhorse-tavern-1");
  EXPECT_FALSE(figures.at("device").at("name").get<std::string>().empty());
  EXPECT_FALSE(figures.at("device").at("driver").get<std::string>().empty());
  EXPECT_EQ(figures.at("model").at("parameters"), 85568);
  EXPECT_EQ(figures.at("width"), 160);
  const nlohmann::json& rows = figures.at("rows");
  ASSERT_EQ(rows.size(), 2u);
  for (const nlohmann::json& row : rows) {
    SCOPED_TRACE(row.dump());
    const double seconds = row.at("seconds");
    const std::int64_t frames = row.at("frames");
    EXPECT_GE(seconds, 1);
    ASSERT_GT(frames, 0);
    EXPECT_LE(static_cast<double>(frames), 60 * seconds + 2);
    for (const char* name : {"model_us", "drawing_us", "frame_ms", "cpu_ms"}) {
      const nlohmann::json& values = row.at(name);
      EXPECT_GE(values.at("p50"), 0) << name;
      EXPECT_LE(values.at("p50"), values.at("p99")) << name;
      EXPECT_LE(values.at("p99"), values.at("p99_9")) << name;
      EXPECT_LE(values.at("p99_9"), values.at("longest")) << name;
    }
    EXPECT_GT(row.at("drawing_us").at("p50"), 0);
    // A frame ends after the one before it, by at least its own drawing.
    EXPECT_GE(row.at("frame_ms").at("longest").get<double>() * 1000, row.at("drawing_us").at("p50").get<double>());
    EXPECT_NEAR(row.at("tokens_per_second").get<double>() * seconds, row.at("tokens").get<double>(), 0.1);
  }
  const nlohmann::json &without = rows[0], &with = rows[1];
  EXPECT_TRUE(without.at("budget_us").is_null());
  EXPECT_EQ(without.at("tokens"), 0);
  EXPECT_EQ(with.at("budget_us"), 60000);
  EXPECT_GT(with.at("tokens"), 0);
  EXPECT_GT(with.at("model_us").at("longest"), without.at("model_us").at("p50"));
  EXPECT_GT(with.at("frames_within_budget"), 0);
  EXPECT_LE(with.at("frames_within_budget"), with.at("frames"));
  EXPECT_NEAR(with.at("frame_ms_p99_change").get<double>(),
              with.at("frame_ms").at("p99").get<double>() - without.at("frame_ms").at("p99").get<double>(), 1e-3);
}

TEST_F(TavernTest, what_is_not_understood_is_said) {
  const auto refused = [&](const std::string& arguments, const std::string& message) {
    EXPECT_EQ(run(arguments), 2) << arguments;
    EXPECT_NE(output_.find(message), std::string::npos) << output_;
  };
  refused("--no-such-option", "there is no option --no-such-option");
  refused("--budget", "--budget needs a value");
  refused("--budget 0", "--budget needs a number from 1 to 1000000, not 0");
  refused("--size 12", "--size needs WIDTHxHEIGHT");
  refused("--size 12x99999", "the width of --size needs a number from 160 to 7680, not 12");
  refused("--headless", "--headless needs --frames or --script");
  refused("--script /does/not/exist", "the script /does/not/exist cannot be opened");
  write("bad.txt", "frames 1\nshout Hello\n");
  refused("--script bad.txt", "bad.txt:2: there is no command shout");
  write("bad.txt", "frames many\n");
  refused("--script bad.txt", "bad.txt:1: frames needs a number from 1 to 1e9, not many");
  write("bad.txt", "overlay perhaps\n");
  refused("--script bad.txt", "bad.txt:1: overlay needs on or off, not perhaps");

  refused("--measure 0", "--measure needs a number from 0.1 to 600, not 0");
  refused("--measure 1 --budgets 250,,500", "each of --budgets needs a number from 1 to 1000000, not nothing");
  refused("--measure 1 --budgets 250,fast", "each of --budgets needs a number from 1 to 1000000, not fast");
  refused("--measure 1 --budget 250", "--measure plays by itself, without --budget");
  refused("--measure 1 --frames 3", "--measure plays by itself, without --frames");
  refused("--frames 1 --budgets 250", "--budgets is of --measure, which is not there");
  refused("--frames 1 --output a.json", "--output is of --measure, which is not there");
  EXPECT_EQ(run("--help"), 0);
  EXPECT_NE(output_.find("usage: tavern"), std::string::npos);
  EXPECT_EQ(run("--headless --frames 1 --model /does/not/exist"), 1);
  EXPECT_NE(output_.find("/does/not/exist"), std::string::npos) << output_;
  EXPECT_EQ(run("--headless --frames 1 --device nothing-of-this-name"), 1);
  EXPECT_NE(output_.find("no Vulkan device named nothing-of-this-name"), std::string::npos) << output_;
  EXPECT_EQ(run("--headless --frames 1 --font output.txt"), 1);
  EXPECT_NE(output_.find("output.txt is not a TrueType or OpenType font"), std::string::npos) << output_;
  EXPECT_EQ(run("--frames 1", "env -u DISPLAY -u WAYLAND_DISPLAY"), 1);
  EXPECT_NE(output_.find("--headless needs no window"), std::string::npos) << output_;
}

TEST_F(TavernTest, a_window_shows_it) {
  if (std::string(TAVERN_XVFB).empty()) GTEST_SKIP() << "xvfb-run was not found (xvfb)";
  write("script.txt", "overlay off\nframes 3\nscreenshot first.png\nto Emma\nsay Good evening!\nwait\nframes 1\n");
  ASSERT_EQ(run("--size 256x144 --budget 500000 --letters 600 --reply-tokens 6 --script script.txt " + validation +
                    " --screenshot replies.png",
                "'" TAVERN_XVFB "' -a -s '-screen 0 640x480x24'"),
            0)
      << output_;
  const Picture first(path("first.png")), replies(path("replies.png"));
  ASSERT_EQ(first.width, 256u);
  ASSERT_EQ(replies.rgb.size(), first.rgb.size());
  EXPECT_GT(colours(first), 3000u);
  EXPECT_GT(brightness(first, hearth), 0.35);
  EXPECT_GT(difference(first, replies, bubbles), 0.08);
  EXPECT_GT(difference(first, replies, hearth), 0.05);
}

// A player's evening, by keyboard and mouse. What was done is seen in what the game saves. Clicks and keys that come
// within one frame get in each other's way, so what was not done is tried again with longer pauses. The places are
// those of ImGui's own letters.
constexpr char evening[] = R"sh(
game=$1 xdotool=$2
fail() { echo "$1"; kill $pid; exit 9; }
"$game" --size 400x225 --font '' --budget 20000 --reply-tokens 6 --model "$3" --screenshot last.png &
pid=$!
for try in $(seq 600); do
  window=$("$xdotool" search --onlyvisible --name 'The tavern' 2> /dev/null) && break
  kill -0 $pid || exit 8
  sleep 0.2
done
[ -n "$window" ] || fail 'there is no window'
click() { "$xdotool" mousemove --window $window $1 $2 click 1; }
pause() { sleep $((attempt / 3)).$((attempt % 3 * 3)); }
said() { [ "$(grep -aos "$line" tavern.save | wc -l)" = 1 ]; }  # to one of them
# Clicks on Save until there is a new file. Nothing is saved while a reply is being drawn.
save() {
  rm -f tavern.save
  for try in $(seq 120); do
    click 358 201
    for look in $(seq 50); do
      [ -e tavern.save ] && return
      kill -0 $pid || exit 8
      sleep 0.02
    done
  done
  fail 'nothing was saved'
}

save  # the model was loaded
for attempt in $(seq 30); do
  line="Good evening, Emma: $attempt."
  pause
  click 225 110  # Emma
  pause
  "$xdotool" type --delay 5 "$line"
  "$xdotool" keydown Return
  pause
  "$xdotool" keyup Return
  pause
  save
  said && break
done
said || fail 'it was not said to Emma alone'
cp tavern.save said.save
printf '%s' "$line" > line.txt
for attempt in $(seq 30); do
  pause
  click 175 201  # Unsay
  pause
  save
  said || break
done
said && fail 'it was not unsaid'
"$xdotool" windowsize $window 480 270
pause
"$xdotool" keydown Control_L keydown q
wait $pid
status=$?
"$xdotool" keyup q keyup Control_L
exit $status
)sh";

TEST_F(TavernTest, a_player_types_clicks_and_resizes) {
  if (std::string(TAVERN_XVFB).empty()) GTEST_SKIP() << "xvfb-run was not found (xvfb)";
  if (std::string(TAVERN_XDOTOOL).empty()) GTEST_SKIP() << "xdotool was not found (xdotool)";
  write("evening.sh", evening);
  const std::string command = "cd '" + folder_.string() +
                              "' && '" TAVERN_XVFB "' -a -s '-screen 0 640x480x24' sh evening.sh '" TAVERN_PROGRAM
                              "' '" TAVERN_XDOTOOL "' '" RIVERHORSE_SOURCE_DIR
                              "/tests/golden/lm/h3-pure' > output.txt 2>&1";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 0) << read("output.txt");

  // Only Emma was clicked on, so only she heard it; a reply follows what was said, as length and text.
  const std::string said = read("line.txt"), saved = read("said.save");
  const std::size_t at = saved.find(said);
  ASSERT_NE(at, std::string::npos);
  EXPECT_LT(saved.find("Emma"), at);
  EXPECT_GT(saved.find("Hermit"), at);
  EXPECT_NE(saved[at + said.size()], 0);
  const Picture last(path("last.png"));
  EXPECT_EQ(last.width, 480u);
  EXPECT_EQ(last.height, 270u);
  EXPECT_GT(colours(last), 3000u);
  EXPECT_GT(brightness(last, hearth), 0.35);
}

}  // namespace
