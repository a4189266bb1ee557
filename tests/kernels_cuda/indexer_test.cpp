// The lightning indexer on the GPU against double precision on the keys and queries as they are stored, the
// preparation of queries, and how well int8 selects.
#include "kernels_cuda/indexer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>

#include "kernels_cpu/hadamard.h"
#include "kernels_cuda/kernels_cuda.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

using cuda::IndexKeyFormat;

struct Keys {
  IndexKeyFormat format = IndexKeyFormat::kBf16;
  std::vector<float> values;  // [n_keys, d_index] as the cache holds them, times the scale
  cuda::DeviceBuffer<std::byte> values_there;
  cuda::DeviceBuffer<float> scales_there;
};

std::span<const std::byte> bytes_of(const auto& values) {
  return std::as_bytes(std::span(values));
}

/// Rotates and rounds `exact` as a cache of the format does.
Keys make_keys(IndexKeyFormat format, const std::vector<float>& exact, int64_t d_index) {
  Keys keys{.format = format, .values = exact, .values_there = {}, .scales_there = {}};
  std::vector<uint16_t> halves;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  for (size_t first = 0; first < exact.size(); first += static_cast<size_t>(d_index)) {
    const std::span<float> key = std::span(keys.values).subspan(first, static_cast<size_t>(d_index));
    if (format == IndexKeyFormat::kInt8) {
      cpu::hadamard(key);
      const float largest = std::abs(*std::ranges::max_element(key, {}, [](float x) { return std::abs(x); }));
      scales.push_back(largest / 127.0F);
      for (float& value : key) {
        codes.push_back(static_cast<int8_t>(largest > 0.0F ? std::lround(value * 127.0F / largest) : 0));
        value = static_cast<float>(codes.back()) * scales.back();
      }
    } else if (format == IndexKeyFormat::kBf16) {
      for (float& value : key) {
        halves.push_back(f32_to_bf16(value));
        value = bf16_to_f32(halves.back());
      }
    }
  }
  keys.values_there =
      cuda::DeviceBuffer<std::byte>(format == IndexKeyFormat::kInt8   ? bytes_of(codes)
                                    : format == IndexKeyFormat::kBf16 ? bytes_of(halves)
                                                                      : bytes_of(keys.values));
  keys.scales_there = cuda::DeviceBuffer<float>(scales);
  return keys;
}

struct Queries {
  int64_t n_heads = 0;
  int64_t d_index = 0;
  std::vector<float> heads;    // [n, n_heads, d_index]
  std::vector<float> weights;  // [n, n_heads]
  [[nodiscard]] int64_t count() const { return static_cast<int64_t>(weights.size()) / n_heads; }
};

/// What launch_index_queries wrote, on the GPU and as numbers.
struct Prepared {
  cuda::DeviceBuffer<std::byte> values_there;
  cuda::DeviceBuffer<std::byte> low_there;
  cuda::DeviceBuffer<float> weights_there;
  std::vector<double> values;
  std::vector<float> weights;
  [[nodiscard]] cuda::IndexQueries view() const {
    return {values_there.data(), low_there.data(), weights_there.data()};
  }
};

class CudaIndexer : public OnGpu {
 protected:
  Queries make_queries(int64_t n, int64_t n_heads, int64_t d_index) {
    return {n_heads, d_index, random_.normal(n * n_heads * d_index), random_.normal(n * n_heads)};
  }

