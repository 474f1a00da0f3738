// samples/godot: the extension, loaded by a stand-in for Godot.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "godot_host.h"

namespace {

using godot_host::Object;
using godot_host::world;

const std::string models = std::string(RIVERHORSE_SOURCE_DIR) + "/samples/models/default";

class Godot : public testing::Test {
 protected:
  void SetUp() override {
    world() = {};
    library_ = dlopen(GODOT_EXTENSION, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << dlerror();
    entry_ = reinterpret_cast<GDExtensionInitializationFunction>(dlsym(library_, "riverhorse_godot_init"));
    ASSERT_NE(entry_, nullptr) << dlerror();
  }

  void load() {
    ASSERT_TRUE(entry_(godot_host::get_proc_address, this, &initialization_));
    ASSERT_EQ(initialization_.minimum_initialization_level, GDEXTENSION_INITIALIZATION_SCENE);
    for (int level = 0; level < GDEXTENSION_MAX_INITIALIZATION_LEVEL; ++level) {
      initialization_.initialize(initialization_.userdata, static_cast<GDExtensionInitializationLevel>(level));
    }
  }

  void unload() {
    for (int level = GDEXTENSION_MAX_INITIALIZATION_LEVEL - 1; level >= 0; --level) {
      initialization_.deinitialize(initialization_.userdata, static_cast<GDExtensionInitializationLevel>(level));
    }
    EXPECT_TRUE(world().classes.empty());
    EXPECT_EQ(world().alive, 0);
    EXPECT_EQ(world().errors, "");
  }

  // Frames until the end of what was generated; the text of all of them.
  std::string play(Object* node, std::string* end = nullptr, int* pieces = nullptr) {
    std::string text;
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (std::chrono::steady_clock::now() < limit) {
      EXPECT_TRUE(godot_host::process(node));
      for (const godot_host::Emitted& each : std::exchange(world().emitted, {})) {
        if (each.signal != "text_drawn") {
          if (end != nullptr) *end = each.signal + ": " + each.text;
          return text;
        }
        text += each.text;
        if (pieces != nullptr) ++*pieces;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ADD_FAILURE() << "no end";
    return text;
  }

  void* library_ = nullptr;
  GDExtensionInitializationFunction entry_ = nullptr;
  GDExtensionInitialization initialization_ = {};
};

TEST_F(Godot, LearnsTheClass) {
  load();
  ASSERT_EQ(world().classes.size(), 1U);
  const godot_host::Class& node = world().classes.at("RiverhorseText");
  EXPECT_EQ(node.parent, "Node");
  EXPECT_TRUE(node.info.is_exposed);
  EXPECT_FALSE(node.info.is_abstract || node.info.is_virtual);
  constexpr auto text = GDEXTENSION_VARIANT_TYPE_STRING;
  const std::map<std::string, std::vector<godot_host::Parameter>> methods = {
      {"load_model", {{"path", text}, {"backend", text}}},
      {"set_sampling", {{"temperature", GDEXTENSION_VARIANT_TYPE_FLOAT}, {"seed", GDEXTENSION_VARIANT_TYPE_INT}}},
      {"generate", {{"prompt", text}, {"max_tokens", GDEXTENSION_VARIANT_TYPE_INT}}},
      {"cancel", {}},
      {"clear", {}}};
  EXPECT_EQ(node.methods.size(), methods.size());
  for (const auto& [name, parameters] : methods) {
    ASSERT_EQ(node.methods.count(name), 1U) << name;
    EXPECT_EQ(node.methods.at(name).parameters, parameters) << name;
    EXPECT_EQ(node.methods.at(name).result, text) << name;
  }
  const std::map<std::string, std::vector<godot_host::Parameter>> signals = {
      {"text_drawn", {{"text", text}}}, {"finished", {{"reason", text}}}, {"failed", {{"message", text}}}};
  EXPECT_EQ(node.signals, signals);
  unload();
}

TEST_F(Godot, DrawsTextFrameByFrame) {
  load();
  const nlohmann::json golden = nlohmann::json::parse(std::ifstream(models + "/greedy.json"));
  const std::string prompt = golden["prompt"];
  Object* node = godot_host::create("RiverhorseText");
  EXPECT_TRUE(godot_host::process(node));  // nothing to do yet
  ASSERT_EQ(godot_host::call(node, "load_model", {models, "cpu"}), "");
  ASSERT_EQ(godot_host::call(node, "generate", {prompt, std::int64_t{24}}), "");
  EXPECT_NE(godot_host::call(node, "clear", {}), "") << "while it runs";
  std::string end;
  int pieces = 0;
  const std::string text = play(node, &end, &pieces);
  EXPECT_EQ(text.find(" the evening was over, and the evening was over."), 0U) << text;
  EXPECT_EQ(end, "finished: max tokens");
  EXPECT_GT(pieces, 1);

  // The same text by typed calls; by chance, and by chance again.
  EXPECT_EQ(godot_host::call_typed(node, "clear", {}), "");
  EXPECT_EQ(godot_host::call_typed(node, "generate", {prompt, std::int64_t{24}}), "");
  EXPECT_EQ(play(node), text);
  std::string drawn[2];
  for (std::string& each : drawn) {
    EXPECT_EQ(godot_host::call(node, "clear", {}), "");
    EXPECT_EQ(godot_host::call_typed(node, "set_sampling", {1.5, std::int64_t{3}}), "");
    EXPECT_EQ(godot_host::call(node, "generate", {prompt, std::int64_t{8}}), "");
    each = play(node);
  }
  EXPECT_EQ(drawn[0], drawn[1]);
  EXPECT_NE(text.find(drawn[0]), 0U) << drawn[0];

  EXPECT_EQ(godot_host::call(node, "generate", {" And", std::int64_t{1000000}}), "");
  EXPECT_EQ(godot_host::call(node, "cancel", {}), "");
  play(node, &end);
  EXPECT_EQ(end, "finished: cancelled");
  EXPECT_EQ(godot_host::call(node, "generate", {" And", std::int64_t{1000000}}), "");
  godot_host::destroy(node);  // while it runs
  unload();
}

TEST_F(Godot, IsToldWhatIsWrong) {
  load();
  Object* node = godot_host::create("RiverhorseText");
  for (const char* method : {"cancel", "clear"}) {
    EXPECT_EQ(godot_host::call(node, method, {}), "there is no model: call load_model before");
  }
  const std::string missing = "/nowhere/Flußpferd ☃";
  EXPECT_NE(godot_host::call(node, "load_model", {missing, "cpu"}).find(missing), std::string::npos);
  EXPECT_NE(godot_host::call_typed(node, "load_model", {models, "gpu"}).find("gpu"), std::string::npos);

  GDExtensionCallError error = {};
  godot_host::call(node, "load_model", {models}, &error);
  EXPECT_EQ(error.error, GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS);
  EXPECT_EQ(error.expected, 2);
  godot_host::call(node, "clear", {models}, &error);
  EXPECT_EQ(error.error, GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS);
  godot_host::call(node, "generate", {"It", 1.5}, &error);
  EXPECT_EQ(error.error, GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT);
  EXPECT_EQ(error.argument, 1);
  EXPECT_EQ(error.expected, GDEXTENSION_VARIANT_TYPE_INT);
  EXPECT_EQ(godot_host::call(node, "set_sampling", {std::int64_t{1}, std::int64_t{2}}, &error),
            "there is no model: call load_model before");
  EXPECT_EQ(error.error, GDEXTENSION_CALL_OK) << "a whole number is a temperature too";
  godot_host::destroy(node);
  unload();
}

TEST_F(Godot, ThatIsTooOldIsRefused) {
  world().lacking = "classdb_register_extension_class2";
  EXPECT_FALSE(entry_(godot_host::get_proc_address, this, &initialization_));
  EXPECT_EQ(world().errors, "Riverhorse needs Godot 4.2 or later; this one lacks " + world().lacking + "\n");
}

}  // namespace
