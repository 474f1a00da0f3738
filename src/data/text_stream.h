// Text for people from tokens as they come: whole characters only, and never a part of a stop string.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace riverhorse {

// Feed the bytes of each token to push() and print what it returns. However the bytes are cut into pushes, the pieces
// together are the same text, always valid UTF-8:
//   - a character is returned when its last byte has come;
//   - bytes that cannot become a character turn into U+FFFD as soon as that is certain: one for each maximal
//     ill-formed part, as Unicode recommends, and one for a character left unfinished at the end;
//   - text that may be the beginning of a stop string is held back until that is decided.
// The stop string that is complete first ends the text (of several complete at the same byte, the one that began
// first); it and everything after it is dropped.
class TextStream {
 public:
  // Errors: invalid_argument when a stop string is empty or not valid UTF-8.
  explicit TextStream(std::vector<std::string> stop_strings = {});

  // The text that is certain now; often empty. Nothing more comes once stopped().
  std::string push(std::string_view bytes);
  // The end of the text: what was still held back.
  std::string finish();

  bool stopped() const { return stopped_; }
  // Which stop string it was, an index into the constructor's list; only when stopped().
  std::size_t stop_index() const { return stop_index_; }

 private:
  void append_valid(std::string_view bytes, bool last);  // bytes_ -> held_
  bool find_stop();                                      // cuts held_ where a stop string begins
  std::size_t undecided_length() const;                  // bytes at the end of held_ that may begin a stop string

  std::vector<std::string> stop_strings_;
  std::string bytes_;  // the beginning of a character, at most 3 bytes
  std::string held_;   // valid text not returned yet
  bool stopped_ = false;
  std::size_t stop_index_ = 0;
};

}  // namespace riverhorse
