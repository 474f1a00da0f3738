#include "engine.h"

#include <list>

namespace engine {
namespace {

Functions table;

}  // namespace

const Functions& functions() { return table; }

bool load(GDExtensionInterfaceGetProcAddress get_proc_address) {
  std::string missing;
  const auto find = [&](const char* name, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(get_proc_address(name));
    if (function == nullptr) missing += missing.empty() ? name : std::string(", ") + name;
  };
  find("print_error", table.print_error);
  find("string_new_with_utf8_chars_and_len", table.string_new_with_utf8_chars_and_len);
  find("string_to_utf8_chars", table.string_to_utf8_chars);
  find("string_name_new_with_utf8_chars", table.string_name_new_with_utf8_chars);
  find("variant_get_type", table.variant_get_type);
  find("variant_call", table.variant_call);
  find("variant_destroy", table.variant_destroy);
  find("variant_get_ptr_destructor", table.variant_get_ptr_destructor);
  find("variant_get_ptr_operator_evaluator", table.variant_get_ptr_operator_evaluator);
  find("get_variant_from_type_constructor", table.get_variant_from_type_constructor);
  find("get_variant_to_type_constructor", table.get_variant_to_type_constructor);
  find("object_set_instance", table.object_set_instance);
  find("classdb_construct_object", table.classdb_construct_object);
  find("classdb_register_extension_class2", table.classdb_register_extension_class2);
  find("classdb_register_extension_class_method", table.classdb_register_extension_class_method);
  find("classdb_register_extension_class_signal", table.classdb_register_extension_class_signal);
  find("classdb_unregister_extension_class", table.classdb_unregister_extension_class);
  if (!missing.empty()) {
    const std::string message = "Riverhorse needs Godot 4.2 or later; this one lacks " + missing;
    if (table.print_error != nullptr) table.print_error(message.c_str(), __func__, __FILE__, __LINE__, 0);
    return false;
  }
  table.string_destroy = table.variant_get_ptr_destructor(GDEXTENSION_VARIANT_TYPE_STRING);
  table.string_name_destroy = table.variant_get_ptr_destructor(GDEXTENSION_VARIANT_TYPE_STRING_NAME);
  table.string_name_equal = table.variant_get_ptr_operator_evaluator(
      GDEXTENSION_VARIANT_OP_EQUAL, GDEXTENSION_VARIANT_TYPE_STRING_NAME, GDEXTENSION_VARIANT_TYPE_STRING_NAME);
  table.variant_from_string = table.get_variant_from_type_constructor(GDEXTENSION_VARIANT_TYPE_STRING);
  table.variant_from_object = table.get_variant_from_type_constructor(GDEXTENSION_VARIANT_TYPE_OBJECT);
  table.string_from_variant = table.get_variant_to_type_constructor(GDEXTENSION_VARIANT_TYPE_STRING);
  table.int_from_variant = table.get_variant_to_type_constructor(GDEXTENSION_VARIANT_TYPE_INT);
  table.float_from_variant = table.get_variant_to_type_constructor(GDEXTENSION_VARIANT_TYPE_FLOAT);
  return true;
}

String::String(std::string_view utf8) {
  table.string_new_with_utf8_chars_and_len(data_, utf8.data(), static_cast<GDExtensionInt>(utf8.size()));
}

// The interface declares what it reads as not const.
String::String(GDExtensionConstVariantPtr variant) {
  table.string_from_variant(data_, const_cast<GDExtensionVariantPtr>(variant));
}

std::string String::utf8(GDExtensionConstTypePtr string) {
  const GDExtensionInt size = table.string_to_utf8_chars(string, nullptr, 0);
  std::string text(static_cast<std::size_t>(size), '\0');
  table.string_to_utf8_chars(string, text.data(), size);
  return text;
}

bool Name::operator==(GDExtensionConstStringNamePtr other) const {
  GDExtensionBool equal = 0;
  table.string_name_equal(data_, other, &equal);
  return equal != 0;
}

Variant::Variant(std::string_view text) {
  String string(text);
  table.variant_from_string(data_, string.get());
}

Variant::Variant(GDExtensionObjectPtr object) { table.variant_from_object(data_, &object); }

void Variant::call(const char* method, const std::vector<std::string>& texts) {
  Name name(method);
  std::list<Variant> values;  // which stay where they are
  std::vector<GDExtensionConstVariantPtr> arguments;
  for (const std::string& text : texts) arguments.push_back(values.emplace_back(std::string_view(text)).get());
  alignas(8) std::byte result[sizeof data_];
  GDExtensionCallError error = {};
  table.variant_call(data_, name.get(), arguments.data(), static_cast<GDExtensionInt>(arguments.size()), result,
                     &error);
  table.variant_destroy(result);
  if (error.error != GDEXTENSION_CALL_OK) {
    const std::string message = "Godot refused a call of " + std::string(method);
    table.print_error(message.c_str(), __func__, __FILE__, __LINE__, 0);
  }
}

}  // namespace engine
