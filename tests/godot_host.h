// A small stand-in for Godot: what of its extension interface samples/godot asks for, as gdextension_interface.h
// describes it. Strings, names and objects are counted, so that tests see what is not given back.
#pragma once

#include <gdextension_interface.h>

#include <map>
#include <string>
#include <variant>
#include <vector>

namespace godot_host {

using Value = std::variant<std::string, std::int64_t, double>;

struct Parameter {
  std::string name;
  GDExtensionVariantType type;
  bool operator==(const Parameter&) const = default;
};
struct Method {
  std::vector<Parameter> parameters;
  GDExtensionVariantType result;
  GDExtensionClassMethodCall call;
  GDExtensionClassMethodPtrCall typed_call;
  void* data;
};
struct Class {
  std::string parent;
  GDExtensionClassCreationInfo2 info;
  std::map<std::string, Method> methods;
  std::map<std::string, std::vector<Parameter>> signals;
};
struct Object {
  std::string class_name;  // the native one, and then that of the extension
  GDExtensionClassInstancePtr instance = nullptr;
};
struct Emitted {
  std::string signal, text;
};

// What extensions have done so far.
struct World {
  std::map<std::string, Class> classes;
  std::vector<Emitted> emitted;
  std::string errors;      // printed
  std::string lacking;     // a function that this Godot does not have
  std::int64_t alive = 0;  // strings, names and objects
};
World& world();

GDExtensionInterfaceFunctionPtr get_proc_address(const char* name);

Object* create(const std::string& class_name);
void destroy(Object* object);
// As a script does that is not typed: a call with arguments of any types. Its error is in *error.
std::string call(Object* object, const std::string& method, const std::vector<Value>& arguments,
                 GDExtensionCallError* error = nullptr);
// And as one that is: the arguments have the types of the parameters.
std::string call_typed(Object* object, const std::string& method, const std::vector<Value>& arguments);
// A frame. False when the class has no _process.
bool process(Object* object);

}  // namespace godot_host
