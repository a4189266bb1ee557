// The table of tensors against the format's page: by numbers worked out by hand for the real dimensions, and
// by the converter's independent expectation for the small ones.
#include "engine/synth/recipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "quant/block_codec.h"
#include "support/expected_gguf.h"
#include "support/temporary_directory.h"

namespace sluice::synth {
namespace {

using quant::DType;
using quant::Tensor;

class Table {
 public:
  explicit Table(const std::string& text)
      : spec_(parse_model_spec(text)), config_(config_of(spec_)), table_(plan_tensors(spec_, config_)) {}

  [[nodiscard]] const Tensor& at(const std::string& name) const { return table_.tensors[index_of(name)]; }
  [[nodiscard]] bool has(const std::string& name) const { return index_of(name) < table_.tensors.size(); }
  [[nodiscard]] std::vector<float> values(const std::string& name, int64_t rows) const {
    const Tensor& tensor = at(name);
    std::vector<std::byte> bytes(static_cast<size_t>(rows * quant::row_bytes(tensor.dtype, tensor.ne[0])));
    table_.generators[index_of(name)].write(0, bytes);
    std::vector<float> values(static_cast<size_t>(rows * tensor.ne[0]));
    quant::dequantize_row(tensor.dtype, bytes, values);
    return values;
  }
  [[nodiscard]] const TensorTable& table() const { return table_; }
  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] quant::GgufMetadata metadata() const {
    return make_metadata(spec_, config_, table_.parameters());
  }

 private:
  [[nodiscard]] size_t index_of(const std::string& name) const {
    const auto found = std::find_if(table_.tensors.begin(), table_.tensors.end(),
                                    [&](const Tensor& tensor) { return tensor.name == name; });
    return static_cast<size_t>(found - table_.tensors.begin());
  }

