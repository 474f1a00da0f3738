// The C API: models loaded from memory.
#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "api_fixture.h"

namespace api_test {
namespace {

const std::string default_model = RIVERHORSE_SOURCE_DIR "/samples/models/default";

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_GT(text.str().size(), 0u) << path;
  return text.str();
}

// Files of a game's archive: in one piece of memory, each at an odd address, and gone when the model is loaded.
class Archive {
 public:
  void add(const std::string& name, const std::string& bytes) {
    names_.push_back(name);
    if (memory_.size() % 2 == 0) memory_ += '\x7f';
    ranges_.push_back({memory_.size(), bytes.size()});
    memory_ += bytes;
  }
  std::vector<riverhorse_model_file> files() const {
    std::vector<riverhorse_model_file> result;
    for (std::size_t i = 0; i < names_.size(); ++i) {
      result.push_back({names_[i].c_str(), memory_.data() + ranges_[i].first, ranges_[i].second});
    }
    return result;
  }
  void destroy() { std::fill(memory_.begin(), memory_.end(), '\xff'); }

 private:
  std::vector<std::string> names_;
  std::vector<std::pair<std::size_t, std::size_t>> ranges_;
  std::string memory_;
};

Archive hybrid_archive() {
  Archive archive;
  archive.add("model.pt", read_bytes(hybrid_path));
  archive.add("config.json", read_bytes(golden + "/lm/h3-hybrid/config.json"));
  return archive;
}

Archive default_archive() {
  Archive archive;
  for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
    archive.add(name, read_bytes(default_model + "/" + name));
  }
  return archive;
}

class ApiMemory : public Api {
 protected:
  riverhorse_model* load_archive(Archive archive, const riverhorse_model_options& options) {
    riverhorse_model* model = nullptr;
    const std::vector<riverhorse_model_file> files = archive.files();
    EXPECT_OK(riverhorse_model_load_memory(files.data(), files.size(), &options, &model));
    archive.destroy();
    models_.push_back(model);
    return model;
  }
};

TEST_F(ApiMemory, SaysWhatTheSameFilesSayOnEveryBackend) {
  const std::vector<std::int32_t> expected = steps(session(load(hybrid_path), prompt), 12);
  for (const char* backend : backends()) {
    WarningCounter warnings;
    riverhorse_model_options options = cpu_options();
    options.backend = backend;
    options.skip_self_test = 1;
    riverhorse_session* text = session(load_archive(hybrid_archive(), options), prompt);
    EXPECT_EQ(steps(text, 12), expected) << backend;
    EXPECT_EQ(warnings.text, "");
  }
}

TEST_F(ApiMemory, HasTheTokenizerAndTheMemoryOfTheFolder) {
  riverhorse_model* folder = load(default_model);
  riverhorse_model* memory = load_archive(default_archive(), cpu_options());
  riverhorse_model_info from_folder{}, from_memory{};
  from_folder.struct_size = from_memory.struct_size = sizeof from_folder;
  ASSERT_OK(riverhorse_model_get_info(folder, &from_folder));
  ASSERT_OK(riverhorse_model_get_info(memory, &from_memory));
  EXPECT_EQ(std::memcmp(&from_folder, &from_memory, sizeof from_folder), 0) << "memory on the device, tokenizer, all";
  EXPECT_EQ(from_memory.has_tokenizer, 1);
  std::int32_t ids[2][8] = {};
  std::size_t count[2] = {};
  ASSERT_OK(riverhorse_model_encode(folder, "It was late", 11, 0, ids[0], 8, &count[0]));
  ASSERT_OK(riverhorse_model_encode(memory, "It was late", 11, 0, ids[1], 8, &count[1]));
  EXPECT_TRUE(std::equal(ids[0], ids[0] + count[0], ids[1], ids[1] + count[1]));

  // A model that does not fit is refused with the same figures.
  riverhorse_model_options options = cpu_options();
  options.memory_budget_bytes = 20 << 20;
  const Archive archive = default_archive();
  riverhorse_model* model = nullptr;
  EXPECT_FAILS(riverhorse_model_load(default_model.c_str(), &options, &model), RIVERHORSE_OUT_OF_MEMORY, "weights");
  const std::string refusal = riverhorse_last_error();
  EXPECT_FAILS(riverhorse_model_load_memory(archive.files().data(), archive.files().size(), &options, &model),
               RIVERHORSE_OUT_OF_MEMORY, refusal.substr(refusal.find(": ")));
}

TEST_F(ApiMemory, TakesAVocabularyInTwoFiles) {
  Archive archive = hybrid_archive();
  const std::string byte_a = R"({"a": 0, "b": 1, "ab": 2})";  // not every byte has a token
  archive.add("vocab.json", byte_a);
  archive.add("merges.txt", "#version: 0.2\na b\n");
  const riverhorse_model_options options = cpu_options();
  riverhorse_model* model = nullptr;
  EXPECT_FAILS(riverhorse_model_load_memory(archive.files().data(), 4, &options, &model), RIVERHORSE_BAD_FILE,
               "vocab.json");
}

