// What a safetensors file may be, and that everything else is refused in one line that names the file and the
// tensor.
#include "quant/safetensors_reader.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "quant/base/error.h"
#include "support/random_tensors.h"
#include "support/safetensors_builder.h"

namespace sluice::quant {
namespace {

using nlohmann::json;
using testing::Bytes;
using testing::safetensors_bytes;
using testing::safetensors_entry;
using testing::SafetensorsBuilder;

template <typename T>
Bytes bytes_of(std::initializer_list<T> values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.begin(), bytes.size());
  return bytes;
}

// The one line that refuses these bytes; empty, and a failure, when they are read.
std::string refusal(const Bytes& file) {
  try {
    parse_safetensors(file, "hostile.safetensors");
  } catch (const Error& error) {
    EXPECT_TRUE(error.subject().starts_with("hostile.safetensors")) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "it was read";
  return {};
}

// `header` in front of `data_bytes` zeros.
std::string refusal_of_header(std::string_view header, size_t data_bytes) {
  return refusal(safetensors_bytes(header, Bytes(data_bytes)));
}

std::string refusal_of_entry(const json& entry, size_t data_bytes) {
  std::string line = refusal_of_header(json{{"layer.weight", entry}}.dump(), data_bytes);
  EXPECT_NE(line.find("tensor \"layer.weight\""), std::string::npos) << line;
  return line;
}

void expect_contains(const std::string& line, std::string_view part) {
  EXPECT_NE(line.find(part), std::string::npos) << line;
}

SafetensorsBuilder small_file() {
  SafetensorsBuilder builder;
  builder.set("__metadata__", {{"format", "pt"}});
  builder.add("norm.weight", "F32", {2}, bytes_of({1.5F, -2.0F}));
  builder.add("empty", "I64", {0, 7}, {});
  builder.add("scale", "BF16", {}, bytes_of<uint16_t>({0x3F80}));
  builder.add("packed", "U8", {2, 3}, bytes_of<uint8_t>({1, 2, 3, 4, 5, 6}));
  return builder;
}

// The property behind everything: what is handed out tiles the data behind the header.
void expect_tiling(const Bytes& file, const std::vector<SafetensorsTensor>& tensors) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  const std::byte* end = file.data() + sizeof(header_bytes) + header_bytes;
  for (const SafetensorsTensor& tensor : tensors) {
    ASSERT_EQ(tensor.bytes.data(), end) << tensor.name;
    int64_t expected = safetensors_type_bytes(tensor.dtype);
    for (const int64_t extent : tensor.shape) expected *= extent;
    ASSERT_EQ(std::ssize(tensor.bytes), expected) << tensor.name;
    end += tensor.bytes.size();
  }
  EXPECT_EQ(end, file.data() + file.size());
}

TEST(SafetensorsReader, ReadsTensorsInTheOrderOfTheData) {
  const Bytes file = small_file().bytes();
  const std::vector<SafetensorsTensor> tensors = parse_safetensors(file, "small.safetensors");
  ASSERT_EQ(tensors.size(), 4U);
  EXPECT_EQ(tensors[0].name, "norm.weight");
  EXPECT_EQ(tensors[0].dtype, SafetensorsType::kF32);
  EXPECT_EQ(tensors[0].shape, std::vector<int64_t>{2});
  EXPECT_EQ(tensors[1].name, "empty");
  EXPECT_EQ(tensors[1].shape, (std::vector<int64_t>{0, 7}));
  EXPECT_EQ(tensors[2].name, "scale");
  EXPECT_TRUE(tensors[2].shape.empty());
  EXPECT_EQ(tensors[3].name, "packed");
  EXPECT_EQ(tensors[3].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(tensors[3].bytes[5], std::byte{6});
  expect_tiling(file, tensors);
}

TEST(SafetensorsReader, ReadsAFileWithoutTensors) {
  EXPECT_TRUE(parse_safetensors(safetensors_bytes("{}", {}), "none").empty());
  EXPECT_TRUE(parse_safetensors(safetensors_bytes(R"({"__metadata__":{"a":"b"}}   )", {}), "none").empty());
}

TEST(SafetensorsReader, KnowsEveryTypeByNameAndWidth) {
  const std::pair<const char*, int64_t> types[] = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8}, {"I64", 8}, {"U64", 8}};
  for (const auto& [name, width] : types) {
    SafetensorsBuilder builder;
    builder.add("x", name, {3}, Bytes(static_cast<size_t>(3 * width)));
    const Bytes file = builder.bytes();
    const auto tensors = parse_safetensors(file, name);
    ASSERT_EQ(tensors.size(), 1U);
    EXPECT_EQ(safetensors_type_name(tensors[0].dtype), name);
    EXPECT_EQ(safetensors_type_bytes(tensors[0].dtype), width) << name;
  }
}

