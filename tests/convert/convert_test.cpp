// Whole conversions: the shared tiny model and random checkpoints of every flavour, against values computed
// apart.
#include "engine/convert/convert.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "engine/model_config.h"
#include "engine/text/tokenizer.h"
#include "quant/gguf_reader.h"
#include "quant/safetensors_reader.h"
#include "support/compare_gguf.h"
#include "support/expected_gguf.h"
#include "support/places.h"
#include "support/temporary_directory.h"
#include "support/tiny_checkpoint.h"

namespace sluice {
namespace {

using quant::DType;
using quant::GgufFile;
using testing::Random;
using testing::TemporaryDirectory;
using testing::TinyCheckpointOptions;
using testing::TinyFormat;
using testing::TinyTensors;

const std::filesystem::path kSharedTiny = testing::source_directory() / "../shared/models/tiny";

ConvertOptions to(DType dtype) {
  ConvertOptions options;
  options.dtype = dtype;
  options.name = "test model";
  return options;
}

TinyTensors load(const std::filesystem::path& directory) {
  TinyTensors tensors;
  const auto checkpoint = quant::SafetensorsCheckpoint::open(directory);
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    int64_t n = 1;
    for (const int64_t extent : tensor.shape) {
      n *= extent;
    }
    std::vector<float> values(static_cast<size_t>(n));
    quant::to_f32(tensor, values);
    tensors[name] = {tensor.shape, std::move(values)};
  }
  return tensors;
}

std::vector<std::string> names_of(const GgufFile& file) {
  std::vector<std::string> names;
  for (const quant::Tensor& tensor : file.tensors()) {
    names.push_back(tensor.name);
  }
  return names;
}

TEST(Convert, SharedTinyModelToBf16) {
  if (!std::filesystem::exists(kSharedTiny)) {
    GTEST_SKIP() << "shared/models/tiny is not here";
  }
  const TemporaryDirectory directory;
  ConvertOptions options = to(DType::kBF16);
  options.name.clear();
  const ConvertReport report = convert_checkpoint(kSharedTiny, directory / "tiny.gguf", options);
  EXPECT_TRUE(report.has_tokenizer);
  EXPECT_TRUE(report.fallbacks.empty());
  EXPECT_TRUE(report.ignored.empty());
  EXPECT_EQ(directory.listing(), "tiny.gguf\n");

  const GgufFile file = GgufFile::open(directory / "tiny.gguf");
  EXPECT_EQ(file.version(), 3U);
  EXPECT_EQ(report.tensors, static_cast<int64_t>(file.tensors().size()));
  EXPECT_EQ(report.bytes, static_cast<int64_t>(std::filesystem::file_size(directory / "tiny.gguf")));
  const ModelConfig config = config_from_gguf(file.metadata());
  EXPECT_EQ(config.name, "tiny");
  // The embedding's weights are BF16 in the checkpoint, so nothing may be lost.
  testing::expect_holds(file, testing::expected_gguf(config, load(kSharedTiny)), 0.0);
  EXPECT_EQ(file.tensors().size(), 3U + 6 * 15 + 3 + 5 * 8);
  for (const quant::Tensor& tensor : file.tensors()) {
    EXPECT_TRUE(tensor.dtype == DType::kBF16 || tensor.dtype == DType::kF32) << tensor.name;
  }
}

TEST(Convert, SharedTinyModelHasEveryKeyWithItsType) {
  if (!std::filesystem::exists(kSharedTiny)) {
    GTEST_SKIP() << "shared/models/tiny is not here";
  }
  const TemporaryDirectory directory;
  convert_checkpoint(kSharedTiny, directory / "tiny.gguf", to(DType::kQ8_0));
  const GgufFile file = GgufFile::open(directory / "tiny.gguf");
  const quant::GgufMetadata& metadata = file.metadata();
  EXPECT_EQ(metadata.entries().front().key, "general.architecture");
  EXPECT_EQ(metadata.get<std::string>("general.name"), "test model");
  EXPECT_EQ(metadata.get<std::string>("general.size_label"), "59.6M");
  EXPECT_EQ(metadata.get<uint32_t>("general.file_type"), 7U);
  EXPECT_EQ(metadata.get<uint32_t>("general.quantization_version"), 2U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.block_count"), 6U);
  EXPECT_EQ(metadata.get<uint32_t>("deepseek32.attention.indexer.top_k"), 256U);
  EXPECT_EQ(metadata.get<float>("deepseek32.rope.scaling.yarn_log_multiplier"), 0.1F);
  EXPECT_EQ(metadata.get<std::string>("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(metadata.get<std::string>("tokenizer.ggml.pre"), "deepseek-v3");
  EXPECT_EQ(metadata.get_array<std::string>("tokenizer.ggml.tokens").size(), 8192U);
  EXPECT_EQ(metadata.get_array<int32_t>("tokenizer.ggml.token_type").size(), 8192U);
  EXPECT_FALSE(metadata.get_array<std::string>("tokenizer.ggml.merges").empty());
  EXPECT_EQ(metadata.get<uint32_t>("tokenizer.ggml.bos_token_id"), 0U);
  EXPECT_EQ(metadata.get<uint32_t>("tokenizer.ggml.eos_token_id"), 1U);
  EXPECT_EQ(metadata.get<uint32_t>("tokenizer.ggml.padding_token_id"), 2U);
  EXPECT_TRUE(metadata.get<bool>("tokenizer.ggml.add_bos_token"));
  // general, model, tokenizer: no key comes after a later section's.
  int section = 0;
  for (const quant::GgufEntry& entry : metadata.entries()) {
    const int own = entry.key.starts_with("general.") ? 0 : entry.key.starts_with("deepseek32.") ? 1 : 2;
    EXPECT_GE(own, section) << entry.key;
    section = own;
  }
}

struct Flavour {
  const char* name;
  TinyFormat format;
};

class ConvertFlavour : public ::testing::TestWithParam<Flavour> {};

TEST_P(ConvertFlavour, Float32OutputIsTheDequantizedCheckpoint) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.format = GetParam().format;
  tiny.config.mtp_layers = 1;
  tiny.config.d_ffn = random.integer(1, 4) * 64 + 64;
  const TinyTensors tensors = write_tiny_checkpoint(directory.path(), tiny, random);
  const ConvertReport report = convert_checkpoint(directory.path(), directory / "out.gguf", to(DType::kF32));
  EXPECT_TRUE(report.ignored.empty()) << report.ignored.front();
  testing::expect_holds(GgufFile::open(directory / "out.gguf"), testing::expected_gguf(tiny.config, tensors),
                        0.0);
}

INSTANTIATE_TEST_SUITE_P(, ConvertFlavour,
                         ::testing::Values(Flavour{"f32", TinyFormat::kF32},
                                           Flavour{"bf16", TinyFormat::kBf16},
                                           Flavour{"fp8", TinyFormat::kFp8Blocks},
                                           Flavour{"nvfp4", TinyFormat::kModelOptNvfp4}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Convert, EveryTypeStaysNearTheCheckpoint) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.config.d_model = 256;  // room for blocks of 256
  tiny.config.mtp_layers = 1;
  const TinyTensors tensors = write_tiny_checkpoint(directory.path(), tiny, random);
  const auto expected = testing::expected_gguf(tiny.config, tensors);
  // Relative RMS error on normal data, with room for small tensors; a wrong row, expert or scale gives
  // about 1.
  const std::pair<DType, double> types[] = {{DType::kBF16, 3e-3}, {DType::kF16, 1e-3},
                                            {DType::kQ8_0, 8e-3}, {DType::kQ6_K, 0.03},
                                            {DType::kQ4_K, 0.12}, {DType::kMXFP4, 0.16}};
  for (const auto& [dtype, tolerance] : types) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    convert_checkpoint(directory.path(), directory / "out.gguf", to(dtype));
    testing::expect_holds(GgufFile::open(directory / "out.gguf"), expected, tolerance);
  }
}

TEST(Convert, OwnNvfp4HasSecondLevelScalesWhereReadersHonourThem) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  const TinyTensors tensors = write_tiny_checkpoint(directory.path(), tiny, random);
  const ConvertReport report =
      convert_checkpoint(directory.path(), directory / "out.gguf", to(DType::kNVFP4));
  EXPECT_FALSE(report.fallbacks.empty());  // attn_q_b has 96 columns
  const GgufFile file = GgufFile::open(directory / "out.gguf");
  const auto expected = testing::expected_gguf(tiny.config, tensors);
  for (const char* name :
       {"blk.0.attn_output", "blk.0.ffn_down", "blk.2.ffn_up_exps", "blk.1.ffn_gate_shexp"}) {
    SCOPED_TRACE(name);
    const quant::Tensor* weight = file.find(std::string(name) + ".weight");
    ASSERT_NE(weight, nullptr);
    EXPECT_EQ(weight->dtype, DType::kNVFP4);
    const quant::Tensor* scale = file.find(std::string(name) + ".scale");
    ASSERT_NE(scale, nullptr);
    EXPECT_EQ(scale->dtype, DType::kF32);
    EXPECT_EQ(scale->n_dims, 1);
    EXPECT_EQ(scale->ne[0], weight->ne[2]);
    const std::vector<float>& wanted = expected.at(weight->name).values;
    EXPECT_LT(testing::relative_rms(testing::decode_tensor(file, *weight), wanted), 0.105);
  }
  EXPECT_EQ(file.find("blk.0.attn_q_a.scale"), nullptr);
  EXPECT_EQ(file.find("output.scale"), nullptr);
}

TEST(Convert, ModelOptNvfp4IsRepackedWithoutLoss) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.format = TinyFormat::kModelOptNvfp4;
  const TinyTensors tensors = write_tiny_checkpoint(directory.path(), tiny, random);
  ConvertOptions options = to(DType::kBF16);
  options.rules = {{"ffn_|attn_output", DType::kNVFP4}};
  convert_checkpoint(directory.path(), directory / "out.gguf", options);
  const GgufFile file = GgufFile::open(directory / "out.gguf");
  const auto expected = testing::expected_gguf(tiny.config, tensors);
  int repacked = 0;
  for (const quant::Tensor& tensor : file.tensors()) {
    if (tensor.dtype == DType::kNVFP4) {
      SCOPED_TRACE(tensor.name);
      EXPECT_TRUE(testing::decode_tensor(file, tensor) == expected.at(tensor.name).values);
      ++repacked;
    }
  }
  EXPECT_EQ(repacked, 3 + 3 + 2 * 6);  // attn_output; the dense FFN; shared and routed experts of two layers
}

