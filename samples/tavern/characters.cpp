#include "characters.h"

namespace tavern {

// The default model goes on with stories of the 19th century and with Bibles, and knows nothing. So each character is
// the beginning of a story in which they answer a stranger, in the manner of books that it has read.
const std::vector<Character>& characters() {
  static const std::vector<Character> all = {
      {"Captain",
       "the captain",
       {0x8fb4dc, 0x9aa0a4, 0x6b3a22, 0x2a3550, wears_cap | wears_full_beard | wears_pipe | wears_buttons},
       -0.52f,
       0.75,
       "The old captain of the whaling ship sat in the tavern by the fire, and smoked his pipe, and told the company "
       "of the sea, of ships and storms, and of the great white whale.\n\n"
       "\"What did you see upon the ocean?\" said the stranger.\n\n"
       "\"I have seen the whale,\" said the captain. \"He rose out of the sea, and every man on board cried out.\""},
      {"Emma",
       "Emma",
       {0xb4d0f0, 0x23409a, 0x4a2a78, 0x3c64c8, wears_long_hair | wears_necklace},
       0.22f,
       0.7,
       "Miss Emma was a handsome, clever young woman, with a happy disposition; and of an evening, in the tavern, "
       "she "
       "was very fond of talking with every body about their neighbours, their visits and their marriages.\n\n"
       "\"Good evening, Miss Emma,\" said the stranger.\n\n"
       "\"Good evening, sir,\" said Emma. \"I am very happy to see you here.\""},
      {"Hermit",
       "the hermit",
       {0x9ab8d8, 0xd8dce0, 0x3a4a58, 0x304050, wears_hood | wears_full_beard | wears_long_beard},
       0.94f,
       0.65,
       "And there was in that country a hermit, a holy man, who came down from the mountain; and the people asked "
       "him "
       "concerning many things, and he answered them.\n\n"
       "And the stranger said unto him, \"Who art thou?\"\n\n"
       "And the hermit answered and said, \"I am the servant of the LORD, and I dwell in the wilderness.\""},
  };
  return all;
}

}  // namespace tavern