TEST(SafetensorsReader, RefusesUnknownTypesByName) {
  for (const char* name : {"F8_E5M2", "F8_E8M0", "F4", "bf16", ""}) {
    const std::string line = refusal_of_entry(safetensors_entry(name, {1}, 0, 1), 1);
    expect_contains(line, fmt::format("found \"{}\"", name));
    expect_contains(line, "F8_E4M3");
  }
  refusal_of_entry({{"dtype", 7}, {"shape", {1}}, {"data_offsets", {0, 1}}}, 1);
}

TEST(SafetensorsReader, RefusesEveryTruncation) {
  const Bytes whole = small_file().bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    SCOPED_TRACE(size);
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(refusal(cut).empty());
  }
}

TEST(SafetensorsReader, RefusesBytesAfterTheLastTensor) {
  Bytes file = small_file().bytes();
  file.push_back(std::byte{0});
  expect_contains(refusal(file), "16 bytes of data");
}

// A flipped bit may leave a valid file (a letter of a name); it must never yield a tensor outside the data.
TEST(SafetensorsReader, SurvivesEveryFlippedBitOfTheHeader) {
  const Bytes whole = small_file().bytes();
  const size_t header_end = whole.size() - small_file().data().size();
  int refused = 0;
  for (size_t bit = 0; bit < header_end * 8; ++bit) {
    Bytes file = whole;
    file[bit / 8] ^= std::byte{1} << (bit % 8);
    SCOPED_TRACE(bit);
    try {
      expect_tiling(file, parse_safetensors(file, "flipped"));
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, static_cast<int>(header_end) * 4) << "most flips break the header";
}

TEST(SafetensorsReader, SurvivesRandomDamage) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const Bytes whole = small_file().bytes();
  for (int round = 0; round < 20'000; ++round) {
    Bytes file = whole;
    for (int64_t damage = random.integer(1, 4); damage > 0; --damage) {
      const auto at = static_cast<size_t>(random.integer(8, std::ssize(file) - 1));
      constexpr std::string_view kLikely = "0123456789{}[]\":,-e.\\";
      file[at] = std::byte(kLikely[static_cast<size_t>(random.integer(0, std::ssize(kLikely) - 1))]);
    }
    try {
      expect_tiling(file, parse_safetensors(file, "damaged"));
    } catch (const Error&) {
      // Refused, as most of them are.
    }
  }
}

TEST(SafetensorsReader, RefusesOverlapsAndGaps) {
  const auto two = [](int64_t begin_a, int64_t end_a, int64_t begin_b, int64_t end_b) {
    return json{{"a", safetensors_entry("U8", {end_a - begin_a}, begin_a, end_a)},
                {"b", safetensors_entry("U8", {end_b - begin_b}, begin_b, end_b)}}
        .dump();
  };
  EXPECT_EQ(parse_safetensors(safetensors_bytes(two(0, 4, 4, 8), Bytes(8)), "good").size(), 2U);
  EXPECT_EQ(parse_safetensors(safetensors_bytes(two(4, 8, 0, 4), Bytes(8)), "good").size(), 2U);
  const std::string overlap = refusal_of_header(two(0, 5, 4, 8), 8);
  expect_contains(overlap, "tensor \"b\"");
  expect_contains(overlap, "an overlap at offset 4");
  expect_contains(refusal_of_header(two(0, 8, 0, 8), 8), "an overlap at offset 0");
  expect_contains(refusal_of_header(two(0, 8, 2, 4), 8), "an overlap at offset 2");
  expect_contains(refusal_of_header(two(0, 3, 4, 8), 8), "a gap at offset 4");
  expect_contains(refusal_of_header(two(1, 4, 4, 8), 8), "a gap at offset 1");
  expect_contains(refusal_of_header(two(0, 4, 4, 7), 8), "after 7 bytes");
  expect_contains(refusal_of_header(two(2, 2, 0, 8), 8),
                  "an overlap at offset 2");  // empty, inside the other
  expect_contains(refusal_of_header("{}", 8), "after 0 bytes");
}

