// Latent attention on the GPU against double precision on what the cache holds: sparse and dense, every
// format, counts at the edges. Rows that are not selected are NaN.
#include "kernels_cuda/mla.h"

#include <numeric>
#include <string>

#include "kernels_cuda/latent_cache.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

using cuda::FloatType;
using cuda::LatentFormat;
using cuda::MlaParams;
using cuda::MlaPlan;

constexpr double kInf = std::numeric_limits<double>::infinity();

struct Case {
  LatentFormat format = LatentFormat::kBf16;
  int64_t n_heads = 128;
  int64_t d_latent = 512;
  int64_t d_rope = 64;
  int64_t cached = 3000;
  std::vector<int32_t> counts;  // a query each
  bool is_sparse = true;
  FloatType query_type = FloatType::kF32;
  FloatType out_type = FloatType::kF32;
  Scales scales = Scales::kPowersOfTwo;
};

constexpr MlaPlan kWide{MlaPlan::Tiles::kHeads64Rows16, 1};
constexpr MlaPlan kNarrow{MlaPlan::Tiles::kHeads32Rows32, 1};

MlaPlan with_splits(MlaPlan plan, int64_t splits) {
  plan.splits = splits;
  return plan;
}

/// Everything a call reads, on the host and on the GPU.
struct Inputs {
  LatentCache cache;
  std::vector<std::vector<int32_t>> selected;  // of each query: what the kernel gets, absent rows too
  int64_t stride = 0;
  std::vector<float> queries;  // as the kernel takes them: rounded where it rounds
  cuda::DeviceBuffer<std::byte> queries_there;
  cuda::DeviceBuffer<int32_t> selected_there;
  cuda::DeviceBuffer<int32_t> counts_there;
  float scale = 1.0F;
};

struct Output {
  std::vector<float> out;
  std::vector<float> log_sum_exp;
  bool operator==(const Output&) const = default;
};

struct Reference {
  std::vector<double> out;
  std::vector<double> log_sum_exp;
};

/// One head of one query in double precision; the log-sum-exp comes last.
std::vector<double> attend(const Inputs& in, const std::vector<int32_t>& rows, const float* query) {
  const int64_t dims = in.cache.dims();
  std::vector<double> out(static_cast<size_t>(in.cache.d_latent) + 1, 0.0);
  std::vector<double> scores;
  std::vector<const float*> values;
  double largest = -kInf;
  for (const int32_t row : rows) {
    if (row < 0 || row >= in.cache.n_rows()) {
      continue;
    }
    values.push_back(in.cache.values.data() + row * dims);
    double sum = 0.0;
    for (int64_t i = 0; i < dims; ++i) {
      sum += static_cast<double>(query[i]) * static_cast<double>(values.back()[i]);
    }
    scores.push_back(static_cast<double>(in.scale) * sum);
    largest = std::max(largest, scores.back());
  }
  double total = 0.0;
  for (size_t j = 0; j < scores.size(); ++j) {
    const double weight = std::exp(scores[j] - largest);
    total += weight;
    for (size_t c = 0; c + 1 < out.size(); ++c) {
      out[c] += weight * static_cast<double>(values[j][c]);
    }
  }
  for (size_t c = 0; c + 1 < out.size() && total > 0.0; ++c) {
    out[c] /= total;
  }
  out.back() = total > 0.0 ? largest + std::log(total) : -kInf;
  return out;
}

