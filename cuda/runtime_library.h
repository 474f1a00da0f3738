// A library that is found at run time, so that the backend also loads where it is not installed. It is never closed:
// what it has made, and its threads, may live until the program ends.
#pragma once

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>
#include <type_traits>

namespace riverhorse::cuda {

class RuntimeLibrary {
 public:
  // `product`: what the file should be, for what a user is told.
  RuntimeLibrary(const char* name, const char* product)
      : name_(name), product_(product), handle_(dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ != nullptr) return;
    const char* text = dlerror();
    reason_ = fmt::format("{} cannot be loaded: {}", name, text == nullptr ? "?" : text);
  }

  template <typename Function>
  void find(Function*& function, const char* symbol) {
    if (handle_ == nullptr) return;
    function = reinterpret_cast<Function*>(dlsym(handle_, symbol));
    if (function == nullptr) reason_ = fmt::format("{} has no {}: it is not {}", name_, symbol, product_);
  }

  // Why it cannot be used; empty where all was found.
  const std::string& reason() const { return reason_; }

 private:
  const char* name_;
  const char* product_;
  void* handle_;
  std::string reason_;
};

}  // namespace riverhorse::cuda
