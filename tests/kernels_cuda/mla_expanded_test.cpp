// Attention in the expanded form on the GPU against double precision on its bf16 inputs: counts at the edges
// of tiles and blocks, any number of queries, part of the heads. Rows that no query sees are NaN.
#include "kernels_cuda/mla_expanded.h"

#include <numeric>
#include <string>

#include "kernels_cuda/base/graph.h"
#include "kernels_cuda/latent_cache.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

using cuda::FloatType;
using cuda::MlaExpandedParams;

constexpr int64_t kNope = 128;
constexpr int64_t kRope = 64;
constexpr int64_t kKey = kNope + kRope;
constexpr int64_t kValue = 128;
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr float kUntouched = -7.0F;

struct Case {
  std::vector<int32_t> counts;  // a query each
  int64_t n_rows = 0;
  int64_t n_heads = 3;
  int64_t first_head = 1;
  int64_t heads = 2;
  FloatType query_type = FloatType::kF32;
  FloatType out_type = FloatType::kF32;
  float scale = 0.4F;

  [[nodiscard]] int64_t n_queries() const { return static_cast<int64_t>(counts.size()); }
};

std::vector<int32_t> causal(int32_t first_count, int32_t n_queries) {
  std::vector<int32_t> counts(static_cast<size_t>(n_queries));
  std::iota(counts.begin(), counts.end(), first_count);
  return counts;
}

/// Values in bf16, on the host and on the GPU.
struct Halves {
  std::vector<float> values;
  std::vector<uint16_t> bits;
  cuda::DeviceBuffer<uint16_t> there;
};

Halves halves_of(std::vector<float> values) {
  Halves halves;
  for (float& value : values) {
    halves.bits.push_back(f32_to_bf16(value));
    value = bf16_to_f32(halves.bits.back());
  }
  halves.values = std::move(values);
  halves.there = cuda::DeviceBuffer<uint16_t>(halves.bits);
  return halves;
}

/// Everything a call reads.
struct Inputs {
  Halves queries;  // [n_queries, n_heads, 192]
  cuda::DeviceBuffer<float> float_queries;
  Halves keys;    // [heads, n_rows, 128]
  Halves values;  // [heads, n_rows, 128]
  LatentCache cache;
  cuda::DeviceBuffer<int32_t> counts;
};

struct Output {
  std::vector<float> out;          // [n_queries, n_heads, 128]
  std::vector<float> log_sum_exp;  // [n_queries, n_heads]
  bool operator==(const Output&) const = default;
};

/// One head of one query in double precision; the log-sum-exp comes last.
std::vector<double> attend(const Case& c, const Inputs& in, int64_t q, int64_t h) {
  const int64_t count = c.counts[static_cast<size_t>(q)];
  const float* const query = in.queries.values.data() + (q * c.n_heads + h) * kKey;
  const int64_t first_row = (h - c.first_head) * c.n_rows;
  std::vector<double> scores;
  double largest = -kInf;
  for (int64_t j = 0; j < count; ++j) {
    const float* const key = in.keys.values.data() + (first_row + j) * kNope;
    const float* const rope = in.cache.values.data() + j * in.cache.dims() + in.cache.d_latent;
    double sum = 0.0;
    for (int64_t i = 0; i < kKey; ++i) {
      sum += static_cast<double>(query[i]) * static_cast<double>(i < kNope ? key[i] : rope[i - kNope]);
    }
    scores.push_back(static_cast<double>(c.scale) * sum);
    largest = std::max(largest, scores.back());
  }
  std::vector<double> out(kValue + 1, 0.0);
  double total = 0.0;
  for (int64_t j = 0; j < count; ++j) {
    const double weight = std::exp(scores[static_cast<size_t>(j)] - largest);
    total += weight;
    for (int64_t i = 0; i < kValue; ++i) {
      out[static_cast<size_t>(i)] +=
          weight * static_cast<double>(in.values.values[static_cast<size_t>((first_row + j) * kValue + i)]);
    }
  }
  for (int64_t i = 0; i < kValue && total > 0.0; ++i) {
    out[static_cast<size_t>(i)] /= total;
  }
  out.back() = total > 0.0 ? largest + std::log(total) : -kInf;
  return out;
}