TEST(Convert, SecondScalesOfExactlyOneAreLeftOut) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.format = TinyFormat::kModelOptNvfp4;
  tiny.edit_tensors = [](testing::StoredTensors& tensors) {
    for (auto& [name, tensor] : tensors) {
      if (name.ends_with("weight_scale_2")) {
        tensor = testing::store_f32({}, {1.0F});
      }
    }
  };
  write_tiny_checkpoint(directory.path(), tiny, random);
  ConvertOptions options = to(DType::kBF16);
  options.rules = {{"ffn_|attn_output", DType::kNVFP4}};
  convert_checkpoint(directory.path(), directory / "out.gguf", options);
  for (const std::string& name : names_of(GgufFile::open(directory / "out.gguf"))) {
    EXPECT_FALSE(name.ends_with(".scale")) << name;
  }
}

TEST(Convert, TensorsLieInTableOrder) {
  Random random;
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.config.layers = 2;
  write_tiny_checkpoint(directory.path(), tiny, random);
  convert_checkpoint(directory.path(), directory / "out.gguf", to(DType::kBF16));
  std::vector<std::string> expected{"token_embd.weight"};
  const std::string attention[] = {
      "attn_norm.weight",    "ffn_norm.weight",       "attn_q_a.weight",         "attn_q_a_norm.weight",
      "attn_q_b.weight",     "attn_kv_a_mqa.weight",  "attn_kv_a_norm.weight",   "attn_k_b.weight",
      "attn_v_b.weight",     "attn_output.weight",    "indexer.attn_q_b.weight", "indexer.attn_k.weight",
      "indexer.proj.weight", "indexer.k_norm.weight", "indexer.k_norm.bias"};
  const std::string dense[] = {"ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"};
  const std::string moe[] = {"ffn_gate_inp.weight", "exp_probs_b.bias",     "ffn_gate_exps.weight",
                             "ffn_up_exps.weight",  "ffn_down_exps.weight", "ffn_gate_shexp.weight",
                             "ffn_up_shexp.weight", "ffn_down_shexp.weight"};
  for (const std::string& name : attention) expected.push_back("blk.0." + name);
  for (const std::string& name : dense) expected.push_back("blk.0." + name);
  for (const std::string& name : attention) expected.push_back("blk.1." + name);
  for (const std::string& name : moe) expected.push_back("blk.1." + name);
  expected.insert(expected.end(), {"output_norm.weight", "output.weight"});
  EXPECT_EQ(names_of(GgufFile::open(directory / "out.gguf")), expected);
}

