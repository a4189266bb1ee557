// Keys and values of heads from latent rows on the GPU: against double precision, and attention with them
// against attention in the absorbed form from the same rows and weights.
#include "kernels_cuda/latent_expansion.h"

#include <numeric>
#include <optional>
#include <string>

#include "kernels_cuda/head_product.h"
#include "kernels_cuda/latent_cache.h"
#include "kernels_cuda/mla.h"
#include "kernels_cuda/mla_expanded.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"

namespace sluice::testing {
namespace {

constexpr int64_t kLatent = 512;
constexpr int64_t kNope = 128;
constexpr int64_t kKey = 192;
constexpr int64_t kValue = 128;

/// A matrix of each head, in bf16.
struct HeadWeights {
  HeadWeights(Random& random, int64_t n_heads, int64_t n_rows, int64_t n_cols, float scale)
      : rows(n_rows), cols(n_cols), values(random.normal(n_heads * n_rows * n_cols, 0.1F)) {
    std::vector<uint16_t> bits;
    for (float& value : values) {
      bits.push_back(f32_to_bf16(value));
      value = bf16_to_f32(bits.back());
    }
    view = {.layout = quant::panel_layout(quant::DType::kBF16, cols),
            .data = nullptr,
            .rows = n_heads * rows,
            .scale = scale};
    std::vector<std::byte> panels(static_cast<size_t>(view.bytes()));
    for (int64_t p = 0; p < view.panels(); ++p) {
      const auto* first = reinterpret_cast<const std::byte*>(bits.data() + p * quant::kPanelRows * cols);
      quant::pack_panel(view.layout, {quant::DType::kBF16, first, quant::kPanelRows, cols, 2 * cols, 1.0F},
                        std::span(panels).subspan(static_cast<size_t>(p * view.layout.panel_bytes),
                                                  static_cast<size_t>(view.layout.panel_bytes)));
    }
    there = cuda::DeviceBuffer<std::byte>(panels);
    view.data = there.data();
  }

  [[nodiscard]] double at(int64_t head, int64_t row, int64_t col) const {
    return double{view.scale} *
           static_cast<double>(values[static_cast<size_t>((head * rows + row) * cols + col)]);
  }

  int64_t rows;  // of a head
  int64_t cols;
  std::vector<float> values;  // [heads, rows, cols]
  quant::PanelView view;
  cuda::DeviceBuffer<std::byte> there;
};

/// What rows become.
struct Expanded {
  cuda::DeviceBuffer<uint16_t> keys;    // [heads, n_rows, 128]
  cuda::DeviceBuffer<uint16_t> values;  // [heads, n_rows, 128]
};

std::vector<float> to_floats(const std::vector<uint16_t>& halves) {
  std::vector<float> floats(halves.size());
  std::ranges::transform(halves, floats.begin(), bf16_to_f32);
  return floats;
}

class CudaLatentExpansion : public OnGpu {
 protected:
  /// The first `seen` rows of the cache hold values, the others NaN.
  LatentCache make_cache(int64_t seen, int64_t n_rows) {
    std::vector<bool> is_used(static_cast<size_t>(n_rows), false);
    std::fill_n(is_used.begin(), seen, true);
    return make_latent_cache(random_, cuda::LatentFormat::kBf16, is_used);
  }

  Expanded expand(const LatentCache& cache, int64_t n_rows, const HeadWeights& key_b,
                  const HeadWeights& value_b, int64_t first_head, int64_t heads) {
    Expanded expanded{cuda::DeviceBuffer<uint16_t>(heads * n_rows * kNope),
                      cuda::DeviceBuffer<uint16_t>(heads * n_rows * kValue)};
    expanded.keys.fill_bytes(0xFF, stream());
    expanded.values.fill_bytes(0xFF, stream());
    cuda::LatentExpansion expansion{.key_b = key_b.view,
                                    .value_b = value_b.view,
                                    .first_head = first_head,
                                    .heads = heads,
                                    .rows = cache.rows(),
                                    .n_rows = n_rows,
                                    .keys = expanded.keys.data(),
                                    .values = expanded.values.data()};
    const cuda::DeviceBuffer<uint16_t> weights(cuda::latent_expansion_weights({}, kLatent, heads));
    expansion.weights = weights.data();
    cuda::expand_latents(expansion, blas_ ? *blas_ : blas_.emplace(), stream());
    cuda::check(cudaStreamSynchronize(stream()), "expand_latents");
    return expanded;
  }

