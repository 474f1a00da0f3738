// riverhorse bench mixer and fft_conv: the long convolutions over the lengths of texts, each row with its error on a
// part of the same shape.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/log.h"
#include "cli/bench.h"

namespace riverhorse::cli {
namespace {

struct Measurement {
  std::string pass, conv;
  ConvolutionShape shape;
  std::function<OpCase(const ConvolutionShape&)> at;

  std::string shape_text() const {
    std::string text = fmt::format("{} x {}, D {}", shape.batch, shape.tokens, shape.width);
    if (shape.state > 0) text += fmt::format(", N {}, {}", shape.state, conv);
    return text;
  }
};

// One or two of the sequences, as many of their channels as the cpu goes through within a moment. A transform costs
// it less than a recurrence, and needs more channels for a device to take the same way as with all of them.
ConvolutionShape part_to_compare(ConvolutionShape shape) {
  const std::int64_t most_elements = shape.state > 0 ? 1 << 17 : 1 << 21,
                     most_width = shape.state > 0 ? 4 : shape.width;
  shape.batch = std::min<std::int64_t>(shape.batch, shape.tokens <= 1 << 17 ? 2 : 1);
  const std::int64_t width = most_elements / (shape.batch * shape.tokens);
  shape.width = std::max<std::int64_t>(1, std::min({width, most_width, shape.width}));
  return shape;
}

// Errors of the outputs on a part of the shape; none where a device takes another way there.
void compare(Device& device, Device& oracle, const Measurement& each, BenchRow& row) {
  row.compared = part_to_compare(each.shape);
  const OpCase part = each.at(row.compared);
  if (parts_of(device, part) != row.parts) return;
  const CaseResult comparison = run_parity(device, oracle, part, 1);
  row.errors = comparison.errors;
  if (!comparison.passed) log_warning(comparison.message);
}

std::vector<BenchRow> measure(Device& device, const BenchOptions& options, const CopyMeter& copy,
                              const std::vector<Measurement>& list) {
  const auto oracle = open_device(choose_device(list_devices(), "cpu", ""), {});
  const ProgressFunction progress = progress_line("measuring convolutions");
  std::vector<BenchRow> rows;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Measurement& each = list[i];
    if (interrupted()) break;
    if (progress) progress(i, list.size());
    if (fmt::format("{} ({})", each.pass, each.shape_text()).find(options.filter) == std::string::npos) continue;
    BenchRow row = measured_row(device, each.at(each.shape), options, copy);
    row.name = each.pass;
    row.shape = each.shape_text();
    row.convolution = each.shape;
    row.conv = each.conv;
    if (row.skipped.empty()) compare(device, *oracle, each, row);
    rows.push_back(std::move(row));
  }
  if (progress) progress(list.size(), list.size());
  if (rows.empty() && !interrupted()) {
    fail(StatusCode::invalid_argument, "--filter \"{}\": no row has that in its name; one is called \"{} ({})\"",
         options.filter, list.front().pass, list.front().shape_text());
  }
  return rows;
}

// The shapes that the options name, or the usual ones, `width` channels wide if given.
std::vector<ConvolutionShape> chosen_shapes(const BenchOptions& options, std::vector<ConvolutionShape> usual) {
  if (options.batch > 0 && options.tokens == 0) {
    fail(StatusCode::invalid_argument, "--batch {} alone is no shape: give --tokens too", options.batch);
  }
  if (options.tokens > 0) {
    const std::int64_t all = usual.front().batch * usual.front().tokens;
    const std::int64_t batch = options.batch > 0 ? options.batch : std::max<std::int64_t>(1, all / options.tokens);
    usual = {{batch, usual.front().width, options.tokens}};
  }
  for (ConvolutionShape& shape : usual) {
    if (options.width > 0) shape.width = options.width;
  }
  return usual;
}

}  // namespace

std::vector<BenchRow> bench_mixer(Device& device, const BenchOptions& options, const CopyMeter& copy) {
  // 64K tokens from many short sequences to few long ones, then longer ones, small batches, and a length that fills
  // no chunk.
  constexpr std::int64_t width = 768;
  std::vector<ConvolutionShape> shapes = {
      {256, width, 256}, {128, width, 512}, {64, width, 1024},  {32, width, 2048},   {16, width, 4096},
      {8, width, 8192},  {2, width, 32768}, {1, width, 131072}, {1, width, 1048576}, {1, width, 2048},
      {1, width, 8192},  {1, width, 32768}, {64, width, 1000}};
  if (is_software(device.info())) shapes = {{4, 16, 256}, {1, 16, 1024}, {1, 16, 1000}};
  std::vector<std::pair<std::string, MixerPass>> passes = {{"forward", MixerPass::forward},
                                                           {"forward, states kept", MixerPass::keeping},
                                                           {"backward", MixerPass::backward_from_states},
                                                           {"step", MixerPass::step}};
  if (!device.supports(Feature::training).supported) passes = {{"forward, state carried", MixerPass::carrying}};
  std::vector<std::pair<std::string, ConvAlgorithm>> ways = {
      {"auto", ConvAlgorithm::automatic}, {"chunked", ConvAlgorithm::chunked}, {"fft", ConvAlgorithm::fft}};
  std::erase_if(ways, [&](const auto& way) {
    return options.compare ? way.second == ConvAlgorithm::automatic : way.second != options.conv;
  });
  std::vector<std::int64_t> states = options.states;
  if (states.empty())
    states = options.compare ? std::vector<std::int64_t>{16, 64, 128} : std::vector<std::int64_t>{64};
  for (const std::int64_t state : states) {
    if (state % 2 != 0) fail(StatusCode::invalid_argument, "--state {}: it must be even, two a complex mode", state);
  }

  std::vector<Measurement> list;
  for (const std::int64_t state : states) {
    for (ConvolutionShape shape : chosen_shapes(options, shapes)) {
      shape.state = state;
      for (const auto& [conv, algorithm] : ways) {
        for (const auto& [name, pass] : passes) {
          list.push_back(
              {name, conv, shape, [pass = pass, algorithm = algorithm, &options](const ConvolutionShape& s) {
                 return mixer_case(s, pass, algorithm, options.dtype);
               }});
        }
      }
    }
  }
  return measure(device, options, copy, list);
}

std::vector<BenchRow> bench_fft_conv(Device& device, const BenchOptions& options, const CopyMeter& copy) {
  std::vector<ConvolutionShape> shapes = {{64, 768, 256},  {64, 768, 1024},  {64, 768, 2048},
                                          {64, 768, 4096}, {32, 768, 8192},  {16, 768, 16384},
                                          {8, 768, 32768}, {8, 192, 131072}, {8, 32, 1048576}};
  if (is_software(device.info())) shapes = {{4, 16, 256}, {1, 16, 1024}, {1, 2, 16384}};
  const bool trains = device.supports(Feature::training).supported;
  std::vector<Measurement> list;
  for (const ConvolutionShape& shape : chosen_shapes(options, shapes)) {
    for (const bool backward : {false, true}) {
      if (backward && !trains) continue;
      list.push_back({backward ? "backward" : "forward", "", shape, [=, &options](const ConvolutionShape& s) {
                        return fft_conv_case(s, backward, options.dtype);
                      }});
    }
  }
  return measure(device, options, copy, list);
}

}  // namespace riverhorse::cli
