// Synthetic files, and that memory holds the same bytes.
#include "engine/synth/write_gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/synth/open_model.h"
#include "offload/expert_source.h"
#include "quant/gguf_reader.h"
#include "support/error_text.h"
#include "support/temporary_directory.h"

namespace sluice::synth {
namespace {

using offload::ExpertPart;
using testing::TemporaryDirectory;

constexpr const char* kTypes[] = {"bf16", "q8_0", "nvfp4", "q4_k"};

ModelSpec tiny_spec(const std::string& type) {
  return parse_model_spec("synth:tiny,dense=1,moe=2,seed=5,dense_type=" + type + ",type=" + type);
}

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(WriteGguf, FileIsTheSameWhateverTheThreads) {
  const TemporaryDirectory directory;
  for (const char* const type : kTypes) {
    write_gguf(tiny_spec(type), directory / "one.gguf", {.threads = 1, .progress = {}});
    write_gguf(tiny_spec(type), directory / "three.gguf", {.threads = 3, .progress = {}});
    EXPECT_TRUE(content(directory / "one.gguf") == content(directory / "three.gguf")) << type;
  }
}

TEST(WriteGguf, MemoryHoldsWhatTheFileHolds) {
  const TemporaryDirectory directory;
  for (const char* const type : kTypes) {
    SCOPED_TRACE(type);
    write_gguf(tiny_spec(type), directory / "out.gguf", {.threads = 1, .progress = {}});
    const Model from_file = Model::load(directory / "out.gguf");
    const Model in_memory = open_model(tiny_spec(type), {.threads = 2, .progress = {}});
    EXPECT_EQ(from_file.fingerprint(), in_memory.fingerprint());
    EXPECT_EQ(from_file.tensor_bytes(), in_memory.tensor_bytes());
    EXPECT_EQ(from_file.file().metadata().entries().size(), in_memory.file().metadata().entries().size());
    EXPECT_TRUE(in_memory.weights().unused.empty());
    ASSERT_EQ(from_file.file().tensors().size(), in_memory.file().tensors().size());
    for (const quant::Tensor& tensor : from_file.file().tensors()) {
      const quant::Tensor* const other = in_memory.file().find(tensor.name);
      ASSERT_NE(other, nullptr) << tensor.name;
      EXPECT_TRUE(
          std::equal(tensor.bytes.begin(), tensor.bytes.end(), other->bytes.begin(), other->bytes.end()))
          << tensor.name;
    }
  }
}

TEST(WriteGguf, ExpertsOnDemandAreThoseOfTheTensors) {
  for (const char* const type : kTypes) {
    SCOPED_TRACE(type);
    const Model model = open_model(tiny_spec(type), {});
    const offload::ExpertSource& source = *model.expert_source();
    ASSERT_EQ(source.layers(), 3);
    EXPECT_EQ(source.experts(0), 0);
    ASSERT_EQ(source.experts(2), model.config().router.experts);
    const offload::ExpertLayer& layer = model.weights().layers[2].experts;
    const std::pair<ExpertPart, const offload::ExpertMatrix*> parts[] = {
        {ExpertPart::kGate, &layer.gate}, {ExpertPart::kUp, &layer.up}, {ExpertPart::kDown, &layer.down}};
    for (const auto& [part, matrix] : parts) {
      const offload::ExpertPartShape shape = source.shape(2, part);
      EXPECT_EQ(shape.dtype, matrix->all.dtype);
      EXPECT_EQ(shape.rows, matrix->rows);
      EXPECT_EQ(shape.cols, matrix->all.cols);
      EXPECT_TRUE(
          std::equal(shape.scales.begin(), shape.scales.end(), matrix->scales.begin(), matrix->scales.end()));
      const quant::WeightView rows = matrix->expert(7).rows_from(9, 31);
      std::vector<std::byte> bytes(static_cast<size_t>(31 * rows.row_bytes));
      source.read({.layer = 2, .part = part, .expert = 7, .first_row = 9, .rows = 31}, bytes);
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), rows.data));
    }
  }
}

TEST(WriteGguf, ModelFilesHaveNoExpertSource) {
  const TemporaryDirectory directory;
  write_gguf(tiny_spec("q8_0"), directory / "out.gguf", {});
  EXPECT_EQ(Model::load(directory / "out.gguf").expert_source(), nullptr);
}

TEST(WriteGguf, DeclaredModelIsTheFileWithoutBytes) {
  const TemporaryDirectory directory;
  write_gguf(tiny_spec("nvfp4"), directory / "out.gguf", {});
  const quant::GgufFile file = quant::GgufFile::open(directory / "out.gguf");
  const quant::GgufFile declared = declare_model(tiny_spec("nvfp4"));
  ASSERT_EQ(declared.tensors().size(), file.tensors().size());
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    EXPECT_EQ(declared.tensors()[i].name, file.tensors()[i].name);
    EXPECT_EQ(declared.tensors()[i].ne, file.tensors()[i].ne);
    EXPECT_EQ(declared.tensors()[i].data_bytes(), static_cast<int64_t>(file.tensors()[i].bytes.size()));
  }
}

TEST(WriteGguf, StoppingLeavesNothing) {
  const TemporaryDirectory directory;
  const auto stop_after_a_while = [](int64_t done, int64_t total, const std::string& /*tensor*/) {
    EXPECT_LE(done, total);
    return done < total / 2;
  };
  EXPECT_EQ(
      testing::error_text([&] {
        return write_gguf(tiny_spec("q8_0"), directory / "out.gguf",
                          {.threads = 2, .progress = stop_after_a_while});
      }),
      (directory / "out.gguf").string() + ": expected to be written to its end, found a request to stop");
  EXPECT_EQ(directory.listing(), "");
}

TEST(WriteGguf, WhatFitsNowhereIsRefusedBeforeItBegins) {
  const TemporaryDirectory directory;
  const ModelSpec huge = parse_model_spec("synth:deepseek-v3.2,moe=200,experts=4096,type=bf16");
  const std::string disk = testing::error_text([&] { return write_gguf(huge, directory / "out.gguf", {}); });
  EXPECT_NE(disk.find("out.gguf: expected room for "), std::string::npos) << disk;
  EXPECT_EQ(directory.listing(), "");
  const std::string memory = testing::error_text([&] { return open_model(huge, {}); });
  EXPECT_TRUE(memory.starts_with(to_text(huge) + ": expected weights that fit this machine's ")) << memory;
}

}  // namespace
}  // namespace sluice::synth
