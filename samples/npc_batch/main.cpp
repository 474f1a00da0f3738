// Characters that speak at the same time, within one budget a frame: sessions of one model in a batch, which steps
// those together that are due. The frames here draw nothing.
//   npc_batch MODEL BEGINNING...
// Each BEGINNING is the beginning of what one character says. With one, its text is all that is printed.
#include <cstdio>
#include <deque>
#include <riverhorse/riverhorse.hpp>
#include <string>
#include <string_view>

#include "adopt_device/host_device.h"
#include "record_into_frame/frames.h"

namespace rh = riverhorse_api;

namespace {

struct Character {
  std::string beginning;
  rh::session session;
  std::string said = {};
};

void run(const char* path, int count, char** beginnings) {
  const HostDevice host;
  const rh::adopted_device adopted(host.lent);
  riverhorse_model_options options = rh::model_options();
  options.adopted_device = adopted.get();
  options.max_sessions = count;
  const rh::model model(path, options);

  rh::batch batch(model);
  riverhorse_generate_options length = rh::generate_options();
  length.max_tokens = 24;
  std::deque<Character> characters;
  for (int i = 0; i < count; ++i) {
    riverhorse_sampling_options sampling =
        rh::sampling_options();  // the first speaks plainly, the others as they like
    sampling.temperature = i == 0 ? 0.0 : 0.8;
    sampling.seed = static_cast<std::uint64_t>(i);
    Character& character = characters.emplace_back(Character{beginnings[i], model.create_session(sampling)});
    batch.add(character.session, i == 0 ? 2 : 1);  // and is the one that the player looks at
    character.session.enqueue(character.beginning);
    character.session.start(length);
  }

  constexpr double budget_us = 4000;
  Frames frames(host);
  int frame_count = 0;
  for (bool speaking = true; speaking; ++frame_count) {
    VkCommandBuffer commands = frames.begin();
    // ... the application's own drawing ...
    batch.record(commands, budget_us);  // outside a render pass
    frames.submit();
    speaking = false;
    for (Character& character : characters) {
      const riverhorse_poll_result result = character.session.poll([&](std::int32_t, std::string_view text) {
        character.said += text;
        return true;
      });
      speaking = speaking || result.running != 0;
    }
  }
  for (const Character& character : characters) {
    std::printf("%s%s\n", count == 1 ? "" : character.beginning.c_str(), character.said.c_str());
  }
  std::fprintf(stderr, "%d characters in %d frames of %.0f us\n", count, frame_count, budget_us);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s MODEL BEGINNING...\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argc - 2, argv + 2);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
