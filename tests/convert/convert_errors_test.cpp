// What conversion refuses: each case names the culprit and leaves nothing behind.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <limits>

#include "engine/convert/convert.h"
#include "quant/base/error.h"
#include "support/temporary_directory.h"
#include "support/tiny_checkpoint.h"

namespace sluice {
namespace {

using quant::DType;
using testing::Random;
using testing::StoredTensors;
using testing::TemporaryDirectory;
using testing::TinyCheckpointOptions;
using testing::TinyFormat;

/// Converts and expects an Error that holds every one of `parts`, and an empty output directory.
void expect_refused(const TinyCheckpointOptions& tiny, const std::vector<std::string>& parts,
                    const ConvertOptions& options = {}) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory source;
  const TemporaryDirectory output;
  write_tiny_checkpoint(source.path(), tiny, random);
  try {
    convert_checkpoint(source.path(), output / "out.gguf", options);
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << text << "\nshould name " << part;
    }
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
  }
  EXPECT_EQ(output.listing(), "");
}

TinyCheckpointOptions with_tensors(TinyFormat format, std::function<void(StoredTensors&)> edit) {
  TinyCheckpointOptions tiny;
  tiny.format = format;
  tiny.edit_tensors = std::move(edit);
  return tiny;
}

TEST(ConvertErrors, MissingTensors) {
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.2.mlp.experts.7.down_proj.weight",
        "model.layers.1.self_attn.indexer.k_norm.bias", "model.layers.1.mlp.gate.e_score_correction_bias",
        "model.layers.0.self_attn.kv_b_proj.weight"}) {
    expect_refused(with_tensors(TinyFormat::kBf16, [&](StoredTensors& tensors) { tensors.erase(name); }),
                   {name, "no such tensor"});
  }
}

TEST(ConvertErrors, MissingMtpLayer) {
  TinyCheckpointOptions tiny;
  tiny.edit_config = [](nlohmann::json& config) { config["num_nextn_predict_layers"] = 1; };
  expect_refused(tiny, {"model.layers.3.input_layernorm.weight"});
}

TEST(ConvertErrors, WrongShapes) {
  const std::string name = "model.layers.0.self_attn.o_proj.weight";
  expect_refused(with_tensors(TinyFormat::kBf16,
                              [&](StoredTensors& t) {
                                t[name].shape = {128, 192};
                              }),
                 {name, "[192, 128]", "[128, 192]"});
  expect_refused(with_tensors(TinyFormat::kBf16, [&](StoredTensors& t) { t[name].shape = {24576}; }), {name});
  const std::string norm = "model.norm.weight";
  expect_refused(with_tensors(TinyFormat::kBf16,
                              [&](StoredTensors& t) {
                                t[norm].shape = {1, 192};
                              }),
                 {norm});
  const std::string expert = "model.layers.1.mlp.experts.3.up_proj.weight";
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4,
                              [&](StoredTensors& t) {
                                t[expert].shape = {32, 192};
                              }),
                 {expert, "[64, 96]", "[32, 192]"});
}

TEST(ConvertErrors, CompanionsOfQuantizedWeights) {
  const std::string weight = "model.layers.1.mlp.experts.3.up_proj.weight";
  const std::string fp8 = weight + "_scale_inv";
  const std::string fp4 = weight + "_scale";
  const std::string second = weight + "_scale_2";
  expect_refused(with_tensors(TinyFormat::kFp8Blocks, [&](StoredTensors& t) { t.erase(fp8); }), {fp8});
  expect_refused(with_tensors(TinyFormat::kFp8Blocks,
                              [&](StoredTensors& t) {
                                t[fp8].shape = {2, 1};
                              }),
                 {fp8, "[1, 2]", "[2, 1]"});
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, [&](StoredTensors& t) { t.erase(fp4); }), {fp4});
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, [&](StoredTensors& t) { t.erase(second); }),
                 {second});
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, [&](StoredTensors& t) { t[fp4].dtype = "U8"; }),
                 {fp4, "F8_E4M3", "U8"});
  const auto two = [&](StoredTensors& t) { t[second] = testing::store_f32({2}, {1.0F, 1.0F}); };
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, two), {second, "[2]"});
}