class CudaMlaExpanded : public OnGpu {
 protected:
  Inputs make(const Case& c) {
    const int64_t seen = *std::ranges::max_element(c.counts);
    std::vector<bool> is_used(static_cast<size_t>(c.n_rows), false);
    std::fill_n(is_used.begin(), seen, true);
    Inputs in;
    in.queries = halves_of(random_.normal(c.n_queries() * c.n_heads * kKey));
    in.float_queries = cuda::DeviceBuffer<float>(in.queries.values);
    in.keys = halves_of(head_rows(c, kNope, seen));
    in.values = halves_of(head_rows(c, kValue, seen));
    in.cache = make_latent_cache(random_, cuda::LatentFormat::kBf16, is_used);
    in.counts = cuda::DeviceBuffer<int32_t>(c.counts);
    return in;
  }

  /// [heads, n_rows, dims]; NaN from row `seen` on.
  std::vector<float> head_rows(const Case& c, int64_t dims, int64_t seen) {
    std::vector<float> rows = random_.normal(c.heads * c.n_rows * dims, 0.2F);
    for (int64_t h = 0; h < c.heads; ++h) {
      std::fill(rows.begin() + (h * c.n_rows + seen) * dims, rows.begin() + (h + 1) * c.n_rows * dims,
                std::numeric_limits<float>::quiet_NaN());
    }
    return rows;
  }

  static MlaExpandedParams params_of(const Case& c, const Inputs& in) {
    return {.queries = c.query_type == FloatType::kF32 ? static_cast<const void*>(in.float_queries.data())
                                                       : in.queries.there.data(),
            .query_type = c.query_type,
            .n_queries = c.n_queries(),
            .n_heads = c.n_heads,
            .first_head = c.first_head,
            .heads = c.heads,
            .keys = in.keys.there.data(),
            .values = in.values.there.data(),
            .n_rows = c.n_rows,
            .rope = in.cache.rows(),
            .d_latent = in.cache.d_latent,
            .counts = in.counts.data(),
            .softmax_scale = c.scale,
            .out_type = c.out_type};
  }

  Output run(const Case& c, const Inputs& in) {
    const int64_t results = c.n_queries() * c.n_heads;
    const std::vector<float> untouched(static_cast<size_t>(results * kValue), kUntouched);
    const cuda::DeviceBuffer<float> floats(untouched);
    const Halves halves = halves_of(untouched);
    const cuda::DeviceBuffer<float> log_sum_exp(std::vector<float>(static_cast<size_t>(results), kUntouched));
    MlaExpandedParams params = params_of(c, in);
    params.out = c.out_type == FloatType::kF32 ? static_cast<void*>(floats.data()) : halves.there.data();
    params.log_sum_exp = log_sum_exp.data();
    cuda::launch_mla_expanded(params, stream());
    Output output{floats.to_host(stream()), log_sum_exp.to_host(stream())};
    if (c.out_type == FloatType::kBf16) {
      output.out.clear();
      for (const uint16_t half : halves.there.to_host(stream())) {
        output.out.push_back(bf16_to_f32(half));
      }
    }
    return output;
  }

  /// The bounds of the absorbed form's tests (mla_test.cpp). Other heads keep what was there.
  static void compare(const Case& c, const Inputs& in, const Output& actual) {
    std::vector<double> out;
    std::vector<double> log_sum_exp;
    for (int64_t q = 0; q < c.n_queries(); ++q) {
      for (int64_t h = 0; h < c.n_heads; ++h) {
        const bool is_computed = h >= c.first_head && h < c.first_head + c.heads;
        const std::vector<double> head =
            is_computed ? attend(c, in, q, h) : std::vector<double>(kValue + 1, double{kUntouched});
        out.insert(out.end(), head.begin(), head.end() - 1);
        log_sum_exp.push_back(head.back());
        for (int64_t i = 0; i < kValue && (!is_computed || c.counts[static_cast<size_t>(q)] == 0); ++i) {
          const auto at = static_cast<size_t>((q * c.n_heads + h) * kValue + i);
          ASSERT_EQ(actual.out[at], static_cast<float>(out[at])) << "query " << q << ", head " << h;
        }
      }
    }
    EXPECT_TRUE(close(actual.out, out, 2.01 / 128, 1e-3));
    EXPECT_TRUE(close(actual.log_sum_exp, log_sum_exp, 8.0 / 65536, 1e-5));
    expect_same_direction(actual.out, out);
  }