  Prepared prepare(const Queries& queries, IndexKeyFormat format) {
    const auto n = static_cast<int64_t>(queries.heads.size());
    const cuda::DeviceBuffer<float> heads(queries.heads);
    const cuda::DeviceBuffer<float> weights(queries.weights);
    Prepared p{.values_there = cuda::DeviceBuffer<std::byte>(cuda::index_key_bytes(format, n)),
               .low_there = cuda::DeviceBuffer<std::byte>(format == IndexKeyFormat::kBf16 ? 2 * n : 0),
               .weights_there = cuda::DeviceBuffer<float>(static_cast<int64_t>(queries.weights.size())),
               .values = {},
               .weights = {}};
    cuda::launch_index_queries({.heads = heads.data(),
                                .weights = weights.data(),
                                .n_queries = queries.count(),
                                .n_heads = queries.n_heads,
                                .d_index = queries.d_index,
                                .format = format,
                                .out = p.view()},
                               stream());
    p.weights = p.weights_there.to_host(stream());
    const std::vector<std::byte> values = p.values_there.to_host(stream());
    const std::vector<std::byte> low = p.low_there.to_host(stream());
    const auto at = [](const std::vector<std::byte>& bytes, int64_t i, auto value) {
      std::memcpy(&value, bytes.data() + i * static_cast<int64_t>(sizeof value), sizeof value);
      return value;
    };
    for (int64_t i = 0; i < n; ++i) {
      p.values.push_back(format == IndexKeyFormat::kInt8 ? at(values, i, int8_t{})
                         : format == IndexKeyFormat::kF32
                             ? static_cast<double>(at(values, i, float{}))
                             : static_cast<double>(bf16_to_f32(at(values, i, uint16_t{}))) +
                                   static_cast<double>(bf16_to_f32(at(low, i, uint16_t{}))));
    }
    return p;
  }

  std::vector<float> score(const Queries& queries, const Prepared& prepared, const Keys& keys,
                           const std::vector<int32_t>& lengths, int64_t stride) {
    const int64_t n_keys = static_cast<int64_t>(keys.values.size()) / queries.d_index;
    const cuda::DeviceBuffer<int32_t> lengths_there(lengths);
    const cuda::DeviceBuffer<float> scores(queries.count() * stride);
    scores.fill_bytes(0xFF, stream());
    cuda::launch_index_scores(
        {.queries = prepared.view(),
         .keys = {keys.values_there.data(), keys.scales_there.data(), keys.format, n_keys},
         .n_queries = queries.count(),
         .n_heads = queries.n_heads,
         .d_index = queries.d_index,
         .lengths = lengths_there.data(),
         .most_keys = *std::ranges::max_element(lengths),
         .scores = scores.data(),
         .score_stride = stride},
        stream());
    return scores.to_host(stream());
  }

  /// Scores of some keys of every query in double precision, with the bound of float32 sums; nothing behind
  /// the length.
  void compare(const Queries& queries, const Prepared& prepared, const Keys& keys,
               const std::vector<int32_t>& lengths, const std::vector<float>& scores, int64_t stride) {
    std::vector<float> actual;
    std::vector<double> expected;
    std::vector<double> allowed;
    const int64_t d = queries.d_index;
    for (int64_t q = 0; q < queries.count(); ++q) {
      const int64_t length = lengths[static_cast<size_t>(q)];
      for (int64_t j = length; j < stride; ++j) {
        ASSERT_TRUE(std::isnan(scores[static_cast<size_t>(q * stride + j)]))
            << "query " << q << ", key " << j;
      }
      const int64_t step = 1 + length * queries.n_heads * queries.count() / 100000;
      for (int64_t j = length - 1; j >= 0; j -= j < 70 ? 1 : random_.integer(1, 2 * step)) {
        double sum = 0.0;
        double magnitude = 0.0;
        for (int64_t h = 0; h < queries.n_heads; ++h) {
          const auto row = static_cast<size_t>(q * queries.n_heads + h);
          double product = 0.0;
          double size = 0.0;
          for (int64_t i = 0; i < d; ++i) {
            const double term = prepared.values[row * static_cast<size_t>(d) + static_cast<size_t>(i)] *
                                static_cast<double>(keys.values[static_cast<size_t>(j * d + i)]);
            product += term;
            size += std::abs(term);
          }
          const double weight = 2.0 * static_cast<double>(prepared.weights[row]);
          sum += weight * std::max(0.0, product);
          magnitude += std::abs(weight) * size;
        }
        actual.push_back(scores[static_cast<size_t>(q * stride + j)]);
        expected.push_back(sum);
        allowed.push_back(static_cast<double>(d + queries.n_heads + 8) * kRounding * magnitude + 1e-30);
      }
    }
    EXPECT_TRUE(within(actual, expected, allowed));
  }

