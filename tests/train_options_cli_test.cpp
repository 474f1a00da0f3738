// The options of riverhorse train, as a user calls them.
#include "train_cli_fixture.h"
