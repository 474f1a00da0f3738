// Bytes of tensor files, right or wrong, put together by hand: safetensors, pickles, zip archives.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "formats/tensor_file.h"

namespace riverhorse::test {

std::string little_endian(std::uint64_t value, int byte_count);

// Header length, header, data. The header is written as given.
std::string safetensors_bytes(const std::string& header, const std::string& data);
// The header entry of one F32 tensor: "name":{...}.
std::string header_entry(const std::string& name, const std::string& shape, std::uint64_t begin, std::uint64_t end);

// Pieces of pickles, protocol 2 unless said. Each returns the opcodes that push one object.
namespace pickle_text {
std::string text(const std::string& value);
std::string integer(std::int64_t value);
std::string global(const std::string& module, const std::string& name);
std::string tuple(const std::vector<std::string>& items);
std::string list(const std::vector<std::string>& items);
std::string dictionary(const std::vector<std::pair<std::string, std::string>>& items);  // keys are texts
std::string call(const std::string& function, const std::vector<std::string>& arguments);
std::string storage(const std::string& type, const std::string& key, std::int64_t count);
std::string tensor(const std::string& storage, std::int64_t offset, const std::vector<std::int64_t>& shape,
                   const std::vector<std::int64_t>& strides);
std::string program(const std::string& body);  // PROTO 2, body, STOP
}  // namespace pickle_text

struct ZipItem {
  std::string name;
  std::string data;
  bool deflate = false;
};
std::string zip_bytes(const std::vector<ZipItem>& items);

// archive/data.pkl, archive/data/<key>..., archive/version
std::string torch_bytes(const std::string& pickle, const std::map<std::string, std::string>& storages,
                        bool deflate = false);
// A state dictionary of these tensors (f32, f16, bf16 or i64) as torch.save writes it.
std::string torch_bytes(const std::map<std::string, HostTensor>& tensors, bool deflate = false);

std::string safetensors_bytes(const std::map<std::string, HostTensor>& tensors);

// A complete small model: 2 layers, one of them attention, D = 8.
extern const char* const small_config;
std::map<std::string, HostTensor> small_tensors();

// Replaces the first occurrence; fails the calling program loudly when there is none.
std::string replaced(std::string text, const std::string& from, const std::string& to);

}  // namespace riverhorse::test
