// Single files: what is read, what is refused and with which words, and that no damage gets past the checks.
#include "quant/gguf_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "support/error_text.h"
#include "support/gguf_builder.h"

namespace sluice::quant {
namespace {

using testing::as_file;
using testing::error_text;
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::raw;
using testing::raw_array;
using testing::raw_string;

constexpr auto kU32 = GgufType::kU32;
constexpr auto kArray = GgufType::kArray;

GgufBuilder small_file() {
  GgufBuilder built;
  built.entry("general.name", GgufType::kString, raw_string("tiny"));
  built.entry("count", kU32, raw(uint32_t{3}));
  built.entry("flag", GgufType::kBool, "\1");
  built.entry("words", kArray, raw_array(GgufType::kString, 2, raw_string("ab") + raw_string("c")));
  built.entry("flags", kArray, raw_array(GgufType::kBool, 3, std::string("\1\0\1", 3)));
  built.entry("reals", kArray, raw_array(GgufType::kF32, 2, raw(0.5F) + raw(2.0F)));
  built.ramp("alpha", 3);
  built.tensor({.name = "beta", .ne = {32, 2}, .type = 8, .data = std::string(68, 'q'), .offset = {}});
  built.ramp("gamma", 8);
  return built;
}

std::string refusal(const GgufBuilder& built) {
  const std::string bytes = built.build();
  return error_text([&] { return parse_gguf(as_file(bytes), "f.gguf"); });
}

// Peak memory of the process so far.
int64_t peak_bytes() {
  rusage usage{};
  EXPECT_EQ(::getrusage(RUSAGE_SELF, &usage), 0);
  return int64_t{usage.ru_maxrss} * 1024;
}

TEST(GgufReader, ReadsMetadataAndTensors) {
  for (const uint32_t version : {2U, 3U}) {
    GgufBuilder built = small_file();
    built.version = version;
    const std::string bytes = built.build();
    const GgufHeader header = parse_gguf(as_file(bytes), "f.gguf");
    EXPECT_EQ(header.version, version);
    EXPECT_EQ(header.metadata.source(), "f.gguf");
    EXPECT_EQ(header.metadata.get<std::string>("general.name"), "tiny");
    EXPECT_EQ(header.metadata.get<uint32_t>("count"), 3U);
    EXPECT_TRUE(header.metadata.get<bool>("flag"));
    EXPECT_EQ(header.metadata.get_array<std::string>("words"), (std::vector<std::string>{"ab", "c"}));
    EXPECT_EQ(header.metadata.get_array<bool>("flags"), (std::vector<bool>{true, false, true}));
    EXPECT_EQ(header.metadata.get_array<float>("reals"), (std::vector<float>{0.5F, 2.0F}));
    ASSERT_EQ(header.tensors.size(), 3U);
    EXPECT_EQ(header.tensors[1].name, "beta");
    EXPECT_EQ(header.tensors[1].dtype, DType::kQ8_0);
    EXPECT_EQ(header.tensors[1].n_dims, 2);
    EXPECT_EQ(header.tensors[1].ne, (std::array<int64_t, 4>{32, 2, 1, 1}));
    EXPECT_EQ(header.tensors[1].bytes.size(), 68U);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(header.tensors[2].bytes.data()), 8),
              raw(0.0F) + raw(1.0F));
  }
}

TEST(GgufReader, ReadsAFileWithoutAnything) {
  const std::string bytes = GgufBuilder{}.build();
  const GgufHeader header = parse_gguf(as_file(bytes), "f.gguf");
  EXPECT_TRUE(header.tensors.empty());
  EXPECT_TRUE(header.metadata.entries().empty());
}

TEST(GgufReader, RefusesOtherVersionsAndFiles) {
  GgufBuilder built = small_file();
  built.version = 1;
  EXPECT_EQ(refusal(built), "f.gguf: expected GGUF version 2 or 3, found version 1");
  built.version = 4;
  EXPECT_EQ(refusal(built), "f.gguf: expected GGUF version 2 or 3, found version 4");
  built.version = 0x03000000;
  EXPECT_EQ(
      refusal(built),
      "f.gguf: expected GGUF version 2 or 3, found version 3 with its bytes swapped: a big-endian file");
  built = small_file();
  built.magic = "GGML";
  EXPECT_EQ(refusal(built), "f.gguf: expected a GGUF file, found other first bytes");
  EXPECT_THAT(error_text([] { return parse_gguf({}, "f.gguf"); }), HasSubstr("4 bytes of magic at byte 0"));
}

