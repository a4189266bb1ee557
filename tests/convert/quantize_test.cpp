// GGUF to GGUF: what is copied, what is encoded again, and what happens to second-level scales.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>

#include "engine/convert/convert.h"
#include "quant/base/error.h"
#include "quant/block_codec.h"
#include "quant/gguf_reader.h"
#include "quant/gguf_writer.h"
#include "support/compare_gguf.h"
#include "support/expected_gguf.h"
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

ConvertOptions to(DType dtype, std::vector<TypeRule> rules = {}) {
  ConvertOptions options;
  options.dtype = dtype;
  options.rules = std::move(rules);
  return options;
}

bool same_bytes(const quant::Tensor& a, const quant::Tensor& b) {
  return a.dtype == b.dtype && a.ne == b.ne &&
         std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end());
}

TEST(Quantize, EqualsConvertingToThatTypeAtOnce) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.tokenizer = true;
  tiny.config.mtp_layers = 1;
  write_tiny_checkpoint(directory.path(), tiny, random);
  convert_checkpoint(directory.path(), directory / "f32.gguf", to(DType::kF32));
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K}) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    const ConvertReport at_once = convert_checkpoint(directory.path(), directory / "a.gguf", to(dtype));
    const ConvertReport in_two = quantize_gguf(directory / "f32.gguf", directory / "b.gguf", to(dtype));
    EXPECT_EQ(at_once.fallbacks, in_two.fallbacks);
    EXPECT_EQ(at_once.tensors, in_two.tensors);
    EXPECT_EQ(at_once.bytes, in_two.bytes);
    EXPECT_TRUE(in_two.has_tokenizer);
    const GgufFile a = GgufFile::open(directory / "a.gguf");
    const GgufFile b = GgufFile::open(directory / "b.gguf");
    ASSERT_EQ(a.tensors().size(), b.tensors().size());
    for (size_t i = 0; i < a.tensors().size(); ++i) {
      EXPECT_EQ(a.tensors()[i].name, b.tensors()[i].name);
      EXPECT_TRUE(same_bytes(a.tensors()[i], b.tensors()[i])) << a.tensors()[i].name;
    }
    ASSERT_EQ(a.metadata().entries().size(), b.metadata().entries().size());
    for (size_t i = 0; i < a.metadata().entries().size(); ++i) {
      EXPECT_EQ(a.metadata().entries()[i].key, b.metadata().entries()[i].key);
      EXPECT_TRUE(a.metadata().entries()[i].value == b.metadata().entries()[i].value)
          << a.metadata().entries()[i].key;
    }
  }
}

TEST(Quantize, UnchangedTypesAreCopiedWithTheirScales) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.format = TinyFormat::kModelOptNvfp4;
  write_tiny_checkpoint(directory.path(), tiny, random);
  const std::vector<TypeRule> experts_nvfp4{{"_exps", DType::kNVFP4}};
  convert_checkpoint(directory.path(), directory / "a.gguf", to(DType::kBF16, experts_nvfp4));
  quantize_gguf(directory / "a.gguf", directory / "b.gguf", to(DType::kQ8_0, experts_nvfp4));
  const GgufFile a = GgufFile::open(directory / "a.gguf");
  const GgufFile b = GgufFile::open(directory / "b.gguf");
  EXPECT_EQ(b.metadata().get<uint32_t>("general.file_type"), 7U);
  for (const char* name : {"blk.1.ffn_up_exps.weight", "blk.1.ffn_up_exps.scale", "blk.1.ffn_gate_inp.weight",
                           "blk.2.indexer.proj.weight", "output_norm.weight"}) {
    SCOPED_TRACE(name);
    ASSERT_NE(a.find(name), nullptr);
    ASSERT_NE(b.find(name), nullptr);
    EXPECT_TRUE(same_bytes(*a.find(name), *b.find(name)));
  }
  EXPECT_EQ(b.find("output.weight")->dtype, DType::kQ8_0);
}

TEST(Quantize, SecondScalesAreFoldedIn) {
  Random random;
  SCOPED_TRACE(random.describe());
  const TemporaryDirectory directory;
  TinyCheckpointOptions tiny;
  tiny.format = TinyFormat::kModelOptNvfp4;
  const TinyTensors tensors = write_tiny_checkpoint(directory.path(), tiny, random);
  convert_checkpoint(directory.path(), directory / "a.gguf",
                     to(DType::kF32, {{"ffn_|attn_output", DType::kNVFP4}}));
  ASSERT_NE(GgufFile::open(directory / "a.gguf").find("blk.1.ffn_up_exps.scale"), nullptr);
  quantize_gguf(directory / "a.gguf", directory / "b.gguf", to(DType::kF32));
  const GgufFile b = GgufFile::open(directory / "b.gguf");
  EXPECT_EQ(b.find("blk.1.ffn_up_exps.scale"), nullptr);
  testing::expect_holds(b, testing::expected_gguf(tiny.config, tensors), 0.0);
}

