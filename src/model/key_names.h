// Tensor names as older code wrote them, turned into today's.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/tensor_file.h"

namespace riverhorse {

// Undoes Lightning's wrapping (`state_dict.model.<name>`, everything else dropped) and the old names (`embedding.`,
// `s4seq.encoder.`, layer norms numbered one place later), and drops buffers that are no parameters. Says what it did
// in `warnings`. Errors: bad_file when two tensors end up with one name.
void modernize_names(TensorFile& file, std::vector<std::string>& warnings);

}  // namespace riverhorse