  ModelSpec spec_;
  ModelConfig config_;
  TensorTable table_;
};

double deviation_of(const std::vector<float>& values) {
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

TEST(Recipe, WholeModelHasTheParametersOfDeepSeekV32) {
  const Table whole("synth:deepseek-v3.2,dense=3,moe=58,type=q8_0");
  // 1420 in the published file; 29 of them are the MTP block's.
  EXPECT_EQ(whole.table().tensors.size(), 1391U);
  EXPECT_NEAR(static_cast<double>(whole.table().parameters()), 671.88e9, 0.01e9);
  // One MoE layer of experts takes 11.156 GiB in Q8_0.
  const int64_t experts = whole.at("blk.3.ffn_gate_exps.weight").data_bytes() +
                          whole.at("blk.3.ffn_up_exps.weight").data_bytes() +
                          whole.at("blk.3.ffn_down_exps.weight").data_bytes();
  EXPECT_EQ(experts, int64_t{256} * 46792704);
}

TEST(Recipe, RealShapes) {
  const Table table("synth:deepseek-v3.2,dense=1,moe=1,type=nvfp4");
  const std::map<std::string, std::string> shapes{{"token_embd.weight", "{7168, 129280}"},
                                                  {"output.weight", "{7168, 129280}"},
                                                  {"output_norm.weight", "{7168}"},
                                                  {"blk.0.attn_q_a.weight", "{7168, 1536}"},
                                                  {"blk.0.attn_q_b.weight", "{1536, 24576}"},
                                                  {"blk.0.attn_kv_a_mqa.weight", "{7168, 576}"},
                                                  {"blk.0.attn_k_b.weight", "{128, 512, 128}"},
                                                  {"blk.0.attn_v_b.weight", "{512, 128, 128}"},
                                                  {"blk.0.attn_output.weight", "{16384, 7168}"},
                                                  {"blk.0.indexer.attn_q_b.weight", "{1536, 8192}"},
                                                  {"blk.0.indexer.attn_k.weight", "{7168, 128}"},
                                                  {"blk.0.indexer.proj.weight", "{7168, 64}"},
                                                  {"blk.0.ffn_gate.weight", "{7168, 18432}"},
                                                  {"blk.0.ffn_down.weight", "{18432, 7168}"},
                                                  {"blk.1.ffn_gate_inp.weight", "{7168, 256}"},
                                                  {"blk.1.exp_probs_b.bias", "{256}"},
                                                  {"blk.1.ffn_gate_exps.weight", "{7168, 2048, 256}"},
                                                  {"blk.1.ffn_gate_exps.scale", "{256}"},
                                                  {"blk.1.ffn_down_exps.weight", "{2048, 7168, 256}"},
                                                  {"blk.1.ffn_down_shexp.weight", "{2048, 7168}"}};
  for (const auto& [name, shape] : shapes) {
    ASSERT_TRUE(table.has(name)) << name;
    EXPECT_EQ(quant::shape_text(table.at(name)), shape) << name;
  }
}

TEST(Recipe, TensorsAreThoseOfAConvertedCheckpoint) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const testing::TemporaryDirectory directory;
  for (const char* const types : {"type=q8_0,dense_type=bf16", "type=nvfp4,dense_type=nvfp4"}) {
    const Table table(std::string("synth:tiny,dense=1,moe=1,experts=8,") + types);
    testing::TinyCheckpointOptions options;
    options.config = table.config();
    const auto expected = testing::expected_gguf(
        table.config(), testing::write_tiny_checkpoint(directory.path(), options, random));
    size_t companions = 0;
    for (const Tensor& tensor : table.table().tensors) {
      const auto found = expected.find(tensor.name);
      if (found == expected.end()) {
        EXPECT_TRUE(tensor.name.ends_with(".scale") && tensor.dtype == DType::kF32) << tensor.name;
        ++companions;
        continue;
      }
      EXPECT_EQ(std::vector<int64_t>(tensor.ne.begin(), tensor.ne.begin() + tensor.n_dims), found->second.ne)
          << tensor.name;
      EXPECT_EQ(tensor.dtype == DType::kF32, found->second.always_f32) << tensor.name;
    }
    EXPECT_EQ(table.table().tensors.size(), expected.size() + companions);
    // Both attention outputs, three dense, three shared and three expert matrices.
    EXPECT_EQ(companions, std::string(types).starts_with("type=nvfp4") ? 11U : 0U);
  }
}

TEST(Recipe, TypesGoToExpertsAndTheRest) {
  const Table table("synth:tiny,type=nvfp4,dense_type=q4_k");
  EXPECT_EQ(table.at("blk.1.ffn_up_exps.weight").dtype, DType::kNVFP4);
  EXPECT_EQ(table.at("blk.1.ffn_up_shexp.weight").dtype, DType::kQ4_K);
  EXPECT_EQ(table.at("token_embd.weight").dtype, DType::kQ4_K);
  EXPECT_EQ(table.at("blk.1.ffn_gate_inp.weight").dtype, DType::kF32);
  EXPECT_EQ(table.at("blk.0.attn_k_b.weight").dtype, DType::kQ8_0);  // rows of 64
  ASSERT_EQ(table.table().fallbacks.size(), 3U);                     // one per layer
  EXPECT_EQ(table.table().fallbacks[0], "blk.0.attn_k_b.weight: Q4_K wanted, Q8_0 written (64 columns)");
}

TEST(Recipe, WeightsTimesTheirScaleHaveTheDeviationOfTheirRow) {
  for (const char* const type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    const Table table(std::string("synth:deepseek-v3.2,dense=1,moe=1,type=") + type + ",dense_type=" + type);
    for (const char* const base : {"token_embd", "blk.0.attn_q_b", "blk.0.attn_v_b", "blk.0.attn_output",
                                   "blk.0.ffn_down", "blk.1.ffn_gate_exps", "blk.1.ffn_down_exps"}) {
      SCOPED_TRACE(std::string(type) + " " + base);
      const std::string name = base;
      double deviation = deviation_of(table.values(name + ".weight", 20));
      if (table.has(name + ".scale")) {
        const std::vector<float> scales = table.values(name + ".scale", 1);
        EXPECT_TRUE(std::all_of(scales.begin(), scales.end(), [](float scale) { return scale > 0; }));
        deviation *= static_cast<double>(scales[0]);
      }
      const double wanted = 1 / std::sqrt(static_cast<double>(table.at(name + ".weight").ne[0]));
      EXPECT_NEAR(deviation / wanted, 1.0, 0.2);
    }
  }
}

TEST(Recipe, NormsAreNearOneAndTheRouterIsBarelyBiased) {
  const Table table("synth:tiny");
  for (const float gain : table.values("blk.1.ffn_norm.weight", 1)) EXPECT_NEAR(gain, 1.0F, 0.2F);
  const std::vector<float> bias = table.values("blk.1.exp_probs_b.bias", 1);
  for (const float value : bias) EXPECT_LT(std::fabs(value), 0.04F);
  EXPECT_GT(deviation_of(bias), 0.005);
}

TEST(Recipe, MetadataSaysWhatItIs) {
  const Table table("synth:deepseek-v3.2,dense=1,moe=2,type=nvfp4,experts=64");
  const quant::GgufMetadata metadata = table.metadata();
  EXPECT_EQ(metadata.get<std::string>(kSyntheticKey),
            "synth:deepseek-v3.2,dense=1,moe=2,type=nvfp4,dense_type=q8_0,seed=1,experts=64");
  EXPECT_EQ(metadata.get<std::string>("general.name"), "synthetic deepseek-v3.2 1+2 seed 1");
  EXPECT_EQ(metadata.get<uint32_t>("general.file_type"), 39U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.block_count"), 3U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.leading_dense_block_count"), 1U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.nextn_predict_layers"), 0U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.expert_count"), 64U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.attention.key_length"), 576U);
  EXPECT_EQ(metadata.get_array<std::string>("tokenizer.ggml.tokens").size(), 129280U);
}

}  // namespace
}  // namespace sluice::synth
