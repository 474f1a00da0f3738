#include "scene.h"

#include <algorithm>
#include <cmath>

#include "pipeline.h"

namespace tavern {
namespace {

constexpr std::uint32_t quad_vertex[] = {
#include "quad.vert.inc"
};
constexpr std::uint32_t ember_vertex[] = {
#include "ember.vert.inc"
};
constexpr std::uint32_t room_fragment[] = {
#include "room.frag.inc"
};
constexpr std::uint32_t person_fragment[] = {
#include "person.frag.inc"
};
constexpr std::uint32_t counter_fragment[] = {
#include "counter.frag.inc"
};
constexpr std::uint32_t ember_fragment[] = {
#include "ember.frag.inc"
};

// The push constants of scene.glsl.
struct Draw {
  float left, bottom, right, top;
  float reach_x, reach_y;
  float seconds;
  float fire;
  float pixel;
  float mouth, blink, gaze, nod;
  std::uint32_t skin, hair, coat, accent;
  std::uint32_t figure;
  float middle_x, middle_y;
  float size;
};
static_assert(sizeof(Draw) == 84 && sizeof(Draw) <= 128, "Vulkan promises 128 bytes of push constants");

// Guests, in scene units. What the bar hides of them is not drawn.
constexpr float guest_middle = -0.13f;
constexpr float guest_half_height = 0.60f;
constexpr float guest_half_width = 0.52f;
constexpr float guest_bottom = -0.46f;
constexpr std::uint32_t ember_count = 26;

// The picture shows this much to each side of the middle: all of the room's width, whatever its shape.
Point reach_of(VkExtent2D extent) {
  const float aspect = static_cast<float>(extent.width) / static_cast<float>(extent.height);
  const float y = std::max(1.0f, 1.6f / aspect);
  return {y * aspect, y};
}

// Unsteady, never dark, never the same twice within minutes.
float fire_at(double seconds) {
  const double wave = std::sin(seconds * 7.3) * std::sin(seconds * 3.1 + 1) + 0.5 * std::sin(seconds * 13.7 + 2);
  return static_cast<float>(1 + 0.11 * wave);
}

}  // namespace

Scene::Scene(const Gpu& gpu, VkRenderPass render_pass) : gpu_(gpu) {
  const VkPushConstantRange constants{VK_SHADER_STAGE_VERTEX_BIT | VK_SHADER_STAGE_FRAGMENT_BIT, 0, sizeof(Draw)};
  VkPipelineLayoutCreateInfo create{VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO};
  create.pushConstantRangeCount = 1;
  create.pPushConstantRanges = &constants;
  check(vkCreatePipelineLayout(gpu.device, &create, nullptr, &layout_), "vkCreatePipelineLayout");
  const auto make = [&](Shader vertex, Shader fragment) {
    return make_pipeline(gpu.device, render_pass, layout_, vertex, fragment);
  };
  pipelines_[room] = make(quad_vertex, room_fragment);
  pipelines_[person] = make(quad_vertex, person_fragment);
  pipelines_[counter] = make(quad_vertex, counter_fragment);
  pipelines_[embers] = make(ember_vertex, ember_fragment);
}

Scene::~Scene() {
  for (VkPipeline pipeline : pipelines_) vkDestroyPipeline(gpu_.device, pipeline, nullptr);
  vkDestroyPipelineLayout(gpu_.device, layout_, nullptr);
}

void Scene::draw(VkCommandBuffer commands, VkExtent2D extent, double seconds,
                 const std::vector<Guest>& guests) const {
  const Point reach = reach_of(extent);
  Draw draw{};
  draw.reach_x = reach.x;
  draw.reach_y = reach.y;
  draw.seconds = static_cast<float>(std::fmod(seconds, 3600));  // floats lose small steps of large times
  draw.fire = fire_at(seconds);
  const float pixel = 2 * reach.y / static_cast<float>(extent.height);
  const auto put = [&](Part part, std::uint32_t instances) {
    vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_GRAPHICS, pipelines_[part]);
    vkCmdPushConstants(commands, layout_, VK_SHADER_STAGE_VERTEX_BIT | VK_SHADER_STAGE_FRAGMENT_BIT, 0, sizeof draw,
                       &draw);
    vkCmdDraw(commands, 6, instances, 0, 0);
  };
  const auto place = [&](float left, float bottom, float right, float top) {
    draw.left = left, draw.bottom = bottom, draw.right = right, draw.top = top;
  };

  draw.pixel = pixel;
  place(-reach.x, -reach.y, reach.x, reach.y);
  put(room, 1);

  for (const Guest& guest : guests) {
    place(guest.x - guest_half_width, guest_bottom, guest.x + guest_half_width, guest_middle + guest_half_height);
    draw.middle_x = guest.x, draw.middle_y = guest_middle, draw.size = guest_half_height;
    draw.pixel = pixel / guest_half_height;
    draw.mouth = guest.mouth, draw.blink = guest.blink, draw.gaze = guest.gaze, draw.nod = guest.nod;
    draw.skin = guest.look.skin, draw.hair = guest.look.hair;
    draw.coat = guest.look.coat, draw.accent = guest.look.accent;
    draw.figure = guest.look.wears;
    put(person, 1);
  }

  draw.pixel = pixel;
  place(-1.3f, -reach.y, reach.x, 0.0f);
  put(counter, 1);
  put(embers, ember_count);
}

Point Scene::above_head(VkExtent2D extent, float guest_x) {
  const Point reach = reach_of(extent);
  const float y = guest_middle + 0.78f * guest_half_height;
  return {0.5f * static_cast<float>(extent.width) * (1 + guest_x / reach.x),
          0.5f * static_cast<float>(extent.height) * (1 - y / reach.y)};
}

bool Scene::is_on_guest(VkExtent2D extent, float guest_x, Point pixel) {
  const Point reach = reach_of(extent);
  const float x = (2 * pixel.x / static_cast<float>(extent.width) - 1) * reach.x;
  const float y = (1 - 2 * pixel.y / static_cast<float>(extent.height)) * reach.y;
  return std::abs(x - guest_x) < 0.32f && y > -0.45f && y < guest_middle + 0.78f * guest_half_height;
}

}  // namespace tavern
