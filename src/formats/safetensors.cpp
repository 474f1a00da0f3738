// safetensors: 8 bytes of header length (little-endian), a JSON header, the raw data. The header maps each name to
// {"dtype", "shape", "data_offsets": [begin, end)} relative to the data; "__metadata__" maps strings to strings.
//
// The header is read by a state machine over parser events: nothing but the tensor table is ever built, so that
// memory stays proportional to the number of tensors whatever the header says.
//
// Quantised matrices are U8 here, see tensor_file.h.
#include <algorithm>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/quantised.h"
#include "formats/json.h"
#include "formats/size_math.h"
#include "formats/tensor_file.h"

namespace riverhorse {
namespace {

static_assert(std::endian::native == std::endian::little, "tensor files are little-endian, read without swapping");

constexpr std::uint64_t header_limit_bytes = std::uint64_t{16} << 20;
constexpr std::size_t tensor_limit = 100'000;
constexpr std::size_t rank_limit = 8;
constexpr int header_depth_limit = 4;
constexpr std::string_view quantised_key = "quantised.";  // of metadata, before a tensor's name

struct DTypeName {
  DType dtype;
  std::string_view name;
};
constexpr DTypeName dtype_names[] = {
    {DType::f64, "F64"},   {DType::i64, "I64"}, {DType::f32, "F32"}, {DType::i32, "I32"}, {DType::f16, "F16"},
    {DType::bf16, "BF16"}, {DType::i16, "I16"}, {DType::i8, "I8"},   {DType::u8, "U8"},   {DType::boolean, "BOOL"}};

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeName& known : dtype_names) {
    if (known.name == name) return known.dtype;
  }
  return std::nullopt;
}

std::string_view dtype_to_name(DType dtype) {
  for (const DTypeName& known : dtype_names) {
    if (known.dtype == dtype) return known.name;
  }
  return "?";
}

struct HeaderEntry {
  std::string name;
  std::optional<DType> dtype;
  std::optional<std::vector<std::int64_t>> shape;
  std::optional<std::vector<std::int64_t>> offsets;
};

// Receives the events of nlohmann's parser. Every callback that meets something out of place throws.
class HeaderReader {
 public:
  explicit HeaderReader(std::string origin) : origin_(std::move(origin)) {}

  std::vector<HeaderEntry> take_entries() { return std::move(entries_); }
  std::map<std::string, std::string> take_metadata() { return std::move(metadata_); }