class CudaMla : public OnGpu {
 protected:
  Inputs make(const Case& c) {
    Inputs in;
    in.scale = 0.5F;
    std::vector<bool> is_used(static_cast<size_t>(c.cached), false);
    for (const int32_t count : c.counts) {
      std::vector<int32_t> rows(static_cast<size_t>(c.cached));
      std::iota(rows.begin(), rows.end(), 0);
      if (c.is_sparse) {
        for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
          std::swap(rows[i],
                    rows[static_cast<size_t>(random_.integer(static_cast<int64_t>(i), c.cached - 1))]);
        }
      }
      rows.resize(static_cast<size_t>(count));
      for (const int32_t row : rows) {
        is_used[static_cast<size_t>(row)] = true;
      }
      in.stride = std::max<int64_t>(in.stride, count);
      in.selected.push_back(std::move(rows));
    }
    in.stride += 3;
    in.cache = make_latent_cache(random_, c.format, is_used, c.d_latent, c.d_rope, c.scales);
    add_queries(c, in);
    upload_selection(c, in);
    return in;
  }

  void add_queries(const Case& c, Inputs& in) {
    const auto n = static_cast<int64_t>(c.counts.size()) * c.n_heads * in.cache.dims();
    in.queries = random_.normal(n);
    std::vector<uint16_t> halves;
    for (float& value : in.queries) {
      halves.push_back(f32_to_bf16(value));
      if (c.format != LatentFormat::kF32 || c.query_type == FloatType::kBf16) {
        value = bf16_to_f32(halves.back());
      }
    }
    const auto* first = c.query_type == FloatType::kF32
                            ? reinterpret_cast<const std::byte*>(in.queries.data())
                            : reinterpret_cast<const std::byte*>(halves.data());
    in.queries_there = cuda::DeviceBuffer<std::byte>(std::span<const std::byte>(
        first, static_cast<size_t>(n * (c.query_type == FloatType::kF32 ? 4 : 2))));
  }

  /// What lies behind a query's count must not be read as a row: it names rows that hold NaN.
  void upload_selection(const Case& c, Inputs& in) {
    std::vector<int32_t> flat;
    for (std::vector<int32_t>& rows : in.selected) {
      flat.insert(flat.end(), rows.begin(), rows.end());
      flat.resize(flat.size() + static_cast<size_t>(in.stride) - rows.size(), 0);
    }
    in.selected_there = cuda::DeviceBuffer<int32_t>(flat);
    in.counts_there = cuda::DeviceBuffer<int32_t>(c.counts);
  }

  Output run(const Case& c, const Inputs& in, const MlaPlan& plan) {
    const auto n = static_cast<int64_t>(c.counts.size());
    const int64_t out_bytes = n * c.n_heads * c.d_latent * (c.out_type == FloatType::kF32 ? 4 : 2);
    const cuda::DeviceBuffer<std::byte> out(out_bytes);
    const cuda::DeviceBuffer<float> log_sum_exp(n * c.n_heads);
    const cuda::DeviceBuffer<std::byte> scratch(
        cuda::mla_scratch_bytes(n, c.n_heads, c.d_latent, plan.splits));
    for (const auto* buffer : {&out, &scratch}) {
      buffer->fill_bytes(0xFF, stream());
    }
    log_sum_exp.fill_bytes(0xFF, stream());
    const MlaParams params{.queries = in.queries_there.data(),
                           .query_type = c.query_type,
                           .n_queries = n,
                           .n_heads = c.n_heads,
                           .d_latent = c.d_latent,
                           .d_rope = c.d_rope,
                           .rows = in.cache.rows(),
                           .selected = c.is_sparse ? in.selected_there.data() : nullptr,
                           .selected_stride = in.stride,
                           .counts = in.counts_there.data(),
                           .softmax_scale = in.scale,
                           .plan = plan,
                           .scratch = scratch.data(),
                           .out = out.data(),
                           .out_type = c.out_type,
                           .log_sum_exp = log_sum_exp.data()};
    cuda::launch_mla(params, stream());
    Output result{{}, log_sum_exp.to_host(stream())};
    const std::vector<std::byte> bytes = out.to_host(stream());
    for (int64_t i = 0; i < n * c.n_heads * c.d_latent; ++i) {
      float value = 0.0F;
      uint16_t half = 0;
      if (c.out_type == FloatType::kF32) {
        std::memcpy(&value, bytes.data() + 4 * i, sizeof value);
      } else {
        std::memcpy(&half, bytes.data() + 2 * i, sizeof half);
        value = bf16_to_f32(half);
      }
      result.out.push_back(value);
    }
    return result;
  }

  static Reference reference_of(const Case& c, const Inputs& in) {
    Reference reference;
    for (size_t q = 0; q < c.counts.size(); ++q) {
      for (int64_t h = 0; h < c.n_heads; ++h) {
        const float* query = in.queries.data() + (static_cast<int64_t>(q) * c.n_heads + h) * in.cache.dims();
        const std::vector<double> head = attend(in, in.selected[q], query);
        reference.out.insert(reference.out.end(), head.begin(), head.end() - 1);
        reference.log_sum_exp.push_back(head.back());
      }
    }
    return reference;
  }

  /// The bounds of the fast kernels are those of spec/gpu_kernels.md, section 6; the plain one's are
  /// float32's.
  static void compare(const Case& c, const Output& actual, const Reference& expected) {
    const bool is_fast = c.format != LatentFormat::kF32 && c.d_latent == 512 && c.d_rope == 64;
    const std::vector<double>& out = expected.out;
    const double rounding = c.out_type == FloatType::kBf16 ? 0x1p-8 : 0.0;
    EXPECT_TRUE(is_fast ? close(actual.out, out, 2.01 / 128, 1e-3)
                        : close(actual.out, out, 1e-4 + rounding, 1e-6));
    EXPECT_TRUE(close(actual.log_sum_exp, expected.log_sum_exp, is_fast ? 8.0 / 65536 : 1e-6, 1e-5));
    double difference = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < out.size(); ++i) {
      const auto value = static_cast<double>(actual.out[i]);
      difference += (value - out[i]) * (value - out[i]);
      size += value * value + out[i] * out[i];
    }
    EXPECT_TRUE(difference <= 5e-6 * size) << "1 - 2xy / (x^2 + y^2) is " << difference / size;
  }

  void check(const Case& c, const std::vector<MlaPlan>& plans) {
    SCOPED_TRACE(random_.describe());
    const Inputs in = make(c);
    check(c, in, plans);
  }

  void check(const Case& c, const Inputs& in, const std::vector<MlaPlan>& plans) {
    const Reference expected = reference_of(c, in);
    for (const MlaPlan& plan : plans) {
      SCOPED_TRACE(::testing::Message() << "format " << static_cast<int>(c.format) << ", heads " << c.n_heads
                                        << ", tiles " << static_cast<int>(plan.tiles) << ", splits "
                                        << plan.splits << (c.is_sparse ? ", sparse" : ", dense"));
      compare(c, run(c, in, plan), expected);
    }
  }
};

