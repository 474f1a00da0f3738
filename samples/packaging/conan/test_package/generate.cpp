// generate MODEL PROMPT BACKEND: a few words.
#include <cstdio>
#include <riverhorse/riverhorse.hpp>

namespace rh = riverhorse_api;

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    riverhorse_model_options model_options = rh::model_options();
    model_options.backend = argv[3];
    const rh::model model(argv[1], model_options);
    rh::session session = model.create_session();
    session.append(model.encode(argv[2]));
    riverhorse_generate_options options = rh::generate_options();
    options.max_tokens = 16;
    session.generate(options, [](std::int32_t, std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      return true;
    });
    std::printf("\n");
    return 0;
  } catch (const rh::api_error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