TEST(SafetensorsReader, RefusesOffsetsOutsideTheData) {
  const auto offsets = [](const json& value) {
    return json{{"dtype", "U8"}, {"shape", {4}}, {"data_offsets", value}};
  };
  const json hostile[] = {{4, 8},       {0, 5},
                          {4, 0},       {-4, 0},
                          {0},          {0, 4, 4},
                          json(4),      "0,4",
                          {"0", "4"},   {0.0, 4.0},
                          {0, nullptr}, {0, 1ULL << 63},
                          {~0ULL, 3},   {~0ULL - 3, ~0ULL},
                          json::array()};
  for (const json& value : hostile) {
    SCOPED_TRACE(value.dump());
    refusal_of_entry(offsets(value), 4);
  }
  EXPECT_EQ(parse_safetensors(safetensors_bytes(json{{"x", offsets({0, 4})}}.dump(), Bytes(4)), "").size(),
            1U);
}

TEST(SafetensorsReader, RefusesSizesThatTheShapeDoesNotHave) {
  expect_contains(refusal_of_entry(safetensors_entry("F32", {2, 3}, 0, 23), 23), "24 bytes for F32 [2, 3]");
  refusal_of_entry(safetensors_entry("F32", {2, 3}, 0, 25), 25);
  refusal_of_entry(safetensors_entry("F32", {}, 0, 8), 8);
  refusal_of_entry(safetensors_entry("F32", {0, 3}, 0, 4), 4);
  refusal_of_entry(safetensors_entry("F32", {1}, 0, 0), 0);
}

TEST(SafetensorsReader, RefusesShapesThatOverflow) {
  constexpr int64_t kHalf = int64_t{1} << 32;
  for (const std::vector<int64_t>& shape :
       {std::vector{kHalf, kHalf}, std::vector{kHalf, kHalf, int64_t{0}},
        std::vector{int64_t{0}, kHalf, kHalf}, std::vector{kHalf << 29}, std::vector<int64_t>(100'000, 2)}) {
    const std::string line = refusal_of_entry(safetensors_entry("F32", shape, 0, 0), 0);
    expect_contains(line, "2^63 bytes");
    EXPECT_LT(line.size(), 400U);
  }
  for (const json& shape : {json(-1), json({-1}), json({1.5}), json({"4"}), json({~0ULL}), json(nullptr)}) {
    SCOPED_TRACE(shape.dump());
    refusal_of_entry({{"dtype", "U8"}, {"shape", shape}, {"data_offsets", {0, 4}}}, 4);
  }
}

TEST(SafetensorsReader, RefusesEntriesThatAreIncomplete) {
  const json whole = safetensors_entry("U8", {4}, 0, 4);
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    json entry = whole;
    entry.erase(key);
    expect_contains(refusal_of_entry(entry, 4), fmt::format("the key \"{}\"", key));
  }
  for (const json& entry : {json(1), json("x"), json(nullptr), json::array({1})}) refusal_of_entry(entry, 4);
}

TEST(SafetensorsReader, RefusesNamesThatStandTwice) {
  const std::string header =
      R"({"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})";
  expect_contains(refusal_of_header(header, 4), "\"x\" twice");
  // An escape does not hide it, nor does a second key inside an entry.
  expect_contains(refusal_of_header(R"({"x":1,"\u0078":2})", 4), "\"x\" twice");
  expect_contains(refusal_of_header(R"({"x":{"dtype":"U8","dtype":"I8"}})", 4), "\"dtype\" twice");
}

