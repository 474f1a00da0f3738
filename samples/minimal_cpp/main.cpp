// The smallest program that generates text through Riverhorse's public interface.
//   minimal_cpp MODEL PROMPT [BACKEND]
#include <cstdio>
#include <riverhorse/riverhorse.hpp>
#include <string>
#include <string_view>

namespace rh = riverhorse_api;

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: %s MODEL PROMPT [BACKEND]\n", argv[0]);
    return 2;
  }
  try {
    // What is there to run on? The library takes the best, unless told otherwise.
    for (const riverhorse_device_info& device : rh::list_devices().devices) {
      std::fprintf(stderr, "%s %s: %s\n", device.is_default != 0 ? "*" : " ", device.id, device.name);
    }

    // A model folder, a .safetensors or a .pt file, on a device.
    riverhorse_model_options model_options = rh::model_options();
    if (argc == 4) model_options.backend = argv[3];
    const rh::model model(argv[1], model_options);
    std::fprintf(stderr, "%lld parameters on %s\n", static_cast<long long>(model.info().parameter_count),
                 model.info().device_name);

    // A text in progress: reads the prompt, then draws tokens.
    riverhorse_sampling_options sampling = rh::sampling_options();
    sampling.temperature = 0.8;
    sampling.top_k = 40;
    sampling.seed = 1;
    sampling.vocabulary_limit = model.info().tokenizer_vocab_size;  // nothing that has no text
    rh::session session = model.create_session(sampling);
    session.append(model.encode(argv[2]));

    riverhorse_generate_options options = rh::generate_options();
    options.max_tokens = 48;
    const riverhorse_generate_result result = session.generate(options, [](std::int32_t, std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      return true;  // false would stop here
    });
    std::printf("\n");
    std::fprintf(stderr, "%lld tokens in %.2f s\n", static_cast<long long>(result.token_count), result.seconds);
  } catch (const rh::api_error& error) {
    std::fprintf(stderr, "%s: %s\n", riverhorse_status_name(error.status()), error.what());
    return 1;
  }
  return 0;
}
