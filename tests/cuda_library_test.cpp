// The CUDA backend's library: found, refused, or loaded; and what its device says when memory runs out. Where there
// is an emulated CUDA; the probe (registry_probe.cpp) lists devices in a process of its own.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "backend/backend.h"
#include "base/error.h"

namespace riverhorse {
namespace {

namespace fs = std::filesystem;

// The probe stands alone in a folder: where it was built the real library may be next to it.
struct LonelyProbe {
  fs::path folder = fs::temp_directory_path() / ("riverhorse-probe-" + std::to_string(::getpid()));
  LonelyProbe() {
    fs::create_directories(folder);
    fs::copy_file(REGISTRY_PROBE, folder / "probe", fs::copy_options::overwrite_existing);
  }
  ~LonelyProbe() {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
  }
};

std::string probe(const std::string& library, const std::string& backend = "") {
  const LonelyProbe lonely;
  const std::string command =
      "env RIVERHORSE_CUDA_LIBRARY=" + library + " " + (lonely.folder / "probe").string() + " " + backend + " 2>&1";
  std::FILE* pipe = ::popen(command.c_str(), "r");
  std::string output;
  for (int letter; (letter = std::fgetc(pipe)) != EOF;) output += static_cast<char>(letter);
  EXPECT_EQ(::pclose(pipe), 0) << command << "\n" << output;
  return output;
}

void expect_part(const std::string& output, const std::string& part) {
  EXPECT_NE(output.find(part), std::string::npos) << "no \"" << part << "\" in:\n" << output;
}

// cpu is there, cuda is absent for a reason that has `part` in it, and asking for it says so too.
void expect_absence(const std::string& library, const std::string& part) {
  const std::string output = probe(library);
  expect_part(output, "device cpu:0");
  expect_part(output, "absent cuda: ");
  expect_part(output, part);
  const std::string refused = probe(library, "cuda");
  expect_part(refused, "error no cuda device: ");
  expect_part(refused, part);
}

TEST(CudaLibrary, NotThere) {
  expect_absence("", "libriverhorse-cuda.so is not next to this program");
  expect_absence("/nowhere/libriverhorse-cuda.so", "/nowhere/libriverhorse-cuda.so cannot be loaded");
}

TEST(CudaLibrary, SomethingElse) {
  const fs::path file = fs::temp_directory_path() / ("riverhorse-not-cuda-" + std::to_string(::getpid()) + ".so");
  std::ofstream(file) << "this is no library";
  expect_absence(file.string(), "cannot be loaded");
  fs::remove(file);
  expect_absence("libm.so.6", "is not a Riverhorse CUDA backend");
  expect_absence(OTHER_CUDA_LIBRARY, "belongs to another build of Riverhorse (another build, this one is ");
}

TEST(CudaLibrary, LoadedAndTakenOnlyWhenNamed) {
  const std::string output = probe(EMULATED_CUDA_LIBRARY);
  expect_part(output, "device cuda:0: CUDA emulated on the host");
  EXPECT_EQ(output.find("absent cuda"), std::string::npos) << output;
  EXPECT_EQ(output.find("opened cuda"), std::string::npos) << "it is software:\n" << output;
  expect_part(probe(EMULATED_CUDA_LIBRARY, "cuda"), "opened cuda:0");
}

// The emulated device has as much memory as RIVERHORSE_EMULATED_MEMORY says.
TEST(CudaLibrary, OutOfMemoryIsAnErrorWithNumbersAndTheDeviceLives) {
  ::setenv("RIVERHORSE_CUDA_LIBRARY", EMULATED_CUDA_LIBRARY, 1);
  ::setenv("RIVERHORSE_EMULATED_MEMORY", "8388608", 1);
  const std::unique_ptr<Device> device = open_device(choose_device(list_devices(), "cuda", ""), {});
  const Tensor kept = device->allocate_tensor(DType::f32, {1 << 20});
  try {
    device->allocate_tensor(DType::f32, {1 << 21});
    FAIL() << "8 MiB more were allocated";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), StatusCode::out_of_memory);
    expect_part(error.what(), "allocating 8 MiB of device memory");
    expect_part(error.what(), "4 of 8 MiB of the device are free");
  }
  const Tensor another = device->allocate_tensor(DType::f32, {1000});
  device->run([&](Encoder& encoder) { encoder.copy({kept.slice(0, 1000), another}); });
  EXPECT_EQ(device->memory_usage().used_bytes, (std::uint64_t{1} << 22) + 4000);
}

}  // namespace
}  // namespace riverhorse
