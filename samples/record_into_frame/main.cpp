// A language model inside the frames of an application: so many microseconds of GPU time a frame, recorded into the
// application's own command buffer, submitted by it, and read a frame later. The frames here draw nothing.
//   record_into_frame MODEL PROMPT [BUDGET_US]
#include <cstdio>
#include <cstdlib>
#include <riverhorse/riverhorse.hpp>
#include <string_view>

#include "adopt_device/host_device.h"
#include "record_into_frame/frames.h"

namespace rh = riverhorse_api;

namespace {

void run(const char* path, const char* prompt, double budget_us) {
  const HostDevice host;
  const rh::adopted_device adopted(host.lent);
  riverhorse_model_options options = rh::model_options();
  options.adopted_device = adopted.get();
  const rh::model model(path, options);
  rh::session session = model.create_session();
  session.enqueue(prompt);  // read in frames too

  riverhorse_generate_options length = rh::generate_options();
  length.max_tokens = 32;
  session.start(length);  // when all is read
  Frames frames(host);
  int frame_count = 0;
  double longest_us = 0;
  riverhorse_poll_result result{};
  do {
    VkCommandBuffer commands = frames.begin();
    // ... the application's own drawing ...
    session.record(commands, budget_us);  // outside a render pass
    frames.submit();
    ++frame_count;
    result = session.poll([](std::int32_t, std::string_view text) {  // of frames that are done
      std::fwrite(text.data(), 1, text.size(), stdout);
      return true;
    });
    if (result.measured_us > longest_us) longest_us = result.measured_us;
  } while (result.running != 0);
  std::printf("\n");
  std::fprintf(stderr, "%lld tokens in %d frames of %.0f us; the longest took %.0f us\n",
               static_cast<long long>(result.token_count), frame_count, budget_us, longest_us);
}

}  // namespace

int main(int argc, char** argv) {
  const double budget_us = argc == 4 ? std::atof(argv[3]) : 2000;
  if (argc < 3 || argc > 4 || !(budget_us > 0)) {
    std::fprintf(stderr, "usage: %s MODEL PROMPT [BUDGET_US]\n", argv[0]);
    return 2;
  }
  try {
    run(argv[1], argv[2], budget_us);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
