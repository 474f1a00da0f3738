// Libraries that come with the program and are loaded at run time, so that it starts where what they need is absent.
#pragma once

#include <filesystem>

namespace riverhorse {

// The file that the environment variable names, or `file_name` next to the program (or the shared library that this
// function is in), or in the folder where it is installed for that, lib/riverhorse; empty where there is none. The
// working directory does not matter.
std::filesystem::path own_library_path(const char* variable, const char* file_name);

}  // namespace riverhorse