TEST(GgufReader, RefusesEveryTruncation) {
  const std::string bytes = small_file().build();
  for (size_t size = 0; size < bytes.size(); ++size) {
    // In its own block of memory, so that the sanitizer sees a step too far.
    const std::vector<std::byte> part(as_file(bytes).begin(),
                                      as_file(bytes).begin() + static_cast<long>(size));
    EXPECT_NE(error_text([&] { return parse_gguf(part, "f.gguf"); }), "no error") << size;
  }
}

void expect_consistent(const GgufHeader& header, const std::string& bytes) {
  std::set<std::string> names;
  const auto file = as_file(bytes);
  for (const Tensor& tensor : header.tensors) {
    EXPECT_TRUE(names.insert(tensor.name).second);
    EXPECT_LT(tensor.name.size(), 64U);
    EXPECT_EQ(static_cast<int64_t>(tensor.bytes.size()), row_bytes(tensor.dtype, tensor.elements()));
    EXPECT_GE(tensor.bytes.data(), file.data());
    EXPECT_LE(tensor.bytes.data() + tensor.bytes.size(), file.data() + file.size());
  }
}

TEST(GgufReader, AnyFlippedBitIsRefusedOrStillConsistent) {
  const std::string bytes = small_file().build();
  const size_t header_bytes = small_file().header().size();
  int refused = 0;
  for (size_t bit = 0; bit < header_bytes * 8; ++bit) {
    std::string damaged = bytes;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    try {
      expect_consistent(parse_gguf(as_file(damaged), "f.gguf"), damaged);
    } catch (const Error& error) {
      EXPECT_EQ(error.subject().rfind("f.gguf", 0), 0U) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);  // lengths, types, offsets; text and scalars may change unseen
}

TEST(GgufReader, OversizedCountsAreRefusedBeforeMemoryIsAskedFor) {
  const int64_t before = peak_bytes();
  for (const uint64_t count : {uint64_t{1} << 29, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}}) {
    SCOPED_TRACE(count);
    GgufBuilder built = small_file();
    built.n_tensors = count;
    EXPECT_THAT(refusal(built), HasSubstr("expected tensor count that fits the file"));
    built = small_file();
    built.n_entries = count;
    EXPECT_THAT(refusal(built), HasSubstr("expected key count that fits the file"));
    for (const auto type : {GgufType::kU64, GgufType::kString, GgufType::kBool}) {
      built = {};
      built.entry("k", kArray, raw_array(type, count, std::string(100, '\0')));
      EXPECT_THAT(refusal(built), HasSubstr("f.gguf: key k: expected array length that fits the file"));
    }
    built = {};
    built.entry("k", GgufType::kString, raw(count) + "abc");
    EXPECT_THAT(refusal(built), HasSubstr("f.gguf: key k: expected"));
    built = {};
    built.entries = {raw(count) + "key"};
    EXPECT_THAT(refusal(built), HasSubstr("f.gguf"));
  }
  EXPECT_LT(peak_bytes() - before, int64_t{64} << 20);
}

TEST(GgufReader, CountsOneTooManyOrTooFewAreNoticed) {
  GgufBuilder built = small_file();
  built.n_tensors = 2;  // the third record now lies where data should
  const std::string bytes = built.build();
  EXPECT_EQ(parse_gguf(as_file(bytes), "f.gguf").tensors.size(), 2U);
  built.n_tensors = 4;
  EXPECT_NE(refusal(built), "no error");
  built = small_file();
  built.n_entries = 7;
  EXPECT_NE(refusal(built), "no error");
}

TEST(GgufReader, RefusesBadKeysAndValues) {
  const auto with = [](std::string_view key, uint32_t type, std::string_view value) {
    GgufBuilder built;
    built.entry(key, static_cast<GgufType>(type), value);
    return refusal(built);
  };
  EXPECT_EQ(with("", 4, raw(uint32_t{1})), "f.gguf: key number 1: expected a key, found an empty one");
  EXPECT_EQ(with("k", 13, raw(uint32_t{1})), "f.gguf: key k: expected a known value type, found type id 13");
  EXPECT_EQ(with("k", 7, "\2"), "f.gguf: key k: expected a bool of 0 or 1, found 2");
  EXPECT_EQ(with("k", 9, raw_array(kArray, 1, raw_array(kU32, 0, ""))),
            "f.gguf: key k: expected a known element type, found an array of arrays");
  EXPECT_EQ(with("k", 9, raw_array(static_cast<GgufType>(99), 0, "")),
            "f.gguf: key k: expected a known element type, found type id 99");
  GgufBuilder twice;
  twice.entry("k", kU32, raw(uint32_t{1})).entry("k", kU32, raw(uint32_t{1}));
  EXPECT_EQ(refusal(twice), "f.gguf: key k: expected each key once, found a second one");
}

