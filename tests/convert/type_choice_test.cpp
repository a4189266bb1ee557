// Rules, fallbacks and what is refused.
#include "engine/convert/type_choice.h"

#include <gtest/gtest.h>

#include "quant/base/error.h"

namespace sluice::convert {
namespace {

using quant::DType;

DType choose(DType wanted, std::string_view name, int64_t cols, std::vector<TypeRule> rules = {}) {
  ConvertOptions options;
  options.dtype = wanted;
  options.rules = std::move(rules);
  std::vector<std::string> fallbacks;
  return TypeChoice(options).choose(name, 2, cols, fallbacks);
}

TEST(TypeChoice, RowsThatDoNotDivideFallBack) {
  const char* name = "blk.0.attn_k_b.weight";
  EXPECT_EQ(choose(DType::kQ4_K, name, 256), DType::kQ4_K);
  EXPECT_EQ(choose(DType::kQ4_K, name, 128), DType::kQ8_0);
  EXPECT_EQ(choose(DType::kQ6_K, name, 128), DType::kQ8_0);
  EXPECT_EQ(choose(DType::kNVFP4, name, 64), DType::kNVFP4);
  EXPECT_EQ(choose(DType::kNVFP4, name, 96), DType::kQ8_0);
  EXPECT_EQ(choose(DType::kMXFP4, name, 96), DType::kMXFP4);
  EXPECT_EQ(choose(DType::kMXFP4, name, 48), DType::kBF16);
  EXPECT_EQ(choose(DType::kQ8_0, name, 48), DType::kBF16);
  EXPECT_EQ(choose(DType::kF16, name, 7), DType::kF16);
}

TEST(TypeChoice, FallbacksAreReported) {
  ConvertOptions options;
  options.dtype = DType::kQ4_K;
  TypeChoice types(options);
  std::vector<std::string> fallbacks;
  types.choose("blk.0.attn_q_a.weight", 2, 512, fallbacks);
  types.choose("blk.0.attn_k_b.weight", 3, 128, fallbacks);
  types.choose("blk.0.attn_norm.weight", 1, 100, fallbacks);
  EXPECT_EQ(fallbacks,
            std::vector<std::string>{"blk.0.attn_k_b.weight: Q4_K wanted, Q8_0 written (128 columns)"});
}

TEST(TypeChoice, FirstMatchingRuleWinsAndKeptTensorsAreNotTouched) {
  const std::vector<TypeRule> rules{
      {"blk\\.[01]\\.ffn_.*_exps", DType::kNVFP4}, {"exps", DType::kMXFP4}, {".*", DType::kBF16}};
  EXPECT_EQ(choose(DType::kQ8_0, "blk.1.ffn_up_exps.weight", 64, rules), DType::kNVFP4);
  EXPECT_EQ(choose(DType::kQ8_0, "blk.2.ffn_up_exps.weight", 64, rules), DType::kMXFP4);
  EXPECT_EQ(choose(DType::kQ8_0, "output.weight", 64, rules), DType::kBF16);
  EXPECT_EQ(choose(DType::kQ8_0, "blk.1.ffn_gate_inp.weight", 64, rules), DType::kF32);
  EXPECT_EQ(choose(DType::kQ8_0, "blk.1.indexer.proj.weight", 64, rules), DType::kF32);
}

/// The error's text; fails the test when nothing is thrown.
std::string error_of(const ConvertOptions& options) {
  try {
    TypeChoice types(options);
    std::vector<std::string> fallbacks;
    types.choose("output.weight", 2, 256, fallbacks);
    types.check_rules_used();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

TEST(TypeChoice, BadOptionsNameTheFlag) {
  for (const DType dtype : {DType::kQ4_0, DType::kQ5_0, DType::kQ5_K, DType::kI32}) {
    ConvertOptions options;
    options.dtype = dtype;
    const std::string text = error_of(options);
    EXPECT_NE(text.find("--type"), std::string::npos) << text;
    EXPECT_NE(text.find(quant::dtype_info(dtype).name), std::string::npos) << text;
    options.dtype = DType::kQ8_0;
    options.rules = {{"output", dtype}};
    EXPECT_NE(error_of(options).find("--tensor-type output="), std::string::npos);
  }
  ConvertOptions options;
  options.rules = {{"(unclosed", DType::kQ8_0}};
  EXPECT_NE(error_of(options).find("--tensor-type (unclosed=Q8_0"), std::string::npos);
  options.rules = {{"outputt", DType::kQ8_0}};
  EXPECT_NE(error_of(options).find("--tensor-type outputt=Q8_0"), std::string::npos);
  options.rules = {{"out", DType::kQ8_0},
                   {"output", DType::kBF16}};  // the second matches, though it never wins
  TypeChoice types(options);
  std::vector<std::string> fallbacks;
  types.choose("output.weight", 2, 256, fallbacks);
  EXPECT_NO_THROW(types.check_rules_used());
}

TEST(TypeChoice, FileTypes) {
  EXPECT_EQ(file_type_of(DType::kF32), 0U);
  EXPECT_EQ(file_type_of(DType::kF16), 1U);
  EXPECT_EQ(file_type_of(DType::kQ8_0), 7U);
  EXPECT_EQ(file_type_of(DType::kQ4_K), 15U);
  EXPECT_EQ(file_type_of(DType::kQ6_K), 18U);
  EXPECT_EQ(file_type_of(DType::kBF16), 32U);
  EXPECT_EQ(file_type_of(DType::kMXFP4), 38U);
  EXPECT_EQ(file_type_of(DType::kNVFP4), 39U);
}

}  // namespace
}  // namespace sluice::convert
