#include "data/document_split.h"

#include "base/error.h"
#include "base/hash.h"
#include "data/pretokenizer.h"

namespace riverhorse {
namespace {

DatasetPart part_of(const SplitOptions& options, std::uint64_t index) {
  const double draw = static_cast<double>(Hash().add(options.seed).add(index).value() >> 11) * 0x1p-53;
  return draw * 100 < options.validation_percent ? DatasetPart::validation : DatasetPart::train;
}

// Where the end begins that validates: between words near the place, else between characters.
std::size_t cut_of_single(std::string_view text, double validation_percent) {
  const double share = 1 - validation_percent / 100;
  auto place = static_cast<std::size_t>(share * static_cast<double>(text.size()));
  const std::size_t between_words = cut_between_words(text, place);
  if (between_words < text.size()) return between_words;
  while (place > 0 && (static_cast<unsigned char>(text[place]) & 0xC0) == 0x80) --place;
  return place;
}

}  // namespace

SplitDocuments::SplitDocuments(const TextInputs& inputs, const SplitOptions& options)
    : documents_(inputs), options_(options) {
  if (!(options.validation_percent >= 0 && options.validation_percent < 100)) {
    fail(StatusCode::invalid_argument, "{} percent cannot be set aside for validation; from 0 to below 100 can",
         options.validation_percent);
  }
}

std::uint64_t SplitDocuments::bytes_read() const {
  return documents_.bytes_read() - (ahead_ ? ahead_->text.size() : 0) -
         (end_of_single_ ? end_of_single_->text.size() : 0);
}

bool SplitDocuments::next(TextDocument& document, DatasetPart& part) {
  if (end_of_single_) {
    document = *std::exchange(end_of_single_, std::nullopt);
    part = DatasetPart::validation;
    return true;
  }
  if (ahead_) {
    document = *std::exchange(ahead_, std::nullopt);
  } else if (!documents_.next(document)) {
    return false;
  }
  part = options_.validation_percent > 0 ? part_of(options_, index_) : DatasetPart::train;
  if (index_++ > 0 || options_.validation_percent == 0) return true;
  TextDocument second;
  if (documents_.next(second)) {
    ahead_ = second;
    return true;
  }
  const std::size_t cut = cut_of_single(document.text, options_.validation_percent);
  if (cut == 0 || cut == document.text.size()) return true;  // too short for two
  end_of_single_ = TextDocument{document.text.substr(cut), document.owner};
  document.text = document.text.substr(0, cut);
  part = DatasetPart::train;
  return true;
}

}  // namespace riverhorse