  bool start_object(std::size_t) {
    if (level_ == Level::outside) {
      level_ = Level::top;
    } else if (level_ == Level::top && !key_.empty()) {
      level_ = key_ == "__metadata__" ? Level::metadata : Level::tensor;
      if (level_ == Level::tensor) {
        if (entries_.size() >= tensor_limit) bad("more than {} tensors", tensor_limit);
        if (!names_.insert(key_).second) bad("two tensors are named \"{}\"", key_);
        entries_.emplace_back().name = key_;
      }
    } else {
      unexpected("an object");
    }
    return true;
  }
  bool end_object() {
    level_ = level_ == Level::top ? Level::outside : Level::top;
    return true;
  }
  bool start_array(std::size_t) {
    if (level_ != Level::tensor || array_ != nullptr) unexpected("an array");
    HeaderEntry& entry = entries_.back();
    if (field_ == "shape") {
      array_ = &set_once(entry.shape);
    } else if (field_ == "data_offsets") {
      array_ = &set_once(entry.offsets);
    } else {
      unexpected("an array");
    }
    return true;
  }
  bool end_array() {
    array_ = nullptr;
    return true;
  }
  bool key(std::string& text) {
    if (level_ == Level::top) {
      if (text.empty()) bad("a tensor without a name");
      if (text == "__metadata__" && std::exchange(metadata_seen_, true)) bad("\"__metadata__\" occurs twice");
      key_ = text;
    } else {
      field_ = text;
    }
    return true;
  }
  bool string(std::string& text) {
    if (level_ == Level::metadata) {
      if (!metadata_.emplace(field_, text).second) bad("metadata \"{}\" occurs twice", field_);
    } else if (level_ == Level::tensor && array_ == nullptr && field_ == "dtype") {
      const auto dtype = dtype_from_name(text);
      if (!dtype) bad("tensor \"{}\" has dtype \"{}\", which is not supported", key_, text);
      set_once(entries_.back().dtype) = *dtype;
    } else {
      unexpected("a string");
    }
    return true;
  }
  bool number_unsigned(std::uint64_t value) {
    if (array_ == nullptr) unexpected("a number");
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      bad("tensor \"{}\": {} in \"{}\" is too large", key_, value, field_);
    }
    append(static_cast<std::int64_t>(value));
    return true;
  }
  bool number_integer(std::int64_t value) {
    if (array_ == nullptr) unexpected("a number");
    if (value < 0) bad("tensor \"{}\": {} in \"{}\" is negative", key_, value, field_);
    append(value);
    return true;
  }
  bool number_float(double, const std::string& text) { unexpected(fmt::format("the number {}", text)); }
  bool boolean(bool) { unexpected("true or false"); }
  bool null() { unexpected("null"); }
  bool binary(std::vector<std::uint8_t>&) { unexpected("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    bad("the header is not valid JSON: {}", json_error_text(error));
  }

 private:
  enum class Level { outside, top, metadata, tensor };

  template <typename... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) {
    fail(StatusCode::bad_file, "{}: {}", origin_, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void unexpected(std::string_view what) {
    switch (level_) {
      case Level::tensor: bad("tensor \"{}\": {} in or as \"{}\" is out of place in the header", key_, what, field_);
      case Level::metadata: bad("metadata \"{}\" is {}; it must be a string", field_, what);
      case Level::top: bad("header entry \"{}\" is {}; it must be an object", key_, what);
      case Level::outside: bad("the header is {}; it must be an object", what);
    }
    bad("the header is malformed");
  }
  template <typename Value>
  Value& set_once(std::optional<Value>& slot) {
    if (slot) bad("tensor \"{}\": \"{}\" occurs twice", key_, field_);
    return slot.emplace();
  }
  void append(std::int64_t value) {
    if (array_->size() >= rank_limit) bad("tensor \"{}\": \"{}\" has more than {} numbers", key_, field_, rank_limit);
    array_->push_back(value);
  }

  std::string origin_;
  Level level_ = Level::outside;
  std::string key_;    // of the header: a tensor's name
  std::string field_;  // inside it
  std::vector<std::int64_t>* array_ = nullptr;
  bool metadata_seen_ = false;
  std::set<std::string> names_;
  std::vector<HeaderEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Checks one entry by itself: complete, and its length what dtype and shape say.
void check_entry(const HeaderEntry& entry, std::int64_t data_size, const std::string& origin) {
  const auto bad = [&](const std::string& reason) {
    fail(StatusCode::bad_file, "{}: tensor \"{}\": {}", origin, entry.name, reason);
  };
  if (!entry.dtype || !entry.shape || !entry.offsets) {
    bad(fmt::format("\"{}\" is missing", !entry.dtype ? "dtype" : !entry.shape ? "shape" : "data_offsets"));
  }
  if (entry.offsets->size() != 2) bad("\"data_offsets\" must be two numbers");
  const std::int64_t begin = (*entry.offsets)[0];
  const std::int64_t end = (*entry.offsets)[1];
  if (begin > end) bad(fmt::format("data offsets {} to {} run backwards", begin, end));
  if (end > data_size) {
    bad(fmt::format("data offsets {} to {} are out of range: the file has {} bytes of data (truncated?)", begin, end,
                    data_size));
  }
  const auto count = checked_count(*entry.shape);
  const auto size = count ? checked_multiply(*count, dtype_size_bytes(*entry.dtype)) : std::nullopt;
  if (!size) bad(fmt::format("shape {} is too large", shape_text(*entry.shape)));
  if (*size != end - begin) {
    bad(fmt::format("shape {} of {} needs {} bytes, its data offsets span {}", shape_text(*entry.shape),
                    dtype_to_name(*entry.dtype), *size, end - begin));
  }
}

// The tensors must cover the data exactly, each byte once.
void check_coverage(const std::vector<HeaderEntry>& entries, std::int64_t data_size, const std::string& origin) {
  std::vector<const HeaderEntry*> order;
  order.reserve(entries.size());
  for (const HeaderEntry& entry : entries) order.push_back(&entry);
  std::sort(order.begin(), order.end(),
            [](const HeaderEntry* a, const HeaderEntry* b) { return *a->offsets < *b->offsets; });
  std::int64_t covered = 0;
  const HeaderEntry* previous = nullptr;
  for (const HeaderEntry* entry : order) {
    const std::int64_t begin = (*entry->offsets)[0];
    if (begin < covered) {
      fail(StatusCode::bad_file, "{}: tensors \"{}\" and \"{}\" overlap", origin, previous->name, entry->name);
    }
    if (begin > covered) {
      fail(StatusCode::bad_file, "{}: bytes {} to {} of the data, before tensor \"{}\", belong to no tensor", origin,
           covered, begin, entry->name);
    }
    covered = (*entry->offsets)[1];
    previous = entry;
  }
  if (covered != data_size) {
    fail(StatusCode::bad_file, "{}: the last {} bytes of the data belong to no tensor", origin, data_size - covered);
  }
}

// Gives the tensors that the metadata calls quantised their dtype and their width, and takes it out of the metadata.
void restore_quantised(TensorFile& file, const std::string& origin) {
  for (auto entry = file.metadata.begin(); entry != file.metadata.end();) {
    if (!entry->first.starts_with(quantised_key)) {
      ++entry;
      continue;
    }
    const std::string name = entry->first.substr(quantised_key.size());
    const std::optional<DType> dtype = quantised_dtype(entry->second);
    if (!dtype) {
      fail(StatusCode::bad_file, "{}: metadata \"{}\" is \"{}\"; it must be \"q8\" or \"q4\"", origin, entry->first,
           entry->second);
    }
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) {
      fail(StatusCode::bad_file, "{}: metadata \"{}\" is of a tensor that is not there", origin, entry->first);
    }
    HostTensor& tensor = found->second;
    const bool matrix = tensor.dtype == DType::u8 && tensor.shape.size() == 2;
    const std::optional<std::int64_t> width =
        matrix ? quantised_width(*dtype, tensor.shape[1]) : std::optional<std::int64_t>();
    if (!width || !checked_multiply(tensor.shape[0], *width)) {
      fail(StatusCode::bad_file, "{}: tensor \"{}\", {} {}, is no matrix of {}, whose rows are stored as U8", origin,
           name, dtype_to_name(tensor.dtype), shape_text(tensor.shape), entry->second);
    }
    tensor.dtype = *dtype;
    tensor.shape[1] = *width;
    entry = file.metadata.erase(entry);
  }
}

std::string quoted(const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail(StatusCode::invalid_argument, "a tensor name or metadata text that is not UTF-8 cannot be written");
  }
}

}  // namespace

TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::shared_ptr<const void>& owner,
                             const std::filesystem::path& origin_path) {
  const std::string origin = origin_path.string();
  if (bytes.size() < 8) {
    fail(StatusCode::bad_file, "{}: {} bytes are too few for a safetensors file", origin, bytes.size());
  }
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > header_limit_bytes) {
    fail(StatusCode::bad_file, "{}: a header of {} bytes is more than the limit of {} (not a safetensors file?)",
         origin, header_size, header_limit_bytes);
  }
  if (header_size > bytes.size() - 8) {
    fail(StatusCode::bad_file, "{}: the header needs {} bytes and only {} follow (truncated?)", origin, header_size,
         bytes.size() - 8);
  }
  const auto header_bytes = bytes.subspan(8, header_size);
  const std::string_view header(reinterpret_cast<const char*>(header_bytes.data()), header_bytes.size());
  const auto data = bytes.subspan(8 + header_size);
  check_json_text(header, origin + ": header", {header_limit_bytes, header_depth_limit});
  HeaderReader reader(origin);
  nlohmann::json::sax_parse(header.begin(), header.end(), &reader);

  TensorFile file;
  file.path = origin_path;
  file.metadata = reader.take_metadata();
  const std::vector<HeaderEntry> entries = reader.take_entries();
  for (const HeaderEntry& entry : entries) check_entry(entry, static_cast<std::int64_t>(data.size()), origin);
  check_coverage(entries, static_cast<std::int64_t>(data.size()), origin);
  for (const HeaderEntry& entry : entries) {
    const auto begin = static_cast<std::size_t>((*entry.offsets)[0]);
    const auto end = static_cast<std::size_t>((*entry.offsets)[1]);
    file.tensors.emplace(entry.name, HostTensor{*entry.dtype, *entry.shape, data.subspan(begin, end - begin), owner});
  }
  restore_quantised(file, origin);
  return file;
}

TensorFile read_safetensors(const std::filesystem::path& path) {
  const auto mapping = std::make_shared<const MappedFile>(path);
  TensorFile file = parse_safetensors(mapping->bytes(), mapping, path);
  file.mapping = mapping;
  return file;
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, HostTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  // Wide elements first: with a header padded to 8 bytes, every tensor is then aligned to its elements.
  std::vector<std::pair<std::string, const HostTensor*>> order;
  order.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) order.emplace_back(name, &tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return dtype_size_bytes(a.second->dtype) > dtype_size_bytes(b.second->dtype);
  });

  std::map<std::string, std::string> all_metadata = metadata;
  for (const auto& [name, tensor] : tensors) {
    if (!is_quantised(tensor.dtype)) continue;
    all_metadata.insert_or_assign(fmt::format("{}{}", quantised_key, name),
                                  fmt::format("{}", dtype_name(tensor.dtype)));
  }
  std::string header = "{";
  if (!all_metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : all_metadata) {
      header += fmt::format("{}{}:{}", header.ends_with('{') ? "" : ",", quoted(key), quoted(value));
    }
    header += "}";
  }
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : order) {
    if (name.empty() || name == "__metadata__" || tensor->bytes.size() != tensor->size_bytes()) {
      fail(StatusCode::invalid_argument, "{}: tensor \"{}\" cannot be written: its name or size is wrong",
           path.string(), name);
    }
    const bool quantised = is_quantised(tensor->dtype);
    std::vector<std::int64_t> stored_shape = tensor->shape;
    if (quantised) stored_shape.back() = row_size_bytes(tensor->dtype, stored_shape.back());
    std::string shape;
    for (const std::int64_t dimension : stored_shape) {
      shape += fmt::format("{}{}", shape.empty() ? "" : ",", dimension);
    }
    header +=
        fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                    header.size() == 1 ? "" : ",", quoted(name), dtype_to_name(quantised ? DType::u8 : tensor->dtype),
                    shape, offset, offset + tensor->bytes.size());
    offset += tensor->bytes.size();
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');

  AtomicFileWriter writer(path);
  const std::uint64_t header_size = header.size();
  writer.write(std::as_bytes(std::span(&header_size, 1)));
  writer.write(header);
  for (const auto& [name, tensor] : order) writer.write(tensor->bytes);
  writer.commit();
}

}  // namespace riverhorse
