#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/bpe_trainer.h"

namespace riverhorse {

std::string tokenizer_json(const BpeVocabulary& vocabulary) {
  using Json = nlohmann::json;
  std::map<std::int32_t, std::string> texts;
  for (const BpeVocabulary::Token& token : vocabulary.tokens) texts[token.id] = encode_byte_alphabet(token.bytes);
  Json vocab = Json::object();
  for (const auto& [id, text] : texts) vocab[text] = id;
  Json added = Json::array();
  for (const AddedToken& token : vocabulary.added) {
    vocab[token.text] = token.id;
    added.push_back({{"id", token.id},
                     {"content", token.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.special}});
  }
  Json merges = Json::array();
  for (const BpeVocabulary::Merge& merge : vocabulary.merges) {
    merges.push_back(texts.at(merge.left) + " " + texts.at(merge.right));
  }
  const Json bytes = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", true}};
  const Json root = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", std::move(added)},
                     {"normalizer", nullptr},
                     {"pre_tokenizer", bytes},
                     {"post_processor", nullptr},
                     {"decoder", bytes},
                     {"model",
                      {{"type", "BPE"},
                       {"dropout", nullptr},
                       {"unk_token", nullptr},
                       {"continuing_subword_prefix", nullptr},
                       {"end_of_word_suffix", nullptr},
                       {"fuse_unk", false},
                       {"byte_fallback", false},
                       {"vocab", std::move(vocab)},
                       {"merges", std::move(merges)}}}};
  return root.dump(1) + "\n";
}

}  // namespace riverhorse
