#include "formats/pickle.h"

#include <set>
#include <utility>

#include "formats/json.h"
#include "formats/pickle_machine.h"

namespace riverhorse {
namespace {

using pickle::Kind;
using pickle::Machine;
using pickle::Object;
using pickle::Ref;

constexpr int depth_limit = 16;
constexpr std::size_t visit_limit = 200'000;
constexpr std::size_t tensor_limit = 20'000;
constexpr std::size_t name_limit = 512;
constexpr std::size_t metadata_value_limit = 256;
constexpr std::size_t metadata_limit = 1'000;

// Walks the dictionaries below the root. Objects may be shared and may contain themselves: depth and the number of
// visits bound the walk.
class Collector {
 public:
  explicit Collector(const Machine& machine) : machine_(machine) {}

  PickledModel collect(Ref root) {
    if (machine_.object(root).kind != Kind::dictionary) {
      machine_.bad("the file holds something that is not a dictionary of tensors");
    }
    model_.storages = machine_.storages();
    visit_dictionary(machine_.object(root), "", 0);
    return std::move(model_);
  }

 private:
  void visit_dictionary(const Object& dictionary, const std::string& prefix, int depth) {
    if (depth > depth_limit) {
      machine_.bad("dictionaries nested deeper than {} levels, or containing themselves", depth_limit);
    }
    for (std::size_t i = 0; i + 1 < dictionary.items.size(); i += 2) {
      if (++visits_ > visit_limit) machine_.bad("more than {} dictionary entries", visit_limit);
      const Object& key = machine_.object(dictionary.items[i]);
      const Object& value = machine_.object(dictionary.items[i + 1]);
      if (key.kind == Kind::string && prefix.size() + key.text.size() <= name_limit) {
        visit(value, prefix + std::string(key.text), depth);
      } else if (key.kind == Kind::integer) {
        visit(value, prefix + std::to_string(key.integer), depth);
      } else if (value.kind == Kind::tensor) {
        machine_.bad("a tensor whose name is not a string of at most {} bytes", name_limit);
      }
    }
  }

  void visit(const Object& value, const std::string& name, int depth) {
    switch (value.kind) {
      case Kind::dictionary: visit_dictionary(value, name + ".", depth + 1); return;
      case Kind::tensor: add_tensor(value, name); return;
      case Kind::integer: add_metadata(name, std::to_string(value.integer)); return;
      case Kind::boolean: add_metadata(name, value.integer != 0 ? "true" : "false"); return;
      case Kind::real: add_metadata(name, fmt::format("{}", value.real)); return;
      case Kind::string:
        if (value.text.size() <= metadata_value_limit) add_metadata(name, std::string(value.text));
        return;
      default: return;
    }
  }

  void add_tensor(const Object& value, const std::string& name) {
    if (name.empty() || find_invalid_utf8(name)) machine_.bad("a tensor whose name is empty or not UTF-8");
    if (!names_.insert(name).second) machine_.bad("two tensors are named \"{}\"", name);
    if (names_.size() > tensor_limit) machine_.bad("more than {} named tensors", tensor_limit);
    PickledTensor tensor = machine_.tensors()[static_cast<std::size_t>(value.integer)];
    tensor.name = name;
    model_.tensors.push_back(std::move(tensor));
  }

  void add_metadata(const std::string& name, std::string text) {
    if (model_.metadata.size() >= metadata_limit || find_invalid_utf8(name) || find_invalid_utf8(text)) return;
    model_.metadata[name] = std::move(text);
  }

  const Machine& machine_;
  PickledModel model_;
  std::set<std::string> names_;
  std::size_t visits_ = 0;
};

}  // namespace

PickledModel read_pickle(std::span<const std::byte> bytes, const std::string& origin) {
  Machine machine(bytes, origin);
  const Ref root = machine.run();
  return Collector(machine).collect(root);
}

}  // namespace riverhorse
