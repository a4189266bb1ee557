// Typed look-ups of metadata are strict about types and say what they wanted.
#include "quant/gguf_value.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "support/error_text.h"

namespace sluice::quant {
namespace {

using testing::error_text;

TEST(GgufValue, AlternativesCarryTheFormatsTypeIds) {
  EXPECT_EQ(gguf_type_of(uint8_t{1}), GgufType::kU8);
  EXPECT_EQ(gguf_type_of(int8_t{1}), GgufType::kI8);
  EXPECT_EQ(gguf_type_of(uint16_t{1}), GgufType::kU16);
  EXPECT_EQ(gguf_type_of(int16_t{1}), GgufType::kI16);
  EXPECT_EQ(gguf_type_of(uint32_t{1}), GgufType::kU32);
  EXPECT_EQ(gguf_type_of(int32_t{1}), GgufType::kI32);
  EXPECT_EQ(gguf_type_of(1.0F), GgufType::kF32);
  EXPECT_EQ(gguf_type_of(true), GgufType::kBool);
  EXPECT_EQ(gguf_type_of(std::string("a")), GgufType::kString);
  EXPECT_EQ(gguf_type_of(GgufArray(std::vector<bool>{true})), GgufType::kArray);
  EXPECT_EQ(gguf_type_of(uint64_t{1}), GgufType::kU64);
  EXPECT_EQ(gguf_type_of(int64_t{1}), GgufType::kI64);
  EXPECT_EQ(gguf_type_of(1.0), GgufType::kF64);
}

TEST(GgufValue, ElementTypesSkipTheIdOfArrays) {
  EXPECT_EQ(gguf_element_type_of(std::vector<uint8_t>{}), GgufType::kU8);
  EXPECT_EQ(gguf_element_type_of(std::vector<bool>{}), GgufType::kBool);
  EXPECT_EQ(gguf_element_type_of(std::vector<std::string>{}), GgufType::kString);
  EXPECT_EQ(gguf_element_type_of(std::vector<uint64_t>{}), GgufType::kU64);
  EXPECT_EQ(gguf_element_type_of(std::vector<double>{}), GgufType::kF64);
}

TEST(GgufValue, TypesHaveTheirNames) {
  EXPECT_EQ(gguf_type_name(GgufType::kU8), "u8");
  EXPECT_EQ(gguf_type_name(GgufType::kBool), "bool");
  EXPECT_EQ(gguf_type_name(GgufType::kString), "string");
  EXPECT_EQ(gguf_type_name(GgufType::kArray), "array");
  EXPECT_EQ(gguf_type_name(GgufType::kF64), "f64");
}

TEST(GgufMetadata, KeepsOrderAndReplacesInPlace) {
  GgufMetadata metadata;
  metadata.set("b", uint32_t{1});
  metadata.set("a", uint32_t{2});
  metadata.set("b", std::string("three"));
  ASSERT_EQ(metadata.entries().size(), 2U);
  EXPECT_EQ(metadata.entries()[0].key, "b");
  EXPECT_EQ(metadata.entries()[1].key, "a");
  EXPECT_EQ(metadata.get<std::string>("b"), "three");
  EXPECT_EQ(metadata.find("c"), nullptr);
}

TEST(GgufMetadata, GetIsStrict) {
  GgufMetadata metadata("model.gguf");
  metadata.set("size", uint32_t{7});
  metadata.set("list", GgufArray(std::vector<int32_t>{1}));
  EXPECT_EQ(metadata.get<uint32_t>("size"), 7U);
  EXPECT_EQ(error_text([&] { return metadata.get<int32_t>("size"); }),
            "model.gguf: key size: expected type i32, found type u32");
  EXPECT_EQ(error_text([&] { return metadata.get<uint64_t>("size"); }),
            "model.gguf: key size: expected type u64, found type u32");
  EXPECT_EQ(error_text([&] { return metadata.get<float>("list"); }),
            "model.gguf: key list: expected type f32, found array of i32");
  EXPECT_EQ(error_text([&] { return metadata.get<std::string>("absent"); }),
            "model.gguf: key absent: expected type string, found no such key");
}

TEST(GgufMetadata, GetOrFallsBackOnlyForAbsentKeys) {
  GgufMetadata metadata("model.gguf");
  metadata.set("flag", true);
  EXPECT_TRUE(metadata.get_or("flag", false));
  EXPECT_EQ(metadata.get_or<std::string>("absent", "plain"), "plain");
  EXPECT_EQ(error_text([&] { return metadata.get_or("flag", uint8_t{1}); }),
            "model.gguf: key flag: expected type u8, found type bool");
}

TEST(GgufMetadata, ArraysAreTypedToo) {
  GgufMetadata metadata("model.gguf");
  metadata.set("list", GgufArray(std::vector<std::string>{"x", "y"}));
  metadata.set("word", std::string("x"));
  EXPECT_EQ(metadata.get_array<std::string>("list"), (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(error_text([&] { return metadata.get_array<int32_t>("list"); }),
            "model.gguf: key list: expected array of i32, found array of string");
  EXPECT_EQ(error_text([&] { return metadata.get_array<std::string>("word"); }),
            "model.gguf: key word: expected array of string, found type string");
  EXPECT_EQ(error_text([&] { return metadata.get_array<bool>("absent"); }),
            "model.gguf: key absent: expected array of bool, found no such key");
}

TEST(GgufMetadata, CountsTakeAnyIntegerThatIsNotNegative) {
  GgufMetadata metadata("model.gguf");
  metadata.set("u8", uint8_t{200});
  metadata.set("i64", int64_t{1} << 40);
  metadata.set("negative", int32_t{-1});
  metadata.set("huge", std::numeric_limits<uint64_t>::max());
  metadata.set("flag", true);
  metadata.set("real", 3.0F);
  EXPECT_EQ(metadata.get_count("u8"), 200);
  EXPECT_EQ(metadata.get_count("i64"), int64_t{1} << 40);
  EXPECT_EQ(metadata.get_count_or("absent", 5), 5);
  EXPECT_EQ(metadata.get_count_or("u8", 5), 200);
  EXPECT_EQ(error_text([&] { return metadata.get_count("negative"); }),
            "model.gguf: key negative: expected a non-negative integer of 63 bits, found -1");
  EXPECT_NE(error_text([&] { return metadata.get_count("huge"); }), "no error");
  EXPECT_NE(error_text([&] { return metadata.get_count("flag"); }), "no error");
  EXPECT_NE(error_text([&] { return metadata.get_count_or("real", 1); }), "no error");
  EXPECT_NE(error_text([&] { return metadata.get_count("absent"); }), "no error");
}

}  // namespace
}  // namespace sluice::quant
