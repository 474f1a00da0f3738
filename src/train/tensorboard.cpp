#include "train/tensorboard.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <chrono>
#include <vector>

#include "base/file.h"

namespace riverhorse {
namespace {

constexpr std::string_view file_prefix = "events.out.tfevents.";

constexpr std::array<std::uint32_t, 256> make_crc_table() {
  constexpr std::uint32_t reversed_polynomial = 0x82F63B78;
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? reversed_polynomial : 0);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<std::uint32_t, 256> crc_table = make_crc_table();

// As TFRecord wants it: a CRC of bytes that have a CRC in them would be a weak one.
std::uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(std::as_bytes(std::span(bytes))), 15) + 0xA282EAD8u;
}

template <typename Number>
std::string little_endian(Number value) {
  const auto bytes = std::bit_cast<std::array<char, sizeof(Number)>>(value);
  return {bytes.data(), bytes.size()};
}

// ---------------------------------------------------------------------------------- fields of protocol buffers

enum class Wire { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

std::string varint(std::uint64_t value) {
  std::string text;
  for (; value >= 128; value >>= 7) text += static_cast<char>(value | 128);
  return text + static_cast<char>(value);
}
std::string key(int field, Wire wire) {
  return varint(static_cast<std::uint64_t>(field) << 3 | static_cast<std::uint64_t>(wire));
}
std::string number_field(int field, std::int64_t value) {
  return key(field, Wire::varint) + varint(static_cast<std::uint64_t>(value));
}
std::string double_field(int field, double value) { return key(field, Wire::fixed64) + little_endian(value); }
std::string float_field(int field, float value) { return key(field, Wire::fixed32) + little_endian(value); }
std::string bytes_field(int field, std::string_view value) {
  return key(field, Wire::bytes) + varint(value.size()) + std::string(value);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
//         SessionLog session_log = 7; }
std::string event(std::int64_t step, const std::string& what) {
  return double_field(1, seconds_now()) + number_field(2, step) + what;
}

void remove_event_files(const std::filesystem::path& folder) {
  std::error_code ignored;
  std::vector<std::filesystem::path> old;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().starts_with(file_prefix)) old.push_back(entry.path());
  }
  for (const auto& path : old) std::filesystem::remove(path, ignored);
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes) {
  std::uint32_t crc = 0xFFFFFFFF;
  for (const std::byte byte : bytes) crc = crc >> 8 ^ crc_table[(crc ^ std::to_integer<std::uint32_t>(byte)) & 255];
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::filesystem::path& folder, std::int64_t step) {
  make_folder(folder);
  if (step == 0) remove_event_files(folder);
  // TensorBoard reads the files of a folder in the order of their names. Two of one second would be one name.
  std::error_code ignored;
  std::filesystem::path path;
  int number = 0;
  do {
    path = folder / fmt::format("{}{:.0f}.{:03}.riverhorse", file_prefix, seconds_now(), number++);
  } while (std::filesystem::exists(path, ignored));
  file_ = std::make_unique<LogFile>(path, 0);
  write(event(0, bytes_field(3, "brain.Event:2")));
  constexpr int session_start = 1;  // SessionLog { SessionStatus status = 1; }
  if (step > 0) write(event(step + 1, bytes_field(7, number_field(1, session_start))));
}

void TensorboardWriter::write(const std::string& event) {
  const std::string length = little_endian(std::uint64_t{event.size()});
  file_->add(length + little_endian(masked_crc(length)) + event + little_endian(masked_crc(event)));
}

// Summary { repeated Value value = 1; }   Value { string tag = 1; float simple_value = 2; }
void TensorboardWriter::add(std::int64_t step, std::span<const Scalar> scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    summary += bytes_field(1, bytes_field(1, scalar.tag) + float_field(2, static_cast<float>(scalar.value)));
  }
  write(event(step, bytes_field(5, summary)));
}

}  // namespace riverhorse
