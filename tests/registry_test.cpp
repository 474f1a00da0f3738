// Which devices are listed and chosen; and that nothing breaks on machines without a loader, without a driver, or
// with a broken one.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "backend/backend.h"
#include "base/error.h"
#ifdef RIVERHORSE_TEST_VULKAN
#include "vulkan/listing.h"
#endif

namespace riverhorse {
namespace {

namespace fs = std::filesystem;

DeviceInfo device(BackendKind backend, int index, const std::string& name, DeviceType type) {
  DeviceInfo info;
  info.backend = backend;
  info.index = index;
  info.name = name;
  info.type = type;
  return info;
}

const DeviceInfo cpu = device(BackendKind::cpu, 0, "A Processor", DeviceType::cpu);
const DeviceInfo big = device(BackendKind::vulkan, 0, "Big Card", DeviceType::discrete_gpu);
const DeviceInfo small = device(BackendKind::vulkan, 1, "Small Card", DeviceType::integrated_gpu);
const DeviceInfo soft = device(BackendKind::vulkan, 2, "llvmpipe (LLVM)", DeviceType::software);

DeviceList list_of(std::vector<DeviceInfo> devices) {
  DeviceList list{std::move(devices), {}};
  list.absences.push_back({BackendKind::cuda, "the reason for it"});
  return list;
}

std::string chosen(const DeviceList& list, std::string_view backend, std::string_view name) {
  return choose_device(list, backend, name).id();
}

void expect_choice_error(StatusCode code, const DeviceList& list, std::string_view backend, std::string_view name,
                         const std::string& part) {
  try {
    const std::string id = chosen(list, backend, name);
    ADD_FAILURE() << "\"" << backend << "\" \"" << name << "\" gave " << id;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(ChooseDevice, TakesTheBestAndSoftwareOnlyWhenAsked) {
  const DeviceList all = list_of({big, small, soft, cpu});
  EXPECT_EQ(chosen(all, "", ""), "vulkan:0");
  EXPECT_EQ(chosen(all, "auto", ""), "vulkan:0");
  EXPECT_EQ(chosen(all, "vulkan", ""), "vulkan:0");
  EXPECT_EQ(chosen(all, "cpu", ""), "cpu:0");
  EXPECT_EQ(chosen(all, "vulkan", "2"), "vulkan:2");
  EXPECT_EQ(chosen(all, "", "llvmpipe"), "vulkan:2");
  const DeviceInfo only_soft = device(BackendKind::vulkan, 0, "llvmpipe (LLVM)", DeviceType::software);
  const DeviceList without_gpu = list_of({only_soft, cpu});
  EXPECT_EQ(chosen(without_gpu, "", ""), "cpu:0");
  EXPECT_EQ(chosen(without_gpu, "vulkan", ""), "vulkan:0");
  EXPECT_EQ(chosen(without_gpu, "", "vulkan:0"), "vulkan:0");
}

TEST(ChooseDevice, ByIndexIdAndPartOfAName) {
  const DeviceList all = list_of({big, small, soft, cpu});
  EXPECT_EQ(chosen(all, "vulkan", "1"), "vulkan:1");
  EXPECT_EQ(chosen(all, "", "vulkan:1"), "vulkan:1");
  EXPECT_EQ(chosen(all, "vulkan", "vulkan:1"), "vulkan:1");
  EXPECT_EQ(chosen(all, "", "small"), "vulkan:1");
  EXPECT_EQ(chosen(all, "", "Processor"), "cpu:0");
  EXPECT_EQ(chosen(all, "", "vulkan:"), "vulkan:0");
  const DeviceInfo twin = device(BackendKind::vulkan, 1, "Big Card", DeviceType::discrete_gpu);
  EXPECT_EQ(chosen(list_of({big, twin, cpu}), "", "big card"), "vulkan:0");
}

TEST(ChooseDevice, ByUuid) {
  DeviceInfo other = small;
  for (std::size_t i = 0; i < 16; ++i) other.uuid[i] = static_cast<std::uint8_t>(0xa0 + i);
  DeviceInfo same = device(BackendKind::cuda, 0, "Small Card", DeviceType::discrete_gpu);
  same.uuid = other.uuid;
  const std::string uuid = "a0a1a2a3-a4a5-a6a7-a8a9-aaabacadaeaf";
  EXPECT_EQ(chosen(list_of({big, other, soft, cpu}), "", uuid), "vulkan:1");
  EXPECT_EQ(chosen(list_of({big, other, soft, cpu}), "", "A0A1A2A3A4A5A6A7A8A9AAABACADAEAF"), "vulkan:1");
  EXPECT_EQ(chosen(list_of({same, big, other, cpu}), "", uuid), "cuda:0");
  EXPECT_EQ(chosen(list_of({same, big, other, cpu}), "vulkan", uuid), "vulkan:1");
  EXPECT_EQ(chosen(list_of({same, big, other, cpu}), "", "vulkan:" + uuid), "vulkan:1");
  expect_choice_error(StatusCode::not_found, list_of({big, soft, cpu}), "", uuid, "no device has the UUID a0a1");
  expect_choice_error(StatusCode::not_found, list_of({other, cpu}), "cpu", uuid, "cpu:0 (A Processor)");
  expect_choice_error(StatusCode::not_found, list_of({other, cpu}), "", uuid + "0", "no device matches");
  const std::string none(32, '0');  // what a list has of devices without one, such as `cpu`
  expect_choice_error(StatusCode::not_found, list_of({other, cpu}), "", none, "no device has the UUID 0000");
}

TEST(ChooseDevice, RefusesWhatIsNotThere) {
  const DeviceList all = list_of({big, small, cpu});
  expect_choice_error(StatusCode::invalid_argument, all, "metal", "", "no backend \"metal\"");
  expect_choice_error(StatusCode::not_found, all, "cuda", "", "the reason for it");
  expect_choice_error(StatusCode::not_found, all, "", "cuda:0", "the reason for it");
  expect_choice_error(StatusCode::not_found, all, "vulkan", "7", "vulkan:1 (Small Card)");
  expect_choice_error(StatusCode::not_found, all, "cpu", "big", "cpu:0");
  expect_choice_error(StatusCode::invalid_argument, all, "cpu", "vulkan:0", "not of backend cpu");
  expect_choice_error(StatusCode::invalid_argument, all, "", "card", "vulkan:0 (Big Card), vulkan:1 (Small Card)");
  expect_choice_error(StatusCode::invalid_argument, all, "", "0", "could be any of");
  expect_choice_error(StatusCode::not_found, list_of({}), "", "", "no device");
}

TEST(ChooseTrainingDevice, TakesTheBestThatTrainsUnlessOneIsNamed) {
  const DeviceList all = list_of({big, small, soft, cpu});
  const auto chosen_for = [&](std::string_view backend, std::string_view name, const std::string& trains) {
    const auto training = [&](const DeviceInfo& info) {
      EXPECT_NE(info.type, DeviceType::software);
      return Support{trains.find(info.id()) != std::string::npos, "no backward pass"};
    };
    return choose_training_device(all, backend, name, training).id();
  };
  EXPECT_EQ(chosen_for("", "", "cpu:0"), "cpu:0");
  EXPECT_EQ(chosen_for("auto", "", "vulkan:1 cpu:0"), "vulkan:1");
  EXPECT_EQ(chosen_for("", "", "vulkan:0 vulkan:1 cpu:0"), "vulkan:0");
  // Never another than the one that was asked for.
  EXPECT_EQ(chosen_for("vulkan", "", "cpu:0"), "vulkan:0");
  EXPECT_EQ(chosen_for("", "small", "cpu:0"), "vulkan:1");
  EXPECT_THROW(chosen_for("", "", ""), Error);
}

TEST(ListDevices, HasTheCpuAndCudaOrWhyNot) {
  const DeviceList list = list_devices();
  ASSERT_FALSE(list.devices.empty());
  EXPECT_EQ(list.devices.back().backend, BackendKind::cpu);
  EXPECT_GT(list.devices.back().memory_total_bytes, 0u);
  bool cuda = list.devices.front().backend == BackendKind::cuda;
  for (const BackendAbsence& absence : list.absences) {
    cuda = cuda || (absence.backend == BackendKind::cuda &&
                    (absence.reason.find("libriverhorse-cuda.so") != std::string::npos ||
                     absence.reason.find("NVIDIA") != std::string::npos));
  }
  EXPECT_TRUE(cuda);
  EXPECT_EQ(open_device(list.devices.back(), {})->info().id(), "cpu:0");
}

// A program that is started by its name alone, through PATH, finds what is installed with it; and nothing that lies
// in the folder in which somebody works.
TEST(OwnLibrary, IsThatOfTheProgramWhereverItIsStarted) {
  const fs::path root = fs::temp_directory_path() / ("riverhorse-own-" + std::to_string(::getpid()));
  const std::string file = "libriverhorse-cuda.so";
  fs::create_directories(root / "prefix/bin");
  fs::create_directories(root / "work/lib/riverhorse");
  fs::copy_file(REGISTRY_PROBE, root / "prefix/bin/probe");
  const auto write = [](const fs::path& path) {
    fs::create_directories(path.parent_path());
    std::ofstream(path) << "this is no library";
  };
  const auto absence = [&] {
    const std::string command = "cd " + (root / "work").string() +
                                " && env -u RIVERHORSE_CUDA_LIBRARY PATH=" + (root / "prefix/bin").string() +
                                ":$PATH probe cpu 2>/dev/null";
    std::FILE* pipe = ::popen(command.c_str(), "r");
    std::string output;
    for (int letter; (letter = std::fgetc(pipe)) != EOF;) output += static_cast<char>(letter);
    EXPECT_EQ(::pclose(pipe), 0) << command;
    return output;
  };
  for (const char* folder : {".", "lib", "lib/riverhorse"}) write(root / "work" / folder / file);
  const std::string none = absence();
  EXPECT_NE(none.find(file + " is not next to this program"), std::string::npos) << none;
  // From the last place that is looked at to the first.
  for (const char* folder : {"lib", "lib/riverhorse", "bin"}) {
    const fs::path path = root / "prefix" / folder / file;
    write(path);
    const std::string found = absence();
    EXPECT_NE(found.find(fs::canonical(path).string() + " cannot be loaded"), std::string::npos) << found;
  }
  fs::remove_all(root);
}

#ifdef RIVERHORSE_TEST_VULKAN

TEST(RankDevices, BySortAndFreeMemoryAndEachGpuOnce) {
  const auto listed = [](const std::string& name, DeviceType type, std::uint64_t free_bytes, std::uint8_t uuid) {
    vulkan::ListedDevice each;
    each.info = device(BackendKind::vulkan, -1, name, type);
    each.info.memory_free_bytes = free_bytes;
    each.info.uuid[3] = uuid;
    each.api_version = 1;
    return each;
  };
  std::vector<vulkan::ListedDevice> found = {listed("software", DeviceType::software, 900, 1),
                                             listed("integrated", DeviceType::integrated_gpu, 800, 2),
                                             listed("busy", DeviceType::discrete_gpu, 10, 3),
                                             listed("free", DeviceType::discrete_gpu, 20, 4),
                                             listed("virtual", DeviceType::virtual_gpu, 50, 5),
                                             listed("free, second driver", DeviceType::discrete_gpu, 20, 4),
                                             listed("unknown", DeviceType::other, 50, 0),
                                             listed("unknown too", DeviceType::other, 40, 0),
                                             listed("busy, by PCI", DeviceType::discrete_gpu, 10, 9)};
  found[5].api_version = 2;                    // the newer of two drivers
  found[2].has_pci = found[8].has_pci = true;  // one place, two UUIDs
  found[2].pci = found[8].pci = {0, 3, 0, 0};
  std::vector<std::string> names;
  for (const DeviceInfo& info : vulkan::rank_devices(found)) {
    EXPECT_EQ(info.index, static_cast<int>(names.size()));
    names.push_back(info.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"free, second driver", "busy", "integrated", "virtual", "unknown",
                                             "unknown too", "software"}));
}

class Surroundings : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "riverhorse-icd-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  // What the probe prints with these environment variables set.
  std::string probe(const std::string& environment, const std::string& arguments = "") {
    const std::string command = "env -u VK_DRIVER_FILES -u VK_ICD_FILENAMES " + environment + " " REGISTRY_PROBE " " +
                                arguments + " 2>/dev/null";
    std::FILE* pipe = ::popen(command.c_str(), "r");
    std::string output;
    for (int letter; (letter = std::fgetc(pipe)) != EOF;) output += static_cast<char>(letter);
    EXPECT_EQ(::pclose(pipe), 0) << command << "\n" << output;
    return output;
  }
  static void expect(const std::string& output, const std::string& part) {
    EXPECT_NE(output.find(part), std::string::npos) << "no \"" << part << "\" in:\n" << output;
  }
  // cpu is there and opened, Vulkan is absent for a reason that has `part` in it, and asking for it says so too.
  void expect_absence(const std::string& environment, const std::string& part) {
    const std::string output = probe(environment);
    expect(output, "device cpu:0");
    expect(output, "opened cpu:0");
    expect(output, "absent vulkan: ");
    expect(output, part);
    EXPECT_EQ(output.find("device vulkan"), std::string::npos) << output;
    const std::string refused = probe(environment, "vulkan");
    expect(refused, "error no vulkan device: ");
    expect(refused, part);
  }
  void expect_absence_by_driver_file(const std::string& file, const std::string& part) {
    // VK_DRIVER_FILES is the name of today, VK_ICD_FILENAMES that of older loaders.
    expect_absence("VK_DRIVER_FILES='" + file + "' VK_ICD_FILENAMES='" + file + "'", part);
  }
  fs::path folder_;
};

TEST_F(Surroundings, NoLoader) {
  // ASan wants to be the first library; here it is the second, which does no harm.
  expect_absence("ASAN_OPTIONS=verify_asan_link_order=0 LD_PRELOAD=" TEST_LIBRARIES "/libno_vulkan_loader.so",
                 "no Vulkan loader (libvulkan.so.1) was found");
}

TEST_F(Surroundings, ABrokenLoader) {
  write("libvulkan.so.1", "this is no library");
  write("libvulkan.so", "nor is this");
  expect_absence("LD_LIBRARY_PATH=" + folder_.string(), "no Vulkan loader (libvulkan.so.1) was found");
}

TEST_F(Surroundings, ALoaderOfVulkan10) {
  expect_absence("LD_LIBRARY_PATH=" TEST_LIBRARIES "/old", "version 1.0; Vulkan 1.1 is needed");
}

TEST_F(Surroundings, NoDriverFile) {
  expect_absence_by_driver_file((folder_ / "none.json").string(), "found no working driver");
}

TEST_F(Surroundings, ADriverFileOfGarbage) {
  // Loaders differ in what they say about it.
  expect_absence_by_driver_file(write("bad.json", "{ \"ICD\": [ this is not JSON").string(), "the Vulkan loader");
  expect_absence_by_driver_file(write("empty.json", "").string(), "the Vulkan loader");
}

TEST_F(Surroundings, ADriverThatIsMissing) {
  const char* text = R"({"file_format_version": "1.0.0",
                         "ICD": {"library_path": "/nowhere/libvulkan_nothing.so", "api_version": "1.3.0"}})";
  expect_absence_by_driver_file(write("missing.json", text).string(), "found no working driver");
}

TEST_F(Surroundings, ADriverThatIsNoLibrary) {
  const fs::path library = write("driver.so", "not a shared library");
  const std::string text = R"({"file_format_version": "1.0.0", "ICD": {"library_path": ")" + library.string() +
                           R"(", "api_version": "1.3.0"}})";
  expect_absence_by_driver_file(write("no_library.json", text).string(), "found no working driver");
}

TEST_F(Surroundings, NoCacheFolderAndNoHome) {
  const std::string output = probe("-u HOME -u XDG_CACHE_HOME");
  expect(output, "opened ");
}

#endif

}  // namespace
}  // namespace riverhorse
