// torch.save files since PyTorch 1.6: a zip archive of `<stem>/data.pkl`, the pickled structure, and
// `<stem>/data/<key>`, the raw elements of each storage.
#include <cstring>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "formats/pickle.h"
#include "formats/size_math.h"
#include "formats/tensor_file.h"
#include "formats/zip_archive.h"

namespace riverhorse {
namespace {

constexpr std::string_view zip_magic = "PK\x03\x04";
constexpr std::uint64_t pickle_limit_bytes = std::uint64_t{16} << 20;

// Memory that a file may make us allocate for elements: inflated entries and views made contiguous. torch.save
// itself never deflates, and its views never repeat elements, so honest files need less than their own size.
class Budget {
 public:
  Budget(std::uint64_t file_bytes, std::string origin)
      : left_((std::uint64_t{16} << 20) + 8 * file_bytes), origin_(std::move(origin)) {}

  void spend(std::uint64_t bytes, const std::string& what) {
    if (bytes > left_) {
      fail(StatusCode::bad_file, "{}: {} unpacks to {} bytes, out of all proportion to the file (zip bomb?)", origin_,
           what, bytes);
    }
    left_ -= bytes;
  }

 private:
  std::uint64_t left_;
  std::string origin_;
};

struct StorageBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

bool is_contiguous(const PickledTensor& tensor) {
  std::int64_t expected = 1;
  for (std::size_t i = tensor.shape.size(); i > 0; --i) {
    const std::int64_t dimension = tensor.shape[i - 1];
    if (dimension != 1 && tensor.strides[i - 1] != expected) return false;
    expected *= dimension;
  }
  return true;
}

// Copies a strided view, innermost dimension last. `shape` has no zero in it.
void gather(const PickledTensor& tensor, std::span<const std::byte> storage, std::size_t element_size,
            std::span<std::byte> out) {
  std::vector<std::int64_t> index(tensor.shape.size(), 0);
  std::int64_t source = tensor.offset;
  for (std::size_t done = 0; done < out.size(); done += element_size) {
    std::memcpy(out.data() + done, storage.data() + static_cast<std::size_t>(source) * element_size, element_size);
    for (std::size_t axis = tensor.shape.size(); axis > 0; --axis) {
      source += tensor.strides[axis - 1];
      if (++index[axis - 1] < tensor.shape[axis - 1]) break;
      source -= tensor.strides[axis - 1] * tensor.shape[axis - 1];
      index[axis - 1] = 0;
    }
  }
}

class PytorchReader {
 public:
  PytorchReader(std::span<const std::byte> bytes, std::shared_ptr<const void> owner,
                const std::filesystem::path& path)
      : path_(path),
        origin_(path.string()),
        owner_(std::move(owner)),
        archive_(bytes, origin_),
        budget_(bytes.size(), origin_) {}

  TensorFile read() {
    find_stem();
    check_archive();
    const std::string pickle_name = stem_ + "data.pkl";
    const ZipEntry& pickle_entry = archive_.entries().at(pickle_name);
    if (pickle_entry.size_bytes > pickle_limit_bytes) {
      fail(StatusCode::bad_file, "{}: {} of {} bytes is more than the limit of {}", origin_, pickle_name,
           pickle_entry.size_bytes, pickle_limit_bytes);
    }
    const std::vector<std::byte> pickle_bytes = archive_.read(pickle_name, pickle_entry);
    PickledModel model = read_pickle(pickle_bytes, origin_);
    storages_.resize(model.storages.size());

    TensorFile file;
    file.path = path_;
    file.metadata = std::move(model.metadata);
    for (const PickledTensor& tensor : model.tensors) {
      const PickledStorage& storage = model.storages[tensor.storage];
      const StorageBytes& elements = load_storage(tensor, storage);
      file.tensors.emplace(tensor.name, make_tensor(tensor, storage.dtype, elements));
    }
    return file;
  }

 private:
  void find_stem() {
    std::optional<std::string> stem;
    for (const auto& [name, entry] : archive_.entries()) {
      const std::string suffix = "data.pkl";
      if (!name.ends_with(suffix)) continue;
      const std::string before = name.substr(0, name.size() - suffix.size());
      if (!before.empty() && before.find('/') != before.size() - 1) continue;
      if (stem) fail(StatusCode::bad_file, "{}: it holds more than one data.pkl", origin_);
      stem = before;
    }
    if (!stem) fail(StatusCode::bad_file, "{}: a zip archive without data.pkl, so not a PyTorch file", origin_);
    stem_ = *stem;
  }