TEST_F(ApiMemory, NamesTheFileThatIsMissingOrWrong) {
  riverhorse_model* model = nullptr;
  const riverhorse_model_options options = cpu_options();
  const auto refused = [&](const Archive& archive, riverhorse_status status, const char* part) {
    const std::vector<riverhorse_model_file> files = archive.files();
    EXPECT_FAILS(riverhorse_model_load_memory(files.data(), files.size(), &options, &model), status, part);
  };
  const std::string config = read_bytes(golden + "/lm/h3-hybrid/config.json");
  const std::string weights = read_bytes(hybrid_path);
  Archive archive;
  refused(archive, RIVERHORSE_NOT_FOUND, "config.json");
  archive.add("config.json", config);
  refused(archive, RIVERHORSE_NOT_FOUND, "model.safetensors");
  archive.add("model.safetensors", weights);  // which it is not
  refused(archive, RIVERHORSE_BAD_FILE, ": model.safetensors: ");
  archive = {};
  archive.add("config.json", config);
  archive.add("model.pt", weights.substr(0, weights.size() / 2));
  refused(archive, RIVERHORSE_BAD_FILE, ": model.pt: ");
  archive = {};
  archive.add("config.json", config.substr(0, 40));
  archive.add("model.pt", weights);
  refused(archive, RIVERHORSE_BAD_FILE, ": config.json: ");
  archive = {};
  archive.add("config.json", read_bytes(golden + "/lm/h3-pure/config.json"));
  archive.add("model.pt", weights);
  refused(archive, RIVERHORSE_BAD_FILE, "model.pt: the tensors do not fit config.json");
  struct {
    const char *name, *content;
    riverhorse_status status;
    const char* part;
  } const added[] = {{"vocab.json", "{}", RIVERHORSE_NOT_FOUND, "merges.txt is not"},
                     {"merges.txt", "", RIVERHORSE_NOT_FOUND, "vocab.json is not"},
                     {"tokenizer.json", "{", RIVERHORSE_BAD_FILE, ": tokenizer.json: "},
                     {"tokeniser.json", "{}", RIVERHORSE_INVALID_ARGUMENT, "tokeniser.json"},
                     {"config.json", "{}", RIVERHORSE_INVALID_ARGUMENT, "config.json is there twice"}};
  for (const auto& file : added) {
    archive = hybrid_archive();
    archive.add(file.name, file.content);
    refused(archive, file.status, file.part);
  }

  const Archive whole = hybrid_archive();
  std::vector<riverhorse_model_file> files = whole.files();
  files[1].data = nullptr;
  EXPECT_FAILS(riverhorse_model_load_memory(files.data(), 2, &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "files[1].data (config.json) is null");
  files[1].name = nullptr;
  EXPECT_FAILS(riverhorse_model_load_memory(files.data(), 2, &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "files[1].name is null");
  EXPECT_FAILS(riverhorse_model_load_memory(nullptr, 2, &options, &model), RIVERHORSE_INVALID_ARGUMENT,
               "files is null");
  EXPECT_FAILS(riverhorse_model_load_memory(nullptr, 0, &options, &model), RIVERHORSE_NOT_FOUND, "config.json");
  EXPECT_FAILS(riverhorse_model_load_memory(files.data(), 2, &options, nullptr), RIVERHORSE_INVALID_ARGUMENT,
               "model is null");
  riverhorse_model_options with_path = cpu_options();
  with_path.config_path = "config.json";
  EXPECT_FAILS(riverhorse_model_load_memory(files.data(), 2, &with_path, &model), RIVERHORSE_INVALID_ARGUMENT,
               "config_path");
  EXPECT_EQ(model, nullptr) << "a failure must leave the output as it was";
}

// Cancelled at the first report, in the middle, and at the last: nothing is left, and the next load is a good one.
TEST_F(ApiMemory, LoadingIsReportedAndCancelled) {
  struct Calls {
    int count = 0, cancel_at = 0;
    std::uint64_t last = 0, total = 0;
  };
  const Archive archive = hybrid_archive();
  const std::vector<riverhorse_model_file> files = archive.files();
  for (const char* backend : backends()) {
    riverhorse_model_options options = cpu_options();
    options.backend = backend;
    options.skip_self_test = 1;
    options.progress = [](void* user, std::uint64_t done, std::uint64_t total) {
      auto* calls = static_cast<Calls*>(user);
      EXPECT_GT(done, calls->last);
      calls->last = done;
      calls->total = total;
      return ++calls->count == calls->cancel_at ? 1 : 0;
    };
    Calls all;
    options.progress_user = &all;
    riverhorse_model* model = nullptr;
    ASSERT_OK(riverhorse_model_load_memory(files.data(), files.size(), &options, &model));
    models_.push_back(model);
    EXPECT_GT(all.count, 10);
    EXPECT_EQ(all.last, all.total);
    for (const int cancel_at : {1, all.count / 2, all.count}) {
      Calls calls;
      calls.cancel_at = cancel_at;
      options.progress_user = &calls;
      riverhorse_model* cancelled = nullptr;
      EXPECT_FAILS(riverhorse_model_load_memory(files.data(), files.size(), &options, &cancelled),
                   RIVERHORSE_CANCELLED, "cancelled");
      EXPECT_EQ(cancelled, nullptr);
      EXPECT_EQ(calls.count, cancel_at) << "no report after the one that cancelled";
    }
    EXPECT_EQ(steps(session(load_archive(hybrid_archive(), cpu_options()), prompt), 3).size(), 3u);
  }
}

}  // namespace
}  // namespace api_test
