// A saved session, in a file or in memory, little-endian:
//
//   "RVHSESSN" | u32 version | u32 header size | header (JSON) | payload | u64 checksum of all before
//
// header:   model_hash, cache_dtype, tokens (count), draws, sampling
// payload:  tokens i32, draws_at u32; then for each layer, H3: shift f32 (D, N), modes f32 (D d, n, 2),
//           attention: k and v (state position, D) in cache_dtype
//
// What the layers are follows from the model, whose hash is checked, so the payload's size is known exactly and
// nothing in the file is trusted to say how much memory to take.
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "engine/engine_core.h"

namespace riverhorse {

namespace {

constexpr std::string_view magic = "RVHSESSN";
constexpr std::uint32_t version = 1;
constexpr std::size_t prefix_bytes = 16;
constexpr std::size_t checksum_bytes = 8;

// Eight bytes at a time: multiply, rotate, add; the length is mixed in at the end. Against accidents, not attackers.
class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    length_ += bytes.size();
    while (!bytes.empty()) {
      for (; filled_ == 0 && bytes.size() >= sizeof(word_); bytes = bytes.subspan(sizeof(word_))) {
        std::memcpy(&word_, bytes.data(), sizeof(word_));
        mix();
      }
      const std::size_t taken = std::min(bytes.size(), sizeof(word_) - filled_);
      std::memcpy(reinterpret_cast<std::byte*>(&word_) + filled_, bytes.data(), taken);
      filled_ += taken;
      bytes = bytes.subspan(taken);
      if (filled_ == sizeof(word_)) mix();
    }
  }
  std::uint64_t value() {
    if (filled_ > 0) mix();
    std::uint64_t x = hash_ ^ length_;
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdu;
    return x ^ (x >> 33);
  }

 private:
  void mix() {
    hash_ = std::rotl(hash_ ^ (word_ * 0x9e3779b97f4a7c15u), 29) * 0xbf58476d1ce4e5b9u + 0x94d049bb133111ebu;
    word_ = 0;
    filled_ = 0;
  }

  std::uint64_t hash_ = 0x243f6a8885a308d3u;
  std::uint64_t word_ = 0;
  std::uint64_t length_ = 0;
  std::size_t filled_ = 0;
};

nlohmann::json sampling_json(const SamplingOptions& options) {
  nlohmann::json bias = nlohmann::json::array();
  for (const auto& [token, value] : options.logit_bias) bias.push_back({token, value});
  return {{"temperature", options.temperature},
          {"top_k", options.top_k},
          {"top_p", options.top_p},
          {"min_p", options.min_p},
          {"repetition_penalty", options.repetition_penalty},
          {"presence_penalty", options.presence_penalty},
          {"frequency_penalty", options.frequency_penalty},
          {"seed", options.seed},
          {"logit_bias", bias},
          {"padded_vocabulary", options.padded_vocabulary},
          {"vocabulary_limit", options.vocabulary_limit}};
}

SamplingOptions sampling_from(const nlohmann::json& json) {
  SamplingOptions options;
  options.temperature = json.at("temperature").get<double>();
  options.top_k = json.at("top_k").get<std::int64_t>();
  options.top_p = json.at("top_p").get<double>();
  options.min_p = json.at("min_p").get<double>();
  options.repetition_penalty = json.at("repetition_penalty").get<double>();
  options.presence_penalty = json.at("presence_penalty").get<double>();
  options.frequency_penalty = json.at("frequency_penalty").get<double>();
  options.seed = json.at("seed").get<std::uint64_t>();
  options.padded_vocabulary = json.at("padded_vocabulary").get<bool>();
  options.vocabulary_limit = json.at("vocabulary_limit").get<std::int64_t>();
  for (const nlohmann::json& entry : json.at("logit_bias")) {
    options.logit_bias.emplace_back(entry.at(0).get<std::int32_t>(), entry.at(1).get<float>());
  }
  return options;
}