/// Small enough for compute-sanitizer.
TEST_F(CudaMla, SmallShapes) {
  for (const LatentFormat format : {LatentFormat::kBf16, LatentFormat::kFp8}) {
    for (const bool is_sparse : {true, false}) {
      check(
          {.format = format, .n_heads = 40, .cached = 150, .counts = {0, 1, 17, 100}, .is_sparse = is_sparse},
          {kWide, kNarrow, with_splits(kWide, 3), with_splits(kNarrow, 2)});
    }
  }
}

TEST_F(CudaMla, SparseCountsAtTheEdges) {
  for (const LatentFormat format : {LatentFormat::kBf16, LatentFormat::kFp8}) {
    check({.format = format, .counts = {2048, 0, 1, 2047, 15, 16, 33}},
          {kWide, kNarrow, with_splits(kWide, 4), with_splits(kNarrow, 32)});
  }
}

TEST_F(CudaMla, DenseOfManyLengths) {
  for (const LatentFormat format : {LatentFormat::kBf16, LatentFormat::kFp8}) {
    check({.format = format, .n_heads = 72, .cached = 6000, .counts = {5000, 1, 4097}, .is_sparse = false},
          {kWide, with_splits(kWide, 66), with_splits(kNarrow, 7)});
  }
}

TEST_F(CudaMla, OtherNumbersOfHeads) {
  for (const int64_t heads : {1, 8, 16, 33, 64, 65}) {
    check({.n_heads = heads, .cached = 400, .counts = {300, 7}}, {kWide, with_splits(kNarrow, 5)});
  }
}

TEST_F(CudaMla, QueriesAndOutputsInBf16) {
  check({.counts = {2048, 100}, .query_type = FloatType::kBf16, .out_type = FloatType::kBf16},
        {kWide, with_splits(kNarrow, 16)});
}

TEST_F(CudaMla, Fp8ScalesNeedNotBePowersOfTwo) {
  check({.format = LatentFormat::kFp8, .counts = {2048, 1}, .scales = Scales::kAny},
        {kWide, with_splits(kNarrow, 8)});
}

TEST_F(CudaMla, PlainFloat32AndOddShapes) {
  check({.format = LatentFormat::kF32, .n_heads = 8, .counts = {2048, 0, 1, 300}}, {kWide});
  check({.format = LatentFormat::kF32,
         .n_heads = 8,
         .cached = 500,
         .counts = {500, 0, 257},
         .is_sparse = false},
        {kWide});
  check({.format = LatentFormat::kF32,
         .n_heads = 4,
         .d_latent = 32,
         .d_rope = 8,
         .cached = 70,
         .counts = {64, 3}},
        {kWide});
  check({.format = LatentFormat::kBf16,
         .n_heads = 3,
         .d_latent = 48,
         .d_rope = 16,
         .cached = 70,
         .counts = {64, 3}},
        {kWide});
  check({.format = LatentFormat::kFp8,
         .n_heads = 3,
         .d_latent = 256,
         .d_rope = 32,
         .cached = 300,
         .counts = {290}},
        {kWide});
  check({.format = LatentFormat::kBf16,
         .n_heads = 3,
         .d_latent = 48,
         .d_rope = 16,
         .cached = 70,
         .counts = {64},
         .out_type = FloatType::kBf16},
        {kWide});
}

