// What the extension uses of Godot: functions that are looked up by name when Godot loads it, and owners of the few
// kinds of values that go between the two. Needs gdextension_interface.h of Godot 4.2 or later, and nothing else of
// it.
#ifndef RIVERHORSE_SAMPLES_GODOT_ENGINE_H
#define RIVERHORSE_SAMPLES_GODOT_ENGINE_H

#include <gdextension_interface.h>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

// One table for the process: Godot loads an extension once.
struct Functions {
  GDExtensionInterfacePrintError print_error;
  GDExtensionInterfaceStringNewWithUtf8CharsAndLen string_new_with_utf8_chars_and_len;
  GDExtensionInterfaceStringToUtf8Chars string_to_utf8_chars;
  GDExtensionInterfaceStringNameNewWithUtf8Chars string_name_new_with_utf8_chars;
  GDExtensionInterfaceVariantGetType variant_get_type;
  GDExtensionInterfaceVariantCall variant_call;
  GDExtensionInterfaceVariantDestroy variant_destroy;
  GDExtensionInterfaceVariantGetPtrDestructor variant_get_ptr_destructor;
  GDExtensionInterfaceVariantGetPtrOperatorEvaluator variant_get_ptr_operator_evaluator;
  GDExtensionInterfaceGetVariantFromTypeConstructor get_variant_from_type_constructor;
  GDExtensionInterfaceGetVariantToTypeConstructor get_variant_to_type_constructor;
  GDExtensionInterfaceObjectSetInstance object_set_instance;
  GDExtensionInterfaceClassdbConstructObject classdb_construct_object;
  GDExtensionInterfaceClassdbRegisterExtensionClass2 classdb_register_extension_class2;
  GDExtensionInterfaceClassdbRegisterExtensionClassMethod classdb_register_extension_class_method;
  GDExtensionInterfaceClassdbRegisterExtensionClassSignal classdb_register_extension_class_signal;
  GDExtensionInterfaceClassdbUnregisterExtensionClass classdb_unregister_extension_class;
  // Of single types, got by the functions above.
  GDExtensionPtrDestructor string_destroy;
  GDExtensionPtrDestructor string_name_destroy;
  GDExtensionPtrOperatorEvaluator string_name_equal;
  GDExtensionVariantFromTypeConstructorFunc variant_from_string;
  GDExtensionVariantFromTypeConstructorFunc variant_from_object;
  GDExtensionTypeFromVariantConstructorFunc string_from_variant;
  GDExtensionTypeFromVariantConstructorFunc int_from_variant;
  GDExtensionTypeFromVariantConstructorFunc float_from_variant;
};

const Functions& functions();

// Fills the table. False, after a line in Godot's log, when this Godot lacks a function.
bool load(GDExtensionInterfaceGetProcAddress get_proc_address);

// Godot's String.
class String {
 public:
  explicit String(std::string_view utf8);
  explicit String(GDExtensionConstVariantPtr variant);
  ~String() { functions().string_destroy(data_); }
  String(const String&) = delete;
  String& operator=(const String&) = delete;

  GDExtensionStringPtr get() { return data_; }
  std::string utf8() const { return utf8(data_); }
  static std::string utf8(GDExtensionConstTypePtr string);

 private:
  alignas(8) std::byte data_[8];
};

// Godot's StringName.
class Name {
 public:
  explicit Name(const char* text) { functions().string_name_new_with_utf8_chars(data_, text); }
  ~Name() { functions().string_name_destroy(data_); }
  Name(const Name&) = delete;
  Name& operator=(const Name&) = delete;

  GDExtensionStringNamePtr get() { return data_; }
  bool operator==(GDExtensionConstStringNamePtr other) const;

 private:
  alignas(8) std::byte data_[8];
};

// Godot's Variant, of a text or an object: 24 bytes, or 40 where Godot was built with double precision.
class Variant {
 public:
  explicit Variant(std::string_view text);
  explicit Variant(GDExtensionObjectPtr object);
  ~Variant() { functions().variant_destroy(data_); }
  Variant(const Variant&) = delete;
  Variant& operator=(const Variant&) = delete;

  GDExtensionConstVariantPtr get() const { return data_; }
  // Calls a method of the object with texts.
  void call(const char* method, const std::vector<std::string>& texts);

 private:
  alignas(8) std::byte data_[40];
};

}  // namespace engine

#endif
