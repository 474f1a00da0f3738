#include "direct_device.h"

#include <algorithm>
#include <cmath>
#include <complex>
#include <map>
#include <numbers>
#include <vector>

namespace riverhorse::test {

namespace {

using Complex = std::complex<double>;

// Elements of a tensor by several indices.
template <typename T>
class View {
 public:
  View(Device& cpu, const Tensor& tensor)
      : shape_(tensor.shape), data_(reinterpret_cast<T*>(cpu.mapped(tensor).data())) {}
  template <typename... Index>
  T& operator()(Index... indices) const {
    std::int64_t offset = 0;
    int axis = 0;
    ((offset = offset * shape_[axis++] + static_cast<std::int64_t>(indices)), ...);
    return data_[offset];
  }

 private:
  Shape shape_;
  T* data_;
};

struct DirectRecording final : Recording {
  RecordFunction function;
  std::vector<OpTiming> timings() override { return {}; }
  double total_time_ms() override { return 0; }
};

class DirectEncoder final : public Encoder {
 public:
  // Scratch memory for the operations that the interface itself makes of others.
  explicit DirectEncoder(Device& cpu) : Encoder(cpu.allocate(1u << 20, MemoryUse::device)), cpu_(cpu) {}

 private:
  View<float> f(const Tensor& tensor) const { return {cpu_, tensor}; }
  View<std::int32_t> i(const Tensor& tensor) const { return {cpu_, tensor}; }

  void record_copy(const CopyArgs& args) override {
    const auto in = cpu_.mapped(args.in);
    std::copy(in.begin(), in.end(), cpu_.mapped(args.out).begin());
  }

  void record_advance(const AdvanceArgs& args) override {
    for (std::int64_t b = 0; b < args.slots.count(); ++b) i(args.positions)(i(args.slots)(b)) += args.tokens;
  }

  void record_embed(const EmbedArgs& args) override {
    for (std::int64_t r = 0; r < args.residual.shape[0]; ++r) {
      for (std::int64_t d = 0; d < args.residual.shape[1]; ++d) {
        const std::int64_t id = i(args.ids)(r);
        f(args.residual)(r, d) = id >= 0 && id < args.table.shape[0] ? f(args.table)(id, d) : 0.0f;
      }
    }
  }

  // E[x^2] - E[x]^2, in long double: another formula than the backends'.
  std::vector<double> normalised(const Tensor& x, std::int64_t row, const NormWeights& norm) const {
    const std::int64_t width = x.shape[1];
    long double sum = 0, squares = 0;
    for (std::int64_t d = 0; d < width; ++d) {
      sum += f(x)(row, d);
      squares += static_cast<long double>(f(x)(row, d)) * f(x)(row, d);
    }
    const long double mean = sum / width;
    const long double variance = squares / width - mean * mean;
    std::vector<double> out;
    for (std::int64_t d = 0; d < width; ++d) {
      out.push_back(static_cast<double>(
          (f(x)(row, d) - mean) / std::sqrt(variance + norm.epsilon) * f(norm.weight)(d) + f(norm.bias)(d)));
    }
    return out;
  }

  void record_add_layer_norm(const AddLayerNormArgs& args) override {
    for (std::int64_t r = 0; r < args.residual.shape[0]; ++r) {
      for (std::int64_t d = 0; args.x && d < args.residual.shape[1]; ++d) f(args.residual)(r, d) += f(args.x)(r, d);
      const std::vector<double> row = normalised(args.residual, r, args.norm);
      for (std::int64_t d = 0; d < args.residual.shape[1]; ++d) f(args.out)(r, d) = static_cast<float>(row[d]);
    }
  }

