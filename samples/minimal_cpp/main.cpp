// The smallest program that generates text through Riverhorse's public interface.
//   minimal_cpp MODEL PROMPT
#include <iostream>
#include <riverhorse/riverhorse.hpp>

namespace rh = riverhorse_api;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " MODEL PROMPT\n";
    return 2;
  }
  try {
    const rh::model model(argv[1]);  // on the best device, or as riverhorse_model_options say
    rh::session session = model.create_session();
    session.append(model.encode(argv[2]));
    riverhorse_generate_options length = rh::generate_options();
    length.max_tokens = 48;
    session.generate(length, [](std::int32_t, std::string_view text) {
      std::cout << text << std::flush;
      return true;  // false stops
    });
    std::cout << '\n';
  } catch (const rh::api_error& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
