// What lies over the scene, by Dear ImGui: speech bubbles, the player's line and buttons, and the plots.
#pragma once

#include <optional>
#include <string>

#include "renderer.h"
#include "statistics.h"
#include "tavern.h"
#include "window.h"

namespace tavern {

// What the player did in this frame.
struct Wishes {
  std::optional<std::string> say;
  bool rewind = false, retell = false, save = false, load = false;
};

class Interface {
 public:
  // `window` may be null: then nobody clicks or types. `font`: a TrueType file, or empty for ImGui's own.
  Interface(const Gpu& gpu, const Renderer& renderer, Window* window, const std::string& font);
  ~Interface();
  Interface(const Interface&) = delete;
  Interface& operator=(const Interface&) = delete;

  // Before the frame is recorded. Changes whom the tavern's player addresses, and the budget.
  Wishes build(VkExtent2D extent, double seconds, Tavern& tavern, double& budget_us, const Statistics& statistics);
  // Inside the render pass.
  void draw(VkCommandBuffer commands) const;

  void show_overlay(bool shown) { overlay_ = shown; }
  void tell(const std::string& message) { message_ = message; }  // a line for the player

 private:
  void upload_font();
  void bubbles(VkExtent2D extent, const Tavern& tavern) const;
  void panel(VkExtent2D extent, Tavern& tavern, Wishes& wishes);
  void overlay(VkExtent2D extent, double& budget_us, const Statistics& statistics) const;
  void click(VkExtent2D extent, Tavern& tavern) const;

  const Gpu& gpu_;
  Window* window_;
  VkDescriptorPool pool_ = VK_NULL_HANDLE;
  bool overlay_ = true;
  bool focus_line_ = true;
  char line_[256] = "";
  std::string message_;
};

}  // namespace tavern
