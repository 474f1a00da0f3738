// How Godot gets to know the class RiverhorseText: its methods, its signals, and what is called once a frame.
#include <array>
#include <cstring>
#include <list>
#include <new>
#include <variant>
#include <vector>

#include "engine.h"
#include "text_node.h"

namespace {

constexpr const char* class_name = "RiverhorseText";
constexpr const char* parent_name = "Node";
constexpr std::uint32_t default_usage = 2 | 4;  // of a property: stored, and seen in the editor

struct Parameter {
  const char* name;
  GDExtensionVariantType type;
};
struct Signal {
  const char* name;
  Parameter parameter;
};
constexpr Signal signals[] = {{"text_drawn", {"text", GDEXTENSION_VARIANT_TYPE_STRING}},
                              {"finished", {"reason", GDEXTENSION_VARIANT_TYPE_STRING}},
                              {"failed", {"message", GDEXTENSION_VARIANT_TYPE_STRING}}};

using Value = std::variant<std::string, std::int64_t, double>;
using Values = std::vector<Value>;

struct Method {
  const char* name;
  std::vector<Parameter> parameters;
  std::string (*call)(TextNode& node, const Values& values);  // of the parameters' types; returns an error or ""
};

const std::string& text(const Value& value) { return std::get<std::string>(value); }

const std::array<Method, 5>& methods() {
  static const std::array<Method, 5> all = {{
      {"load_model",
       {{"path", GDEXTENSION_VARIANT_TYPE_STRING}, {"backend", GDEXTENSION_VARIANT_TYPE_STRING}},
       [](TextNode& node, const Values& values) { return node.load_model(text(values[0]), text(values[1])); }},
      {"set_sampling",
       {{"temperature", GDEXTENSION_VARIANT_TYPE_FLOAT}, {"seed", GDEXTENSION_VARIANT_TYPE_INT}},
       [](TextNode& node, const Values& values) {
         return node.set_sampling(std::get<double>(values[0]), std::get<std::int64_t>(values[1]));
       }},
      {"generate",
       {{"prompt", GDEXTENSION_VARIANT_TYPE_STRING}, {"max_tokens", GDEXTENSION_VARIANT_TYPE_INT}},
       [](TextNode& node, const Values& values) {
         return node.generate(text(values[0]), std::get<std::int64_t>(values[1]));
       }},
      {"cancel", {}, [](TextNode& node, const Values&) { return node.cancel(); }},
      {"clear", {}, [](TextNode& node, const Values&) { return node.clear(); }},
  }};
  return all;
}

// ------------------------------------------------------------------------------------------------- calls from Godot

// A call with arguments of any type, from scripts that are not typed.
void call_method(void* data, GDExtensionClassInstancePtr instance, const GDExtensionConstVariantPtr* arguments,
                 GDExtensionInt count, GDExtensionVariantPtr result, GDExtensionCallError* error) {
  const engine::Functions& godot = engine::functions();
  const auto& method = *static_cast<const Method*>(data);
  const auto wanted = static_cast<GDExtensionInt>(method.parameters.size());
  error->error = GDEXTENSION_CALL_OK;
  if (count != wanted) {
    error->error =
        count < wanted ? GDEXTENSION_CALL_ERROR_TOO_FEW_ARGUMENTS : GDEXTENSION_CALL_ERROR_TOO_MANY_ARGUMENTS;
    error->expected = static_cast<std::int32_t>(wanted);
    return;
  }
  Values values;
  for (std::size_t i = 0; i < method.parameters.size(); ++i) {
    const GDExtensionVariantType type = method.parameters[i].type;
    const GDExtensionVariantType given = godot.variant_get_type(arguments[i]);
    const bool number_for_float = type == GDEXTENSION_VARIANT_TYPE_FLOAT && given == GDEXTENSION_VARIANT_TYPE_INT;
    if (given != type && !number_for_float) {
      error->error = GDEXTENSION_CALL_ERROR_INVALID_ARGUMENT;
      error->argument = static_cast<std::int32_t>(i);
      error->expected = type;
      return;
    }
    const auto argument = const_cast<GDExtensionVariantPtr>(arguments[i]);  // which is only read
    if (type == GDEXTENSION_VARIANT_TYPE_INT) {
      godot.int_from_variant(&values.emplace_back().emplace<std::int64_t>(), argument);
    } else if (type == GDEXTENSION_VARIANT_TYPE_FLOAT) {
      godot.float_from_variant(&values.emplace_back().emplace<double>(), argument);
    } else {
      values.emplace_back(engine::String(arguments[i]).utf8());
    }
  }
  engine::String message(method.call(*static_cast<TextNode*>(instance), values));
  godot.variant_from_string(result, message.get());  // it was nil, which needs no destructor
}

// A call with arguments that are known to have the types of the parameters.
void call_method_typed(void* data, GDExtensionClassInstancePtr instance, const GDExtensionConstTypePtr* arguments,
                       GDExtensionTypePtr result) {
  const auto& method = *static_cast<const Method*>(data);
  Values values;
  for (std::size_t i = 0; i < method.parameters.size(); ++i) {
    switch (method.parameters[i].type) {
      case GDEXTENSION_VARIANT_TYPE_INT: values.emplace_back(*static_cast<const std::int64_t*>(arguments[i])); break;
      case GDEXTENSION_VARIANT_TYPE_FLOAT: values.emplace_back(*static_cast<const double*>(arguments[i])); break;
      default: values.emplace_back(engine::String::utf8(arguments[i]));
    }
  }
  const std::string message = method.call(*static_cast<TextNode*>(instance), values);
  engine::functions().string_destroy(result);  // it is a String, which is replaced
  engine::functions().string_new_with_utf8_chars_and_len(result, message.data(),
                                                         static_cast<GDExtensionInt>(message.size()));
}

GDExtensionObjectPtr create_instance(void*) {
  engine::Name parent(parent_name), name(class_name);
  GDExtensionObjectPtr object = engine::functions().classdb_construct_object(parent.get());
  engine::functions().object_set_instance(object, name.get(), new TextNode(object));
  return object;
}

void free_instance(void*, GDExtensionClassInstancePtr instance) { delete static_cast<TextNode*>(instance); }

// Godot calls _process every frame for nodes whose class has it.
GDExtensionClassCallVirtual find_virtual(void*, GDExtensionConstStringNamePtr name) {
  if (!(engine::Name("_process") == name)) return nullptr;
  return [](GDExtensionClassInstancePtr instance, const GDExtensionConstTypePtr*, GDExtensionTypePtr) {
    static_cast<TextNode*>(instance)->process();
  };
}

// ----------------------------------------------------------------------------------------------------- registration

// Descriptions of parameters, which Godot copies.
class Properties {
 public:
  void add(const Parameter& parameter) {
    names_.emplace_back(parameter.name);
    list_.push_back({parameter.type, names_.back().get(), no_class_.get(), 0, no_hint_.get(), default_usage});
  }
  GDExtensionPropertyInfo* data() { return list_.data(); }
  std::uint32_t size() const { return static_cast<std::uint32_t>(list_.size()); }

