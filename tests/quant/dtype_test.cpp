// The type table against the numbers of the GGUF specification.
#include "quant/dtype.h"

#include <gtest/gtest.h>

#include <cctype>
#include <set>
#include <string>

namespace sluice::quant {
namespace {

struct Specified {
  uint32_t id;
  const char* name;
  int64_t elements;
  int64_t bytes;
};

// docs/formats.md; bits per weight of the quantized ones: 4.5 5.5 8.5 4.5 5.5 6.5625 4.25 4.5.
constexpr Specified kSpecified[] = {
    {0, "F32", 1, 4},    {1, "F16", 1, 2},       {2, "Q4_0", 32, 18},    {6, "Q5_0", 32, 22},
    {8, "Q8_0", 32, 34}, {12, "Q4_K", 256, 144}, {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210},
    {24, "I8", 1, 1},    {25, "I16", 1, 2},      {26, "I32", 1, 4},      {27, "I64", 1, 8},
    {28, "F64", 1, 8},   {30, "BF16", 1, 2},     {39, "MXFP4", 32, 17},  {40, "NVFP4", 64, 36},
};

TEST(DTypeTable, MatchesTheSpecification) {
  ASSERT_EQ(all_dtypes().size(), std::size(kSpecified));
  for (size_t i = 0; i < std::size(kSpecified); ++i) {
    const Specified& specified = kSpecified[i];
    const DTypeInfo& info = all_dtypes()[i];
    EXPECT_EQ(static_cast<uint32_t>(info.dtype), specified.id);
    EXPECT_EQ(info.name, specified.name);
    EXPECT_EQ(info.elements_per_block, specified.elements) << specified.name;
    EXPECT_EQ(info.bytes_per_block, specified.bytes) << specified.name;
    EXPECT_EQ(&dtype_info(info.dtype), &info) << specified.name;
  }
}

TEST(DTypeTable, KnowsExactlyItsIds) {
  std::set<uint32_t> known;
  for (const Specified& specified : kSpecified) {
    known.insert(specified.id);
  }
  for (uint32_t id = 0; id < 300; ++id) {
    const auto dtype = dtype_from_id(id);
    ASSERT_EQ(dtype.has_value(), known.contains(id)) << id;
    if (dtype) {
      EXPECT_EQ(static_cast<uint32_t>(*dtype), id);
    }
  }
  EXPECT_FALSE(dtype_from_id(0xFFFFFFFFU));
  EXPECT_FALSE(dtype_from_id(0x80000008U));
  EXPECT_LT(*known.rbegin(), kDTypeIdCount);
}

TEST(DTypeTable, FindsNamesInAnyCase) {
  for (const DTypeInfo& info : all_dtypes()) {
    std::string lower;
    for (const char c : info.name) {
      lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    EXPECT_EQ(dtype_from_name(info.name), info.dtype);
    EXPECT_EQ(dtype_from_name(lower), info.dtype);
  }
  EXPECT_EQ(dtype_from_name("bF16"), DType::kBF16);
  for (const char* unknown : {"", "q8", "q8_00", "Q8-0", " q8_0", "q4_k_m", "q8_1"}) {
    EXPECT_FALSE(dtype_from_name(unknown)) << unknown;
  }
}

TEST(DTypeTable, RowBytes) {
  EXPECT_EQ(row_bytes(DType::kF32, 7), 28);
  EXPECT_EQ(row_bytes(DType::kBF16, 7168), 14336);
  EXPECT_EQ(row_bytes(DType::kQ8_0, 0), 0);
  // One expert of the 685B model: gate, up and down of 7168 x 2048.
  constexpr int64_t kExpert = int64_t{3} * 7168 * 2048;
  EXPECT_EQ(row_bytes(DType::kQ8_0, kExpert), 46'792'704);
  EXPECT_EQ(row_bytes(DType::kNVFP4, kExpert), 24'772'608);
  EXPECT_EQ(row_bytes(DType::kQ4_K, kExpert), 24'772'608);
  EXPECT_EQ(row_bytes(DType::kMXFP4, kExpert), 23'396'352);
  // Beyond 32 bits: all experts of one layer.
  EXPECT_EQ(row_bytes(DType::kQ8_0, 256 * kExpert), int64_t{256} * 46'792'704);
}

}  // namespace
}  // namespace sluice::quant
