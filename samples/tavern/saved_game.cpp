#include "saved_game.h"

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace tavern {
namespace {

constexpr char signature[] = "riverhorse tavern 1\n";

using Bytes = std::vector<unsigned char>;

void put(Bytes& out, std::uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) out.push_back(static_cast<unsigned char>(value >> shift));
}
template <typename Text>
void put_text(Bytes& out, const Text& text) {
  put(out, text.size());
  out.insert(out.end(), text.begin(), text.end());
}

class Reader {
 public:
  Reader(const std::string& path, const Bytes& bytes) : path_(path), bytes_(bytes) {}

  std::uint64_t number() {
    need(8);
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value |= std::uint64_t{bytes_[at_ + static_cast<std::size_t>(i)]} << (8 * i);
    at_ += 8;
    return value;
  }
  template <typename Text>
  Text text() {
    const std::uint64_t size = number();
    need(size);
    const auto begin = bytes_.begin() + static_cast<std::ptrdiff_t>(at_);
    at_ += size;
    return Text(begin, begin + static_cast<std::ptrdiff_t>(size));
  }
  void skip(std::size_t count) { need(count), at_ += count; }
  bool at_end() const { return at_ == bytes_.size(); }

 private:
  void need(std::uint64_t count) const {
    if (count > bytes_.size() - at_) {
      throw std::runtime_error(path_ + " ends at byte " + std::to_string(bytes_.size()) +
                               ", in the middle of what was saved");
    }
  }
  const std::string& path_;
  const Bytes& bytes_;
  std::size_t at_ = 0;
};

struct Saved {
  Bytes state;
  std::vector<Turn> turns;
};

Turn read_turn(Reader& reader) {
  Turn turn;
  turn.said = reader.text<std::string>();
  turn.reply = reader.text<std::string>();
  turn.begin = static_cast<std::int64_t>(reader.number());
  turn.closed_quote = reader.number() != 0;
  return turn;
}

}  // namespace

void save_game(const std::string& path, std::vector<Conversation>& conversations) {
  Bytes out(signature, signature + sizeof signature - 1);
  put(out, conversations.size());
  for (Conversation& each : conversations) {
    put_text(out, each.character().name);
    put(out, each.turns().size());
    for (const Turn& turn : each.turns()) {
      put_text(out, turn.said);
      put_text(out, turn.reply);
      put(out, static_cast<std::uint64_t>(turn.begin));
      put(out, turn.closed_quote ? 1 : 0);
    }
    put_text(out, each.save_state());
  }
  const std::string unfinished = path + ".tmp";
  std::ofstream file(unfinished, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(out.data()), static_cast<std::streamsize>(out.size()));
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    std::remove(unfinished.c_str());
    throw std::runtime_error("the game cannot be saved to " + path + ": " + std::strerror(errno));
  }
}

void load_game(const std::string& path, std::vector<Conversation>& conversations) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("the saved game " + path + " cannot be opened: " + std::strerror(errno));
  const Bytes bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::size_t signature_size = sizeof signature - 1;
  if (bytes.size() < signature_size || std::memcmp(bytes.data(), signature, signature_size) != 0) {
    throw std::runtime_error(path + " is not a game saved by this program");
  }
  Reader reader(path, bytes);
  reader.skip(signature_size);
  if (reader.number() != conversations.size())
    throw std::runtime_error(path + " has other characters than this tavern");
  std::vector<Saved> saved;
  for (const Conversation& each : conversations) {
    if (reader.text<std::string>() != each.character().name) {
      throw std::runtime_error(path + " has other characters than this tavern");
    }
    Saved one;
    for (std::uint64_t count = reader.number(); count > 0; --count) one.turns.push_back(read_turn(reader));
    one.state = reader.text<Bytes>();
    saved.push_back(std::move(one));
  }
  if (!reader.at_end()) throw std::runtime_error(path + " has bytes after its end");

  // A state may still be refused, by the library: then the conversations before it get theirs back.
  std::vector<Saved> before;
  try {
    for (std::size_t i = 0; i < conversations.size(); ++i) {
      before.push_back({conversations[i].save_state(), conversations[i].turns()});
      conversations[i].restore(saved[i].state, std::move(saved[i].turns));
    }
  } catch (...) {
    for (std::size_t i = 0; i < before.size(); ++i)
      conversations[i].restore(before[i].state, std::move(before[i].turns));
    throw;
  }
}

}  // namespace tavern
