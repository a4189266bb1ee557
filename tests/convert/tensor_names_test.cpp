// The tensor table of the released model: names, shapes and the two published totals.
#include "engine/convert/tensor_names.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "engine/model_config.h"
#include "support/tiny_checkpoint.h"

namespace sluice::convert {
namespace {

ModelConfig released_config() {
  ModelConfig c = testing::tiny_config();
  c.vocab_size = 129280;
  c.d_model = 7168;
  c.layers = 61;
  c.mtp_layers = 1;
  c.dense_layers = 3;
  c.heads = 128;
  c.q_rank = 1536;
  c.d_latent = 512;
  c.d_nope = 128;
  c.d_rope = 64;
  c.d_value = 128;
  c.index_heads = 64;
  c.d_index = 128;
  c.d_ffn = 18432;
  c.d_expert = 2048;
  c.router.experts = 256;
  return c;
}

std::map<std::string, std::vector<int64_t>> shapes_of(const std::vector<TensorPlan>& plans) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const TensorPlan& plan : plans) {
    shapes[plan.name] = plan.ne;
  }
  return shapes;
}

TEST(TensorNames, ReleasedModelHasThePublishedTotals) {
  const std::vector<TensorPlan> plans = plan_tensors(released_config());
  EXPECT_EQ(plans.size(), 1420U);
  int64_t parameters = 0;
  std::set<std::string> sources;
  for (const TensorPlan& plan : plans) {
    int64_t n = 1;
    for (const int64_t extent : plan.ne) {
      n *= extent;
    }
    parameters += n;
    EXPECT_LT(plan.name.size(), 64U);
    sources.insert(plan.sources.begin(), plan.sources.end());
  }
  EXPECT_EQ(parameters, 685'355'329'792);
  // Root 3; 62 blocks of 14 (kv_b_proj counts once); 3 dense with 3; 59 MoE with 2 + 3 + 3 * 256; 6 of MTP.
  EXPECT_EQ(sources.size(), 3U + 62 * 14 + 3 * 3 + 59 * (2 + 3 + 3 * 256) + 6);
}

TEST(TensorNames, ReleasedModelHasTheSpecifiedShapes) {
  const auto shapes = shapes_of(plan_tensors(released_config()));
  using Shape = std::vector<int64_t>;
  const std::pair<const char*, Shape> expected[] = {
      {"token_embd.weight", {7168, 129280}},
      {"output_norm.weight", {7168}},
      {"output.weight", {7168, 129280}},
      {"blk.0.attn_norm.weight", {7168}},
      {"blk.60.ffn_norm.weight", {7168}},
      {"blk.3.attn_q_a.weight", {7168, 1536}},
      {"blk.3.attn_q_a_norm.weight", {1536}},
      {"blk.3.attn_q_b.weight", {1536, 24576}},
      {"blk.3.attn_kv_a_mqa.weight", {7168, 576}},
      {"blk.3.attn_kv_a_norm.weight", {512}},
      {"blk.3.attn_k_b.weight", {128, 512, 128}},
      {"blk.3.attn_v_b.weight", {512, 128, 128}},
      {"blk.3.attn_output.weight", {16384, 7168}},
      {"blk.3.indexer.attn_q_b.weight", {1536, 8192}},
      {"blk.3.indexer.attn_k.weight", {7168, 128}},
      {"blk.3.indexer.proj.weight", {7168, 64}},
      {"blk.3.indexer.k_norm.weight", {128}},
      {"blk.3.indexer.k_norm.bias", {128}},
      {"blk.2.ffn_gate.weight", {7168, 18432}},
      {"blk.2.ffn_up.weight", {7168, 18432}},
      {"blk.2.ffn_down.weight", {18432, 7168}},
      {"blk.3.ffn_gate_inp.weight", {7168, 256}},
      {"blk.3.exp_probs_b.bias", {256}},
      {"blk.61.ffn_gate_exps.weight", {7168, 2048, 256}},
      {"blk.61.ffn_up_exps.weight", {7168, 2048, 256}},
      {"blk.61.ffn_down_exps.weight", {2048, 7168, 256}},
      {"blk.3.ffn_gate_shexp.weight", {7168, 2048}},
      {"blk.3.ffn_up_shexp.weight", {7168, 2048}},
      {"blk.3.ffn_down_shexp.weight", {2048, 7168}},
      {"blk.61.nextn.eh_proj.weight", {14336, 7168}},
      {"blk.61.nextn.enorm.weight", {7168}},
      {"blk.61.nextn.hnorm.weight", {7168}},
      {"blk.61.nextn.shared_head_norm.weight", {7168}},
      {"blk.61.nextn.embed_tokens.weight", {7168, 129280}},
      {"blk.61.nextn.shared_head_head.weight", {7168, 129280}},
  };
  for (const auto& [name, shape] : expected) {
    SCOPED_TRACE(name);
    const auto found = shapes.find(name);
    ASSERT_NE(found, shapes.end());
    EXPECT_EQ(found->second, shape);
  }
  EXPECT_FALSE(shapes.contains("blk.2.ffn_gate_inp.weight"));
  EXPECT_FALSE(shapes.contains("blk.3.ffn_gate.weight"));
  EXPECT_FALSE(shapes.contains("blk.60.nextn.enorm.weight"));
}

TEST(TensorNames, WithoutIndexerItsTensorsAreNotPlanned) {
  ModelConfig config = testing::tiny_config();
  config.has_indexer = false;
  for (const TensorPlan& plan : plan_tensors(config)) {
    EXPECT_EQ(plan.name.find("indexer"), std::string::npos) << plan.name;
  }
}

TEST(TensorNames, WhatStaysFloat32) {
  for (const char* name : {"blk.3.ffn_gate_inp.weight", "blk.3.indexer.proj.weight",
                           "blk.10.exp_probs_b.bias", "blk.0.ffn_up_exps.scale"}) {
    EXPECT_FALSE(may_quantize(name, 2)) << name;
  }
  EXPECT_FALSE(may_quantize("output.weight", 1));
  for (const char* name :
       {"token_embd.weight", "output.weight", "blk.3.attn_k_b.weight", "blk.3.indexer.attn_k.weight",
        "blk.3.ffn_down_exps.weight", "blk.61.nextn.eh_proj.weight"}) {
    EXPECT_TRUE(may_quantize(name, 2)) << name;
  }
}

TEST(TensorNames, WhereASecondLevelScaleIsHonoured) {
  for (const char* name :
       {"blk.3.attn_output.weight", "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight", "blk.12.ffn_down.weight",
        "blk.3.ffn_up_shexp.weight", "blk.3.ffn_down_exps.weight"}) {
    EXPECT_TRUE(has_second_scale(name)) << name;
  }
  for (const char* name :
       {"output.weight", "token_embd.weight", "blk.3.attn_q_a.weight", "blk.3.attn_v_b.weight",
        "blk.3.indexer.attn_k.weight", "blk.3.ffn_gate_up_exps.weight", "blk.61.nextn.eh_proj.weight",
        "blk.3.ffn_gate_inp.weight"}) {
    EXPECT_FALSE(has_second_scale(name)) << name;
  }
  EXPECT_EQ(scale_name("blk.3.ffn_up_exps.weight"), "blk.3.ffn_up_exps.scale");
}

}  // namespace
}  // namespace sluice::convert
