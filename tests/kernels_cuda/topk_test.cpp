// Exact top-k on the GPU against nth_element by the rule (larger score, then smaller position), in both
// forms: few rows, shared by several blocks each, and many rows, one block each.
#include "kernels_cuda/topk.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "kernels_cuda/kernels_cuda.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

using Row = std::vector<float>;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// The expected row of `selected`: positions ascending, then -1.
std::vector<int32_t> expected_row(const Row& scores, int64_t k) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  const auto key = [&](int32_t i) {
    const float score = scores[static_cast<size_t>(i)];
    return std::isnan(score) ? std::pair{0, 0.0F} : std::pair{1, score};
  };
  const auto count = std::min(k, static_cast<int64_t>(order.size()));
  if (count > 0 && count < static_cast<int64_t>(order.size())) {
    std::nth_element(order.begin(), order.begin() + count - 1, order.end(), [&](int32_t a, int32_t b) {
      const auto of_a = key(a);
      const auto of_b = key(b);
      return of_a != of_b ? of_a > of_b : a < b;
    });
  }
  order.resize(static_cast<size_t>(count));
  std::ranges::sort(order);
  order.resize(static_cast<size_t>(k), -1);
  return order;
}

class CudaTopK : public OnGpu {
 protected:
  struct Result {
    std::vector<int32_t> selected;
    std::vector<int32_t> counts;
    bool operator==(const Result&) const = default;
  };

  Result run(const std::vector<Row>& rows, int64_t k) {
    int64_t longest = 0;
    for (const Row& row : rows) {
      longest = std::max(longest, static_cast<int64_t>(row.size()));
    }
    const int64_t stride = (longest + 3) / 4 * 4 + 4;
    std::vector<float> scores(rows.size() * static_cast<size_t>(stride),
                              kInf);  // behind a row: nobody reads it
    std::vector<int32_t> lengths;
    for (size_t r = 0; r < rows.size(); ++r) {
      std::ranges::copy(rows[r], scores.begin() + static_cast<std::ptrdiff_t>(r) * stride);
      lengths.push_back(static_cast<int32_t>(rows[r].size()));
    }
    const auto n = static_cast<int64_t>(rows.size());
    const cuda::DeviceBuffer<float> there(scores);
    const cuda::DeviceBuffer<int32_t> lengths_there(lengths);
    const cuda::DeviceBuffer<int32_t> selected(n * k);
    const cuda::DeviceBuffer<int32_t> counts(n);
    const cuda::DeviceBuffer<std::byte> scratch(cuda::top_k_scratch_bytes(n, longest));
    selected.fill_bytes(0x55, stream());
    counts.fill_bytes(0x55, stream());
    scratch.fill_bytes(0x55, stream());
    const cuda::TopKParams params{.scores = there.data(),
                                  .score_stride = stride,
                                  .n_rows = n,
                                  .lengths = lengths_there.data(),
                                  .most_scores = longest,
                                  .k = k,
                                  .selected = selected.data(),
                                  .counts = counts.data(),
                                  .scratch = scratch.data()};
    cuda::launch_top_k(params, stream());
    return {selected.to_host(stream()), counts.to_host(stream())};
  }

  /// Checks the rows in the form for few rows and, repeated, in the form for many.
  void check(const std::vector<Row>& rows, int64_t k) {
    std::vector<int32_t> expected;
    for (const Row& row : rows) {
      const std::vector<int32_t> one = expected_row(row, k);
      expected.insert(expected.end(), one.begin(), one.end());
    }
    ASSERT_LE(rows.size(), 32U);
    compare(run(rows, k), rows, expected, k, "few rows");
    std::vector<Row> many = rows;
    while (many.size() <= 32) {
      many.emplace_back();
    }
    compare(run(many, k), rows, expected, k, "many rows");
  }

