// What the writer puts on disk, byte by byte, and that nothing is left when it is not finished.
#include "quant/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "quant/gguf_reader.h"
#include "support/error_text.h"
#include "support/gguf_builder.h"
#include "support/random_tensors.h"
#include "support/temporary_directory.h"

namespace sluice::quant {
namespace {

using testing::as_file;
using testing::error_text;
using testing::GgufBuilder;
using ::testing::HasSubstr;
using testing::load_text;
using testing::raw;
using testing::raw_array;
using testing::raw_string;
using testing::TemporaryDirectory;

Tensor declared(const std::string& name, DType dtype, std::vector<int64_t> shape) {
  Tensor tensor;
  tensor.name = name;
  tensor.dtype = dtype;
  tensor.n_dims = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), tensor.ne.begin());
  return tensor;
}

GgufMetadata one_of_each() {
  GgufMetadata metadata;
  metadata.set("a", uint8_t{1});
  metadata.set("b", int8_t{-2});
  metadata.set("c", uint16_t{3});
  metadata.set("d", int16_t{-4});
  metadata.set("e", uint32_t{5});
  metadata.set("f", int32_t{-6});
  metadata.set("g", 0.5F);
  metadata.set("h", true);
  metadata.set("i", std::string("text"));
  metadata.set("j", uint64_t{7});
  metadata.set("k", int64_t{-8});
  metadata.set("l", 0.25);
  metadata.set("m", GgufArray(std::vector<bool>{true, false}));
  metadata.set("n", GgufArray(std::vector<std::string>{"x", ""}));
  metadata.set("o", GgufArray(std::vector<uint64_t>{9}));
  return metadata;
}

GgufBuilder one_of_each_by_hand() {
  GgufBuilder built;
  built.entry("a", GgufType::kU8, raw(uint8_t{1}));
  built.entry("b", GgufType::kI8, raw(int8_t{-2}));
  built.entry("c", GgufType::kU16, raw(uint16_t{3}));
  built.entry("d", GgufType::kI16, raw(int16_t{-4}));
  built.entry("e", GgufType::kU32, raw(uint32_t{5}));
  built.entry("f", GgufType::kI32, raw(int32_t{-6}));
  built.entry("g", GgufType::kF32, raw(0.5F));
  built.entry("h", GgufType::kBool, "\1");
  built.entry("i", GgufType::kString, raw_string("text"));
  built.entry("j", GgufType::kU64, raw(uint64_t{7}));
  built.entry("k", GgufType::kI64, raw(int64_t{-8}));
  built.entry("l", GgufType::kF64, raw(0.25));
  built.entry("m", GgufType::kArray, raw_array(GgufType::kBool, 2, std::string("\1\0", 2)));
  built.entry("n", GgufType::kArray, raw_array(GgufType::kString, 2, raw_string("x") + raw_string("")));
  built.entry("o", GgufType::kArray, raw_array(GgufType::kU64, 1, raw(uint64_t{9})));
  return built;
}

TEST(GgufWriter, WritesTheFormatByteForByte) {
  const TemporaryDirectory directory;
  const std::string first(34, 'q');
  const std::string second(24, 'f');  // 3 * 2 floats
  GgufWriter writer(directory / "out.gguf", one_of_each(),
                    {declared("first", DType::kQ8_0, {32}), declared("second", DType::kF32, {3, 2})});
  writer.write(as_file(first));
  writer.write(as_file(second).first(5));
  writer.write({});
  writer.write(as_file(second).subspan(5));
  writer.finish();

  GgufBuilder built = one_of_each_by_hand();
  built.tensor({.name = "first", .ne = {32}, .type = 8, .data = first, .offset = {}});
  built.tensor({.name = "second", .ne = {3, 2}, .type = 0, .data = second, .offset = {}});
  std::string expected = built.build();
  expected.resize((expected.size() + 31) / 32 * 32, '\0');  // the last tensor is padded too
  EXPECT_EQ(load_text(directory / "out.gguf"), expected);
}

TEST(GgufWriter, TheReaderGetsBackWhatWasWritten) {
  const TemporaryDirectory directory;
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const std::vector<Tensor> tensors{
      declared("a", DType::kQ4_K, {512, 3}), declared("b", DType::kNVFP4, {64, 5, 2}),
      declared("c", DType::kF16, {7, 1, 3, 2}), declared("d", DType::kQ6_K, {256})};
  std::vector<std::vector<std::byte>> data;
  GgufWriter writer(directory / "out.gguf", one_of_each(), tensors);
  for (const Tensor& tensor : tensors) {
    data.push_back(random.bytes(row_bytes(tensor.dtype, tensor.elements())));
    writer.write(data.back());
  }
  writer.finish();
  const GgufFile file = GgufFile::open(directory / "out.gguf");
  EXPECT_EQ(file.version(), 3U);
  const GgufMetadata written = one_of_each();
  EXPECT_EQ(file.metadata().entries().size(), written.entries().size());
  for (const GgufEntry& entry : written.entries()) {
    const GgufValue* found = file.metadata().find(entry.key);
    ASSERT_NE(found, nullptr) << entry.key;
    EXPECT_EQ(*found, entry.value) << entry.key;
  }
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& found = file.tensors()[i];
    EXPECT_EQ(found.name, tensors[i].name);
    EXPECT_EQ(found.dtype, tensors[i].dtype);
    EXPECT_EQ(found.n_dims, tensors[i].n_dims);
    EXPECT_EQ(found.ne, tensors[i].ne);
    EXPECT_EQ(std::vector(found.bytes.begin(), found.bytes.end()), data[i]);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(found.bytes.data()) % 32, 0U);
  }
}