  static void expect_same_direction(const std::vector<float>& actual, const std::vector<double>& expected) {
    double difference = 0.0;
    double size = 0.0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (expected[i] == double{kUntouched}) {
        continue;
      }
      const auto value = static_cast<double>(actual[i]);
      difference += (value - expected[i]) * (value - expected[i]);
      size += value * value + expected[i] * expected[i];
    }
    EXPECT_TRUE(difference <= 5e-6 * size) << "1 - 2xy / (x^2 + y^2) is " << difference / size;
  }

  void check(const Case& c) {
    SCOPED_TRACE(random_.describe());
    SCOPED_TRACE(::testing::Message() << c.n_queries() << " queries, " << c.n_rows << " rows, heads "
                                      << c.first_head << " + " << c.heads << " of " << c.n_heads);
    const Inputs in = make(c);
    compare(c, in, run(c, in));
  }
};

/// Small enough for compute-sanitizer.
TEST_F(CudaMlaExpanded, SmallShapes) {
  check({.counts = {0, 1, 63, 64, 65}, .n_rows = 70});
  check({.counts = {65}, .n_rows = 65, .n_heads = 1, .first_head = 0, .heads = 1});
  check({.counts = {130, 2, 129}, .n_rows = 200, .n_heads = 4, .first_head = 0, .heads = 3});
}

TEST_F(CudaMlaExpanded, NoRowsAtAll) {
  check({.counts = {0, 0, 0}, .n_rows = 64});
}

TEST_F(CudaMlaExpanded, CountsAtTheEdgesInAnyOrder) {
  check({.counts = {1000, 0, 1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 999, 0, 2}, .n_rows = 1050});
}

TEST_F(CudaMlaExpanded, CausalQueriesOfEveryNumber) {
  for (const int32_t queries : {1, 15, 16, 17, 127, 128, 129, 255, 257}) {
    check({.counts = causal(1, queries), .n_rows = queries + 9});
    check({.counts = causal(700, queries), .n_rows = 700 + queries});
  }
}

/// A warp's queries may see nothing of a tile that others of the block see, and other numbers of rows in any
/// order.
TEST_F(CudaMlaExpanded, RandomCounts) {
  Case c{.counts = {}, .n_rows = 900};
  for (int i = 0; i < 300; ++i) {
    const bool is_short = random_.integer(0, 2) == 0;
    c.counts.push_back(static_cast<int32_t>(random_.integer(0, is_short ? 70 : 900)));
  }
  check(c);
}

TEST_F(CudaMlaExpanded, QueriesAndOutputsInBf16) {
  for (const FloatType query_type : {FloatType::kF32, FloatType::kBf16}) {
    for (const FloatType out_type : {FloatType::kF32, FloatType::kBf16}) {
      check({.counts = causal(300, 131), .n_rows = 500, .query_type = query_type, .out_type = out_type});
    }
  }
}

/// Scores far apart: the running maximum rises often, and most weights vanish.
TEST_F(CudaMlaExpanded, SteepSoftmax) {
  check({.counts = causal(900, 140), .n_rows = 1100, .scale = 20.0F});
}

TEST_F(CudaMlaExpanded, TwentyRunsAreEqualAndQueriesIndependent) {
  SCOPED_TRACE(random_.describe());
  const Case c{.counts = causal(800, 200), .n_rows = 1000, .n_heads = 16, .first_head = 0, .heads = 16};
  const Inputs in = make(c);
  const Output first = run(c, in);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(run(c, in) == first) << "run " << i;
  }
  Case alone = c;
  alone.counts = {c.counts[0]};
  const Output one = run(alone, in);
  EXPECT_TRUE(identical(one.out, std::span(first.out).first(one.out.size())));
  EXPECT_TRUE(identical(one.log_sum_exp, std::span(first.log_sum_exp).first(one.log_sum_exp.size())));
}

