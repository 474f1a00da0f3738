#include "data/text_stream.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "data/utf8.h"

namespace riverhorse {

TextStream::TextStream(std::vector<std::string> stop_strings) : stop_strings_(std::move(stop_strings)) {
  for (std::size_t index = 0; index < stop_strings_.size(); ++index) {
    const std::string& text = stop_strings_[index];
    if (text.empty()) fail(StatusCode::invalid_argument, "stop string {} is empty", index);
    if (valid_utf8_length(text, 0) != text.size()) {
      fail(StatusCode::invalid_argument, "stop string {} is not valid UTF-8", index);
    }
  }
}

void TextStream::append_valid(std::string_view bytes, bool last) {
  bytes_ += bytes;
  std::size_t offset = 0;
  while (offset < bytes_.size()) {
    const std::size_t valid = valid_utf8_length(bytes_, offset);
    held_.append(bytes_, offset, valid);
    offset += valid;
    if (offset == bytes_.size()) break;
    const Utf8Step step = step_utf8(bytes_, offset);
    if (step.kind == Utf8Kind::incomplete && !last) break;
    held_ += kReplacementCharacter;
    offset += step.length;
  }
  bytes_.erase(0, offset);
}

bool TextStream::find_stop() {
  std::size_t best_end = std::string::npos, best_begin = 0;
  for (std::size_t index = 0; index < stop_strings_.size(); ++index) {
    const std::size_t begin = held_.find(stop_strings_[index]);
    if (begin == std::string::npos) continue;
    const std::size_t end = begin + stop_strings_[index].size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_end = end;
      best_begin = begin;
      stop_index_ = index;
    }
  }
  if (best_end == std::string::npos) return false;
  held_.resize(best_begin);
  stopped_ = true;
  return true;
}

std::size_t TextStream::undecided_length() const {
  const std::string_view held = held_;
  std::size_t longest = 0;
  for (const std::string& stop : stop_strings_) {
    for (std::size_t length = std::min(stop.size() - 1, held.size()); length > longest; --length) {
      if (held.substr(held.size() - length) == std::string_view(stop).substr(0, length)) longest = length;
    }
  }
  return longest;
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return {};
  append_valid(bytes, false);
  if (find_stop()) return std::exchange(held_, {});
  const std::size_t certain = held_.size() - undecided_length();
  std::string text = held_.substr(0, certain);
  held_.erase(0, certain);
  return text;
}

std::string TextStream::finish() {
  if (stopped_) return {};
  append_valid({}, true);
  find_stop();
  return std::exchange(held_, {});
}

}  // namespace riverhorse