 private:
  static void compare(const Result& result, const std::vector<Row>& rows,
                      const std::vector<int32_t>& expected, int64_t k, const char* form) {
    for (size_t r = 0; r < rows.size(); ++r) {
      SCOPED_TRACE(::testing::Message()
                   << form << ", row " << r << " of " << rows[r].size() << " scores, k " << k);
      const auto begin = static_cast<std::ptrdiff_t>(r) * k;
      const std::vector<int32_t> row(result.selected.begin() + begin, result.selected.begin() + begin + k);
      const std::vector<int32_t> right(expected.begin() + begin, expected.begin() + begin + k);
      ASSERT_EQ(result.counts[r], std::min<int64_t>(k, static_cast<int64_t>(rows[r].size())));
      const auto [here, there] = std::ranges::mismatch(row, right);
      ASSERT_TRUE(here == row.end()) << "entry " << here - row.begin() << " is " << *here << ", expected "
                                     << *there;
    }
  }
};

TEST_F(CudaTopK, SmallRows) {
  SCOPED_TRACE(random_.describe());
  std::vector<Row> rows;
  for (const int64_t n : {0, 1, 2, 3, 5, 31, 32, 33, 700, 2047, 2048, 2049, 3583, 3584, 3585}) {
    rows.push_back(random_.normal(n));
  }
  for (const int64_t k : {1, 2, 32, 256, 2047, 2048}) {
    check(rows, k);
  }
}

TEST_F(CudaTopK, LongRandomRows) {
  SCOPED_TRACE(random_.describe());
  std::vector<Row> rows;
  for (const int64_t n : {4096, 8191, 8192, 8193, 20001, 131072, 131071, 163840}) {
    rows.push_back(random_.normal(n));
  }
  rows.push_back(random_.normal(random_.integer(2049, 163840)));
  check(rows, 2048);
  check(rows, random_.integer(1, 2048));
}

/// Rows on which a guess from a sample, or a search by digits, could go wrong.
TEST_F(CudaTopK, HostileRows) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kLong = 131072;
  const auto row = [](int64_t n, const std::function<float(int64_t)>& value) {
    Row scores;
    for (int64_t i = 0; i < n; ++i) {
      scores.push_back(value(i));
    }
    return scores;
  };
  const Row normal = random_.normal(kLong);
  const auto at = [&](int64_t i) { return normal[static_cast<size_t>(i)]; };
  const auto neighbour_of = [&](float of) {
    return [&, of](int64_t) {
      return std::bit_cast<float>(std::bit_cast<int32_t>(of) +
                                  static_cast<int32_t>(random_.integer(0, 3000)));
    };
  };
  check({row(kLong, [](int64_t) { return -1.5F; }), row(2049, [](int64_t) { return 0.0F; }),
         row(kLong, [&](int64_t i) { return 20.0F + at(i); }),
         row(kLong, [&](int64_t i) { return 100.0F + at(i); }),
         row(kLong, [&](int64_t i) { return at(i) * 1e-40F; }), row(kLong, [](int64_t) { return -kInf; }),
         row(kLong, [](int64_t i) { return i % 50 == 0 ? 1.0F : -kInf; }),
         row(kLong, [](int64_t i) { return i % 80 == 7 ? 1.0F : -kInf; })},
        2048);
  check({row(kLong, [](int64_t i) { return static_cast<float>(i); }),
         row(kLong, [](int64_t i) { return -static_cast<float>(i); }),
         row(kLong, [](int64_t i) { return i >= kLong - 2047 ? 2.0F : 1.0F; }),
         row(kLong, [](int64_t i) { return i % 64 == 0 ? 2.0F : 1.0F; }), row(kLong, neighbour_of(1.0F)),
         row(kLong, neighbour_of(-1.0F)), row(kLong, neighbour_of(0.0F)),
         row(kLong, [&](int64_t i) { return i % 2 == 0 ? 0.0F : -0.0F; })},
        2048);
  check({row(kLong, [&](int64_t i) { return i % 3 == 0 ? kNan : at(i); }),
         row(kLong, [&](int64_t i) { return i >= 2000 ? kNan : at(i); }),
         row(5000, [](int64_t) { return kNan; }),
         row(kLong, [&](int64_t i) { return at(i) > 0 ? 0.0F : at(i); }),
         row(kLong, [](int64_t i) { return i % 2 == 0 ? kInf : -kInf; })},
        2048);
}

