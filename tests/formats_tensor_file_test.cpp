// Tensor files: safetensors in both directions, PyTorch files, and the conversions between element types.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "bad_files/allocation_meter.h"
#include "bad_files/builders.h"
#include "bad_files/temporary_folder.h"
#include "base/error.h"
#include "formats/tensor_file.h"

namespace riverhorse::test {
namespace {

using namespace pickle_text;

const std::filesystem::path golden = RIVERHORSE_TEST_DATA;

TensorFile from_memory(const std::string& bytes, bool pytorch) {
  const auto memory = std::make_shared<const std::string>(bytes);
  const auto view = std::as_bytes(std::span(*memory));
  return pytorch ? parse_pytorch(view, memory, "memory.pt") : parse_safetensors(view, memory, "memory.safetensors");
}

std::string floats_as_bytes(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

TEST(Safetensors, ReadsEveryGoldenFile) {
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(golden)) {
    if (entry.path().extension() != ".safetensors") continue;
    ++files;
    const TensorFile file = read_safetensors(entry.path());
    EXPECT_FALSE(file.tensors.empty()) << entry.path();
  }
  EXPECT_GE(files, 15u);
}

TEST(Safetensors, KnowsMetadataShapesAndTypes) {
  const TensorFile file = read_safetensors(golden / "lm" / "h3-pure" / "io.safetensors");
  EXPECT_EQ(file.at("input_ids").dtype, DType::i64);
  EXPECT_EQ(file.at("logits").dtype, DType::f32);
  EXPECT_EQ(file.at("logits").shape.size(), 3u);
  EXPECT_EQ(file.at("logits").shape[2], 512);
  for (const std::int64_t id : to_integers(file.at("input_ids"))) EXPECT_TRUE(id >= 0 && id < 512) << id;
  const TensorFile step = read_safetensors(golden / "layer" / "h3_step_short_prefix.safetensors");
  EXPECT_TRUE(step.metadata.contains("prefix"));
}

TEST(Safetensors, IsNotCopied) {
  std::map<std::string, HostTensor> tensors;
  tensors["large"] = make_host_tensor(std::vector<float>(1 << 20, 1.5f), {1 << 20});
  const ScratchFolder folder;
  write_safetensors(folder.path() / "a.safetensors", tensors, {});
  reset_allocation_peak();
  const TensorFile file = read_safetensors(folder.path() / "a.safetensors");
  EXPECT_LT(allocation_peak_bytes(), 64u << 10);
  EXPECT_EQ(to_floats(file.at("large")), std::vector<float>(1 << 20, 1.5f));
}

TEST(Safetensors, RoundTripOfEveryType) {
  const std::map<DType, std::vector<unsigned char>> samples = {{DType::f64, {0, 0, 0, 0, 0, 0, 0xf8, 0x3f}},
                                                               {DType::i64, {1, 2, 3, 4, 5, 6, 7, 8}},
                                                               {DType::f32, {0, 0, 0x80, 0x3f}},
                                                               {DType::i32, {9, 8, 7, 6}},
                                                               {DType::f16, {0, 0x3c}},
                                                               {DType::bf16, {0x80, 0x3f}},
                                                               {DType::i16, {5, 6}},
                                                               {DType::i8, {0xff}},
                                                               {DType::u8, {0xfe}},
                                                               {DType::boolean, {1}}};
  std::map<std::string, HostTensor> tensors;
  for (const auto& [dtype, bytes] : samples) {
    HostTensor tensor;
    tensor.dtype = dtype;
    tensor.shape = {1};
    tensor.bytes = std::as_bytes(std::span(bytes));
    tensors[std::string(dtype_name(dtype))] = tensor;
  }
  tensors["empty"] = make_host_tensor(std::vector<float>{}, {3, 0, 2});
  tensors["scalar"] = make_host_tensor(std::vector<float>{2.5f}, {});
  tensors["name with \"quotes\" and \xe2\x82\xac"] = make_host_tensor(std::vector<float>{1.0f}, {1});
  const ScratchFolder folder;
  const auto path = folder.path() / "types.safetensors";
  write_safetensors(path, tensors, {{"key", "value \"quoted\""}});
  const TensorFile back = read_safetensors(path);
  ASSERT_EQ(back.tensors.size(), tensors.size());
  EXPECT_EQ(back.metadata.at("key"), "value \"quoted\"");
  for (const auto& [name, tensor] : tensors) {
    const HostTensor& read = back.at(name);
    EXPECT_EQ(read.dtype, tensor.dtype) << name;
    EXPECT_EQ(read.shape, tensor.shape) << name;
    ASSERT_EQ(read.bytes.size(), tensor.bytes.size()) << name;
    const bool same =
        read.bytes.empty() || std::memcmp(read.bytes.data(), tensor.bytes.data(), read.bytes.size()) == 0;
    EXPECT_TRUE(same) << name;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(read.bytes.data()) % dtype_size_bytes(read.dtype), 0u)
        << name << ": the writer aligns tensors";
  }
  EXPECT_EQ(to_floats(back.at("f64")), std::vector<float>{1.5f});
  EXPECT_EQ(to_floats(back.at("bf16")), std::vector<float>{1.0f});
  EXPECT_EQ(to_integers(back.at("i8")), std::vector<std::int64_t>{-1});
  EXPECT_EQ(to_integers(back.at("u8")), std::vector<std::int64_t>{254});
  EXPECT_THROW(to_floats(back.at("i32")), Error);
  EXPECT_THROW(to_integers(back.at("f32")), Error);
  EXPECT_THROW(back.at("absent"), Error);
}

TEST(Safetensors, MisalignedTensorsAreReadInPlace) {
  // A header of odd length puts the floats at an odd address; so may an archive that the file is in.
  std::string header = "{" + header_entry("w", "[4]", 0, 16) + "}";
  while ((header.size() + 8) % 4 != 1) header += ' ';
  const std::string bytes = safetensors_bytes(header, floats_as_bytes({1, 2, 3, 4}));
  const TensorFile file = parse_safetensors(std::as_bytes(std::span(bytes)), nullptr, "memory.safetensors");
  EXPECT_EQ(to_floats(file.at("w")), (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(file.at("w").bytes.data() + 16, std::as_bytes(std::span(bytes)).data() + bytes.size());
}

TEST(Safetensors, WriterRefusesWhatItCannotWrite) {
  const ScratchFolder folder;
  const auto path = folder.path() / "x.safetensors";
  HostTensor wrong = make_host_tensor(std::vector<float>{1, 2}, {2});
  wrong.shape = {3};
  EXPECT_THROW(write_safetensors(path, {{"w", wrong}}, {}), Error);
  const HostTensor good = make_host_tensor(std::vector<float>{1, 2}, {2});
  EXPECT_THROW(write_safetensors(path, {{"", good}}, {}), Error);
  EXPECT_THROW(write_safetensors(path, {{"__metadata__", good}}, {}), Error);
  EXPECT_THROW(write_safetensors(path, {{"\xff", good}}, {}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path())) << "a failed write leaves nothing behind";
}

// The golden checkpoints keep A_imag as every second float of a complex tensor, from the second on. A_imag of
// diag-lin is pi n, perturbed by at most about 0.6; its neighbours in the storage are the real parts, all near -0.5.
TEST(Pytorch, HonoursOffsetsAndStrides) {
  const TensorFile file = read_pytorch(golden / "lm" / "h3-pure" / "model.pt");
  const HostTensor& imaginary = file.at("backbone.layers.0.mixer.kernel.kernel.A_imag");
  ASSERT_EQ(imaginary.shape, (std::vector<std::int64_t>{32, 32}));
  const std::vector<float> values = to_floats(imaginary);
  for (int head = 0; head < 32; ++head) {
    for (int n = 0; n < 32; ++n) {
      EXPECT_NEAR(values[static_cast<std::size_t>(head * 32 + n)], 3.14159265 * n, 0.9 + 0.02 * n);
    }
  }
}

TEST(Pytorch, ViewsOfOneStorage) {
  const std::string storage_bytes = floats_as_bytes({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const std::string s = storage("FloatStorage", "0", 12);
  const std::string pickle = program(dictionary({{"all", tensor(s, 0, {3, 4}, {4, 1})},
                                                 {"transposed", tensor(s, 0, {4, 3}, {1, 4})},
                                                 {"odd", tensor(s, 1, {2, 3}, {6, 2})},
                                                 {"tail", tensor(s, 8, {4}, {1})},
                                                 {"repeated", tensor(s, 5, {3}, {0})},
                                                 {"scalar", tensor(s, 7, {}, {})},
                                                 {"unit dimensions", tensor(s, 0, {1, 4, 1}, {99, 1, 77})},
                                                 {"empty", tensor(s, 12, {0, 5}, {5, 1})}}));
  for (const bool deflate : {false, true}) {
    const TensorFile file = from_memory(torch_bytes(pickle, {{"0", storage_bytes}}, deflate), true);
    EXPECT_EQ(to_floats(file.at("all")), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
    EXPECT_EQ(to_floats(file.at("transposed")), (std::vector<float>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}));
    EXPECT_EQ(to_floats(file.at("odd")), (std::vector<float>{1, 3, 5, 7, 9, 11}));
    EXPECT_EQ(to_floats(file.at("tail")), (std::vector<float>{8, 9, 10, 11}));
    EXPECT_EQ(to_floats(file.at("repeated")), (std::vector<float>{5, 5, 5}));
    EXPECT_EQ(to_floats(file.at("scalar")), (std::vector<float>{7}));
    EXPECT_EQ(to_floats(file.at("unit dimensions")), (std::vector<float>{0, 1, 2, 3}));
    EXPECT_EQ(file.at("empty").count(), 0);
    EXPECT_EQ(file.at("tail").bytes.data(), file.at("all").bytes.data() + 32) << "contiguous views share the storage";
  }
}

TEST(Pytorch, StoredTensorsAreNotCopied) {
  const ScratchFolder folder;
  const TensorFile golden_file = read_pytorch(golden / "lm" / "h3-hybrid" / "model.pt");
  reset_allocation_peak();
  const TensorFile file = read_pytorch(golden / "lm" / "h3-hybrid" / "model.pt");
  // 600 KB of weights; the pickle is read (12 KB), its objects take some hundred KB, and A_imag is gathered.
  EXPECT_LT(allocation_peak_bytes(), 512u << 10);
  EXPECT_EQ(file.at("lm_head.weight").bytes.data(),
            file.at("backbone.embeddings.word_embeddings.weight").bytes.data());
}

TEST(Pytorch, EveryElementType) {
  struct Case {
    const char* type;
    DType dtype;
  };
  for (const Case& c :
       {Case{"FloatStorage", DType::f32}, Case{"HalfStorage", DType::f16}, Case{"BFloat16Storage", DType::bf16},
        Case{"DoubleStorage", DType::f64}, Case{"LongStorage", DType::i64}, Case{"IntStorage", DType::i32},
        Case{"ShortStorage", DType::i16}, Case{"CharStorage", DType::i8}, Case{"ByteStorage", DType::u8},
        Case{"BoolStorage", DType::boolean}}) {
    const auto size = static_cast<std::size_t>(dtype_size_bytes(c.dtype));
    const std::string pickle = program(dictionary({{"w", tensor(storage(c.type, "0", 2), 1, {1}, {1})}}));
    const TensorFile file =
        from_memory(torch_bytes(pickle, {{"0", std::string(size, 'a') + std::string(size, 'b')}}), true);
    EXPECT_EQ(file.at("w").dtype, c.dtype) << c.type;
    ASSERT_EQ(file.at("w").bytes.size(), size) << c.type;
    EXPECT_EQ(file.at("w").bytes[0], std::byte{'b'}) << c.type;
  }
}

TEST(Pytorch, NestedDictionariesParametersAndMetadata) {
  const std::string s = storage("FloatStorage", "0", 2);
  const std::string parameter =
      call(global("torch._utils", "_rebuild_parameter"),
           {tensor(s, 0, {2}, {1}), "\x88", call(global("collections", "OrderedDict"), {})});
  const std::string state = call(global("collections", "OrderedDict"), {}) + "(" + text("w") + parameter + "u" +
                            dictionary({{"_metadata", dictionary({})}}) + "b";
  const std::string pickle = program(dictionary({
      {"state_dict", state},
      {"epoch", integer(7)},
      {"loss", std::string("G\x40\x09\x21\xfb\x54\x44\x2d\x18", 9)},
      {"name", text("h3")},
      {"done", "\x88"},
      {"optimizer", dictionary({{"lr", integer(70'000)}})},
      {"callbacks", list({integer(1), call(global("my.module", "Thing"), {})})},
      {"big", std::string("\x8a\x09", 2) + std::string(9, '\x01')},
  }));
  const TensorFile file = from_memory(torch_bytes(pickle, {{"0", floats_as_bytes({1, 2})}}), true);
  ASSERT_EQ(file.tensors.size(), 1u);
  EXPECT_EQ(to_floats(file.at("state_dict.w")), (std::vector<float>{1, 2}));
  EXPECT_EQ(file.metadata.at("epoch"), "7");
  EXPECT_EQ(file.metadata.at("loss").substr(0, 7), "3.14159");
  EXPECT_EQ(file.metadata.at("name"), "h3");
  EXPECT_EQ(file.metadata.at("done"), "true");
  EXPECT_EQ(file.metadata.at("optimizer.lr"), "70000");
  EXPECT_FALSE(file.metadata.contains("big"));
}

// Unknown classes may be created, called, filled and given attributes in every way that pickles know.
TEST(Pytorch, UnknownClassesAreOpaque) {
  const std::string s = storage("FloatStorage", "0", 2);
  const std::string thing = global("os", "system");
  const std::vector<std::pair<std::string, std::string>> items = {
      {"reduce", call(thing, {text("false")})},
      {"newobj", thing + tuple({}) + "\x81" + dictionary({{"x", integer(1)}}) + "b"},
      {"newobj_ex", thing + tuple({}) + dictionary({}) + "\x92"},
      {"inst", "(" + integer(1) + "iargparse\nNamespace\n"},
      {"obj", "(" + thing + integer(1) + "o"},
      {"filled", call(thing, {}) + integer(1) + "a" + text("k") + integer(2) + "s(" + integer(3) + "e"},
      {"set", std::string("\x8f(") + integer(1) + "\x90"},
      {"frozenset", "(" + integer(1) + "\x91"},
      {"bytes", std::string("C\x03"
                            "abc")},
      {"class", thing},
      {"complex", tensor(storage("ComplexFloatStorage", "0", 1), 0, {1}, {1})},
      {"w", tensor(s, 0, {2}, {1})}};
  const TensorFile file =
      from_memory(torch_bytes(program(dictionary(items)), {{"0", floats_as_bytes({3, 4})}}), true);
  ASSERT_EQ(file.tensors.size(), 1u);
  EXPECT_EQ(to_floats(file.at("w")), (std::vector<float>{3, 4}));
}

// What Python's newer protocols add: frames, short strings, memoization without an index, names from the stack.
TEST(Pytorch, NewerProtocols) {
  const auto short_text = [](const std::string& value) {
    return "\x8c" + little_endian(value.size(), 1) + value + "\x94";
  };
  const auto stack_global = [&](const std::string& module, const std::string& name) {
    return short_text(module) + short_text(name) + "\x93\x94";
  };
  const std::string storage_bytes = "(" + short_text("storage") + stack_global("torch", "FloatStorage") +
                                    short_text("0") + short_text("cpu") + integer(2) + "t\x94Q";
  const std::string body = "}\x94" + short_text("w") + stack_global("torch._utils", "_rebuild_tensor_v2") + "(" +
                           storage_bytes + integer(0) + integer(2) + "\x85\x94" + integer(1) +
                           "\x85\x94\x89}t\x94R\x94s";
  for (const char protocol : {'\x03', '\x04', '\x05'}) {
    const std::string pickle =
        std::string("\x80") + protocol + "\x95" + little_endian(body.size() + 1, 8) + body + ".";
    const TensorFile file = from_memory(torch_bytes(pickle, {{"0", floats_as_bytes({5, 6})}}), true);
    EXPECT_EQ(to_floats(file.at("w")), (std::vector<float>{5, 6}));
  }
}

TEST(Pytorch, LittleEndianIsSaidOrAssumed) {
  const std::string pickle = program(dictionary({{"w", tensor(storage("FloatStorage", "0", 1), 0, {1}, {1})}}));
  const std::string bytes = zip_bytes(
      {{"m/data.pkl", pickle}, {"m/byteorder", "little"}, {"m/data/0", floats_as_bytes({9})}, {"m/version", "3\n"}});
  EXPECT_EQ(to_floats(from_memory(bytes, true).at("w")), std::vector<float>{9});
}

TEST(TensorFile, KindIsToldByContent) {
  std::map<std::string, HostTensor> tensors;
  tensors["w"] = make_host_tensor(std::vector<float>{1}, {1});
  const ScratchFolder folder;
  EXPECT_EQ(read_tensor_file(folder.write("a.bin", torch_bytes(tensors))).tensors.size(), 1u);
  EXPECT_EQ(read_tensor_file(folder.write("b.safetensors", torch_bytes(tensors))).tensors.size(), 1u);
  EXPECT_EQ(read_tensor_file(folder.write("c.safetensors", safetensors_bytes(tensors))).tensors.size(), 1u);
  EXPECT_THROW(read_tensor_file(folder.path() / "absent"), Error);
}

TEST(ConvertFloats, RoundsToNearestEven) {
  const std::vector<float> values = {1.0f,  1.0009765625f, 1.00048828125f, 1.00146484375f,
                                     -0.0f, 65504.0f,      6e-8f,          std::numeric_limits<float>::infinity()};
  const HostTensor source = make_host_tensor(values, {8});
  const HostTensor half = convert_floats(source, DType::f16, "w");
  EXPECT_EQ(half.dtype, DType::f16);
  // Ties go to the even mantissa: 1 + 2^-11 down to 1, 1 + 3 * 2^-11 up to 1 + 2^-9.
  EXPECT_EQ(to_floats(half), (std::vector<float>{1.0f, 1.0009765625f, 1.0f, 1.001953125f, -0.0f, 65504.0f, 0x1p-24f,
                                                 std::numeric_limits<float>::infinity()}));
  const HostTensor brain =
      convert_floats(make_host_tensor(std::vector<float>{1.00390625f, 1.01171875f, 3e38f}, {3}), DType::bf16, "w");
  EXPECT_EQ(to_floats(brain)[0], 1.0f);
  EXPECT_EQ(to_floats(brain)[1], 1.015625f);
  EXPECT_EQ(convert_floats(source, DType::f32, "w").bytes.data(), source.bytes.data()) << "nothing to do: no copy";
  EXPECT_EQ(to_floats(convert_floats(half, DType::f32, "w")), to_floats(half));
  EXPECT_TRUE(std::isnan(to_floats(convert_floats(
      make_host_tensor(std::vector<float>{std::numeric_limits<float>::quiet_NaN()}, {1}), DType::bf16, "w"))[0]));
}

TEST(ConvertFloats, RefusesToMakeInfinities) {
  try {
    convert_floats(make_host_tensor(std::vector<float>{1.0f, 70000.0f}, {2}), DType::f16, "layer 3");
    FAIL() << "70000 became infinite";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "layer 3: element 1 is 70000, which f16 cannot hold");
  }
  EXPECT_THROW(convert_floats(make_host_tensor(std::vector<std::int64_t>{1}, {1}), DType::f32, "w"), Error);
}

}  // namespace
}  // namespace riverhorse::test
