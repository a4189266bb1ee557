// Synthetic files, and that memory holds the same bytes.
#include "engine/synth/write_gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <tuple>
#include <vector>

#include "engine/runtime.h"
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
      if (tensor.name.ends_with("_exps.weight")) {
        EXPECT_TRUE(other->bytes.empty()) << tensor.name << ": the experts are made where they are loaded";
        EXPECT_EQ(other->ne, tensor.ne) << tensor.name;
      } else {
        EXPECT_TRUE(
            std::equal(tensor.bytes.begin(), tensor.bytes.end(), other->bytes.begin(), other->bytes.end()))
            << tensor.name;
      }
    }
  }
}

// All rows of one matrix of an expert.
std::vector<std::byte> rows_of(const offload::ExpertSource& source, int64_t layer, ExpertPart part,
                               int64_t expert) {
  const offload::ExpertPartShape shape = source.shape(layer, part);
  std::vector<std::byte> bytes(static_cast<size_t>(quant::row_bytes(shape.dtype, shape.rows * shape.cols)));
  source.read({.layer = layer, .part = part, .expert = expert, .first_row = 0, .rows = shape.rows}, bytes);
  return bytes;
}

TEST(WriteGguf, ExpertsOnDemandAreThoseOfTheFile) {
  const TemporaryDirectory directory;
  for (const char* const type : kTypes) {
    SCOPED_TRACE(type);
    write_gguf(tiny_spec(type), directory / "out.gguf", {});
    const Model from_file = Model::load(directory / "out.gguf");
    const Model model = open_model(tiny_spec(type), {});
    const offload::ExpertSource& source = *model.expert_source();
    ASSERT_EQ(source.layers(), 3);
    EXPECT_EQ(source.experts(0), 0);
    ASSERT_EQ(source.experts(2), model.config().router.experts);
    const offload::ExpertLayer& layer = from_file.weights().layers[2].experts;
    const std::tuple<ExpertPart, const offload::ExpertMatrix*, const char*> parts[] = {
        {ExpertPart::kGate, &layer.gate, "gate"},
        {ExpertPart::kUp, &layer.up, "up"},
        {ExpertPart::kDown, &layer.down, "down"}};
    for (const auto& [part, matrix, name] : parts) {
      SCOPED_TRACE(name);
      const offload::ExpertPartShape shape = source.shape(2, part);
      EXPECT_EQ(shape.dtype, matrix->all.dtype);
      EXPECT_EQ(shape.rows, matrix->rows);
      EXPECT_EQ(shape.cols, matrix->all.cols);
      EXPECT_TRUE(
          std::equal(shape.scales.begin(), shape.scales.end(), matrix->scales.begin(), matrix->scales.end()));
      EXPECT_EQ(source.origin(2, part).tensor,
                model.path().string() + ": tensor blk.2.ffn_" + name + "_exps.weight");
      for (int64_t expert = 0; expert < source.experts(2); ++expert) {
        const quant::WeightView rows = matrix->expert(expert);
        const std::vector<std::byte> bytes = rows_of(source, 2, part, expert);
        ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), rows.data));
      }
      const quant::WeightView rows = matrix->expert(7).rows_from(9, 31);
      std::vector<std::byte> bytes(static_cast<size_t>(31 * rows.row_bytes));
      source.read({.layer = 2, .part = part, .expert = 7, .first_row = 9, .rows = 31}, bytes);
      EXPECT_TRUE(std::equal(bytes.begin(), bytes.end(), rows.data));
    }
  }
}

TEST(WriteGguf, ExpertsThatNoFileHoldsCannotBeMapped) {
  const Model model = open_model(tiny_spec("q8_0"), {});
  EXPECT_EQ(testing::error_text([&] {
              const Runtime runtime(model, {.threads = 1, .expert_memory = ExpertMemory::kMapped});
              return 0;
            }),
            "--mmap: expected a model file to leave the experts in, found " + to_text(tiny_spec("q8_0")));
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
