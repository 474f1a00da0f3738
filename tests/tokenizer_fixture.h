// GPT-2's vocabulary files, written from tests/golden/tokenizer/merges.txt, and a folder that goes away with the
// test.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "data/bpe_tokenizer.h"
#include "data/tokenizer.h"

namespace riverhorse::test {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "riverhorse-tokenizer-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const std::string& content) const {
    std::ofstream(path_ / name, std::ios::binary) << content;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_whole(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

inline const std::filesystem::path kTokenizerData = std::filesystem::path(RIVERHORSE_TEST_DATA) / "tokenizer";

// A character of GPT-2's alphabet (all below U+0800) as UTF-8.
inline std::string alphabet_text(unsigned char byte) {
  const char32_t character = byte_alphabet_character(byte);
  if (character < 0x80) return {static_cast<char>(character)};
  return {static_cast<char>(0xC0 | (character >> 6)), static_cast<char>(0x80 | (character & 0x3F))};
}

// The 256 bytes in the order of their ids in GPT-2's vocabulary.
inline std::vector<std::string> byte_tokens_in_order() {
  std::vector<std::string> themselves, others;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool itself = byte_alphabet_character(static_cast<unsigned char>(byte)) == byte;
    (itself ? themselves : others).push_back(alphabet_text(static_cast<unsigned char>(byte)));
  }
  themselves.insert(themselves.end(), others.begin(), others.end());
  return themselves;
}

inline std::vector<std::string> gpt2_merge_lines() {
  std::ifstream file(kTokenizerData / "merges.txt", std::ios::binary);
  std::vector<std::string> lines;
  std::string line;
  std::getline(file, line);  // #version: 0.2
  while (std::getline(file, line)) {
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

// A vocabulary with the bytes, the results of "left right" lines, and <|endoftext|>.
inline nlohmann::json vocabulary_of(const std::vector<std::string>& merge_lines) {
  nlohmann::json vocab = nlohmann::json::object();
  std::int32_t id = 0;
  for (const std::string& token : byte_tokens_in_order()) vocab[token] = id++;
  for (const std::string& line : merge_lines) {
    const std::size_t space = line.find(' ');
    vocab[line.substr(0, space) + line.substr(space + 1)] = id++;
  }
  vocab["<|endoftext|>"] = id;
  return vocab;
}

// tokenizer.json as Hugging Face's tokenizers write it for GPT-2; merges as pairs when asked (newer versions do).
inline nlohmann::json tokenizer_json_of(const std::vector<std::string>& merge_lines, bool pairs) {
  nlohmann::json merges = nlohmann::json::array();
  for (const std::string& line : merge_lines) {
    const std::size_t space = line.find(' ');
    if (pairs) {
      merges.push_back({line.substr(0, space), line.substr(space + 1)});
    } else {
      merges.push_back(line);
    }
  }
  nlohmann::json vocab = vocabulary_of(merge_lines);
  const auto end_of_text = vocab["<|endoftext|>"].get<std::int32_t>();
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {{{"id", end_of_text},
             {"content", "<|endoftext|>"},
             {"single_word", false},
             {"lstrip", false},
             {"rstrip", false},
             {"normalized", true},
             {"special", true}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}}},
          {"post_processor", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}}},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", ""},
            {"end_of_word_suffix", ""},
            {"fuse_unk", false},
            {"vocab", std::move(vocab)},
            {"merges", std::move(merges)}}}};
}

// GPT-2's tokenizer from vocab.json and merges.txt, made once.
inline const Tokenizer& gpt2_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = [] {
    const TemporaryFolder folder;
    return load_gpt2_tokenizer(folder.write("vocab.json", vocabulary_of(gpt2_merge_lines()).dump()),
                               kTokenizerData / "merges.txt");
  }();
  return *tokenizer;
}

}  // namespace riverhorse::test