TEST(Convert, TokenizerIsTakenOverWhenThereIsOne) {
  Random random;
  const TemporaryDirectory with;
  TinyCheckpointOptions tiny;
  tiny.tokenizer = true;
  tiny.rope_parameters = true;
  tiny.shards = 1;
  write_tiny_checkpoint(with.path(), tiny, random);
  EXPECT_TRUE(convert_checkpoint(with.path(), with / "out.gguf", to(DType::kQ8_0)).has_tokenizer);
  const GgufFile file = GgufFile::open(with / "out.gguf");
  const Tokenizer tokenizer(tokenizer_from_gguf(file.metadata()), "out.gguf");
  EXPECT_EQ(tokenizer.size(), tiny.config.vocab_size);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("the inner 東 then", SpecialTokens::kAsText)),
            "the inner 東 then");

  const TemporaryDirectory without;
  tiny.tokenizer = false;
  write_tiny_checkpoint(without.path(), tiny, random);
  EXPECT_FALSE(convert_checkpoint(without.path(), without / "out.gguf", to(DType::kQ8_0)).has_tokenizer);
  const GgufFile plain = GgufFile::open(without / "out.gguf");
  for (const quant::GgufEntry& entry : plain.metadata().entries()) {
    EXPECT_FALSE(entry.key.starts_with("tokenizer.")) << entry.key;
  }
}

