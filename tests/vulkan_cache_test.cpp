// The pipeline cache on disk: taken when everything is right, void as a whole when anything is not.
#include <cstring>
#include <filesystem>
#include <fstream>

#include "vulkan/device_impl.h"
#include "vulkan/pipeline_cache_file.h"
#include "vulkan_support.h"

namespace riverhorse {
namespace {

namespace fs = std::filesystem;
using test::open_vulkan;
using test::put;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "riverhorse-cache-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::vector<std::byte> bytes_of(const std::string& text) {
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

TEST(PipelineCacheFile, EveryDamagedByteVoidsIt) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "cache.bin";
  const std::vector<std::byte> blob = bytes_of("what the driver wrote");
  vulkan::write_pipeline_cache(path, "key-1", blob);
  EXPECT_EQ(vulkan::read_pipeline_cache(path, "key-1"), blob);
  EXPECT_TRUE(vulkan::read_pipeline_cache(path, "key-2").empty());
  EXPECT_TRUE(vulkan::read_pipeline_cache(path, "key-1-").empty());
  EXPECT_TRUE(vulkan::read_pipeline_cache(path, "key-").empty());
  EXPECT_TRUE(vulkan::read_pipeline_cache(folder.path() / "none.bin", "key-1").empty());
  EXPECT_TRUE(vulkan::read_pipeline_cache(folder.path(), "key-1").empty());
  const std::string good = read(path);
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    write(path, bad);
    EXPECT_TRUE(vulkan::read_pipeline_cache(path, "key-1").empty()) << "byte " << i;
    write(path, good.substr(0, i));
    EXPECT_TRUE(vulkan::read_pipeline_cache(path, "key-1").empty()) << "cut at " << i;
  }
  write(path, good + "x");
  EXPECT_TRUE(vulkan::read_pipeline_cache(path, "key-1").empty());
  write(path, good);
  EXPECT_EQ(vulkan::read_pipeline_cache(path, "key-1"), blob);
}

class PipelineCacheTest : public testing::Test {
 protected:
  // Opens, runs one operation, closes; returns how many bytes of cache were taken from disk.
  std::size_t run() {
    DeviceOptions options = test::test_options();
    options.cache_folder = folder_.path() / "made" / "on demand";
    const auto device = open_vulkan(options);
    if (device == nullptr) return 0;
    path_ = device->impl().pipelines->cache_path();
    const Tensor a = device->allocate_tensor(DType::f32, {8});
    const Tensor b = device->allocate_tensor(DType::f32, {8});
    device->run([&](Encoder& encoder) { encoder.copy({a, b}); });
    EXPECT_EQ(device->validation_messages(), 0u);
    return device->impl().pipelines->loaded_bytes();
  }
  TemporaryFolder folder_;
  fs::path path_;
};

TEST_F(PipelineCacheTest, IsTakenAgainAndMadeAnewWhenDamaged) {
  if (test::vulkan_devices().empty()) GTEST_SKIP() << "no Vulkan device";
  EXPECT_EQ(run(), 0u);
  ASSERT_TRUE(fs::exists(path_)) << path_;
  EXPECT_GT(run(), 0u);
  std::string bad = read(path_);
  bad[bad.size() / 2] = static_cast<char>(bad[bad.size() / 2] ^ 1);
  write(path_, bad);
  EXPECT_EQ(run(), 0u);
  EXPECT_GT(run(), 0u);
  // No other files are left behind.
  EXPECT_EQ(std::distance(fs::directory_iterator(path_.parent_path()), {}), 1);
}

TEST_F(PipelineCacheTest, AFolderThatCannotBeWrittenIsNoCacheAndNoError) {
  if (test::vulkan_devices().empty()) GTEST_SKIP() << "no Vulkan device";
  write(folder_.path() / "made", "a file where the folder should be");
  EXPECT_EQ(run(), 0u);
  EXPECT_TRUE(path_.empty());
}

}  // namespace
}  // namespace riverhorse