TEST_F(CudaMla, AbsentRowsAreHarmless) {
  SCOPED_TRACE(random_.describe());
  constexpr int32_t kLeast = std::numeric_limits<int32_t>::min();
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  for (const LatentFormat format : {LatentFormat::kBf16, LatentFormat::kFp8, LatentFormat::kF32}) {
    const Case c{.format = format, .n_heads = 24, .counts = {2048, 300, 40, 64}};
    Inputs in = make(c);
    const std::vector<int32_t> absent = {-1, kLeast, kMost, static_cast<int32_t>(c.cached), -2};
    for (size_t i = 0; i < in.selected[0].size(); ++i) {
      if (random_.integer(0, 2) == 0 || i < 40) {
        in.selected[0][i] = absent[i % absent.size()];
      }
    }
    std::ranges::fill(in.selected[1], -1);
    in.selected[2][39] = -1;
    std::fill(in.selected[3].begin(), in.selected[3].end() - 1, -1);
    upload_selection(c, in);
    check(c, in, {kWide, kNarrow, with_splits(kWide, 4), with_splits(kNarrow, 32)});
  }
}

/// Scores far apart: the running maximum rises often, and most weights vanish.
TEST_F(CudaMla, SteepSoftmax) {
  SCOPED_TRACE(random_.describe());
  const Case c{.n_heads = 64, .counts = {2048, 500}};
  Inputs in = make(c);
  in.scale = 20.0F;
  check(c, in, {kWide, with_splits(kNarrow, 32)});
}

TEST_F(CudaMla, TwentyRunsAreEqualAndQueriesIndependent) {
  SCOPED_TRACE(random_.describe());
  for (const LatentFormat format : {LatentFormat::kBf16, LatentFormat::kFp8}) {
    for (const MlaPlan& plan : {kWide, with_splits(kNarrow, 32), with_splits(kWide, 9)}) {
      const Case c{.format = format, .counts = {2048, 1000, 2047}};
      const Inputs in = make(c);
      const Output first = run(c, in, plan);
      for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(run(c, in, plan) == first) << "run " << i;
      }
      Case alone = c;
      alone.counts = {c.counts[0]};
      Output one = run(alone, in, plan);
      EXPECT_TRUE(identical(one.out, std::span(first.out).first(one.out.size())));
      EXPECT_TRUE(identical(one.log_sum_exp, std::span(first.log_sum_exp).first(one.log_sum_exp.size())));
    }
  }
}

TEST_F(CudaMla, Fp8RowsBecomeBf16) {
  SCOPED_TRACE(random_.describe());
  const LatentCache cache =
      make_latent_cache(random_, LatentFormat::kFp8, std::vector<bool>(100, true), 512, 64, Scales::kAny);
  const cuda::DeviceBuffer<uint16_t> there(100 * cache.dims());
  cuda::launch_latent_to_bf16(cache.rows(), 100, 512, 64, there.data(), stream());
  const std::vector<uint16_t> actual = there.to_host(stream());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i], f32_to_bf16(cache.values[i])) << "value " << i;
  }
}

TEST(CudaMlaWithoutGpu, Plans) {
  using Tiles = MlaPlan::Tiles;
  const auto plan = [](int64_t queries, int64_t heads, int64_t rows) {
    const MlaPlan p = cuda::plan_mla(queries, heads, rows, 128);
    return std::pair{p.tiles, p.splits};
  };
  EXPECT_EQ(plan(1, 128, 2048), (std::pair{Tiles::kHeads32Rows32, int64_t{32}}));
  EXPECT_EQ(plan(1, 128, 131072), (std::pair{Tiles::kHeads64Rows16, int64_t{64}}));
  EXPECT_EQ(plan(2048, 128, 2048), (std::pair{Tiles::kHeads64Rows16, int64_t{1}}));
  EXPECT_EQ(plan(8, 128, 2048), (std::pair{Tiles::kHeads64Rows16, int64_t{8}}));
  EXPECT_EQ(plan(1, 8, 2048), (std::pair{Tiles::kHeads32Rows32, int64_t{64}}));
  EXPECT_EQ(plan(1, 8, 0), (std::pair{Tiles::kHeads32Rows32, int64_t{1}}));
  EXPECT_EQ(cuda::mla_scratch_bytes(2, 128, 512, 1), 0);
  EXPECT_EQ(cuda::mla_scratch_bytes(2, 128, 512, 4), 2 * 128 * 4 * (1024 + 4));
}

TEST(CudaMlaWithoutGpu, RefusesWhatItCannotDo) {
  MlaParams params{.n_queries = 1, .n_heads = 1};
  params.rows = {nullptr, LatentFormat::kBf16, 10, 1151};
  const auto text = [&] { return error_text([&] { return cuda::launch_mla(params, nullptr), 0; }); };
  EXPECT_EQ(text(), "attention on the GPU: expected row_bytes of a whole row or more, found 1151");
  params.rows.row_bytes = 1152;
  params.plan.splits = 129;
  EXPECT_EQ(text(), "attention on the GPU: expected 1 to 128 splits, found 129");
  params.plan.splits = 2;
  EXPECT_EQ(text(), "attention on the GPU: expected scratch for the splits, found 2");
}

}  // namespace
}  // namespace sluice::testing