  /// Of the same queries in the absorbed form: [n_queries, heads, 128].
  std::vector<float> attend_absorbed(const LatentCache& cache, const cuda::DeviceBuffer<float>& queries,
                                     const cuda::DeviceBuffer<int32_t>& counts, const HeadWeights& key_b,
                                     const HeadWeights& value_b, int64_t heads, float scale) {
    const int64_t n = counts.size();
    const int64_t dims = cache.dims();
    const cuda::DeviceBuffer<float> absorbed(n * heads * dims);
    const cuda::DeviceBuffer<float> attended(n * heads * kLatent);
    const cuda::DeviceBuffer<float> out(n * heads * kValue);
    cuda::head_product({.w = key_b.view,
                        .heads = heads,
                        .rows = kLatent,
                        .n_tokens = n,
                        .x = queries.data(),
                        .x_stride = heads * kKey,
                        .x_head_stride = kKey,
                        .y = absorbed.data(),
                        .y_stride = heads * dims,
                        .y_head_stride = dims},
                       stream());
    cuda::check(cudaMemcpy2DAsync(absorbed.data() + kLatent, static_cast<size_t>(4 * dims),
                                  queries.data() + kNope, 4 * kKey, 4 * (kKey - kNope),
                                  static_cast<size_t>(n * heads), cudaMemcpyDeviceToDevice, stream()),
                "copying the queries' rope part");
    cuda::launch_mla({.queries = absorbed.data(),
                      .n_queries = n,
                      .n_heads = heads,
                      .rows = cache.rows(),
                      .counts = counts.data(),
                      .softmax_scale = scale,
                      .out = attended.data()},
                     stream());
    cuda::head_product({.w = value_b.view,
                        .heads = heads,
                        .rows = kValue,
                        .n_tokens = n,
                        .x = attended.data(),
                        .x_stride = heads * kLatent,
                        .x_head_stride = kLatent,
                        .y = out.data(),
                        .y_stride = heads * kValue,
                        .y_head_stride = kValue},
                       stream());
    return out.to_host(stream());
  }

  std::vector<float> attend_expanded(const LatentCache& cache, const cuda::DeviceBuffer<float>& queries,
                                     const cuda::DeviceBuffer<int32_t>& counts, const HeadWeights& key_b,
                                     const HeadWeights& value_b, int64_t heads, float scale) {
    const int64_t n = counts.size();
    const cuda::DeviceBuffer<float> out(n * heads * kValue);
    for (int64_t first = 0; first < heads; first += 3) {
      const int64_t group = std::min<int64_t>(3, heads - first);
      const Expanded expanded = expand(cache, cache.n_rows(), key_b, value_b, first, group);
      cuda::launch_mla_expanded({.queries = queries.data(),
                                 .n_queries = n,
                                 .n_heads = heads,
                                 .first_head = first,
                                 .heads = group,
                                 .keys = expanded.keys.data(),
                                 .values = expanded.values.data(),
                                 .n_rows = cache.n_rows(),
                                 .rope = cache.rows(),
                                 .counts = counts.data(),
                                 .softmax_scale = scale,
                                 .out = out.data()},
                                stream());
      cuda::check(cudaStreamSynchronize(stream()), "launch_mla_expanded");
    }
    return out.to_host(stream());
  }

