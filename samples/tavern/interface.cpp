#include "interface.h"

#include <backends/imgui_impl_glfw.h>
#include <backends/imgui_impl_vulkan.h>
#include <imgui.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <stdexcept>

namespace tavern {
namespace {

constexpr ImU32 paper = IM_COL32(250, 240, 214, 240);
constexpr ImU32 paper_edge = IM_COL32(92, 58, 30, 255);
constexpr ImU32 ink = IM_COL32(48, 28, 16, 255);

void set_style(float text_height) {
  ImGui::StyleColorsDark();
  ImGuiStyle& style = ImGui::GetStyle();
  style.WindowRounding = style.FrameRounding = style.GrabRounding = 5;
  style.WindowBorderSize = 1;
  style.Colors[ImGuiCol_WindowBg] = {0.10f, 0.06f, 0.04f, 0.80f};
  style.Colors[ImGuiCol_Border] = {0.62f, 0.42f, 0.22f, 0.60f};
  style.Colors[ImGuiCol_FrameBg] = {0.26f, 0.16f, 0.10f, 0.90f};
  style.Colors[ImGuiCol_FrameBgHovered] = {0.34f, 0.21f, 0.12f, 0.95f};
  style.Colors[ImGuiCol_FrameBgActive] = {0.40f, 0.25f, 0.14f, 1.0f};
  style.Colors[ImGuiCol_Button] = {0.44f, 0.25f, 0.11f, 1.0f};
  style.Colors[ImGuiCol_ButtonHovered] = {0.58f, 0.34f, 0.14f, 1.0f};
  style.Colors[ImGuiCol_ButtonActive] = {0.70f, 0.42f, 0.16f, 1.0f};
  style.Colors[ImGuiCol_SliderGrab] = {0.90f, 0.60f, 0.25f, 1.0f};
  style.Colors[ImGuiCol_SliderGrabActive] = {1.0f, 0.72f, 0.32f, 1.0f};
  style.Colors[ImGuiCol_CheckMark] = {0.95f, 0.66f, 0.28f, 1.0f};
  style.Colors[ImGuiCol_PlotLines] = {0.98f, 0.72f, 0.34f, 1.0f};
  style.Colors[ImGuiCol_Text] = {0.97f, 0.91f, 0.80f, 1.0f};
  style.Colors[ImGuiCol_TextDisabled] = {0.72f, 0.62f, 0.50f, 1.0f};
  style.ScaleAllSizes(std::max(1.0f, text_height / 16));
}

// ImGui ends the program over a file that is no font.
bool is_font(const std::string& path) {
  char begin[4] = {};
  std::ifstream(path, std::ios::binary).read(begin, sizeof begin);
  const std::string kind(begin, sizeof begin);
  return kind == std::string("\0\1\0\0", 4) || kind == "true" || kind == "OTTO" || kind == "ttcf";
}

constexpr ImGuiWindowFlags fixed_window = ImGuiWindowFlags_NoTitleBar | ImGuiWindowFlags_NoResize |
                                          ImGuiWindowFlags_NoMove | ImGuiWindowFlags_NoSavedSettings |
                                          ImGuiWindowFlags_NoScrollbar | ImGuiWindowFlags_NoScrollWithMouse;

}  // namespace

Interface::Interface(const Gpu& gpu, const Renderer& renderer, Window* window, const std::string& font)
    : gpu_(gpu), window_(window) {
  if (!font.empty() && !is_font(font)) throw std::runtime_error(font + " is not a TrueType or OpenType font");
  ImGui::CreateContext();
  ImGuiIO& io = ImGui::GetIO();
  io.IniFilename = nullptr;  // nothing is remembered in the folder that the program was started in
  const float text_height = std::max(12.0f, static_cast<float>(renderer.extent().height) / 38);
  if (font.empty()) {
    io.Fonts->AddFontDefault();
  } else {
    io.Fonts->AddFontFromFileTTF(font.c_str(), text_height);
  }
  set_style(text_height);
  if (window != nullptr) ImGui_ImplGlfw_InitForVulkan(window->handle(), true);

  const VkDescriptorPoolSize one_picture{VK_DESCRIPTOR_TYPE_COMBINED_IMAGE_SAMPLER, 1};
  VkDescriptorPoolCreateInfo pool{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
  pool.flags = VK_DESCRIPTOR_POOL_CREATE_FREE_DESCRIPTOR_SET_BIT;
  pool.maxSets = 1;
  pool.poolSizeCount = 1;
  pool.pPoolSizes = &one_picture;
  check(vkCreateDescriptorPool(gpu.device, &pool, nullptr, &pool_), "vkCreateDescriptorPool");
  ImGui_ImplVulkan_InitInfo init{};
  init.Instance = gpu.instance;
  init.PhysicalDevice = gpu.physical_device;
  init.Device = gpu.device;
  init.QueueFamily = gpu.queue_family();
  init.Queue = gpu.queue;
  init.DescriptorPool = pool_;
  init.MinImageCount = init.ImageCount = Renderer::frames_in_flight;
  init.MSAASamples = VK_SAMPLE_COUNT_1_BIT;
  init.CheckVkResultFn = [](VkResult result) { check(result, "Dear ImGui"); };
  ImGui_ImplVulkan_Init(&init, renderer.render_pass());
  upload_font();
}

Interface::~Interface() {
  gpu_.wait();
  ImGui_ImplVulkan_Shutdown();
  if (window_ != nullptr) ImGui_ImplGlfw_Shutdown();
  ImGui::DestroyContext();
  vkDestroyDescriptorPool(gpu_.device, pool_, nullptr);
}

void Interface::upload_font() {
  gpu_.run_once([](VkCommandBuffer commands) { ImGui_ImplVulkan_CreateFontsTexture(commands); });
  ImGui_ImplVulkan_DestroyFontUploadObjects();
}

Wishes Interface::build(VkExtent2D extent, double seconds, Tavern& tavern, double& budget_us,
                        const Statistics& statistics) {
  ImGui_ImplVulkan_NewFrame();
  if (window_ != nullptr) {
    ImGui_ImplGlfw_NewFrame();
  } else {
    ImGui::GetIO().DisplaySize = {static_cast<float>(extent.width), static_cast<float>(extent.height)};
    ImGui::GetIO().DeltaTime = static_cast<float>(seconds);
  }
  ImGui::NewFrame();
  Wishes wishes;
  bubbles(extent, tavern);
  panel(extent, tavern, wishes);
  if (overlay_) overlay(extent, budget_us, statistics);
  click(extent, tavern);
  // Whatever was clicked, what is typed next is said.
  if (ImGui::IsMouseReleased(ImGuiMouseButton_Left) && !ImGui::IsAnyItemActive()) focus_line_ = true;
  ImGui::Render();
  return wishes;
}

void Interface::draw(VkCommandBuffer commands) const {
  ImGui_ImplVulkan_RenderDrawData(ImGui::GetDrawData(), commands);
}

// Paper above a head, with a point towards it.
void Interface::bubbles(VkExtent2D extent, const Tavern& tavern) const {
  ImDrawList* draw = ImGui::GetBackgroundDrawList();
  const float text_height = ImGui::GetFontSize();
  const float width = 0.19f * static_cast<float>(extent.width);
  const float margin = 0.55f * text_height;
  for (std::size_t i = 0; i < tavern.size(); ++i) {
    const Point head = Scene::above_head(extent, tavern.conversation(i).character().x);
    const std::string& name = tavern.conversation(i).character().name;
    std::string text = tavern.spoken(i);
    if (text.empty() && tavern.conversation(i).is_replying()) text = "...";
    if (text.empty()) continue;
    const ImVec2 size = ImGui::CalcTextSize(text.c_str(), nullptr, false, width - 2 * margin);
    const float bottom = head.y - 0.7f * text_height;
    const float top = std::max(2.0f, bottom - size.y - 2.2f * margin - text_height);
    const ImVec2 from{head.x - width / 2, top}, to{head.x + width / 2, bottom};
    const ImVec2 point[] = {{head.x - text_height * 0.5f, bottom - 1},
                            {head.x + text_height * 0.5f, bottom - 1},
                            {head.x, bottom + text_height * 0.7f}};
    draw->AddRectFilled(from, to, paper, margin);
    draw->AddRect(from, to, paper_edge, margin, 0, 1.5f);
    draw->AddTriangleFilled(point[0], point[2], point[1], paper);
    draw->AddLine(point[0], point[2], paper_edge, 1.5f);
    draw->AddLine(point[1], point[2], paper_edge, 1.5f);
    draw->AddText({from.x + margin, from.y + 0.6f * margin}, paper_edge, name.c_str());
    draw->AddText(ImGui::GetFont(), text_height, {from.x + margin, from.y + 0.9f * margin + text_height}, ink,
                  text.c_str(), nullptr, width - 2 * margin);
  }
}

void Interface::panel(VkExtent2D extent, Tavern& tavern, Wishes& wishes) {
  const float text_height = ImGui::GetFontSize();
  const float width = 0.62f * static_cast<float>(extent.width);
  const float height = 4.9f * text_height + 2 * ImGui::GetStyle().WindowPadding.y;
  ImGui::SetNextWindowPos(
      {0.365f * static_cast<float>(extent.width), static_cast<float>(extent.height) - height - 0.6f * text_height});
  ImGui::SetNextWindowSize({width, height});
  ImGui::Begin("speak", nullptr, fixed_window);
  ImGui::TextUnformatted("You speak to");
  for (int who = Tavern::everyone; who < static_cast<int>(tavern.size()); ++who) {
    const char* name = who == Tavern::everyone
                           ? "everyone"
                           : tavern.conversation(static_cast<std::size_t>(who)).character().name.c_str();
    ImGui::SameLine();
    if (ImGui::RadioButton(name, tavern.addressed() == who)) tavern.address(who);
  }
  const bool busy = tavern.is_busy();
  if (focus_line_) ImGui::SetKeyboardFocusHere();
  focus_line_ = false;
  ImGui::SetNextItemWidth(-1);
  if (ImGui::InputTextWithHint("##line", "say something, and press Enter", line_, sizeof line_,
                               ImGuiInputTextFlags_EnterReturnsTrue)) {
    focus_line_ = true;
    if (tavern.can_hear() && line_[0] != '\0') {
      wishes.say = line_;
      line_[0] = '\0';
      message_.clear();
    }
  }
  ImGui::BeginDisabled(busy);
  wishes.rewind = ImGui::Button("Unsay");
  ImGui::SameLine();
  wishes.retell = ImGui::Button("Tell it otherwise");
  ImGui::SameLine();
  wishes.save = ImGui::Button("Save");
  ImGui::SameLine();
  wishes.load = ImGui::Button("Load");
  ImGui::EndDisabled();
  ImGui::SameLine();
  ImGui::Checkbox("plots", &overlay_);
  if (!message_.empty()) {
    ImGui::SameLine();
    ImGui::TextDisabled("%s", message_.c_str());
  }
  ImGui::End();
}

void Interface::overlay(VkExtent2D extent, double& budget_us, const Statistics& statistics) const {
  const float text_height = ImGui::GetFontSize();
  const float width = std::max(0.19f * static_cast<float>(extent.width), 11.5f * text_height);
  ImGui::SetNextWindowPos({0.6f * text_height, 0.6f * text_height});  // over the chimney
  ImGui::SetNextWindowSize({width, 0});
  ImGui::Begin("plots", nullptr, fixed_window | ImGuiWindowFlags_AlwaysAutoResize);
  const auto plot = [&](const char* what, const char* format, const History& history) {
    ImGui::TextDisabled("%s", what);
    char value[32];
    std::snprintf(value, sizeof value, format, static_cast<double>(history.last()));
    ImGui::SameLine(std::max(0.0f, width - ImGui::GetStyle().WindowPadding.x - ImGui::CalcTextSize(value).x));
    ImGui::TextUnformatted(value);
    ImGui::PushID(what);
    ImGui::PlotLines("", history.values(), static_cast<int>(History::length), history.oldest(), nullptr, 0,
                     std::max(1e-3f, 1.2f * history.largest()), {-1, 1.25f * text_height});
    ImGui::PopID();
  };
  plot("frame", "%.1f ms", statistics.frame_ms);
  plot("drawing", "%.2f ms", statistics.drawing_ms);
  plot("model", "%.2f ms", statistics.model_ms);
  plot("words", "%.0f tokens/s", statistics.tokens_per_second);
  float budget_ms = static_cast<float>(budget_us / 1000);
  ImGui::SetNextItemWidth(-1);
  if (ImGui::SliderFloat("##budget", &budget_ms, 0.1f, 100.0f, "%.1f ms a frame", ImGuiSliderFlags_Logarithmic)) {
    budget_us = 1000.0 * static_cast<double>(budget_ms);
  }
  ImGui::End();
}

// A click on somebody addresses them; one beside them, everyone.
void Interface::click(VkExtent2D extent, Tavern& tavern) const {
  if (!ImGui::IsMouseClicked(ImGuiMouseButton_Left) || ImGui::GetIO().WantCaptureMouse) return;
  const ImVec2 at = ImGui::GetMousePos();
  tavern.address(Tavern::everyone);
  for (std::size_t i = 0; i < tavern.size(); ++i) {
    if (Scene::is_on_guest(extent, tavern.conversation(i).character().x, {at.x, at.y}))
      tavern.address(static_cast<int>(i));
  }
}

}  // namespace tavern
