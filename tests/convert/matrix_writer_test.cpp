// Tensors written by any number of workers equal rows encoded one after the other.
#include "engine/convert/matrix_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "quant/base/error.h"
#include "quant/block_codec.h"
#include "quant/gguf_reader.h"
#include "quant/nvfp4.h"
#include "support/error_text.h"
#include "support/random_tensors.h"
#include "support/temporary_directory.h"

namespace sluice::convert {
namespace {

using quant::DType;
using quant::Tensor;
using testing::Random;
using testing::TemporaryDirectory;

class MatrixWriterTest : public ::testing::Test {
 protected:
  MatrixWriterTest() { values_ = random_.normal(kSlices * kRows * kCols); }

  // Small ranges, so that there are several batches of them, the last range of a slice being shorter.
  MatrixStack stack() const {
    return {7, [this](const RowRange& range, std::span<float> values) {
              const int64_t first = (range.slice * kRows + range.first_row) * kCols;
              EXPECT_EQ(static_cast<int64_t>(values.size()), range.rows * kCols);
              std::copy_n(values_.begin() + first, values.size(), values.begin());
              if (failing_rows_ && range.first_row > 0) {
                throw Error("row", "a good one", std::to_string(range.slice * kRows + range.first_row));
              }
            }};
  }

  template <typename Write>
  std::vector<std::byte> written(DType dtype, int64_t threads, const ConvertProgress& told, Write write) {
    const TemporaryDirectory directory;
    const std::vector<Tensor> declared{declare_tensor("t", dtype, std::array{kCols, kRows, kSlices})};
    quant::GgufWriter file(directory / "out.gguf", quant::GgufMetadata("test"), declared);
    ProgressMeter progress(told, directory / "out.gguf", declared);
    offload::Workers workers(threads);
    MatrixWriter writer(file, progress, workers);
    write(writer, declared.front());
    file.finish();
    const quant::GgufFile read = quant::GgufFile::open(directory / "out.gguf");
    const std::span<const std::byte> bytes = read.tensors().front().bytes;
    return {bytes.begin(), bytes.end()};
  }

  static std::vector<std::byte> encoded(DType dtype, std::span<const float> values) {
    std::vector<std::byte> blocks(
        static_cast<size_t>(quant::row_bytes(dtype, static_cast<int64_t>(values.size()))));
    quant::quantize_row(dtype, values, blocks);
    return blocks;
  }

  static constexpr int64_t kSlices = 3;
  static constexpr int64_t kRows = 150;
  static constexpr int64_t kCols = 256;
  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
  std::vector<float> values_;
  bool failing_rows_ = false;
};

TEST_F(MatrixWriterTest, BytesDoNotDependOnTheThreads) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_K, DType::kNVFP4}) {
    for (const int64_t threads : {1, 2, 3, 5}) {
      const auto bytes = written(dtype, threads, {}, [&](MatrixWriter& writer, const Tensor& target) {
        writer.write_matrices(target, stack());
      });
      EXPECT_TRUE(bytes == encoded(dtype, values_)) << quant::dtype_info(dtype).name << " " << threads;
    }
  }
}

TEST_F(MatrixWriterTest, SecondScalesDivideTheirSlice) {
  std::fill_n(values_.begin() + kRows * kCols, kRows * kCols, 0.0F);  // the middle slice: no scale
  std::vector<float> scales;
  std::vector<float> divided(values_);
  for (int64_t slice = 0; slice < kSlices; ++slice) {
    const std::span<float> part = std::span(divided).subspan(static_cast<size_t>(slice * kRows * kCols),
                                                             static_cast<size_t>(kRows * kCols));
    float largest = 0;
    for (const float value : part) largest = std::max(largest, std::fabs(value));
    scales.push_back(largest > 0 ? largest / quant::kNvfp4Largest : 1.0F);
    for (float& value : part) value /= scales.back();
  }
  for (const int64_t threads : {1, 3}) {
    std::vector<float> found;
    const auto bytes = written(DType::kNVFP4, threads, {}, [&](MatrixWriter& writer, const Tensor& target) {
      found = writer.write_scaled_nvfp4(target, stack());
    });
    EXPECT_EQ(found, scales);
    EXPECT_TRUE(bytes == encoded(DType::kNVFP4, divided)) << threads;
  }
}

TEST_F(MatrixWriterTest, OfSeveralErrorsTheFirstInTheFileIsReported) {
  failing_rows_ = true;
  for (const int64_t threads : {1, 2, 4}) {
    const std::string text = testing::error_text([&] {
      written(DType::kQ8_0, threads, {},
              [&](MatrixWriter& writer, const Tensor& target) { writer.write_matrices(target, stack()); });
    });
    EXPECT_EQ(text, "row: expected a good one, found 7");
  }
}

TEST_F(MatrixWriterTest, StopsInsideATensor) {
  int64_t calls = 0;
  int64_t last = 0;
  int64_t all = 0;
  const auto stop_at_second = [&](int64_t done, int64_t total, const std::string&) {
    last = done;
    all = total;
    return ++calls < 2;
  };
  const std::string text = testing::error_text([&] {
    written(DType::kBF16, 1, stop_at_second,
            [&](MatrixWriter& writer, const Tensor& target) { writer.write_matrices(target, stack()); });
  });
  EXPECT_NE(text.find("stop"), std::string::npos) << text;
  EXPECT_EQ(calls, 2);
  EXPECT_GT(last, 0);
  EXPECT_LT(last, all);
}

}  // namespace
}  // namespace sluice::convert