  std::optional<cuda::Blas> blas_;
};

TEST_F(CudaLatentExpansion, AgainstDoublePrecision) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kSeen = 77;
  constexpr int64_t kRows = 90;
  constexpr int64_t kFirstHead = 2;
  constexpr int64_t kHeads = 3;
  const HeadWeights key_b(random_, 6, kLatent, kNope, 1.0F);
  const HeadWeights value_b(random_, 6, kValue, kLatent, 0.75F);
  const LatentCache cache = make_cache(kSeen, kRows + 5);
  const Expanded expanded = expand(cache, kRows, key_b, value_b, kFirstHead, kHeads);
  const std::vector<float> keys = to_floats(expanded.keys.to_host(stream()));
  const std::vector<float> values = to_floats(expanded.values.to_host(stream()));
  for (int64_t h = 0; h < kHeads; ++h) {
    std::vector<double> expected_keys;
    std::vector<double> expected_values;
    for (int64_t r = 0; r < kSeen; ++r) {
      const float* const latent = cache.values.data() + r * cache.dims();
      for (int64_t i = 0; i < kNope; ++i) {
        double key = 0.0;
        double value = 0.0;
        for (int64_t c = 0; c < kLatent; ++c) {
          key += key_b.at(kFirstHead + h, c, i) * static_cast<double>(latent[c]);
          value += value_b.at(kFirstHead + h, i, c) * static_cast<double>(latent[c]);
        }
        expected_keys.push_back(key);
        expected_values.push_back(value);
      }
    }
    const auto head = [&](const std::vector<float>& all) {
      return std::span(all).subspan(static_cast<size_t>(h * kRows * kNope), kSeen * kNope);
    };
    EXPECT_TRUE(close(head(keys), expected_keys, 0x1.01p-8, 1e-5)) << "head " << h;
    EXPECT_TRUE(close(head(values), expected_values, 0x1.01p-8, 1e-5)) << "head " << h;
  }
}

/// Both forms round other things to bf16: about 0.005 of the results' size, if that is random.
TEST_F(CudaLatentExpansion, AttentionIsThatOfTheAbsorbedForm) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kHeads = 8;
  constexpr float kScale = 0.3F;
  const HeadWeights key_b(random_, kHeads, kLatent, kNope, 1.0F);
  const HeadWeights value_b(random_, kHeads, kValue, kLatent, 1.25F);
  std::vector<int32_t> lengths(133);
  std::iota(lengths.begin(), lengths.end(), 500);
  lengths[0] = 1;
  lengths[1] = 2;
  const LatentCache cache = make_cache(lengths.back(), 700);
  const cuda::DeviceBuffer<int32_t> counts(lengths);
  const cuda::DeviceBuffer<float> queries(random_.normal(counts.size() * kHeads * kKey));
  const std::vector<float> absorbed = attend_absorbed(cache, queries, counts, key_b, value_b, kHeads, kScale);
  const std::vector<float> expanded = attend_expanded(cache, queries, counts, key_b, value_b, kHeads, kScale);
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < absorbed.size(); ++i) {
    const auto a = static_cast<double>(absorbed[i]);
    const auto b = static_cast<double>(expanded[i]);
    difference += (a - b) * (a - b);
    size += a * a + b * b;
  }
  ASSERT_GT(size, 0.0);
  EXPECT_TRUE(difference <= 1e-4 * size) << "1 - 2xy / (x^2 + y^2) is " << difference / size;
  const std::vector<double> errors = row_errors(expanded, absorbed, counts.size());
  EXPECT_LE(at_share(errors, 1.0), 0.03);
}

TEST(CudaLatentExpansionWithoutGpu, RefusesWhatItCannotDo) {
  cuda::LatentExpansion expansion{.first_head = 1, .heads = 2, .n_rows = 10};
  expansion.key_b = {.layout = quant::panel_layout(quant::DType::kBF16, kNope), .rows = 3 * kLatent};
  expansion.value_b = {.layout = quant::panel_layout(quant::DType::kBF16, kLatent), .rows = 3 * kValue};
  expansion.rows = {nullptr, cuda::LatentFormat::kBf16, 9, 1152};
  EXPECT_EQ(cuda::latent_expansion_weights({}, kLatent, 2), 2 * 512 * 128);
  const auto text = [&](auto change) {
    cuda::LatentExpansion changed = expansion;
    change(changed);
    return error_text([&] { return cuda::check_latent_expansion(changed), 0; });
  };
  const std::string found = "expansion of latent rows: expected ";
  EXPECT_EQ(text([](auto&) {}), found + "no more rows than there are, found 10");
  EXPECT_EQ(text([](auto& e) { e.heads = 3; }), found + "heads that there are weights of, found 4");
  EXPECT_EQ(text([](auto& e) { e.shape.d_nope = 64; }), found + "d_nope columns of key weights, found 128");
  EXPECT_EQ(text([](auto& e) { e.d_latent = 256; }), found + "d_latent columns of value weights, found 512");
  EXPECT_EQ(text([](auto& e) { e.rows.format = cuda::LatentFormat::kFp8; }),
            found + "rows in bf16, of row_bytes a multiple of 16 that hold d_latent, found 1152");
}

}  // namespace
}  // namespace sluice::testing
