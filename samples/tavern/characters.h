// Who sits at the bar: how they look, where, and the beginning of the story that the model goes on telling as them.
#pragma once

#include <string>
#include <vector>

#include "scene.h"

namespace tavern {

struct Character {
  std::string name;    // as the player calls them
  std::string called;  // as the story does: "the captain"
  Look look;
  float x = 0;  // scene units
  double temperature = 0.7;
  std::string story;  // that their conversation begins with
};

const std::vector<Character>& characters();

}  // namespace tavern