  void check(IndexKeyFormat format, int64_t n_heads, int64_t d_index, const std::vector<int32_t>& lengths) {
    SCOPED_TRACE(random_.describe());
    SCOPED_TRACE(::testing::Message() << "format " << static_cast<int>(format) << ", " << lengths.size()
                                      << " queries of " << n_heads << " heads of " << d_index);
    const int64_t n_keys = *std::ranges::max_element(lengths) + 1;
    const Keys keys = make_keys(format, random_.normal(n_keys * d_index), d_index);
    const Queries queries = make_queries(static_cast<int64_t>(lengths.size()), n_heads, d_index);
    const Prepared prepared = prepare(queries, format);
    const int64_t stride = n_keys + 5;
    const std::vector<float> scores = score(queries, prepared, keys, lengths, stride);
    compare(queries, prepared, keys, lengths, scores, stride);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(identical(score(queries, prepared, keys, lengths, stride), scores)) << "rerun " << i;
    }
  }
};

constexpr IndexKeyFormat kFormats[] = {IndexKeyFormat::kInt8, IndexKeyFormat::kBf16, IndexKeyFormat::kF32};

/// Small enough for compute-sanitizer.
TEST_F(CudaIndexer, SmallShapes) {
  for (const IndexKeyFormat format : kFormats) {
    check(format, 64, 128, {300});
    check(format, 8, 128, {1, 70, 0, 33, 257, 256, 255, 100, 530, 17, 511, 513});
  }
}

TEST_F(CudaIndexer, Decode) {
  for (const IndexKeyFormat format : kFormats) {
    check(format, 64, 128, {20000});
    check(format, 64, 128, {5000, 5001, 5002, 1});
    check(format, 16, 128, {4095});
  }
}

TEST_F(CudaIndexer, Prefill) {
  std::vector<int32_t> lengths(200);
  std::iota(lengths.begin(), lengths.end(), 1500);
  for (const IndexKeyFormat format : kFormats) {
    check(format, 64, 128, lengths);
    check(format, 8, 128, {lengths.rbegin(), lengths.rend()});
  }
}

TEST_F(CudaIndexer, OddShapesGoToThePlainKernel) {
  for (const IndexKeyFormat format : kFormats) {
    check(format, 3, 32, {100, 7});
    check(format, 65, 128, {100, 7, 60});
    check(format, 4, 256, {100});
  }
  check(IndexKeyFormat::kF32, 2, 33, {50});
  check(IndexKeyFormat::kBf16, 2, 33, {50});
}

/// A query's scores do not depend on its neighbours, nor on how many there are.
TEST_F(CudaIndexer, AloneOrAmongOthersTheSameBits) {
  SCOPED_TRACE(random_.describe());
  for (const IndexKeyFormat format : kFormats) {
    const Keys keys = make_keys(format, random_.normal(int64_t{1000} * 128), 128);
    const Queries many = make_queries(70, 64, 128);
    const std::vector<float> together =
        score(many, prepare(many, format), keys, std::vector<int32_t>(70, 1000), 1000);
    for (const int64_t q : {0, 33, 69}) {
      const auto head = static_cast<std::ptrdiff_t>(q * 64);
      const Queries one{64,
                        128,
                        {many.heads.begin() + head * 128, many.heads.begin() + (head + 64) * 128},
                        {many.weights.begin() + head, many.weights.begin() + head + 64}};
      EXPECT_TRUE(identical(score(one, prepare(one, format), keys, {1000}, 1000),
                            std::span(together).subspan(static_cast<size_t>(q * 1000), 1000)));
    }
  }
}