TEST(Convert, TensorsWithoutAPlaceAreListed) {
  Random random;
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.config.mtp_layers = 0;
  tiny.edit_tensors = [](testing::StoredTensors& tensors) {
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = testing::store_f32({2}, {1.0F, 0.5F});
    tensors["model.layers.3.enorm.weight"] = testing::store_f32({2}, {1.0F, 0.5F});
  };
  write_tiny_checkpoint(directory.path(), tiny, random);
  const ConvertReport report = convert_checkpoint(directory.path(), directory / "out.gguf", to(DType::kQ8_0));
  EXPECT_EQ(report.ignored, (std::vector<std::string>{"model.layers.0.self_attn.rotary_emb.inv_freq",
                                                      "model.layers.3.enorm.weight"}));
}

TEST(Convert, MtpCopiesOfEmbeddingAndHeadMayBeAbsent) {
  Random random;
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.config.mtp_layers = 1;
  tiny.edit_tensors = [](testing::StoredTensors& tensors) {
    tensors.erase("model.layers.3.embed_tokens.weight");
    tensors.erase("model.layers.3.shared_head.head.weight");
  };
  write_tiny_checkpoint(directory.path(), tiny, random);
  convert_checkpoint(directory.path(), directory / "out.gguf", to(DType::kQ8_0));
  const GgufFile file = GgufFile::open(directory / "out.gguf");
  EXPECT_EQ(file.find("blk.3.nextn.embed_tokens.weight"), nullptr);
  EXPECT_EQ(file.find("blk.3.nextn.shared_head_head.weight"), nullptr);
  EXPECT_NE(file.find("blk.3.nextn.eh_proj.weight"), nullptr);
  EXPECT_EQ(file.metadata().get<uint32_t>("deepseek32.block_count"), 4U);
}

TEST(Convert, ProgressCountsToTheTotal) {
  Random random;
  const TemporaryDirectory directory;
  write_tiny_checkpoint(directory.path(), {}, random);
  ConvertOptions options = to(DType::kNVFP4);
  int64_t last = 0;
  int64_t total = 0;
  int64_t calls = 0;
  options.progress = [&](int64_t done, int64_t all, const std::string&) {
    EXPECT_GT(done, last);
    last = done;
    total = all;
    ++calls;
    return true;
  };
  const ConvertReport report = convert_checkpoint(directory.path(), directory / "out.gguf", options);
  EXPECT_EQ(last, total);
  EXPECT_EQ(calls, report.tensors);
}

}  // namespace
}  // namespace sluice