TEST(GgufReader, HonoursAndChecksTheAlignment) {
  GgufBuilder built;
  built.alignment = 128;
  built.entry("general.alignment", kU32, raw(uint32_t{128})).ramp("a", 3).ramp("b", 2);
  const std::string bytes = built.build();
  const GgufHeader header = parse_gguf(as_file(bytes), "f.gguf");
  EXPECT_EQ(header.tensors[1].bytes.data() - header.tensors[0].bytes.data(), 128);
  for (const uint32_t wrong : {0U, 1U, 4U, 24U, 33U}) {
    built.entries.clear();
    built.entry("general.alignment", kU32, raw(wrong));
    EXPECT_EQ(refusal(built), "f.gguf: key general.alignment: expected a power of two from 8, found " +
                                  std::to_string(wrong));
  }
  built.entries.clear();
  built.entry("general.alignment", GgufType::kU64, raw(uint64_t{32}));
  EXPECT_EQ(refusal(built), "f.gguf: key general.alignment: expected type u32, found type u64");
  built.entries.clear();
  built.entry("general.alignment", kU32, raw(uint32_t{1} << 31));
  EXPECT_NE(refusal(built), "no error");  // data would start 2 GiB on
}

TEST(GgufReader, RefusesOffsetsThatAreNotTheRunningSum) {
  for (const uint64_t wrong : {uint64_t{0}, uint64_t{31}, uint64_t{64}, ~uint64_t{0}, uint64_t{1} << 63}) {
    GgufBuilder built;
    built.ramp("a", 3).ramp("b", 2);
    built.tensors[1].offset = wrong;
    EXPECT_EQ(refusal(built), "f.gguf: tensor b: expected offset 32, found " + std::to_string(wrong));
  }
}

TEST(GgufReader, RefusesBadTensors) {
  const auto with = [](std::string name, std::vector<int64_t> ne, uint32_t type) {
    GgufBuilder built;
    built.tensor({.name = std::move(name), .ne = std::move(ne), .type = type, .data = "", .offset = {}});
    return refusal(built);
  };
  constexpr int64_t kHuge = int64_t{1} << 40;
  EXPECT_EQ(with("t", {256}, 10), "f.gguf: tensor t: expected a known tensor type, found type id 10");
  EXPECT_EQ(with("t", {256}, 4000000000),
            "f.gguf: tensor t: expected a known tensor type, found type id 4000000000");
  EXPECT_THAT(with(std::string(64, 'n'), {1}, 0), HasSubstr("a name of at most 63 bytes, found 64"));
  EXPECT_THAT(with("t", {1, 1, 1, 1, 1}, 0), HasSubstr("tensor t: expected at most 4 dimensions, found 5"));
  EXPECT_THAT(with("t", {31}, 8), HasSubstr("a multiple of 32 elements for type Q8_0, found 31"));
  EXPECT_THAT(with("t", {8, 0}, 0), HasSubstr("positive dimensions, found {8, 0}"));
  EXPECT_THAT(with("t", {8, -1}, 0), HasSubstr("positive dimensions, found {8, -1}"));
  EXPECT_THAT(with("t", {kHuge, kHuge}, 24), HasSubstr("a size of 63 bits"));
  EXPECT_THAT(with("t", {kHuge, int64_t{1} << 22}, 28), HasSubstr("a size of 63 bits"));  // only as bytes
  EXPECT_THAT(with("t", {std::numeric_limits<int64_t>::max()}, 24), HasSubstr("a size of 63 bits"));
  EXPECT_THAT(with("t", {kHuge}, 0),
              HasSubstr("tensor t: expected 4398046511104 bytes of data, found 0 before the end"));
  GgufBuilder twice;
  twice.ramp("a", 1).ramp("a", 1);
  EXPECT_EQ(refusal(twice), "f.gguf: tensor a: expected each tensor once, found a second one");
}

TEST(GgufReader, AHostileNameStaysOneShortLine) {
  GgufBuilder built;
  built.entry("evil\n\x1b[31m" + std::string(5000, 'x'), static_cast<GgufType>(77), "....");
  const std::string text = refusal(built);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_LT(text.size(), 200U);
}

}  // namespace
}  // namespace sluice::quant