TEST(ConvertErrors, NonFiniteValues) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  const auto put = [&](float value) {
    return [&, value](StoredTensors& t) {
      std::memcpy(t[gate].bytes.data() + (5 * 192 + 7) * sizeof(float), &value, sizeof(value));
    };
  };
  for (const float value : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    expect_refused(with_tensors(TinyFormat::kF32, put(value)), {gate, "[5, 7]", fmt::format("{}", value)});
  }
  const auto put_code = [&](StoredTensors& t) {
    t[gate].bytes[3 * size_t{192}] = std::byte{0x7F};
  };  // e4m3's NaN
  expect_refused(with_tensors(TinyFormat::kFp8Blocks, put_code), {gate, "[3, 0]"});
  const auto put_scale = [&](StoredTensors& t) { t[gate + "_scale"].bytes[12 * 3 + 1] = std::byte{0x7F}; };
  ConvertOptions nvfp4;
  nvfp4.dtype = DType::kNVFP4;
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, put_scale), {gate, "[3, 16]"});
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, put_scale), {gate + "_scale", "[3, 1]"}, nvfp4);
  const auto put_second = [&](StoredTensors& t) {
    t[gate + "_scale_2"] = testing::store_f32({}, {infinity});
  };
  expect_refused(with_tensors(TinyFormat::kModelOptNvfp4, put_second), {gate + "_scale_2"}, nvfp4);
}

TEST(ConvertErrors, BadConfigAndTokenizer) {
  TinyCheckpointOptions tiny;
  tiny.edit_config = [](nlohmann::json& config) { config.erase("q_lora_rank"); };
  expect_refused(tiny, {"config.json", "q_lora_rank"});
  tiny.edit_config = [](nlohmann::json& config) { config["vocab_size"] = 100; };
  expect_refused(tiny, {"model.embed_tokens.weight"});
  tiny = {};
  tiny.config.vocab_size = 260;  // fewer than the tokenizer's tokens
  tiny.tokenizer = true;
  expect_refused(tiny, {"token"});
}

TEST(ConvertErrors, BadOptionsAndStops) {
  ConvertOptions options;
  options.dtype = DType::kQ5_K;
  expect_refused({}, {"--type", "Q5_K"}, options);
  options = {};
  options.rules = {{"no_such_tensor", DType::kQ8_0}};
  expect_refused({}, {"--tensor-type", "no_such_tensor"}, options);
  options = {};
  int calls = 0;
  options.progress = [&](int64_t, int64_t, const std::string&) { return ++calls < 10; };
  expect_refused({}, {"out.gguf", "stop"}, options);
  EXPECT_EQ(calls, 10);
}

TEST(ConvertErrors, PathsThatCannotBe) {
  Random random;
  const TemporaryDirectory directory;
  EXPECT_THROW(convert_checkpoint(directory / "absent", directory / "out.gguf", {}), Error);
  EXPECT_THROW(convert_checkpoint(directory.path(), directory / "out.gguf", {}), Error);  // no config.json
  write_tiny_checkpoint(directory.path(), {}, random);
  try {
    convert_checkpoint(directory.path(), directory / "absent/out.gguf", {});
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("absent/out.gguf"), std::string::npos) << error.what();
  }
}

TEST(ConvertErrors, AnExistingFileSurvivesAFailure) {
  Random random;
  const TemporaryDirectory directory;
  write_tiny_checkpoint(directory.path(), {}, random);
  std::ofstream(directory / "out.gguf") << "precious";
  ConvertOptions options;
  options.progress = [](int64_t, int64_t, const std::string&) { return false; };
  EXPECT_THROW(convert_checkpoint(directory.path(), directory / "out.gguf", options), Error);
  std::string text;
  std::ifstream(directory / "out.gguf") >> text;
  EXPECT_EQ(text, "precious");
  EXPECT_EQ(directory.listing().find(".part"), std::string::npos) << directory.listing();
}

}  // namespace
}  // namespace sluice