// Takes consecutive parts of a span whose size was checked beforehand.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <typename T>
  std::vector<T> take(std::size_t count) {
    std::vector<T> values(count);
    if (count > 0) std::memcpy(values.data(), bytes_.data(), count * sizeof(T));
    bytes_ = bytes_.subspan(count * sizeof(T));
    return values;
  }

 private:
  std::span<const std::byte> bytes_;
};

std::uint64_t payload_bytes(const ModelConfig& config, std::uint64_t tokens, DType cache_dtype) {
  const auto width = static_cast<std::uint64_t>(config.n_embd);
  const auto state = static_cast<std::uint64_t>(config.ssm_d_state);
  const auto head_dim = static_cast<std::uint64_t>(config.ssm_head_dim);
  const std::uint64_t rows = tokens > 0 ? tokens - 1 : 0;
  std::uint64_t total = 8 * tokens;
  for (std::int64_t layer = 0; layer < config.n_layer; ++layer) {
    total += config.is_attention(layer) ? 2 * rows * width * static_cast<std::uint64_t>(dtype_size_bytes(cache_dtype))
                                        : 4 * (width * state + width * head_dim * state);
  }
  return total;
}

}  // namespace

namespace {

std::string header_of(const Session::Snapshot& snapshot) {
  const nlohmann::json header = {{"model_hash", snapshot.model_hash},
                                 {"cache_dtype", dtype_name(snapshot.cache_dtype)},
                                 {"tokens", snapshot.tokens.size()},
                                 {"draws", snapshot.draws},
                                 {"sampling", sampling_json(snapshot.sampling)}};
  return header.dump();
}

// The file's bytes, one part after another, to `write`.
template <typename Write>
void put_session(const Session::Snapshot& snapshot, const Write& write) {
  const std::string text = header_of(snapshot);
  Checksum checksum;
  const auto put = [&](std::span<const std::byte> bytes) {
    checksum.add(bytes);
    write(bytes);
  };
  const std::uint32_t sizes[] = {version, static_cast<std::uint32_t>(text.size())};
  put(std::as_bytes(std::span(magic)));
  put(std::as_bytes(std::span(sizes)));
  put(std::as_bytes(std::span(text)));
  put(std::as_bytes(std::span(snapshot.tokens)));
  put(std::as_bytes(std::span(snapshot.draws_at)));
  for (const Session::Snapshot::Layer& layer : snapshot.layers) {
    put(std::as_bytes(std::span(layer.shift)));
    put(std::as_bytes(std::span(layer.modes)));
    put(layer.k);
    put(layer.v);
  }
  const std::uint64_t value = checksum.value();
  write(std::as_bytes(std::span(&value, 1)));
}

}  // namespace

void write_session_file(const std::filesystem::path& path, const Session::Snapshot& snapshot) {
  AtomicFileWriter writer(path);
  put_session(snapshot, [&](std::span<const std::byte> bytes) { writer.write(bytes); });
  writer.commit();
}

std::vector<std::byte> session_bytes(const Session::Snapshot& snapshot) {
  std::vector<std::byte> all;
  std::size_t size = prefix_bytes + header_of(snapshot).size() + 8 * snapshot.tokens.size() + checksum_bytes;
  for (const Session::Snapshot::Layer& layer : snapshot.layers) {
    size += 4 * (layer.shift.size() + layer.modes.size()) + layer.k.size() + layer.v.size();
  }
  all.reserve(size);
  put_session(snapshot, [&](std::span<const std::byte> bytes) { all.insert(all.end(), bytes.begin(), bytes.end()); });
  return all;
}

std::uint64_t session_size_bytes(const Session::Snapshot& stateless, const ModelConfig& config) {
  return prefix_bytes + header_of(stateless).size() +
         payload_bytes(config, stateless.tokens.size(), stateless.cache_dtype) + checksum_bytes;
}

Session::Snapshot read_session_file(const std::filesystem::path& path, const ModelConfig& config,
                                    const std::string& model_hash) {
  return parse_session(MappedFile(path).bytes(), path.string(), config, model_hash);
}

