// A language model on the Vulkan device that the application made for itself, as a game does.
//   adopt_device MODEL PROMPT
// Riverhorse makes what it needs on the device, submits to the queue that it is given, and takes down what it made,
// and nothing else. host_device.h makes the device.
#include <cstdio>
#include <riverhorse/riverhorse.hpp>
#include <string_view>

#include "adopt_device/host_device.h"

namespace rh = riverhorse_api;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s MODEL PROMPT\n", argv[0]);
    return 2;
  }
  try {
    const HostDevice host;
    const rh::adopted_device adopted(host.lent);
    riverhorse_model_options options = rh::model_options();
    options.adopted_device = adopted.get();
    const rh::model model(argv[1], options);
    std::fprintf(stderr, "%lld parameters on %s\n", static_cast<long long>(model.info().parameter_count),
                 model.info().device_name);
    rh::session session = model.create_session();
    session.append(model.encode(argv[2]));
    riverhorse_generate_options length = rh::generate_options();
    length.max_tokens = 32;
    session.generate(length, [](std::int32_t, std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      return true;
    });
    std::printf("\n");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