  void check_archive() {
    if (archive_.entries().contains(stem_ + "constants.pkl")) {
      fail(StatusCode::bad_file, "{}: a TorchScript program; save the state_dict() with torch.save instead", origin_);
    }
    const auto order = archive_.entries().find(stem_ + "byteorder");
    if (order == archive_.entries().end() || order->second.size_bytes > 16) return;
    const std::vector<std::byte> text = archive_.read(order->first, order->second);
    if (std::string_view(reinterpret_cast<const char*>(text.data()), text.size()) != "little") {
      fail(StatusCode::bad_file, "{}: its tensors are not little-endian", origin_);
    }
  }

  const StorageBytes& load_storage(const PickledTensor& tensor, const PickledStorage& storage) {
    std::optional<StorageBytes>& loaded = storages_[tensor.storage];
    if (loaded) return *loaded;
    const std::string name = stem_ + "data/" + storage.key;
    const auto found = archive_.entries().find(name);
    if (found == archive_.entries().end()) {
      fail(StatusCode::bad_file, "{}: tensor \"{}\": its storage {} is not in the archive", origin_, tensor.name,
           name);
    }
    const ZipEntry& entry = found->second;
    const auto declared = static_cast<std::uint64_t>(storage.count * dtype_size_bytes(storage.dtype));
    if (entry.size_bytes != declared) {
      fail(StatusCode::bad_file, "{}: tensor \"{}\": its storage {} has {} bytes instead of {}", origin_, tensor.name,
           name, entry.size_bytes, declared);
    }
    if (entry.stored) return loaded.emplace(StorageBytes{archive_.stored_bytes(entry), owner_});
    StorageBytes bytes;
    budget_.spend(entry.size_bytes, name);
    auto memory = std::make_shared<std::vector<std::byte>>(archive_.read(name, entry));
    bytes.bytes = *memory;
    bytes.owner = std::move(memory);
    return loaded.emplace(std::move(bytes));
  }

  HostTensor make_tensor(const PickledTensor& view, DType dtype, const StorageBytes& storage) {
    HostTensor tensor;
    tensor.dtype = dtype;
    tensor.shape = view.shape;
    const auto element_size = static_cast<std::size_t>(dtype_size_bytes(dtype));
    const auto element_count = static_cast<std::uint64_t>(tensor.count());
    if (element_count == 0) return tensor;
    if (is_contiguous(view)) {
      tensor.bytes = storage.bytes.subspan(static_cast<std::size_t>(view.offset) * element_size,
                                           static_cast<std::size_t>(element_count) * element_size);
      tensor.owner = storage.owner;
      return tensor;
    }
    // The element count may exceed the storage (stride 0), even so far that its bytes overflow: judge by count.
    budget_.spend(element_count > (~std::uint64_t{0} / 8) ? element_count : element_count * element_size,
                  "tensor \"" + view.name + "\"");
    auto memory = std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(element_count) * element_size);
    gather(view, storage.bytes, element_size, *memory);
    tensor.bytes = *memory;
    tensor.owner = std::move(memory);
    return tensor;
  }

  std::filesystem::path path_;
  std::string origin_;
  std::shared_ptr<const void> owner_;
  ZipArchive archive_;
  Budget budget_;
  std::string stem_;  // "archive/"
  std::vector<std::optional<StorageBytes>> storages_;
};

bool begins_with(std::span<const std::byte> bytes, std::string_view prefix) {
  return bytes.size() >= prefix.size() && std::memcmp(bytes.data(), prefix.data(), prefix.size()) == 0;
}

}  // namespace

TensorFile parse_pytorch(std::span<const std::byte> bytes, const std::shared_ptr<const void>& owner,
                         const std::filesystem::path& origin) {
  if (!begins_with(bytes, zip_magic)) {
    const bool legacy = begins_with(bytes, "\x80");
    fail(StatusCode::bad_file, "{}: not a zip archive{}", origin.string(),
         legacy ? "; torch.save wrote such files before PyTorch 1.6: load and save it again with a newer one"
                : ", so not a PyTorch file");
  }
  return PytorchReader(bytes, owner, origin).read();
}

TensorFile read_pytorch(const std::filesystem::path& path) {
  const auto mapping = std::make_shared<const MappedFile>(path);
  TensorFile file = parse_pytorch(mapping->bytes(), mapping, path);
  file.mapping = mapping;
  return file;
}

TensorFile read_tensor_file(const std::filesystem::path& path) {
  const auto mapping = std::make_shared<const MappedFile>(path);
  const auto bytes = mapping->bytes();
  // As the header length of a safetensors file, a zip's first bytes would be far above the limit.
  const auto extension = path.extension();
  const bool pytorch = begins_with(bytes, zip_magic) || extension == ".pt" || extension == ".pth" ||
                       extension == ".ckpt" || extension == ".bin";
  TensorFile file = pytorch ? parse_pytorch(bytes, mapping, path) : parse_safetensors(bytes, mapping, path);
  file.mapping = mapping;
  return file;
}

}  // namespace riverhorse
