#include "data/dataset.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "base/cache_folder.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/threads.h"

namespace riverhorse {
namespace {

constexpr std::size_t kPieceBytes = 256 << 10;       // what a thread takes at a time
constexpr std::size_t kBatchBytesAThread = 4 << 20;  // what is read before the threads start
constexpr std::uint64_t kDatasetVersion = 1;         // of everything that turns bytes into tokens here

// A document or a part of a long one.
struct Piece {
  TextDocument document;
  DatasetPart part = DatasetPart::train;
  bool ends_document = true;
  std::vector<std::int32_t> tokens;
};

int thread_count(int asked) {
  if (asked < 0) fail(StatusCode::invalid_argument, "{} threads are not possible", asked);
  return asked > 0 ? asked : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Documents as pieces: long ones are cut where that does not change their tokens, so that all threads share them and
// their tokens are never in memory as a whole.
class Pieces {
 public:
  Pieces(const Tokenizer& tokenizer, SplitDocuments& documents) : tokenizer_(tokenizer), documents_(documents) {}

  // False at the end.
  bool next(Piece& piece) {
    if (rest_.text.empty()) {
      if (!documents_.next(rest_, part_)) return false;
      ++count_;
    }
    std::string_view& rest = rest_.text;
    const std::size_t length = rest.size() <= kPieceBytes ? rest.size() : tokenizer_.safe_cut(rest, kPieceBytes);
    piece.document = {rest.substr(0, length), rest_.owner};
    piece.part = part_;
    rest.remove_prefix(length);
    piece.ends_document = rest.empty();
    return true;
  }

  std::uint64_t documents() const { return count_; }
  std::uint64_t bytes_read() const { return documents_.bytes_read() - rest_.text.size(); }

 private:
  const Tokenizer& tokenizer_;
  SplitDocuments& documents_;
  TextDocument rest_;  // of the document in hand
  DatasetPart part_ = DatasetPart::train;
  std::uint64_t count_ = 0;
};

void write_pieces(const Tokenizer& tokenizer, const std::vector<Piece>& batch,
                  std::array<std::optional<TokenFileWriter>, 2>& writers) {
  const std::int32_t end_of_text = tokenizer.end_of_text();
  for (const Piece& piece : batch) {
    TokenFileWriter& writer = *writers[static_cast<std::size_t>(piece.part)];
    writer.append(piece.tokens, piece.document.text.size());
    if (!piece.ends_document) continue;
    if (end_of_text >= 0) writer.append({&end_of_text, 1}, 0);
    writer.end_document();
  }
}

void commit(std::array<std::optional<TokenFileWriter>, 2>& writers, const SplitDocuments& documents,
            std::uint64_t count, const SplitOptions& split) {
  if (count == 0) {
    fail(StatusCode::bad_file, "there is no text in the input files ({} rows were left out)",
         documents.rows_left_out());
  }
  for (const std::size_t part : {0u, 1u}) {
    if (!writers[part] || writers[part]->header().tokens > 0) continue;
    fail(StatusCode::invalid_argument,
         "no document of {} falls to {} at {} percent; choose another percentage or seed, or give more documents",
         count, part == 0 ? "training" : "validation", split.validation_percent);
  }
  for (std::optional<TokenFileWriter>& writer : writers) {
    if (!writer) continue;
    writer->set_left_out(documents.rows_left_out());
    writer->commit();
  }
}

std::uint64_t dataset_hash(const TextInputs& inputs, const Tokenizer& tokenizer, const SplitOptions& split) {
  Hash hash;
  hash.add(kDatasetVersion).add(tokenizer.fingerprint()).add(std::string_view(inputs.column)).add(inputs.field);
  hash.add(std::bit_cast<std::uint64_t>(split.validation_percent)).add(split.seed);
  for (const std::filesystem::path& path : find_text_files(inputs.paths)) {
    hash.add(path.extension().string()).add(MappedFile(path).bytes());
  }
  return hash.value();
}

// Null when the file is not there or not what it should be.
std::unique_ptr<TokenFile> open_cached(const std::filesystem::path& path, const Tokenizer& tokenizer) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nullptr;
  try {
    auto file = std::make_unique<TokenFile>(path);
    if (file->header().tokenizer_hash == tokenizer.fingerprint()) return file;
  } catch (const Error& damaged) {
    log_debug(fmt::format("made again: {}", damaged.what()));
  }
  return nullptr;
}

// Removed, with what is in it, at the end of the scope.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "riverhorse-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) {
      fail(StatusCode::io_error, "cannot make a folder {} for the tokens", pattern);
    }
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

void tokenize_files(const TextInputs& inputs, const Tokenizer& tokenizer, const DatasetOptions& options,
                    const std::filesystem::path& train, const std::filesystem::path& validation) {
  const bool splits = options.split.validation_percent > 0;
  if (splits == validation.empty()) {
    fail(StatusCode::invalid_argument, "a percentage for validation and a file for it need each other");
  }
  const int threads = thread_count(options.threads);
  SplitDocuments documents(inputs, options.split);
  std::array<std::optional<TokenFileWriter>, 2> writers;
  writers[0].emplace(train, tokenizer.vocab_size(), tokenizer.fingerprint());
  if (splits) writers[1].emplace(validation, tokenizer.vocab_size(), tokenizer.fingerprint());

  const std::size_t batch_bytes = kBatchBytesAThread * static_cast<std::size_t>(threads);
  Pieces pieces(tokenizer, documents);
  for (bool more = true; more;) {
    std::vector<Piece> batch;
    for (std::size_t bytes = 0; bytes < batch_bytes; bytes += batch.back().document.text.size()) {
      Piece piece;
      more = pieces.next(piece);
      if (!more) break;
      batch.push_back(std::move(piece));
    }
    on_threads(threads, batch.size(),
               [&](std::size_t i) { batch[i].tokens = tokenizer.encode(batch[i].document.text, false); });
    write_pieces(tokenizer, batch, writers);
    if (options.progress) options.progress(pieces.bytes_read(), documents.bytes_total());
  }
  commit(writers, documents, pieces.documents(), options.split);
}

Dataset open_dataset(const TextInputs& inputs, const Tokenizer& tokenizer, const DatasetOptions& options,
                     const std::string& cache) {
  const bool splits = options.split.validation_percent > 0;
  const std::optional<std::filesystem::path> cache_folder = resolve_cache_folder(cache);
  // Without a cache: the mappings outlive the folder.
  const std::optional<TemporaryFolder> temporary =
      cache_folder ? std::nullopt : std::optional<TemporaryFolder>(std::in_place);
  const std::filesystem::path& folder = cache_folder ? *cache_folder : temporary->path();
  const std::uint64_t hash = cache_folder ? dataset_hash(inputs, tokenizer, options.split) : 0;
  const std::filesystem::path train = folder / fmt::format("tokens-{:016x}.train.tokens", hash);
  const std::filesystem::path validation =
      splits ? folder / fmt::format("tokens-{:016x}.validation.tokens", hash) : std::filesystem::path();

  Dataset dataset;
  if (cache_folder) {
    dataset.train = open_cached(train, tokenizer);
    if (splits) dataset.validation = open_cached(validation, tokenizer);
    dataset.from_cache = dataset.train && (!splits || dataset.validation);
    if (dataset.from_cache) return dataset;
  }
  tokenize_files(inputs, tokenizer, options, train, validation);
  dataset.train = std::make_unique<TokenFile>(train);
  if (splits) dataset.validation = std::make_unique<TokenFile>(validation);
  return dataset;
}

}  // namespace riverhorse
