// Bytes of files, read past the page cache or through it.
#include "offload/file_expert_source.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "offload/expert_store.h"
#include "offload/workers.h"
#include "quant/mapped_file.h"
#include "support/error_text.h"
#include "support/random_experts.h"
#include "support/temporary_directory.h"

namespace sluice::offload {
namespace {

using quant::DType;

std::vector<std::byte> write_random(const std::filesystem::path& path, int64_t bytes,
                                    testing::Random& random) {
  std::vector<std::byte> data = random.bytes(bytes);
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
  return data;
}

TEST(FileReader, AnyRangeInEitherMode) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const testing::TemporaryDirectory directory;
  const auto path = directory / "data";
  const auto data = write_random(path, 100'001, random);
  for (const ReadMode mode : {FileReader({path}).mode(), ReadMode::kBuffered}) {
    const FileReader reader({path}, mode);
    EXPECT_EQ(reader.mode(), mode);
    for (int trial = 0; trial < 100; ++trial) {
      const int64_t begin = random.integer(0, 100'001);
      std::vector<std::byte> bytes(static_cast<size_t>(random.integer(0, 100'001 - begin)));
      reader.read(begin, bytes);
      ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), data.begin() + begin)) << begin;
    }
  }
}

TEST(FileReader, ManyThreadsAtOnce) {
  testing::Random random;
  const testing::TemporaryDirectory directory;
  const auto data = write_random(directory / "data", 1 << 20, random);
  const FileReader reader({directory / "data"});
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::byte> bytes(50'000);
      for (int64_t at = t; at + 50'000 < 1 << 20; at += 31'337) {
        reader.read(at, bytes);
        wrong[static_cast<size_t>(t)] += !std::equal(bytes.begin(), bytes.end(), data.begin() + at);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST(FileReader, TheEndIsAnError) {
  testing::Random random;
  const testing::TemporaryDirectory directory;
  const auto path = directory / "data";
  write_random(path, 5000, random);
  for (const ReadMode mode : {FileReader({path}).mode(), ReadMode::kBuffered}) {
    const FileReader reader({path}, mode);
    std::vector<std::byte> bytes(1001);
    EXPECT_EQ(testing::error_text([&] { return reader.read(4000, bytes), 0; }),
              path.string() + ": expected 1001 bytes at byte 4000, found the end of the file before");
    EXPECT_NE(testing::error_text([&] { return reader.read(50'000, bytes), 0; }), "no error");
  }
}

TEST(FileReader, WhereDirectReadsAreRefusedTheCacheIsUsedAndSaysSo) {
  const FileReader reader({"/proc/version"});  // procfs takes no O_DIRECT
  EXPECT_EQ(reader.mode(), ReadMode::kBuffered);
  std::vector<std::byte> bytes(5);
  reader.read(0, bytes);
  EXPECT_EQ(bytes[0], std::byte{'L'});
  EXPECT_NE(testing::error_text([] { return FileReader({"/proc/version"}, ReadMode::kDirect).mode(); }),
            "no error");
}

// A model that is replaced while it is in use must not mix with its successor.
TEST(FileReader, AnOpenFileIsReadEvenWhenItsNameIsGone) {
  testing::Random random;
  const testing::TemporaryDirectory directory;
  const auto path = directory / "data";
  const auto data = write_random(path, 9000, random);
  const quant::MappedFile mapped(path);
  std::filesystem::remove(path);
  write_random(path, 9000, random);
  std::vector<std::byte> bytes(9000);
  FileReader({.path = path, .descriptor = mapped.descriptor()}).read(0, bytes);
  EXPECT_EQ(bytes, data);
}

// A process's own memory as a file: where it has none, the system answers as for a broken disk. No memory is
// ever at the lowest addresses.
constexpr const char* kBrokenDisk = "/proc/self/mem";
constexpr int64_t kBrokenByte = 4096;

TEST(FileReader, AReadThatFailsIsToldByFileAndByte) {
  const FileReader reader({kBrokenDisk});
  std::vector<std::byte> bytes(100);
  EXPECT_EQ(testing::error_text([&] { return reader.read(kBrokenByte, bytes), 0; }),
            "/proc/self/mem: expected 100 readable bytes at byte 4096, found Input/output error");
}

// As /proc does, a file system may give less than was asked for at a time.
TEST(FileReader, ShortReadsAreContinued) {
  std::ifstream file("/proc/kallsyms", std::ios::binary);
  std::string expected(100'000, '\0');
  if (!file.read(expected.data(), static_cast<std::streamsize>(expected.size())))
    GTEST_SKIP() << "no such file";
  std::string found(expected.size(), '\0');
  FileReader({"/proc/kallsyms"}).read(0, std::as_writable_bytes(std::span(found)));
  EXPECT_EQ(found, expected);
}

TEST(FileReader, MissingFile) {
  EXPECT_EQ(testing::error_text([] { return FileReader({"/nowhere/at/all"}).mode(); }),
            "/nowhere/at/all: expected a readable file, found No such file or directory");
}

// Two files; in one gate and up are fused, in the other they are apart.
TEST(FileExpertSource, ReadsRowsOfFusedAndSeparateTensors) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const testing::TemporaryDirectory directory;
  const auto first = write_random(directory / "a", 300'000, random);
  const auto second = write_random(directory / "b", 200'000, random);
  constexpr int64_t kExperts = 3, kModel = 64, kExpert = 96;
  const ExpertPartShape in{.dtype = DType::kQ8_0, .rows = kExpert, .cols = kModel, .scales = {}};
  const ExpertPartShape out{.dtype = DType::kNVFP4, .rows = kModel, .cols = 192, .scales = {}};
  std::vector<FileExpertLayer> layers(3);
  layers[1] = {
      .experts = kExperts,
      .gate = {.name = "gate_up",
               .file = 0,
               .offset = 1056,
               .stride_rows = 2 * kExpert,
               .first_row = 0,
               .shape = in},
      .up = {.name = "gate_up",
             .file = 0,
             .offset = 1056,
             .stride_rows = 2 * kExpert,
             .first_row = kExpert,
             .shape = in},
      .down = {.name = "down", .file = 1, .offset = 32, .stride_rows = kModel, .first_row = 0, .shape = out}};
  layers[2] = {
      .experts = kExperts,
      .gate =
          {.name = "gate", .file = 1, .offset = 64'000, .stride_rows = kExpert, .first_row = 0, .shape = in},
      .up = {.name = "up", .file = 1, .offset = 128'000, .stride_rows = kExpert, .first_row = 0, .shape = in},
      .down = {.name = "down2",
               .file = 0,
               .offset = 299'000,
               .stride_rows = kModel,
               .first_row = 0,
               .shape = out}};
  const FileExpertSource source({{directory / "a"}, {directory / "b"}}, layers);
  EXPECT_EQ(source.layers(), 3);
  EXPECT_EQ(source.experts(0), 0);
  EXPECT_EQ(source.experts(1), kExperts);
  EXPECT_EQ(source.modes().size(), 2);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t layer = random.integer(1, 2);
    const auto part = static_cast<ExpertPart>(random.integer(0, 2));
    if (layer == 2 && part == ExpertPart::kDown) continue;
    const FileExpertMatrix& m = layers[static_cast<size_t>(layer)].matrix(part);
    const int64_t row_bytes = quant::row_bytes(m.shape.dtype, m.shape.cols);
    ExpertRows what{.layer = layer, .part = part, .expert = random.integer(0, kExperts - 1)};
    what.first_row = random.integer(0, m.shape.rows);
    what.rows = random.integer(0, m.shape.rows - what.first_row);
    std::vector<std::byte> bytes(static_cast<size_t>(what.rows * row_bytes));
    source.read(what, bytes);
    const auto& file = m.file == 0 ? first : second;
    const int64_t at = m.offset + (what.expert * m.stride_rows + m.first_row + what.first_row) * row_bytes;
    ASSERT_TRUE(std::equal(bytes.begin(), bytes.end(), file.begin() + at));
  }
  const ExpertOrigin up = source.origin(1, ExpertPart::kUp);
  EXPECT_EQ(up.tensor, (directory / "a").string() + ": tensor gate_up");
  EXPECT_EQ(up.first_row, kExpert);
  EXPECT_EQ(source.origin(2, ExpertPart::kUp).tensor, (directory / "b").string() + ": tensor up");
  std::vector<std::byte> bytes(static_cast<size_t>(kModel * quant::row_bytes(DType::kNVFP4, 192)));
  const std::string text = testing::error_text([&] {
    source.read({.layer = 2, .part = ExpertPart::kDown, .expert = 0, .first_row = 0, .rows = kModel}, bytes);
    return 0;
  });
  EXPECT_EQ(text.find((directory / "a").string() + ": tensor down2: expected "), 0) << text;
}

// Every reader meets the broken disk at once: one error comes out, and nobody waits for the others.
TEST(FileExpertSource, AFailingReadEndsTheLoad) {
  const ExpertPartShape shape{.dtype = DType::kQ8_0, .rows = 64, .cols = 64, .scales = {}};
  FileExpertLayer layer{.experts = 40, .gate = {}, .up = {}, .down = {}};
  for (FileExpertMatrix* matrix : {&layer.gate, &layer.up, &layer.down}) {
    *matrix = {.name = "experts",
               .file = 0,
               .offset = kBrokenByte,
               .stride_rows = 64,
               .first_row = 0,
               .shape = shape};
  }
  const FileExpertSource source({{kBrokenDisk}}, {layer});
  Workers workers(2);
  for (int repeat = 0; repeat < 5; ++repeat) {
    const std::string text =
        testing::error_text([&] { return ExpertStore::load(source, ExpertStoreOptions(), workers); });
    EXPECT_TRUE(text.starts_with("/proc/self/mem: tensor experts: expected 4352 readable bytes at byte "))
        << text;
    EXPECT_TRUE(text.ends_with("found Input/output error")) << text;
  }
}

}  // namespace
}  // namespace sluice::offload
