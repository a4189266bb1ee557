// Texts of synthetic models, and what is wrong with wrong ones.
#include "engine/synth/model_spec.h"

#include <gtest/gtest.h>

#include <string>

#include "support/error_text.h"
#include "support/random_tensors.h"

namespace sluice::synth {
namespace {

using quant::DType;
using testing::error_text;

TEST(ModelSpec, KeysInAnyOrder) {
  const ModelSpec spec =
      parse_model_spec("synth:deepseek-v3.2,type=nvfp4,moe=8,dense=3,seed=77,experts=64,dense_type=Q4_K");
  EXPECT_EQ(spec, (ModelSpec{.preset = Preset::kDeepSeekV32,
                             .dense_layers = 3,
                             .moe_layers = 8,
                             .type = DType::kNVFP4,
                             .dense_type = DType::kQ4_K,
                             .seed = 77,
                             .experts = 64}));
  EXPECT_EQ(parse_model_spec("synth:tiny"), (ModelSpec{.preset = Preset::kTiny}));
}

TEST(ModelSpec, TextIsReadBack) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int i = 0; i < 50; ++i) {
    constexpr DType kTypes[] = {DType::kBF16, DType::kQ8_0, DType::kNVFP4, DType::kQ4_K};
    ModelSpec spec{.preset = random.integer(0, 1) == 0 ? Preset::kTiny : Preset::kDeepSeekV32,
                   .dense_layers = random.integer(0, 9),
                   .moe_layers = random.integer(1, 99),
                   .type = kTypes[random.integer(0, 3)],
                   .dense_type = kTypes[random.integer(0, 3)],
                   .seed = static_cast<uint64_t>(random.integer(0, INT64_MAX)) * 2 + 1,
                   .experts = {}};
    if (random.integer(0, 1) == 0) spec.experts = 16 * random.integer(1, 8);
    EXPECT_EQ(parse_model_spec(to_text(spec)), spec) << to_text(spec);
  }
}

TEST(ModelSpec, WhatIsWrongIsNamed) {
  const struct {
    const char* text;
    const char* error;
  } cases[] = {
      {"tiny.gguf", "tiny.gguf: expected a text that begins with synth:, found another beginning"},
      {"synth:", "synth:: preset: expected one of deepseek-v3.2, tiny, found nothing"},
      {"synth:big,moe=2", "synth:big,moe=2: preset: expected one of deepseek-v3.2, tiny, found big"},
      {"synth:tiny,moe", "synth:tiny,moe: expected KEY=VALUE after each comma, found moe"},
      {"synth:tiny,", "synth:tiny,: expected KEY=VALUE after each comma, found nothing"},
      {"synth:tiny,layers=2",
       "synth:tiny,layers=2: expected the keys dense, moe, type, dense_type, seed or experts, found layers"},
      {"synth:tiny,moe=two", "synth:tiny,moe=two: moe: expected a whole number from 0, found two"},
      {"synth:tiny,moe=-1", "synth:tiny,moe=-1: moe: expected a whole number from 0, found -1"},
      {"synth:tiny,moe=", "synth:tiny,moe=: moe: expected a whole number from 0, found nothing"},
      {"synth:tiny,moe=1,moe=1", "synth:tiny,moe=1,moe=1: moe: expected this key once, found it twice"},
      {"synth:tiny,seed=18446744073709551616",
       "synth:tiny,seed=18446744073709551616: seed: expected a whole number from 0, found "
       "18446744073709551616"},
      {"synth:tiny,type=q6_k",
       "synth:tiny,type=q6_k: type: expected one of bf16, q8_0, nvfp4, q4_k, found q6_k"},
      {"synth:tiny,dense_type=f32",
       "synth:tiny,dense_type=f32: dense_type: expected one of bf16, q8_0, nvfp4, q4_k, found f32"},
  };
  for (const auto& wrong : cases) {
    EXPECT_EQ(error_text([&] { return parse_model_spec(wrong.text); }), wrong.error);
  }
}

TEST(ModelSpec, NumbersOutOfRangeAreNamed) {
  const struct {
    const char* text;
    const char* part;
  } cases[] = {
      {"synth:tiny,dense=0,moe=0", ": dense + moe: expected 1 to 1024 layers, found 0"},
      {"synth:tiny,moe=1025", ": moe: expected 0 to 1024 layers, found 1025"},
      {"synth:tiny,moe=9223372036854775807", ": moe: expected 0 to 1024 layers, found 9223372036854775807"},
      {"synth:tiny,dense=600,moe=600", ": dense + moe: expected 1 to 1024 layers, found 1200"},
      {"synth:tiny,experts=0", ": experts: expected a multiple of 4 from 8 to 4096, found 0"},
      {"synth:tiny,experts=17", ": experts: expected a multiple of 4 from 8 to 4096, found 17"},
      {"synth:deepseek-v3.2,experts=8", ": experts: expected a multiple of 8 from 16 to 4096, found 8"},
      {"synth:deepseek-v3.2,experts=4104", ": experts: expected a multiple of 8 from 16 to 4096, found 4104"},
  };
  for (const auto& wrong : cases) {
    const std::string error = error_text([&] { return parse_model_spec(wrong.text); });
    EXPECT_NE(error.find(wrong.part), std::string::npos) << error;
    EXPECT_TRUE(error.starts_with("synth:")) << error;
  }
}

TEST(ModelSpec, FewestExpertsAreAllowed) {
  EXPECT_EQ(config_of(parse_model_spec("synth:tiny,experts=8")).router.experts, 8);
  EXPECT_EQ(config_of(parse_model_spec("synth:deepseek-v3.2,experts=16")).router.experts, 16);
}

}  // namespace
}  // namespace sluice::synth