TEST_F(CudaIndexer, QueriesAreRotatedAndRounded) {
  SCOPED_TRACE(random_.describe());
  Queries queries = make_queries(3, 64, 128);
  std::fill(queries.heads.begin(), queries.heads.begin() + 128, 0.0F);
  const Prepared int8 = prepare(queries, IndexKeyFormat::kInt8);
  const Prepared bf16 = prepare(queries, IndexKeyFormat::kBf16);
  for (size_t row = 0; row < queries.weights.size(); ++row) {
    const auto first = queries.heads.begin() + static_cast<std::ptrdiff_t>(128 * row);
    std::vector<float> rotated(first, first + 128);
    cpu::hadamard(rotated);
    const double largest =
        std::abs(*std::ranges::max_element(rotated, {}, [](float x) { return std::abs(x); }));
    const double scale = largest / 127.0;
    EXPECT_NEAR(int8.weights[row], 0.5 * queries.weights[row] * scale,
                1e-6 * std::abs(queries.weights[row]) * scale);
    EXPECT_EQ(bf16.weights[row], 0.5F * queries.weights[row]);
    for (size_t i = 0; i < 128; ++i) {
      ASSERT_NEAR(int8.values[128 * row + i] * scale, rotated[i], 0.5001 * scale);
      ASSERT_NEAR(bf16.values[128 * row + i], first[static_cast<std::ptrdiff_t>(i)],
                  0x1p-17 * std::abs(first[static_cast<std::ptrdiff_t>(i)]));
    }
  }
}

/// Of random keys, the 2048 best by int8 scores are nearly those by exact scores.
TEST_F(CudaIndexer, Int8SelectsNearlyTheSame) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kKeys = 32768;
  constexpr size_t kSelected = 2048;
  const std::vector<float> exact = random_.normal(kKeys * 128);
  const Queries queries = make_queries(4, 64, 128);
  const std::vector<int32_t> lengths(4, kKeys);
  const auto best = [&](IndexKeyFormat format, int64_t q) {
    const std::vector<float> scores =
        score(queries, prepare(queries, format), make_keys(format, exact, 128), lengths, kKeys);
    const float* row = scores.data() + q * kKeys;
    std::vector<int32_t> order(kKeys);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::nth_element(order, order.begin() + kSelected, std::ranges::greater{},
                             [&](int32_t i) { return row[i]; });
    return std::set<int32_t>(order.begin(), order.begin() + kSelected);
  };
  for (int64_t q = 0; q < 2; ++q) {
    const std::set<int32_t> right = best(IndexKeyFormat::kF32, q);
    for (const auto& [format, least] :
         {std::pair{IndexKeyFormat::kInt8, 0.98}, std::pair{IndexKeyFormat::kBf16, 0.995}}) {
      size_t common = 0;
      for (const int32_t key : best(format, q)) {
        common += right.count(key);
      }
      const double recall = static_cast<double>(common) / kSelected;
      RecordProperty(format == IndexKeyFormat::kInt8 ? "recall_int8" : "recall_bf16", std::to_string(recall));
      EXPECT_GE(recall, least);
    }
  }
}

TEST(CudaIndexerWithoutGpu, RefusesWhatItCannotDo) {
  EXPECT_EQ(
      error_text([] { return cuda::launch_index_scores({.n_queries = 1, .most_keys = 1}, nullptr), 0; }),
      "index scores on the GPU: expected no more keys than there are, and fewer than 2^22, found 1");
  EXPECT_EQ(error_text([] {
              return cuda::launch_index_queries(
                         {.n_queries = 1, .d_index = 96, .format = IndexKeyFormat::kInt8}, nullptr),
                     0;
            }),
            "index queries on the GPU: expected 1 to 256 dimensions, a power of two for int8, found 96");
}

}  // namespace
}  // namespace sluice::testing
