// The tavern: a room with a fire, guests at the bar, and the bar. All of it is drawn by four fragment shaders over
// plain rectangles, from push constants alone: no vertex buffers, no pictures, no descriptors.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "gpu.h"

namespace tavern {

// What a guest wears: the bits of `figure` in person.frag.
enum Wears : std::uint32_t {
  wears_cap = 1,
  wears_hood = 2,
  wears_long_hair = 4,
  wears_full_beard = 8,
  wears_long_beard = 16,  // with a full beard
  wears_pipe = 32,
  wears_necklace = 64,
  wears_buttons = 128
};

// Colours are 0xbbggrr.
struct Look {
  std::uint32_t skin = 0, hair = 0, coat = 0, accent = 0;
  std::uint32_t wears = 0;
};

// A guest in this frame.
struct Guest {
  Look look;
  float x = 0;      // where they stand, in scene units
  float mouth = 0;  // 0: shut, 1: wide open
  float blink = 0;  // 0: eyes open, 1: shut
  float gaze = 0;   // -1: to the left, 1: to the right
  float nod = 0;    // -1 to 1
};

struct Point {
  float x = 0, y = 0;
};

class Scene {
 public:
  Scene(const Gpu& gpu, VkRenderPass render_pass);
  ~Scene();
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  // Inside the render pass.
  void draw(VkCommandBuffer commands, VkExtent2D extent, double seconds, const std::vector<Guest>& guests) const;

  // In pixels of a picture of this size.
  static Point above_head(VkExtent2D extent, float guest_x);
  static bool is_on_guest(VkExtent2D extent, float guest_x, Point pixel);

 private:
  enum Part { room, person, counter, embers, part_count };

  const Gpu& gpu_;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  std::array<VkPipeline, part_count> pipelines_{};
};

}  // namespace tavern