Session::Snapshot parse_session(std::span<const std::byte> bytes, const std::string& origin,
                                const ModelConfig& config, const std::string& model_hash) {
  const auto bad = [&](const std::string& reason) {
    fail(StatusCode::bad_file, "{}: not a usable saved session: {}", origin, reason);
  };
  if (bytes.size() < prefix_bytes + checksum_bytes) bad(fmt::format("only {} bytes", bytes.size()));
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) bad("it does not begin with RVHSESSN");
  std::uint32_t sizes[2];
  std::memcpy(sizes, bytes.data() + magic.size(), sizeof sizes);
  if (sizes[0] != version) bad(fmt::format("its version is {}, this program reads {}", sizes[0], version));
  const std::span<const std::byte> body = bytes.first(bytes.size() - checksum_bytes);
  std::uint64_t stored = 0;
  std::memcpy(&stored, bytes.data() + body.size(), sizeof stored);
  Checksum checksum;
  checksum.add(body);
  if (checksum.value() != stored) bad("it is damaged or cut short (the checksum differs)");
  if (sizes[1] > body.size() - prefix_bytes) bad("its header is longer than the file");

  Session::Snapshot snapshot;
  std::uint64_t tokens = 0;
  try {
    const auto* text = reinterpret_cast<const char*>(body.data() + prefix_bytes);
    const nlohmann::json header = nlohmann::json::parse(text, text + sizes[1]);
    snapshot.model_hash = header.at("model_hash").get<std::string>();
    const std::string cache_dtype = header.at("cache_dtype").get<std::string>();
    constexpr std::array dtypes = {DType::f32, DType::f16, DType::bf16};
    const auto* const dtype =
        std::find_if(dtypes.begin(), dtypes.end(), [&](DType each) { return dtype_name(each) == cache_dtype; });
    if (dtype == dtypes.end()) bad("its cache_dtype is none of f32, f16 and bf16");
    snapshot.cache_dtype = *dtype;
    tokens = header.at("tokens").get<std::uint64_t>();
    snapshot.draws = header.at("draws").get<std::uint32_t>();
    snapshot.sampling = sampling_from(header.at("sampling"));
  } catch (const nlohmann::json::exception& error) {
    bad(fmt::format("its header is malformed: {}", error.what()));
  }
  if (snapshot.model_hash != model_hash) {
    bad(fmt::format("it was saved with model {}, this is model {}", snapshot.model_hash, model_hash));
  }
  const std::span<const std::byte> payload = body.subspan(prefix_bytes + sizes[1]);
  const std::uint64_t expected = tokens <= payload.size() ? payload_bytes(config, tokens, snapshot.cache_dtype) : 0;
  if (tokens > payload.size() || expected != payload.size()) {
    bad(fmt::format("{} tokens do not go with {} bytes of state", tokens, payload.size()));
  }
  try {
    check_sampling(snapshot.sampling, config);
  } catch (const Error& error) {
    bad(error.what());
  }

  Reader reader(payload);
  snapshot.tokens = reader.take<std::int32_t>(tokens);
  snapshot.draws_at = reader.take<std::uint32_t>(tokens);
  for (const std::int32_t token : snapshot.tokens) {
    if (token < 0 || token >= config.padded_vocab_size())
      bad(fmt::format("token {} is not in the vocabulary", token));
  }
  const auto width = static_cast<std::size_t>(config.n_embd);
  const auto state = static_cast<std::size_t>(config.ssm_d_state);
  const std::size_t cache_bytes = static_cast<std::size_t>(snapshot.state_position()) * width *
                                  static_cast<std::size_t>(dtype_size_bytes(snapshot.cache_dtype));
  for (std::int64_t i = 0; i < config.n_layer; ++i) {
    Session::Snapshot::Layer layer;
    if (config.is_attention(i)) {
      layer.k = reader.take<std::byte>(cache_bytes);
      layer.v = reader.take<std::byte>(cache_bytes);
    } else {
      layer.shift = reader.take<float>(width * state);
      layer.modes = reader.take<float>(width * static_cast<std::size_t>(config.ssm_head_dim) * state);
    }
    snapshot.layers.push_back(std::move(layer));
  }
  return snapshot;
}

}  // namespace riverhorse
