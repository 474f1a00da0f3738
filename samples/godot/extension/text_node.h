// The node RiverhorseText: a text that a model goes on with, on a thread of the library's, while the game runs. Its
// methods return an error's message, or "".
#ifndef RIVERHORSE_SAMPLES_GODOT_TEXT_NODE_H
#define RIVERHORSE_SAMPLES_GODOT_TEXT_NODE_H

#include <gdextension_interface.h>

#include <cstdint>
#include <optional>
#include <riverhorse/riverhorse.hpp>
#include <string>

class TextNode {
 public:
  explicit TextNode(GDExtensionObjectPtr object) : object_(object) {}

  // Takes as long as loading does. `backend` is "cpu", "vulkan", "cuda", or "" for the best that is there.
  std::string load_model(const std::string& path, const std::string& backend);
  // Of what is generated from now on. A temperature of 0: always the likeliest token.
  std::string set_sampling(double temperature, std::int64_t seed);
  // Adds a prompt to the text, and begins to generate. Signals tell the rest.
  std::string generate(const std::string& prompt, std::int64_t max_tokens);
  std::string cancel();
  // Back to an empty text.
  std::string clear();

  // Once a frame: emits text_drawn(text) with what is new, then finished(reason) or failed(message) at the end.
  void process();

 private:
  void emit(const std::string& signal, const std::string& text) const;

  GDExtensionObjectPtr object_;
  std::optional<riverhorse_api::model> model_;
  std::optional<riverhorse_api::session> session_;
  bool running_ = false;
};

#endif