TEST(Quantize, TypesWithoutEncoderAreRefusedByName) {
  Random random;
  const TemporaryDirectory directory;
  write_tiny_checkpoint(directory.path(), {}, random);
  convert_checkpoint(directory.path(), directory / "a.gguf", to(DType::kBF16));
  for (const DType dtype : {DType::kQ4_0, DType::kQ5_0, DType::kQ5_K}) {
    try {
      quantize_gguf(directory / "a.gguf", directory / "b.gguf", to(dtype));
      ADD_FAILURE() << "no Error was thrown";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(quant::dtype_info(dtype).name), std::string::npos)
          << error.what();
    }
    EXPECT_FALSE(std::filesystem::exists(directory / "b.gguf"));
  }
}

/// A file of a few tensors that are no model: requantizing needs none.
void write_gguf(const std::filesystem::path& path, const quant::GgufMetadata& metadata,
                const std::vector<quant::Tensor>& tensors) {
  quant::GgufWriter writer(path, metadata, tensors);
  for (const quant::Tensor& tensor : tensors) {
    writer.write(tensor.bytes);
  }
  writer.finish();
}

quant::Tensor f32_tensor(const std::string& name, std::array<int64_t, 4> ne, int n_dims,
                         const std::vector<float>& values) {
  return {name, DType::kF32, n_dims, ne, std::as_bytes(std::span(values))};
}

TEST(Quantize, BadValuesLeaveNothingBehind) {
  Random random;
  const TemporaryDirectory directory;
  quant::GgufMetadata metadata("in.gguf");
  metadata.set("general.architecture", std::string("deepseek32"));
  std::vector<float> values = random.normal(256);
  values[2 * 64 + 5] = std::numeric_limits<float>::quiet_NaN();
  write_gguf(directory / "in.gguf", metadata, {f32_tensor("output.weight", {64, 4, 1, 1}, 2, values)});
  try {
    quantize_gguf(directory / "in.gguf", directory / "out.gguf", to(DType::kQ8_0));
    ADD_FAILURE() << "no Error was thrown";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("output.weight"), std::string::npos) << text;
    EXPECT_NE(text.find("[2, 5]"), std::string::npos) << text;
  }
  EXPECT_EQ(directory.listing(), "in.gguf\n");
}

TEST(Quantize, AMisshapenScaleIsRefused) {
  Random random;
  const TemporaryDirectory directory;
  quant::GgufMetadata metadata("in.gguf");
  metadata.set("general.architecture", std::string("deepseek32"));
  const std::vector<float> values = random.normal(256);
  const std::vector<float> scales = random.normal(4);  // the weight has two slices
  write_gguf(directory / "in.gguf", metadata,
             {f32_tensor("blk.0.ffn_up.weight", {64, 2, 2, 1}, 3, values),
              f32_tensor("blk.0.ffn_up.scale", {4, 1, 1, 1}, 1, scales)});
  EXPECT_THROW(quantize_gguf(directory / "in.gguf", directory / "out.gguf", to(DType::kQ8_0)), Error);
  EXPECT_EQ(directory.listing(), "in.gguf\n");
}

TEST(Quantize, ShardKeysAreDropped) {
  Random random;
  const TemporaryDirectory directory;
  quant::GgufMetadata metadata("in.gguf");
  metadata.set("general.architecture", std::string("deepseek32"));
  metadata.set("split.no", uint16_t{0});
  metadata.set("split.count", uint16_t{1});
  metadata.set("split.tensors.count", int32_t{1});
  const std::vector<float> values = random.normal(256);
  write_gguf(directory / "in-00001-of-00001.gguf", metadata,
             {f32_tensor("output.weight", {64, 4, 1, 1}, 2, values)});
  quantize_gguf(directory / "in-00001-of-00001.gguf", directory / "out.gguf", to(DType::kQ8_0));
  const GgufFile file = GgufFile::open(directory / "out.gguf");
  EXPECT_EQ(file.metadata().find("split.count"), nullptr);
  EXPECT_EQ(file.metadata().find("split.no"), nullptr);
  EXPECT_EQ(file.find("output.weight")->dtype, DType::kQ8_0);
}

}  // namespace
}  // namespace sluice
