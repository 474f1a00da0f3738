// Checkpoints: every way in which the same model can be stored gives the same tensors.
#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace riverhorse {
namespace {

const std::filesystem::path golden = RIVERHORSE_TEST_DATA;

TEST(Checkpoint, LoadsEveryGoldenModel) {
  for (const char* name : {"h3-pure", "h3-hybrid", "h3-hybrid-rotary", "h3-headdim"}) {
    const Checkpoint checkpoint = load_checkpoint(golden / "lm" / name, {});
    EXPECT_EQ(checkpoint.file.tensors.size(), parameter_table(checkpoint.config).size()) << name;
    EXPECT_TRUE(checkpoint.warnings.empty()) << checkpoint.warnings.front();
  }
}

}  // namespace
}  // namespace riverhorse
