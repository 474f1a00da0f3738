#include "bad_files/builders.h"

#include <unistd.h>
#include <zip.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include "formats/size_math.h"
#include "model/checkpoint.h"

namespace riverhorse::test {

std::string little_endian(std::uint64_t value, int byte_count) {
  std::string bytes;
  for (int i = 0; i < byte_count; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xff);
  return bytes;
}

std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return little_endian(header.size(), 8) + header + data;
}

std::string header_entry(const std::string& name, const std::string& shape, std::uint64_t begin, std::uint64_t end) {
  return fmt::format("\"{}\":{{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[{},{}]}}", name, shape, begin, end);
}

namespace pickle_text {

std::string text(const std::string& value) { return "X" + little_endian(value.size(), 4) + value; }

std::string integer(std::int64_t value) {
  if (value >= 0 && value < 256) return "K" + little_endian(static_cast<std::uint64_t>(value), 1);
  if (value >= INT32_MIN && value <= INT32_MAX) return "J" + little_endian(static_cast<std::uint64_t>(value), 4);
  return std::string("\x8a\x08", 2) + little_endian(static_cast<std::uint64_t>(value), 8);
}

std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }

std::string tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const std::string& item : items) bytes += item;
  return bytes + "t";
}

std::string list(const std::vector<std::string>& items) {
  std::string bytes = "](";
  for (const std::string& item : items) bytes += item;
  return bytes + "e";
}

std::string dictionary(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string bytes = "}(";
  for (const auto& [key, value] : items) bytes += text(key) + value;
  return bytes + "u";
}

std::string call(const std::string& function, const std::vector<std::string>& arguments) {
  return function + tuple(arguments) + "R";
}

std::string storage(const std::string& type, const std::string& key, std::int64_t count) {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), integer(count)}) + "Q";
}

std::string tensor(const std::string& storage_bytes, std::int64_t offset, const std::vector<std::int64_t>& shape,
                   const std::vector<std::int64_t>& strides) {
  std::vector<std::string> shape_items, stride_items;
  for (const std::int64_t value : shape) shape_items.push_back(integer(value));
  for (const std::int64_t value : strides) stride_items.push_back(integer(value));
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              {storage_bytes, integer(offset), tuple(shape_items), tuple(stride_items), "\x89",
               call(global("collections", "OrderedDict"), {})});
}

std::string program(const std::string& body) { return "\x80\x02" + body + "."; }

}  // namespace pickle_text

std::string zip_bytes(const std::vector<ZipItem>& items) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* target = zip_source_buffer_create(nullptr, 0, 0, &error);
  zip_source_keep(target);
  zip_t* archive = zip_open_from_source(target, ZIP_TRUNCATE, &error);
  if (archive == nullptr) throw std::runtime_error("libzip cannot write an archive");
  for (const ZipItem& item : items) {
    zip_source_t* data = zip_source_buffer(archive, item.data.data(), item.data.size(), 0);
    const zip_int64_t index = zip_file_add(archive, item.name.c_str(), data, ZIP_FL_ENC_UTF_8);
    if (index < 0) throw std::runtime_error("libzip cannot add " + item.name);
    const auto place = static_cast<zip_uint64_t>(index);
    zip_set_file_compression(archive, place, item.deflate ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 1);
    zip_file_set_dostime(archive, place, 0, 0x21, 0);  // 1980-01-01: the same bytes every time
  }
  if (zip_close(archive) != 0) throw std::runtime_error("libzip cannot finish an archive");
  zip_stat_t status;
  zip_source_stat(target, &status);
  std::string bytes(status.size, '\0');
  zip_source_open(target);
  zip_source_read(target, bytes.data(), bytes.size());
  zip_source_close(target);
  zip_source_free(target);
  return bytes;
}

std::string torch_bytes(const std::string& pickle, const std::map<std::string, std::string>& storages, bool deflate) {
  std::vector<ZipItem> items{{"archive/data.pkl", pickle, deflate}};
  for (const auto& [key, data] : storages) items.push_back({"archive/data/" + key, data, deflate});
  items.push_back({"archive/version", "3\n", false});
  return zip_bytes(items);
}

std::string torch_bytes(const std::map<std::string, HostTensor>& tensors, bool deflate) {
  std::vector<std::pair<std::string, std::string>> entries;
  std::map<std::string, std::string> storages;
  for (const auto& [name, tensor] : tensors) {
    const std::string key = std::to_string(storages.size());
    const char* type = tensor.dtype == DType::f32    ? "FloatStorage"
                       : tensor.dtype == DType::f16  ? "HalfStorage"
                       : tensor.dtype == DType::bf16 ? "BFloat16Storage"
                                                     : "LongStorage";
    std::vector<std::int64_t> strides(tensor.shape.size(), 1);
    for (std::size_t i = strides.size(); i > 1; --i) strides[i - 2] = strides[i - 1] * tensor.shape[i - 1];
    entries.emplace_back(
        name, pickle_text::tensor(pickle_text::storage(type, key, tensor.count()), 0, tensor.shape, strides));
    storages[key] = std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return torch_bytes(pickle_text::program(pickle_text::dictionary(entries)), storages, deflate);
}

std::string safetensors_bytes(const std::map<std::string, HostTensor>& tensors) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / fmt::format("riverhorse-builder-{}.safetensors", ::getpid());
  write_safetensors(path, tensors, {});
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  std::filesystem::remove(path);
  return text.str();
}

const char* const small_config =
    R"({"n_embd": 8, "n_layer": 2, "n_inner": 12, "attn_layer_idx": [1], "attn_n_head": 2, "ssm_d_state": 4,
 "vocab_size": 10, "pad_vocab_size_multiple": 4})";

std::map<std::string, HostTensor> small_tensors() {
  std::vector<std::string> warnings;
  const ModelConfig config = parse_model_config(small_config, "small", warnings);
  std::map<std::string, HostTensor> tensors;
  float next = 0.0f;
  for (const ParameterSpec& parameter : parameter_table(config)) {
    std::vector<float> values(static_cast<std::size_t>(*checked_count(parameter.shape)));
    for (float& value : values) value = (next += 1.0f) / 256.0f;
    tensors[parameter.name] = make_host_tensor(values, parameter.shape);
  }
  return tensors;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t position = text.find(from);
  if (position == std::string::npos) throw std::runtime_error("nothing to replace: " + from);
  return text.replace(position, from.size(), to);
}

}  // namespace riverhorse::test
