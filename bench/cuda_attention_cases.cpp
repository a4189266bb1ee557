#include "bench/cuda_attention_cases.h"

#include <algorithm>
#include <random>
#include <vector>

#include "bench/cuda_floors.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/latent_expansion.h"
#include "kernels_cuda/topk.h"
#include "quant/panel.h"

namespace sluice::bench {
namespace {

using cuda::DeviceBuffer;
using cuda::IndexKeyFormat;
using cuda::LatentFormat;
using Bytes = DeviceBuffer<std::byte>;

constexpr int64_t kRotated = 256 << 20;  // bytes that make a cache cold again
constexpr int64_t kRepeats = 7;
// The random values are small. With this a query's scores deviate by 1.4, and the largest of its 2048 weights
// is 0.03 on average and was at most 0.3 in some thousand heads: some hundred rows count.
constexpr float kSoftmaxScale = 1e4F;

DeviceBuffer<int32_t> lengths_of(const AttentionCase& which) {
  std::vector<int32_t> lengths;
  for (int64_t q = 0; q < which.n_queries; ++q) {
    lengths.push_back(static_cast<int32_t>(which.context - which.n_queries + q + 1));
  }
  return DeviceBuffer<int32_t>(lengths);
}

/// kSelectedRows positions of [0, length), ascending, a random one of every stretch.
DeviceBuffer<int32_t> selection_of(const AttentionCase& which) {
  std::mt19937_64 engine(7);
  std::vector<int32_t> selected;
  for (int64_t q = 0; q < which.n_queries; ++q) {
    const int64_t stretch = std::max<int64_t>(1, (which.context - which.n_queries + q + 1) / kSelectedRows);
    for (int64_t i = 0; i < kSelectedRows; ++i) {
      selected.push_back(static_cast<int32_t>(
          i * stretch + static_cast<int64_t>(engine() % static_cast<uint64_t>(stretch))));
    }
  }
  return DeviceBuffer<int32_t>(selected);
}

Bytes random_bytes(int64_t bytes, uint64_t seed) {
  Bytes buffer(bytes);
  fill_random(buffer.data(), buffer.bytes(), seed);
  return buffer;
}

/// Launches of a graph: so many that the graph's own start, some microseconds, is no part of a decoded
/// token's. Many queries take long enough.
int64_t launches_of(const AttentionCase& which) {
  return which.n_queries > 32 ? 2 : 32;
}

/// Copies of a cache that launches take turns with, so that together they read more than L2 holds: `read`
/// bytes of each. Many queries go through L2 themselves.
int64_t copies_of(const AttentionCase& which, int64_t read) {
  return std::clamp<int64_t>(kRotated / read, 2, launches_of(which));
}

}  // namespace

double index_pairs(const AttentionCase& which) {
  return static_cast<double>(which.n_queries) *
         (static_cast<double>(which.context) - static_cast<double>(which.n_queries - 1) / 2);
}

double index_seconds(const AttentionCase& which, IndexKeyFormat format) {
  const int64_t n_values = which.n_queries * kIndexHeads * kIndexDims;
  const Bytes heads = random_bytes(4 * n_values, 1);
  const Bytes weights = random_bytes(4 * which.n_queries * kIndexHeads, 2);
  const Bytes values(cuda::index_key_bytes(format, n_values));
  const Bytes low(2 * n_values);
  const DeviceBuffer<float> scaled(which.n_queries * kIndexHeads);
  const cuda::IndexQueries queries{values.data(), low.data(), scaled.data()};
  cuda::launch_index_queries({.heads = reinterpret_cast<const float*>(heads.data()),
                              .weights = reinterpret_cast<const float*>(weights.data()),
                              .n_queries = which.n_queries,
                              .n_heads = kIndexHeads,
                              .d_index = kIndexDims,
                              .format = format,
                              .out = queries},
                             nullptr);
  const int64_t key_bytes = which.context * cuda::index_key_bytes(format, kIndexDims);
  const int64_t copies = copies_of(which, key_bytes);
  const Bytes keys = random_bytes(copies * key_bytes, 3);
  const Bytes scales = random_bytes(copies * which.context * 4, 4);
  const DeviceBuffer<float> scores(which.n_queries * which.context);
  const DeviceBuffer<int32_t> lengths = lengths_of(which);
  return seconds_per_launch(launches_of(which), kRepeats, [&](int64_t i, void* stream) {
    const int64_t copy = i % copies;
    cuda::launch_index_scores({.queries = queries,
                               .keys = {keys.data() + copy * key_bytes,
                                        reinterpret_cast<const float*>(scales.data()) + copy * which.context,
                                        format, which.context},
                               .n_queries = which.n_queries,
                               .n_heads = kIndexHeads,
                               .d_index = kIndexDims,
                               .lengths = lengths.data(),
                               .most_keys = which.context,
                               .scores = scores.data(),
                               .score_stride = which.context},
                              static_cast<cudaStream_t>(stream));
  });
}

double top_k_seconds(const AttentionCase& which) {
  // Scores come from the indexer right before, so one query's are in L2; many queries' are not.
  const Bytes scores = random_bytes(which.n_queries * which.context * 4, 5);
  const DeviceBuffer<int32_t> lengths = lengths_of(which);
  const DeviceBuffer<int32_t> selected(which.n_queries * kSelectedRows);
  const DeviceBuffer<int32_t> counts(which.n_queries);
  const Bytes scratch(cuda::top_k_scratch_bytes(which.n_queries, which.context));
  return seconds_per_launch(launches_of(which), kRepeats, [&](int64_t, void* stream) {
    cuda::launch_top_k({.scores = reinterpret_cast<const float*>(scores.data()),
                        .score_stride = which.context,
                        .n_rows = which.n_queries,
                        .lengths = lengths.data(),
                        .most_scores = which.context,
                        .k = kSelectedRows,
                        .selected = selected.data(),
                        .counts = counts.data(),
                        .scratch = scratch.data()},
                       static_cast<cudaStream_t>(stream));
  });
}

cuda::MlaPlan plan_of(const AttentionCase& which, Rows rows) {
  return cuda::plan_mla(which.n_queries, kHeads, rows == Rows::kSelected ? kSelectedRows : which.context,
                        cuda::device_properties(0).multiprocessors);
}

MlaInputs::MlaInputs(const AttentionCase& which, LatentFormat format, Rows rows, const cuda::MlaPlan& plan)
    : case_(which),
      format_(format),
      rows_(rows),
      plan_(plan),
      cache_bytes_(which.context * cuda::latent_row_bytes(format, kLatentDims, kRopeDims)),
      copies_(copies_of(which, rows == Rows::kAll
                                   ? cache_bytes_
                                   : which.n_queries * kSelectedRows *
                                         cuda::latent_row_bytes(format, kLatentDims, kRopeDims))),
      caches_(random_bytes(copies_ * cache_bytes_, 6)),
      queries_(random_bytes(which.n_queries * kHeads * (kLatentDims + kRopeDims) * 2, 7)),
      selected_(selection_of(which)),
      counts_(rows == Rows::kAll
                  ? lengths_of(which)
                  : DeviceBuffer<int32_t>(std::vector<int32_t>(static_cast<size_t>(which.n_queries),
                                                               rows == Rows::kSelected ? kSelectedRows : 0))),
      out_(which.n_queries * kHeads * kLatentDims),
      scratch_(cuda::mla_scratch_bytes(which.n_queries, kHeads, kLatentDims, plan.splits)) {}

cuda::MlaParams MlaInputs::params(int64_t i) const {
  return {.queries = queries_.data(),
          .query_type = cuda::FloatType::kBf16,
          .n_queries = case_.n_queries,
          .n_heads = kHeads,
          .d_latent = kLatentDims,
          .d_rope = kRopeDims,
          .rows = {caches_.data() + i % copies_ * cache_bytes_, format_, case_.context,
                   cache_bytes_ / case_.context},
          .selected = rows_ == Rows::kAll ? nullptr : selected_.data(),
          .selected_stride = kSelectedRows,
          .counts = counts_.data(),
          .softmax_scale = kSoftmaxScale,
          .plan = plan_,
          .scratch = scratch_.data(),
          .out = out_.data(),
          .out_type = case_.n_queries > 32 ? cuda::FloatType::kBf16 : cuda::FloatType::kF32};
}

double MlaInputs::seconds(const MlaLaunch& launch) const {
  return seconds_per_launch(launches_of(case_), kRepeats, [&](int64_t i, void* stream) {
    launch(params(i), static_cast<cudaStream_t>(stream));
  });
}

double mla_seconds(const AttentionCase& which, LatentFormat format, Rows rows, const cuda::MlaPlan& plan) {
  return MlaInputs(which, format, rows, plan).seconds(cuda::launch_mla);
}

double mla_expanded_seconds(const AttentionCase& which) {
  const auto weights_of = [](int64_t rows, int64_t cols) {
    return quant::PanelView{.layout = quant::panel_layout(quant::DType::kBF16, cols), .rows = kHeads * rows};
  };
  quant::PanelView key_b = weights_of(kLatentDims, kNopeDims);
  quant::PanelView value_b = weights_of(kValueDims, kLatentDims);
  const Bytes key_panels = random_bytes(key_b.bytes(), 8);
  const Bytes value_panels = random_bytes(value_b.bytes(), 9);
  key_b.data = key_panels.data();
  value_b.data = value_panels.data();
  const int64_t row_bytes = cuda::latent_row_bytes(LatentFormat::kBf16, kLatentDims, kRopeDims);
  const int64_t cache_bytes = which.context * row_bytes;
  const int64_t copies = copies_of(which, cache_bytes);
  const Bytes caches = random_bytes(copies * cache_bytes, 6);
  const Bytes queries = random_bytes(which.n_queries * kHeads * (kNopeDims + kRopeDims) * 2, 7);
  const DeviceBuffer<int32_t> counts = lengths_of(which);
  const int64_t group =
      cuda::mla_expanded_heads(which.n_queries, kHeads, cuda::device_properties(0).multiprocessors);
  const DeviceBuffer<uint16_t> weights(cuda::latent_expansion_weights({}, kLatentDims, group));
  const DeviceBuffer<uint16_t> keys(group * which.context * kNopeDims);
  const DeviceBuffer<uint16_t> values(group * which.context * kValueDims);
  const DeviceBuffer<uint16_t> out(which.n_queries * kHeads * kValueDims);
  const cuda::Blas blas;
  return seconds_per_launch(launches_of(which), kRepeats, [&](int64_t i, void* stream) {
    const cuda::LatentRows rows{caches.data() + i % copies * cache_bytes, LatentFormat::kBf16, which.context,
                                row_bytes};
    for (int64_t first = 0; first < kHeads; first += group) {
      const int64_t heads = std::min(group, kHeads - first);
      cuda::expand_latents({.key_b = key_b,
                            .value_b = value_b,
                            .first_head = first,
                            .heads = heads,
                            .rows = rows,
                            .n_rows = which.context,
                            .weights = weights.data(),
                            .keys = keys.data(),
                            .values = values.data()},
                           blas, static_cast<cudaStream_t>(stream));
      cuda::launch_mla_expanded({.queries = queries.data(),
                                 .query_type = cuda::FloatType::kBf16,
                                 .n_queries = which.n_queries,
                                 .n_heads = kHeads,
                                 .first_head = first,
                                 .heads = heads,
                                 .keys = keys.data(),
                                 .values = values.data(),
                                 .n_rows = which.context,
                                 .rope = rows,
                                 .counts = counts.data(),
                                 .softmax_scale = 1e4F,  // as above
                                 .out = out.data(),
                                 .out_type = cuda::FloatType::kBf16},
                                static_cast<cudaStream_t>(stream));
    }
  });
}

}  // namespace sluice::bench