/// The same for rows that one block takes whole, and for candidates whose edge, where the k-th is, is not
/// found at once: many at the edge or equal there, one far above the rest, all in one place.
TEST_F(CudaTopK, HostileEdges) {
  SCOPED_TRACE(random_.describe());
  const auto change = [&](int64_t n, const std::function<float(int64_t, float)>& value) {
    Row scores = random_.normal(n);
    for (int64_t i = 0; i < n; ++i) {
      float& score = scores[static_cast<size_t>(i)];
      score = value(i, score);
    }
    return scores;
  };
  std::vector<Row> rows;
  for (const int64_t n : {2049, 4096, 8192, 8193, 20000, 131072}) {
    for (const float steps : {2.0F, 64.0F, 1024.0F}) {
      rows.push_back(change(n, [&](int64_t, float x) { return std::round(x * steps) / steps; }));
    }
    rows.push_back(change(n, [](int64_t i, float x) { return i == 1234 ? 1e30F : x; }));
    rows.push_back(change(n, [](int64_t i, float x) { return i % 100 == 7 ? kInf : x; }));
  }
  check(rows, 2048);
  check(rows, random_.integer(1, 2048));
  check(
      {change(131072, [](int64_t i, float x) { return i < 128000 ? x - 9.0F : x; }),
       change(131072, [](int64_t i, float x) { return i < 3000 ? x : x - 9.0F; }),
       change(8192, [](int64_t i, float x) { return i % 3 == 0 ? kNan : x; }),
       change(8192, [](int64_t i, float) { return i < 2000 ? 1.0F : kNan; }),
       change(8192, [](int64_t i, float) { return i % 2 == 0 ? kInf : -kInf; }),
       change(8192, [](int64_t, float) { return -1.5F; }), change(4100, [](int64_t, float) { return kNan; }),
       change(8192, [](int64_t i, float) { return -static_cast<float>(i); })},
      2048);
}

/// Any bits, in few distinct values and in many.
TEST_F(CudaTopK, AnyFloats) {
  SCOPED_TRACE(random_.describe());
  std::vector<Row> rows;
  for (int trial = 0; trial < 12; ++trial) {
    Row scores(static_cast<size_t>(random_.integer(1, 40000)));
    const int64_t kinds = trial % 2 == 0 ? 5 : 0xFFFFFFFF;
    for (float& score : scores) {
      score = std::bit_cast<float>(static_cast<uint32_t>(random_.integer(0, kinds)) *
                                   (trial % 2 == 0 ? 0x33333333U : 1U));
    }
    rows.push_back(std::move(scores));
  }
  check(rows, 2048);
  check(rows, random_.integer(1, 2048));
}

TEST_F(CudaTopK, TwentyRunsAreEqual) {
  SCOPED_TRACE(random_.describe());
  const std::vector<Row> rows = {random_.normal(131072), Row(50000, 1.0F), random_.normal(9000)};
  const Result first = run(rows, 2048);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(run(rows, 2048) == first) << "run " << i;
  }
}

TEST(CudaTopKWithoutGpu, RefusesWhatItCannotDo) {
  const auto text = [](cuda::TopKParams params) {
    return error_text([&] { return cuda::launch_top_k(params, nullptr), 0; });
  };
  EXPECT_EQ(text({.n_rows = 1, .k = 2049}), "top-k on the GPU: expected a k of 1 to 2048, found 2049");
  EXPECT_EQ(text({.score_stride = 163844, .n_rows = 1, .most_scores = 163841}),
            "top-k on the GPU: expected at most 163840 scores in a row, found 163841");
  EXPECT_EQ(text({.score_stride = 7, .n_rows = 1, .most_scores = 7}),
            "top-k on the GPU: expected a stride of a multiple of 4, not less than the row, found 7");
}

}  // namespace
}  // namespace sluice::testing