TEST(SafetensorsReader, RefusesHeadersThatAreNoJsonObject) {
  for (const char* header : {"", " {}", "[]", "1", "null", "\"x\"", "{", "{}x", "{} {}", "{\"a\":}",
                             "{'a':1}", "\xEF\xBB\xBF{}", "{\"\xFF\":1}", "{\"a\":1e999}", "{}\x01"}) {
    SCOPED_TRACE(header);
    EXPECT_FALSE(refusal_of_header(header, 0).empty());
  }
}

TEST(SafetensorsReader, RefusesNestingBeforeItExhaustsTheStack) {
  constexpr size_t kDepth = 1'000'000;
  std::string arrays = "{\"__metadata__\":" + std::string(kDepth, '[') + std::string(kDepth, ']') + "}";
  expect_contains(refusal_of_header(arrays, 0), "levels");
  std::string objects;
  for (size_t i = 0; i < kDepth; ++i) objects += "{\"a\":";
  expect_contains(refusal_of_header(objects, 0), "levels");
}

TEST(SafetensorsReader, RefusesHeaderLengthsBeyondTheFile) {
  const Bytes whole = small_file().bytes();
  for (const uint64_t length : {uint64_t{whole.size()} - 7, uint64_t{100'000'001}, uint64_t{1} << 63,
                                ~uint64_t{0}, ~uint64_t{0} - 7}) {
    Bytes file = whole;
    std::memcpy(file.data(), &length, sizeof(length));
    expect_contains(refusal(file), fmt::format("length {}", length));
  }
}

TEST(SafetensorsReader, KeepsHostileNamesShortAndOnOneLine) {
  const json entry = safetensors_entry("U8", {4}, 0, 9);
  const std::string line = refusal_of_header(json{{std::string(1'000'000, 'n'), entry}}.dump(), 9);
  EXPECT_LT(line.size(), 300U);
  expect_contains(refusal_of_header(json{{"a\nb\x1B[2J", entry}}.dump(), 9), "a\\x0ab\\x1b[2J");
}

std::vector<float> decode(std::string_view dtype, const Bytes& bytes, size_t count) {
  SafetensorsBuilder builder;
  builder.add("x", dtype, {static_cast<int64_t>(count)}, bytes);
  const Bytes file = builder.bytes();
  std::vector<float> values(count);
  to_f32(parse_safetensors(file, "values").at(0), values);
  return values;
}

TEST(SafetensorsReader, DecodesFloats) {
  EXPECT_EQ(decode("F32", bytes_of({1.5F, -0x1p-149F, 3e38F}), 3), (std::vector{1.5F, -0x1p-149F, 3e38F}));
  EXPECT_EQ(decode("F16", bytes_of<uint16_t>({0x3C00, 0xC000, 0x0001, 0x7BFF}), 4),
            (std::vector{1.0F, -2.0F, 0x1p-24F, 65504.0F}));
  EXPECT_EQ(decode("BF16", bytes_of<uint16_t>({0x3F80, 0xC040, 0x0001}), 3),
            (std::vector{1.0F, -3.0F, 0x1p-133F}));
  EXPECT_EQ(decode("F64", bytes_of({0.1, -1e300, 0x1p-149}), 3), (std::vector{0.1F, -HUGE_VALF, 0x1p-149F}));
}

TEST(SafetensorsReader, RefusesToDecodeOtherTypes) {
  for (const char* dtype : {"BOOL", "U8", "I8", "F8_E4M3"}) {
    try {
      decode(dtype, Bytes(2), 2);
      ADD_FAILURE() << dtype;
    } catch (const Error& error) {
      expect_contains(error.what(), fmt::format("found type {}", dtype));
      expect_contains(error.what(), "\"x\"");
    }
  }
}

}  // namespace
}  // namespace sluice::quant
