#include "godot_host.h"

#include <cstring>
#include <list>
#include <new>
#include <set>
#include <stdexcept>

namespace godot_host {
namespace {

// A String is a pointer to its text, null when it is empty; a StringName one to the only text that is equal.
struct String {
  std::string* text;
};
struct Name {
  const std::string* text;
};
struct Variant {
  GDExtensionVariantType type;
  union {
    std::int64_t number;
    double real;
    String string;
    Object* object;
  };
};
static_assert(sizeof(Variant) <= 24);

template <typename Type>
Type& at(const void* place) {
  return *static_cast<Type*>(const_cast<void*>(place));
}

void make_string(void* place, std::string_view text) {
  ::new (place) String{text.empty() ? nullptr : new std::string(text)};
  if (!text.empty()) ++world().alive;
}
std::string text_of(const void* place) {
  const String& string = at<String>(place);
  return string.text == nullptr ? "" : *string.text;
}
void destroy_string(void* place) {
  if (at<String>(place).text != nullptr) --world().alive;
  delete at<String>(place).text;
  at<String>(place).text = reinterpret_cast<std::string*>(1);  // nobody may use it again
}

void make_name(void* place, const char* text) {
  static std::set<std::string> names;
  ::new (place) Name{&*names.insert(text).first};
  ++world().alive;
}
const std::string& name_of(const void* place) { return *at<Name>(place).text; }
void destroy_name(void* place) {
  at<Name>(place).text = nullptr;
  --world().alive;
}

void destroy_variant(void* place) {
  if (at<Variant>(place).type == GDEXTENSION_VARIANT_TYPE_STRING) destroy_string(&at<Variant>(place).string);
}

void make_variant(void* place, const Value& value) {
  ::new (place) Variant{};
  Variant& variant = at<Variant>(place);
  if (const auto* text = std::get_if<std::string>(&value)) {
    variant.type = GDEXTENSION_VARIANT_TYPE_STRING;
    make_string(&variant.string, *text);
  } else if (const auto* number = std::get_if<std::int64_t>(&value)) {
    variant.type = GDEXTENSION_VARIANT_TYPE_INT;
    variant.number = *number;
  } else {
    variant.type = GDEXTENSION_VARIANT_TYPE_FLOAT;
    variant.real = std::get<double>(value);
  }
}

std::vector<Parameter> parameters_of(const GDExtensionPropertyInfo* list, std::size_t count) {
  std::vector<Parameter> result;
  for (std::size_t i = 0; i < count; ++i) {
    if (name_of(list[i].class_name) != "" || text_of(list[i].hint_string) != "")
      throw std::logic_error("no such hints");
    result.push_back({name_of(list[i].name), list[i].type});
  }
  return result;
}

// ------------------------------------------------------------------------------------------ functions of the
// interface

void print_error(const char* description, const char*, const char*, std::int32_t, GDExtensionBool) {
  world().errors += std::string(description) + "\n";
}

void string_new(void* place, const char* text, GDExtensionInt size) {
  make_string(place, std::string_view(text, static_cast<std::size_t>(size)));
}
GDExtensionInt string_to_utf8(const void* string, char* text, GDExtensionInt capacity) {
  const std::string value = text_of(string);
  if (text != nullptr) std::memcpy(text, value.data(), std::min<std::size_t>(value.size(), capacity));
  return static_cast<GDExtensionInt>(value.size());
}

GDExtensionVariantType variant_get_type(const void* variant) { return at<Variant>(variant).type; }

void variant_call(void* self, const void* method, const GDExtensionConstVariantPtr* arguments, GDExtensionInt count,
                  void* result, GDExtensionCallError* error) {
  ::new (result) Variant{GDEXTENSION_VARIANT_TYPE_NIL, {}};
  error->error = GDEXTENSION_CALL_ERROR_INVALID_METHOD;
  if (at<Variant>(self).type != GDEXTENSION_VARIANT_TYPE_OBJECT || name_of(method) != "emit_signal" || count != 2)
    return;
  const std::string signal = text_of(&at<Variant>(arguments[0]).string);
  const auto& signals = world().classes.at(at<Variant>(self).object->class_name).signals;
  if (signals.count(signal) == 0 || signals.at(signal).at(0).type != at<Variant>(arguments[1]).type) return;
  world().emitted.push_back({signal, text_of(&at<Variant>(arguments[1]).string)});
  error->error = GDEXTENSION_CALL_OK;
}

GDExtensionPtrDestructor get_destructor(GDExtensionVariantType type) {
  return type == GDEXTENSION_VARIANT_TYPE_STRING ? destroy_string : destroy_name;
}
GDExtensionPtrOperatorEvaluator get_operator(GDExtensionVariantOperator, GDExtensionVariantType,
                                             GDExtensionVariantType) {
  return [](const void* left, const void* right, void* result) {
    at<GDExtensionBool>(result) = name_of(left) == name_of(right);
  };
}
GDExtensionVariantFromTypeConstructorFunc get_to_variant(GDExtensionVariantType type) {
  if (type == GDEXTENSION_VARIANT_TYPE_STRING) {
    return [](void* variant, void* string) { make_variant(variant, text_of(string)); };
  }
  return [](void* variant, void* object) {
    ::new (variant) Variant{GDEXTENSION_VARIANT_TYPE_OBJECT, {}};
    at<Variant>(variant).object = at<Object*>(object);
  };
}
GDExtensionTypeFromVariantConstructorFunc get_from_variant(GDExtensionVariantType type) {
  switch (type) {
    case GDEXTENSION_VARIANT_TYPE_STRING:
      return [](void* place, void* variant) { make_string(place, text_of(&at<Variant>(variant).string)); };
    case GDEXTENSION_VARIANT_TYPE_INT:
      return [](void* place, void* variant) { at<std::int64_t>(place) = at<Variant>(variant).number; };
    default:
      return [](void* place, void* variant) {
        const Variant& value = at<Variant>(variant);
        at<double>(place) =
            value.type == GDEXTENSION_VARIANT_TYPE_INT ? static_cast<double>(value.number) : value.real;
      };
  }
}

void* construct_object(const void* class_name) {
  ++world().alive;
  return new Object{name_of(class_name)};
}
void set_instance(void* object, const void* class_name, void* instance) {
  if (world().classes.at(name_of(class_name)).parent != at<Object>(object).class_name)
    throw std::logic_error("parent");
  at<Object>(object) = {name_of(class_name), instance};
}
void register_class(void*, const void* name, const void* parent, const GDExtensionClassCreationInfo2* info) {
  world().classes[name_of(name)] = {name_of(parent), *info, {}, {}};
}
void register_method(void*, const void* class_name, const GDExtensionClassMethodInfo* info) {
  for (std::uint32_t i = 0; i < info->argument_count; ++i) {
    if (info->arguments_metadata[i] != GDEXTENSION_METHOD_ARGUMENT_METADATA_NONE) throw std::logic_error("metadata");
  }
  world().classes.at(name_of(class_name)).methods[name_of(info->name)] = {
      parameters_of(info->arguments_info, info->argument_count), info->return_value_info->type, info->call_func,
      info->ptrcall_func, info->method_userdata};
}
void register_signal(void*, const void* class_name, const void* name, const GDExtensionPropertyInfo* parameters,
                     GDExtensionInt count) {
  world().classes.at(name_of(class_name)).signals[name_of(name)] = parameters_of(parameters, count);
}
void unregister_class(void*, const void* name) { world().classes.erase(name_of(name)); }

template <typename Function>
GDExtensionInterfaceFunctionPtr as(Function function) {
  return reinterpret_cast<GDExtensionInterfaceFunctionPtr>(function);
}

}  // namespace

World& world() {
  static World instance;
  return instance;
}

GDExtensionInterfaceFunctionPtr get_proc_address(const char* name) {
  // With the interface's own types, so that the compiler compares.
  static const std::map<std::string, GDExtensionInterfaceFunctionPtr> functions = {
      {"print_error", as<GDExtensionInterfacePrintError>(print_error)},
      {"string_new_with_utf8_chars_and_len", as<GDExtensionInterfaceStringNewWithUtf8CharsAndLen>(string_new)},
      {"string_to_utf8_chars", as<GDExtensionInterfaceStringToUtf8Chars>(string_to_utf8)},
      {"string_name_new_with_utf8_chars", as<GDExtensionInterfaceStringNameNewWithUtf8Chars>(make_name)},
      {"variant_get_type", as<GDExtensionInterfaceVariantGetType>(variant_get_type)},
      {"variant_call", as<GDExtensionInterfaceVariantCall>(variant_call)},
      {"variant_destroy", as<GDExtensionInterfaceVariantDestroy>(destroy_variant)},
      {"variant_get_ptr_destructor", as<GDExtensionInterfaceVariantGetPtrDestructor>(get_destructor)},
      {"variant_get_ptr_operator_evaluator", as<GDExtensionInterfaceVariantGetPtrOperatorEvaluator>(get_operator)},
      {"get_variant_from_type_constructor", as<GDExtensionInterfaceGetVariantFromTypeConstructor>(get_to_variant)},
      {"get_variant_to_type_constructor", as<GDExtensionInterfaceGetVariantToTypeConstructor>(get_from_variant)},
      {"object_set_instance", as<GDExtensionInterfaceObjectSetInstance>(set_instance)},
      {"classdb_construct_object", as<GDExtensionInterfaceClassdbConstructObject>(construct_object)},
      {"classdb_register_extension_class2", as<GDExtensionInterfaceClassdbRegisterExtensionClass2>(register_class)},
      {"classdb_register_extension_class_method",
       as<GDExtensionInterfaceClassdbRegisterExtensionClassMethod>(register_method)},
      {"classdb_register_extension_class_signal",
       as<GDExtensionInterfaceClassdbRegisterExtensionClassSignal>(register_signal)},
      {"classdb_unregister_extension_class",
       as<GDExtensionInterfaceClassdbUnregisterExtensionClass>(unregister_class)},
  };
  const auto found = functions.find(name);
  return found == functions.end() || name == world().lacking ? nullptr : found->second;
}

Object* create(const std::string& class_name) {
  const GDExtensionClassCreationInfo2& info = world().classes.at(class_name).info;
  return static_cast<Object*>(info.create_instance_func(info.class_userdata));
}

void destroy(Object* object) {
  const GDExtensionClassCreationInfo2& info = world().classes.at(object->class_name).info;
  info.free_instance_func(info.class_userdata, object->instance);
  delete object;
  --world().alive;
}

std::string call(Object* object, const std::string& name, const std::vector<Value>& arguments,
                 GDExtensionCallError* error) {
  const Method& method = world().classes.at(object->class_name).methods.at(name);
  std::list<Variant> variants;
  std::vector<GDExtensionConstVariantPtr> pointers;
  for (const Value& value : arguments) {
    make_variant(&variants.emplace_back(), value);
    pointers.push_back(&variants.back());
  }
  Variant result = {GDEXTENSION_VARIANT_TYPE_NIL, {}};
  GDExtensionCallError status = {};
  method.call(method.data, object->instance, pointers.data(), static_cast<GDExtensionInt>(pointers.size()), &result,
              &status);
  for (Variant& variant : variants) destroy_variant(&variant);
  if (error != nullptr) *error = status;
  const std::string text = result.type == GDEXTENSION_VARIANT_TYPE_STRING ? text_of(&result.string) : "no text";
  destroy_variant(&result);
  return text;
}

std::string call_typed(Object* object, const std::string& name, const std::vector<Value>& arguments) {
  const Method& method = world().classes.at(object->class_name).methods.at(name);
  std::list<String> strings;
  std::vector<GDExtensionConstTypePtr> pointers;
  for (const Value& value : arguments) {
    if (const auto* text = std::get_if<std::string>(&value)) {
      make_string(&strings.emplace_back(), *text);
      pointers.push_back(&strings.back());
    } else if (const auto* number = std::get_if<std::int64_t>(&value)) {
      pointers.push_back(number);
    } else {
      pointers.push_back(&std::get<double>(value));
    }
  }
  String result;
  make_string(&result, "what was there");
  method.typed_call(method.data, object->instance, pointers.data(), &result);
  for (String& string : strings) destroy_string(&string);
  const std::string text = text_of(&result);
  destroy_string(&result);
  return text;
}

bool process(Object* object) {
  const GDExtensionClassCreationInfo2& info = world().classes.at(object->class_name).info;
  Name name;
  make_name(&name, "_process");
  const GDExtensionClassCallVirtual callback = info.get_virtual_func(info.class_userdata, &name);
  destroy_name(&name);
  const double seconds = 1.0 / 60;
  const GDExtensionConstTypePtr arguments[] = {&seconds};
  if (callback != nullptr) callback(object->instance, arguments, nullptr);
  return callback != nullptr;
}

}  // namespace godot_host