  void record_linear(const LinearArgs& args) override {
    const std::int64_t rows = args.x.shape[args.x_transposed ? 1 : 0];
    const std::int64_t outputs = args.weight.shape[0], inputs = args.weight.shape[1];
    const View<float> weight = f(args.weight);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<double> x;
      if (args.norm) {
        x = normalised(args.x, r, *args.norm);
      } else {
        for (std::int64_t k = 0; k < inputs; ++k) x.push_back(args.x_transposed ? f(args.x)(k, r) : f(args.x)(r, k));
      }
      for (std::int64_t m = 0; m < outputs; ++m) {
        double sum = args.bias ? f(args.bias)(m) : 0.0;
        for (std::int64_t k = 0; k < inputs; ++k) sum += x[k] * weight(m, k);
        if (args.activation == Activation::gelu_tanh) {
          sum = sum / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (sum + 0.044715 * std::pow(sum, 3))));
        }
        float& y = args.y_transposed ? f(args.y)(m, r) : f(args.y)(r, m);
        y = static_cast<float>(args.accumulate ? y + sum : sum);
      }
    }
  }

  void record_discretize(const DiscretizeArgs& args) override {
    const H3Parameters& p = args.parameters;
    const H3Filter& out = args.filter;
    using Wide = std::complex<long double>;
    for (std::int64_t h = 0; h < out.a.shape[0]; ++h) {
      const long double dt = std::exp(static_cast<long double>(f(p.log_dt)(h)));
      const std::int64_t row = h % p.inv_a_real.shape[0];
      std::vector<Wide> logs, gains;
      for (std::int64_t n = 0; n < out.a.shape[1]; ++n) {
        const Wide big_a(-std::exp(static_cast<long double>(f(p.inv_a_real)(row, n))), f(p.a_imag)(row, n));
        const Wide big_b(f(p.b)(row, n, 0), f(p.b)(row, n, 1));
        const Wide c(f(p.c)(h, n, 0), f(p.c)(h, n, 1));
        const bool zoh = p.discretization == Discretization::zoh;
        const Wide z = big_a * dt;
        const Wide a = zoh ? std::exp(z) : (2.0L + z) / (2.0L - z);
        const Wide b = zoh ? big_b * (std::exp(z) - 1.0L) / big_a : 2.0L * big_b * dt / (2.0L - z);
        f(out.a)(h, n, 0) = static_cast<float>(a.real());
        f(out.a)(h, n, 1) = static_cast<float>(a.imag());
        f(out.a)(h, n, 2) = static_cast<float>(a.real() - f(out.a)(h, n, 0));
        f(out.a)(h, n, 3) = static_cast<float>(a.imag() - f(out.a)(h, n, 1));
        f(out.b)(h, n, 0) = static_cast<float>(b.real());
        f(out.b)(h, n, 1) = static_cast<float>(b.imag());
        for (int part = 0; part < 2; ++part) f(out.c)(h, n, part) = f(p.c)(h, n, part);
        logs.push_back(std::log(a));
        gains.push_back(c * b);
        for (int e = 0; e < H3Filter::power_count; ++e) {
          const Wide power = std::exp(std::ldexp(1.0L, e) * logs.back());
          f(out.powers)(h, n, e, 0) = static_cast<float>(power.real());
          f(out.powers)(h, n, e, 1) = static_cast<float>(power.imag());
        }
      }
      f(out.d)(h) = f(p.d)(h);
      for (int lag = 0; lag < H3Filter::chunk; ++lag) {
        long double sum = lag == 0 ? f(p.d)(h) : 0.0f;
        for (std::size_t n = 0; n < logs.size(); ++n) {
          sum += 2 * (gains[n] * std::exp(static_cast<long double>(lag) * logs[n])).real();
        }
        f(out.toeplitz)(h, lag) = static_cast<float>(sum);
      }
    }
    for (std::int64_t d = 0; d < p.shift_b.shape[0]; ++d) {
      for (std::int64_t lag = 0; lag < p.shift_b.shape[1]; ++lag) {
        long double sum = lag == 0 ? f(p.shift_d)(d) : 0.0f;
        for (std::int64_t m = lag; m < p.shift_b.shape[1]; ++m) {
          sum += static_cast<long double>(f(p.shift_c)(d, m)) * f(p.shift_b)(d, m - lag);
        }
        f(out.shift_taps)(d, lag) = static_cast<float>(sum);
      }
    }
  }

  // a^l = exp(l log a): no product of powers
  std::vector<Complex> powers(const H3Filter& filter, std::int64_t h, std::int64_t n, std::int64_t count) const {
    const auto a = f(filter.a);
    const std::complex<long double> log_a = std::log(std::complex<long double>(
        static_cast<long double>(a(h, n, 0)) + a(h, n, 2), static_cast<long double>(a(h, n, 1)) + a(h, n, 3)));
    std::vector<Complex> list;
    for (std::int64_t l = 0; l < count; ++l) list.push_back(Complex(std::exp(static_cast<long double>(l) * log_a)));
    return list;
  }
  Complex pair(const Tensor& tensor, std::int64_t h, std::int64_t n) const {
    return {f(tensor)(h, n, 0), f(tensor)(h, n, 1)};
  }

  void record_ssm_kernel(const SsmKernelArgs& args) override {
    const std::int64_t length = args.kernel.shape[1];
    for (std::int64_t h = 0; h < args.kernel.shape[0]; ++h) {
      std::vector<double> sums(static_cast<std::size_t>(length));
      for (std::int64_t n = 0; n < args.filter.a.shape[1]; ++n) {
        const Complex gain = pair(args.filter.c, h, n) * pair(args.filter.b, h, n);
        const std::vector<Complex> a = powers(args.filter, h, n, length);
        for (std::int64_t l = 0; l < length; ++l) sums[l] += 2 * (gain * a[l]).real();
      }
      for (std::int64_t l = 0; l < length; ++l) f(args.kernel)(h, l) = static_cast<float>(sums[l]);
    }
  }

  using Line = std::vector<double>;

  // Everything from the closed forms: K by powers, w from the keys by position, O(L^2) sums.
  //   read(part, channel, t): q, k, v as part 0, 1, 2;  write(channel, t, y).
  template <typename Read, typename Write>
  void mix(const H3Filter& filter, int head_dim, HeadOrder order, std::int64_t slot, std::int64_t position,
           const H3State& state, std::int64_t length, Read read, Write write) {
    const std::int64_t heads = filter.a.shape[0], modes = filter.a.shape[1], d = head_dim;
    const std::int64_t window = filter.shift_taps.shape[1];
    const View<float> taps = f(filter.shift_taps), ring = f(state.shift), stored = f(state.modes), skip = f(filter.d);
    for (std::int64_t h = 0; h < heads; ++h) {
      std::vector<Complex> b, c;
      for (std::int64_t n = 0; n < modes; ++n) {
        b.push_back(pair(filter.b, h, n));
        c.push_back(pair(filter.c, h, n));
      }
      std::vector<std::vector<Complex>> a;
      for (std::int64_t n = 0; n < modes; ++n) a.push_back(powers(filter, h, n, length + 1));
      Line kernel(static_cast<std::size_t>(length));
      for (std::int64_t l = 0; l < length; ++l) {
        for (std::int64_t n = 0; n < modes; ++n) {
          kernel[l] += 2 * (c[n] * b[n] * a[n][l]).real();
        }
      }
      std::vector<Line> shifted;
      for (std::int64_t channel = h * d; channel < (h + 1) * d; ++channel) {
        std::map<std::int64_t, double> key;  // by position in the text
        for (std::int64_t p = std::max<std::int64_t>(0, position - window); p < position; ++p) {
          key[p] = ring(slot, channel, p % window);
        }
        for (std::int64_t t = 0; t < length; ++t) key[position + t] = read(1, channel, t);
        Line line;
        for (std::int64_t t = 0; t < length; ++t) {
          double sum = 0;
          for (std::int64_t j = 0; j < window; ++j) {
            const auto found = key.find(position + t - j);
            if (found != key.end()) sum += taps(channel, j) * found->second;
          }
          line.push_back(sum);
        }
        shifted.push_back(line);
        for (const auto& [p, value] : key) {
          if (p >= position + length - window) ring(slot, channel, p % window) = static_cast<float>(value);
        }
      }
      for (std::int64_t j = 0; j < d; ++j) {
        Line y(static_cast<std::size_t>(length));
        for (std::int64_t i_index = 0; i_index < d; ++i_index) {
          const std::int64_t row = (h * d + i_index) * d + j;
          Line w;
          for (std::int64_t t = 0; t < length; ++t) w.push_back(shifted[i_index][t] * read(2, h * d + j, t));
          const auto before = [&](std::int64_t n) {
            return Complex(stored(slot, row, n, 0), stored(slot, row, n, 1));
          };
          for (std::int64_t t = 0; t < length; ++t) {
            double z = skip(h) * w[t];
            for (std::int64_t s = 0; s <= t; ++s) z += kernel[t - s] * w[s];
            for (std::int64_t n = 0; n < modes; ++n) z += 2 * (c[n] * a[n][t + 1] * before(n)).real();
            y[t] += read(0, h * d + i_index, t) * z;
          }
          for (std::int64_t n = 0; n < modes; ++n) {
            Complex after = a[n][length] * before(n);
            for (std::int64_t t = 0; t < length; ++t) after += a[n][length - 1 - t] * b[n] * w[t];
            stored(slot, row, n, 0) = static_cast<float>(after.real());
            stored(slot, row, n, 1) = static_cast<float>(after.imag());
          }
        }
        const std::int64_t channel = order == HeadOrder::head_major ? h * d + j : j * heads + h;
        for (std::int64_t t = 0; t < length; ++t) write(channel, t, static_cast<float>(y[t]));
      }
    }
  }

  void record_h3_mixer(const H3MixerArgs& args) override {
    const std::int64_t width = args.y.shape[0];
    for (std::int64_t b = 0; b < args.y.shape[1]; ++b) {
      const std::int32_t slot = i(args.slots)(b);
      mix(
          args.filter, args.head_dim, args.head_order, slot, i(args.positions)(slot), args.state, args.y.shape[2],
          [&](int part, std::int64_t c, std::int64_t t) { return double{f(args.qkv)(part * width + c, b, t)}; },
          [&](std::int64_t c, std::int64_t t, float value) { f(args.y)(c, b, t) = value; });
    }
  }

  void record_h3_step(const H3StepArgs& args) override {
    const std::int64_t width = args.y.shape[1];
    for (std::int64_t b = 0; b < args.y.shape[0]; ++b) {
      const std::int32_t slot = i(args.slots)(b);
      mix(
          args.filter, args.head_dim, args.head_order, slot, i(args.positions)(slot), args.state, 1,
          [&](int part, std::int64_t c, std::int64_t) { return double{f(args.qkv)(b, part * width + c)}; },
          [&](std::int64_t c, std::int64_t, float value) { f(args.y)(b, c) = value; });
    }
  }

  void record_fft_conv(const FftConvArgs& args) override {
    const View<float> kernel = f(args.kernel), u = f(args.u);
    for (std::int64_t b = 0; b < args.u.shape[0]; ++b) {
      for (std::int64_t h = 0; h < args.u.shape[1]; ++h) {
        for (std::int64_t t = 0; t < args.u.shape[2]; ++t) {
          double sum = args.skip ? static_cast<double>(f(args.skip)(h)) * f(args.u)(b, h, t) : 0.0;
          for (std::int64_t s = 0; s <= t; ++s) {
            sum += static_cast<double>(kernel(h, t - s)) * u(b, h, s);
          }
          if (args.gelu_erf) sum *= std::erfc(-sum / std::sqrt(2.0)) / 2;
          f(args.y)(b, h, t) = static_cast<float>(sum);
        }
      }
    }
  }

  void record_rotary(const RotaryArgs& args) override {
    const std::int64_t width = args.qkv.shape[2] / 3, head_width = width / args.heads, half = args.rotary_dim / 2;
    for (std::int64_t b = 0; b < args.qkv.shape[0]; ++b) {
      for (std::int64_t t = 0; t < args.qkv.shape[1]; ++t) {
        const double position = static_cast<double>(i(args.positions)(i(args.slots)(b)) + t);
        for (std::int64_t head = 0; head < 2 * args.heads; ++head) {
          for (std::int64_t j = 0; j < half; ++j) {
            float& first = f(args.qkv)(b, t, head * head_width + j);
            float& second = f(args.qkv)(b, t, head * head_width + half + j);
            const double turn =
                position / std::exp(std::log(10000.0) * static_cast<double>(j) / static_cast<double>(half));
            const Complex turned = Complex(first, second) * std::polar(1.0, turn);
            first = static_cast<float>(turned.real());
            second = static_cast<float>(turned.imag());
          }
        }
      }
    }
  }

  void record_attention(const AttentionArgs& args) override {
    const View<float> qkv = f(args.qkv), keys = f(args.cache.k), values = f(args.cache.v);
    const std::int64_t width = args.qkv.shape[2] / 3, head_width = width / args.heads;
    for (std::int64_t b = 0; b < args.qkv.shape[0]; ++b) {
      const std::int32_t slot = i(args.slots)(b);
      for (std::int64_t t = 0; t < args.qkv.shape[1]; ++t) {
        const std::int64_t now = i(args.positions)(slot) + t;
        for (std::int64_t c = 0; c < width; ++c) {
          keys(slot, now, c) = qkv(b, t, width + c);
          values(slot, now, c) = qkv(b, t, 2 * width + c);
        }
        for (std::int64_t head = 0; head < args.heads; ++head) {
          long double total = 0;  // no maximum subtracted: long double does not overflow here
          std::vector<long double> sums(static_cast<std::size_t>(head_width));
          for (std::int64_t s = 0; s <= now; ++s) {
            long double score = 0;
            for (std::int64_t c = head * head_width; c < (head + 1) * head_width; ++c) {
              score += static_cast<long double>(qkv(b, t, c)) * keys(slot, s, c);
            }
            const long double weight = std::exp(score / std::sqrt(static_cast<long double>(head_width)));
            total += weight;
            for (std::int64_t c = 0; c < head_width; ++c) {
              sums[c] += weight * values(slot, s, head * head_width + c);
            }
          }
          for (std::int64_t c = 0; c < head_width; ++c) {
            f(args.y)(b, t, head * head_width + c) = static_cast<float>(sums[c] / total);
          }
        }
      }
    }
  }
  void record_attention_step(const AttentionArgs& args) override { record_attention(args); }

  // From the prose of src/cpu/sample.cpp, with sets of candidates and 64-bit sums.
  void record_sample(const SampleArgs& args) override {
    for (std::int64_t b = 0; b < args.logits.shape[0]; ++b) {
      const std::int32_t slot = i(args.slots)(b);
      auto& row = reinterpret_cast<SamplerRow&>(i(args.sampler)(slot, 0));
      const std::int64_t vocabulary = args.logits.shape[1];
      const std::int64_t limit =
          row.vocab_limit > 0 ? std::min<std::int64_t>(row.vocab_limit, vocabulary) : vocabulary;
      struct Candidate {
        float x;
        std::int64_t token;
        std::uint64_t weight = 0;
      };
      std::vector<Candidate> ranked;
      const View<float> logits = f(args.logits);
      for (std::int64_t v = 0; v < limit; ++v) {
        float x = logits(b, v);
        if (args.bias) x += f(args.bias)(slot, v);
        const std::int32_t count = args.counts ? i(args.counts)(slot, v) : 0;
        if (count > 0) {
          x = x > 0 ? x / row.repetition_penalty : x * row.repetition_penalty;
          x = x - row.presence_penalty;
          x = x - static_cast<float>(row.frequency_penalty * static_cast<float>(count));
        }
        ranked.push_back({x, v});
      }
      std::sort(ranked.begin(), ranked.end(),
                [](const Candidate& a, const Candidate& c) { return a.x != c.x ? a.x > c.x : a.token < c.token; });
      std::int64_t token = ranked[0].token;
      if (row.temperature > 0) {
        if (row.top_k > 0 && row.top_k < static_cast<int>(ranked.size())) ranked.resize(row.top_k, {});
        double sum = 0;
        const float best = ranked[0].x;
        for (const Candidate& c : ranked) sum += std::exp(static_cast<double>(c.x - best) / row.temperature);
        std::uint64_t total = 0;
        for (Candidate& c : ranked) {
          const double p = std::exp(static_cast<double>(c.x - best) / row.temperature) / sum;
          c.weight = static_cast<std::uint64_t>(p * 1073741824.0 + 0.5);
          total += c.weight;
        }
        const auto share = [](std::uint64_t weight, float fraction) {
          const auto fixed = static_cast<std::uint64_t>(fraction * 65536.0f + 0.5f);
          return (weight / 65536) * fixed + (weight % 65536) * fixed / 65536;
        };
        const std::uint64_t nucleus = std::max<std::uint64_t>(1, share(total, row.top_p));
        const std::uint64_t least = share(ranked[0].weight, row.min_p);
        std::map<std::int64_t, std::uint64_t> kept;  // by token
        std::uint64_t before = 0, kept_total = 0;
        for (const Candidate& c : ranked) {
          if (before < nucleus && c.weight >= least) {
            kept[c.token] = c.weight;
            kept_total += c.weight;
          }
          before += c.weight;
        }
        const std::uint64_t target = (philox(row.draws, row.seed_low, row.seed_high) * kept_total) >> 32;
        std::uint64_t prefix = 0;
        for (const auto& [candidate, weight] : kept) {
          prefix += weight;
          if (prefix <= target) continue;
          token = candidate;
          break;
        }
      }
      i(args.tokens)(b) = static_cast<std::int32_t>(token);
      if (args.counts) i(args.counts)(slot, token) += 1;
      if (args.history) i(args.history)(slot, row.draws % args.history.shape[1]) = static_cast<std::int32_t>(token);
      row.draws += 1;
    }
  }

  static std::uint64_t philox(std::uint32_t counter, std::uint32_t key0, std::uint32_t key1) {
    std::array<std::uint32_t, 4> c = {counter, 0, 0, 0};
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t left = 0xD2511F53ull * c[0], right = 0xCD9E8D57ull * c[2];
      c = {static_cast<std::uint32_t>(right >> 32) ^ c[1] ^ key0, static_cast<std::uint32_t>(right),
           static_cast<std::uint32_t>(left >> 32) ^ c[3] ^ key1, static_cast<std::uint32_t>(left)};
      key0 += 0x9E3779B9;
      key1 += 0xBB67AE85;
    }
    return c[0];
  }

  Device& cpu_;
};

}  // namespace

std::unique_ptr<Recording> DirectDevice::record(const RecordFunction& function, const RecordOptions&) {
  auto recording = std::make_unique<DirectRecording>();
  recording->function = function;
  return recording;
}

std::uint64_t DirectDevice::submit(Recording& recording) {
  DirectEncoder encoder(cpu_);
  static_cast<DirectRecording&>(recording).function(encoder);  // the operations run as they are appended
  return 1;
}

}  // namespace riverhorse::test