TEST(GgufWriter, FollowsTheAlignmentThatTheMetadataNames) {
  const TemporaryDirectory directory;
  GgufMetadata metadata;
  metadata.set("general.alignment", uint32_t{128});
  GgufWriter writer(directory / "out.gguf", metadata,
                    {declared("a", DType::kI8, {3}), declared("b", DType::kI8, {1})});
  writer.write(as_file("abc"));
  writer.write(as_file("d"));
  writer.finish();
  const GgufFile file = GgufFile::open(directory / "out.gguf");
  EXPECT_EQ(file.find("b")->bytes.data() - file.find("a")->bytes.data(), 128);
  EXPECT_EQ(std::filesystem::file_size(directory / "out.gguf") % 128, 0U);
}

TEST(GgufWriter, WithoutFinishNothingIsLeft) {
  const TemporaryDirectory directory;
  const auto path = directory / "out.gguf";
  {
    GgufWriter writer(path, {}, {declared("a", DType::kF32, {2})});
    writer.write(as_file("12345678"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  {
    GgufWriter writer(path, {}, {declared("a", DType::kF32, {2}), declared("b", DType::kF32, {2})});
    writer.write(as_file("12345678"));
    EXPECT_EQ(error_text([&] { writer.finish(); }), path.string() + ": tensor b: expected 8 bytes, found 0");
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(GgufWriter, RefusesMoreBytesThanDeclared) {
  const TemporaryDirectory directory;
  const auto path = directory / "out.gguf";
  GgufWriter writer(path, {}, {declared("a", DType::kF32, {2}), declared("b", DType::kF32, {1})});
  writer.write(as_file("1234"));
  EXPECT_EQ(error_text([&] { writer.write(as_file("56789")); }),
            path.string() + ": tensor a: expected 8 bytes, found at least 9");
  writer.write(as_file("5678"));
  writer.write(as_file("bbbb"));
  EXPECT_EQ(error_text([&] { writer.write(as_file("x")); }),
            path.string() + ": expected no bytes after the last tensor, found 1");
  writer.finish();
  EXPECT_EQ(GgufFile::open(path).tensors().size(), 2U);
}

TEST(GgufWriter, RefusesWhatReadersWouldRefuse) {
  const TemporaryDirectory directory;
  const auto refusal = [&](const GgufMetadata& metadata, std::vector<Tensor> tensors) {
    std::string text = error_text([&] { GgufWriter(directory / "out.gguf", metadata, std::move(tensors)); });
    EXPECT_TRUE(std::filesystem::is_empty(directory.path())) << text;
    return text;
  };
  const std::string longest(63, 'n');
  EXPECT_EQ(refusal({}, {declared(longest, DType::kF32, {1})}), "no error");
  EXPECT_THAT(refusal({}, {declared(longest + "n", DType::kF32, {1})}), HasSubstr("at most 63 bytes"));
  EXPECT_THAT(refusal({}, {declared("a", DType::kF32, {1}), declared("a", DType::kF16, {1})}),
              HasSubstr("tensor a: expected each tensor once"));
  EXPECT_THAT(refusal({}, {declared("a", DType::kQ4_K, {128})}), HasSubstr("a multiple of 256"));
  EXPECT_THAT(refusal({}, {declared("a", DType::kF32, {0})}), HasSubstr("positive dimensions"));
  EXPECT_THAT(refusal({}, {declared("a", DType::kF32, {int64_t{1} << 40, int64_t{1} << 40})}),
              HasSubstr("63 bits"));
  GgufMetadata no_key;
  no_key.set("", true);
  EXPECT_THAT(refusal(no_key, {}), HasSubstr("an empty one"));
  GgufMetadata odd;
  odd.set("general.alignment", uint32_t{24});
  EXPECT_THAT(refusal(odd, {}), HasSubstr("general.alignment: expected a power of two"));
}

TEST(GgufWriter, RefusesAnUnwritablePath) {
  const TemporaryDirectory directory;
  const auto path = directory / "absent" / "out.gguf";
  EXPECT_THAT(error_text([&] { GgufWriter(path, {}, {}); }), HasSubstr(path.string()));
}

}  // namespace
}  // namespace sluice::quant