 private:
  engine::Name no_class_{""};
  engine::String no_hint_{std::string_view()};
  std::list<engine::Name> names_;
  std::vector<GDExtensionPropertyInfo> list_;
};

void register_method(GDExtensionClassLibraryPtr library, engine::Name& owner, const Method& method) {
  engine::Name name(method.name);
  Properties parameters, result;
  for (const Parameter& parameter : method.parameters) parameters.add(parameter);
  result.add({"", GDEXTENSION_VARIANT_TYPE_STRING});
  std::vector<GDExtensionClassMethodArgumentMetadata> metadata(method.parameters.size(),
                                                               GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE);
  GDExtensionClassMethodInfo info = {};
  info.name = name.get();
  info.method_userdata = const_cast<Method*>(&method);
  info.call_func = call_method;
  info.ptrcall_func = call_method_typed;
  info.method_flags = GDEXTENSION_METHOD_FLAGS_DEFAULT;
  info.has_return_value = 1;
  info.return_value_info = result.data();
  info.return_value_metadata = GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE;
  info.argument_count = parameters.size();
  info.arguments_info = parameters.data();
  info.arguments_metadata = metadata.data();
  engine::functions().classdb_register_extension_class_method(library, owner.get(), &info);
}

void initialize(void* library, GDExtensionInitializationLevel level) {
  if (level != GDEXTENSION_INITIALIZATION_SCENE) return;  // when there are nodes
  const engine::Functions& godot = engine::functions();
  engine::Name name(class_name), parent(parent_name);
  GDExtensionClassCreationInfo2 info = {};
  info.is_exposed = 1;
  info.create_instance_func = create_instance;
  info.free_instance_func = free_instance;
  info.get_virtual_func = find_virtual;
  godot.classdb_register_extension_class2(library, name.get(), parent.get(), &info);
  for (const Method& method : methods()) register_method(library, name, method);
  for (const Signal& signal : signals) {
    engine::Name signal_name(signal.name);
    Properties parameters;
    parameters.add(signal.parameter);
    godot.classdb_register_extension_class_signal(library, name.get(), signal_name.get(), parameters.data(),
                                                  parameters.size());
  }
}

void deinitialize(void* library, GDExtensionInitializationLevel level) {
  if (level != GDEXTENSION_INITIALIZATION_SCENE) return;
  engine::Name name(class_name);
  engine::functions().classdb_unregister_extension_class(library, name.get());
}

}  // namespace

// The entry_symbol of riverhorse.gdextension.
extern "C" __attribute__((visibility("default"))) GDExtensionBool riverhorse_godot_init(
    GDExtensionInterfaceGetProcAddress get_proc_address, GDExtensionClassLibraryPtr library,
    GDExtensionInitialization* initialization) {
  if (!engine::load(get_proc_address)) return 0;
  initialization->minimum_initialization_level = GDEXTENSION_INITIALIZATION_SCENE;
  initialization->userdata = library;
  initialization->initialize = initialize;
  initialization->deinitialize = deinitialize;
  return 1;
}
