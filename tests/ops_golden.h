// Golden files for operation tests: tensors, their tolerances, and an H3 layer put together from operations.
#pragma once

#include <string>
#include <vector>

#include "formats/tensor_file.h"
#include "ops_devices.h"

namespace riverhorse::test {

// One file under tests/golden, with the tolerances of manifest.json.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path);  // "layer/mha_plain.safetensors"

  bool has(const std::string& name) const { return file_.tensors.contains(name); }
  std::vector<float> floats(const std::string& name) const { return to_floats(file_.at(name)); }
  std::vector<std::int64_t> integers(const std::string& name) const { return to_integers(file_.at(name)); }
  Shape shape(const std::string& name) const;
  std::int64_t number(const std::string& metadata_key) const;
  double tolerance(const std::string& name) const;  // tol_rel
  Tensor put(Device& device, const std::string& name) const { return put_floats(device, shape(name), floats(name)); }
  // With another shape of the same count, such as without a leading 1.
  Tensor put(Device& device, const std::string& name, Shape shape) const {
    return put_floats(device, shape, floats(name));
  }
  // max|a - b| / max|b| against tensor `name`, within its tolerance.
  void expect(const std::vector<float>& values, const std::string& name) const;

 private:
  std::string path_;
  TensorFile file_;
};

H3Filter allocate_filter(Device& device, std::int64_t heads, std::int64_t width, std::int64_t state);

// A case of ops/s4d_kernel: the diagonal SSM's parameters, all else zero.
H3Parameters s4d_parameters(Device& device, const GoldenFile& file, const std::string& prefix, std::int64_t heads,
                            std::int64_t state, bool zoh);

// "param.*" of an H3 layer; q, k and v projections are one below the other.
struct H3LayerWeights {
  H3LayerWeights(Device& device, const GoldenFile& file);

  std::int64_t width, state;
  int head_dim;
  Tensor projection, projection_bias;  // (3 D, D), (3 D)
  Tensor output, output_bias;          // (D, D), (D)
  H3Parameters parameters;
};

// An H3 layer from "param.*" of a golden file, its state for `slots` sequences, and what it has been through.
class H3Layer {
 public:
  H3Layer(Device& device, const GoldenFile& file, std::int64_t slot_count, HeadOrder order);

  std::int64_t width() const { return weights_.width; }
  int head_dim() const { return weights_.head_dim; }
  const H3State& state() const { return state_; }
  // u (B, L, D) -> output (B, L, D); the sequences are in slots 0 ... B-1, which move on by L.
  std::vector<float> forward(const std::vector<float>& u, std::int64_t batch, std::int64_t tokens,
                             ConvAlgorithm algorithm);
  std::vector<float> step(const std::vector<float>& u, std::int64_t batch);  // u (B, D)
  // qkv (B, L, 3 D) -> y (B, L, D), without the projections; on the device as `dtype`.
  std::vector<float> mix(const std::vector<float>& qkv, std::int64_t batch, std::int64_t tokens,
                         ConvAlgorithm algorithm, DType dtype);
  std::vector<float> mix_step(const std::vector<float>& qkv, std::int64_t batch, DType dtype);
  void reset();

 private:
  void mixer(Encoder& encoder, const Tensor& qkv, const Tensor& y, ConvAlgorithm algorithm, std::int64_t tokens);
  void mixer_step(Encoder& encoder, const Tensor& qkv, const Tensor& y);
  // Records record(in, out) on tensors of `dtype`, of which there is `values` and what is returned as f32.
  template <typename Record>
  std::vector<float> run_as(DType dtype, const std::vector<float>& values, Shape in, Shape out, Record record);

  Device& device_;
  H3LayerWeights weights_;
  HeadOrder order_;
  Tensor slots_, positions_;
  H3Filter filter_;
  H3State state_;
};

}  // namespace riverhorse::test
