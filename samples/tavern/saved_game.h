// All conversations in one file: what was said, and each session's state. Written whole or not at all; what is read
// is not trusted.
#pragma once

#include <string>
#include <vector>

#include "conversation.h"

namespace tavern {

void save_game(const std::string& path, std::vector<Conversation>& conversations);
// Throws and leaves the conversations as they were when the file is not what save_game() wrote; a state of another
// model is refused by the library.
void load_game(const std::string& path, std::vector<Conversation>& conversations);

}  // namespace tavern
