// Which documents train and which validate.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "data/text_documents.h"

namespace riverhorse {

enum class DatasetPart { train = 0, validation = 1 };

struct SplitOptions {
  double validation_percent = 0;  // 0 to below 100; 0: everything trains
  std::uint64_t seed = 0;
};

// Walks over documents and says where each belongs: by a hash of the seed and the document's number, so that neither
// the order of the documents nor their length has a say. A document that is alone is cut in two between words: its
// end validates. Errors: invalid_argument for a percentage out of range.
class SplitDocuments {
 public:
  SplitDocuments(const TextInputs& inputs, const SplitOptions& options);

  // False at the end. Errors: as TextDocuments::next.
  bool next(TextDocument& document, DatasetPart& part);

  // Of the input files, without what has been read but not been given out.
  std::uint64_t bytes_read() const;
  std::uint64_t bytes_total() const { return documents_.bytes_total(); }
  std::uint64_t rows_left_out() const { return documents_.rows_left_out(); }

 private:
  TextDocuments documents_;
  SplitOptions options_;
  std::uint64_t index_ = 0;            // of the document that comes next
  std::optional<TextDocument> ahead_;  // read to see whether the first one is alone
  std::optional<TextDocument> end_of_single_;
};

}  // namespace riverhorse