/// Counts are read on the GPU: a graph that was captured for some serves others.
TEST_F(CudaMlaExpanded, IsCaptured) {
  SCOPED_TRACE(random_.describe());
  const Case c{.counts = causal(100, 50), .n_rows = 150, .n_heads = 2, .first_head = 0, .heads = 2};
  const Inputs in = make(c);
  const cuda::DeviceBuffer<float> out(c.n_queries() * c.n_heads * kValue);
  MlaExpandedParams params = params_of(c, in);
  params.out = out.data();
  const cuda::Graph graph(stream(), [&] { cuda::launch_mla_expanded(params, stream()); });
  graph.launch(stream());
  EXPECT_TRUE(identical(out.to_host(stream()), run(c, in).out));
  Case shorter = c;
  shorter.counts = causal(3, 50);
  in.counts.copy_from(shorter.counts, stream());
  graph.launch(stream());
  const std::vector<float> replayed = out.to_host(stream());
  EXPECT_TRUE(identical(replayed, run(shorter, in).out));
  compare(shorter, in, run(shorter, in));
}

TEST(CudaMlaExpandedWithoutGpu, TakesOneShape) {
  EXPECT_TRUE(cuda::mla_expanded_takes({128, 64, 128}));
  EXPECT_FALSE(cuda::mla_expanded_takes({64, 64, 128}));
  EXPECT_FALSE(cuda::mla_expanded_takes({128, 32, 128}));
  EXPECT_FALSE(cuda::mla_expanded_takes({128, 64, 64}));
}

TEST(CudaMlaExpandedWithoutGpu, Heads) {
  EXPECT_EQ(cuda::mla_expanded_heads(2048, 128, 132), 16);
  EXPECT_EQ(cuda::mla_expanded_heads(256, 128, 132), 128);
  EXPECT_EQ(cuda::mla_expanded_heads(1, 128, 132), 128);
  EXPECT_EQ(cuda::mla_expanded_heads(0, 128, 132), 128);
  EXPECT_EQ(cuda::mla_expanded_heads(1 << 20, 128, 132), 1);
  EXPECT_EQ(cuda::mla_expanded_heads(4096, 20, 132), 7);
}

TEST(CudaMlaExpandedWithoutGpu, RefusesWhatItCannotDo) {
  const int32_t counts = 0;
  MlaExpandedParams params{.n_queries = 1, .n_heads = 4, .first_head = 1, .heads = 3, .n_rows = 10};
  params.rope = {nullptr, cuda::LatentFormat::kBf16, 10, 1152};
  params.counts = &counts;
  const auto text = [&](auto change) {
    MlaExpandedParams changed = params;
    change(changed);
    return error_text([&] { return cuda::launch_mla_expanded(changed, nullptr), 0; });
  };
  const std::string found = "expanded attention on the GPU: expected ";
  EXPECT_EQ(text([](auto& p) { p.shape.d_value = 64; }),
            found + "heads of 128 + 64 and 128, found 128 + 64 and 64");
  EXPECT_EQ(text([](auto& p) { p.heads = 4; }), found + "1 to 65535 of the heads, found 4");
  EXPECT_EQ(text([](auto& p) { p.n_rows = 11; }), found + "as many cached rows as keys or more, found 10");
  EXPECT_EQ(text([](auto& p) { p.rope.format = cuda::LatentFormat::kFp8; }),
            found + "cached rows in bf16, found another format");
  EXPECT_EQ(text([](auto& p) { p.rope.row_bytes = 1136; }),
            found + "row_bytes of a whole row or more, a multiple of 16, found 1136");
  EXPECT_EQ(text([](auto& p) { p.counts = nullptr; }), found + "counts, found 0");
  EXPECT_EQ(text([](auto& p) { p.softmax_scale = 0.0F; }),
            found + "a positive softmax_scale, found 0.000000");
  EXPECT_EQ(text([](auto& p) { p.n_queries = 0; }), "no error");
}

}  // namespace
}  // namespace sluice::testing
