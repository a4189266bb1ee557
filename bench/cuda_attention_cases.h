// Seconds of one call of the attention kernels, each on fresh data: caches rotate, so that a call finds in L2
// no more than a layer of a real model would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/indexer.h"
#include "kernels_cuda/mla.h"
#include "kernels_cuda/mla_expanded.h"

namespace sluice::bench {

inline constexpr int64_t kHeads = 128;
inline constexpr int64_t kSelectedRows = 2048;
inline constexpr int64_t kLatentDims = 512;
inline constexpr int64_t kRopeDims = 64;
inline constexpr int64_t kNopeDims = 128;
inline constexpr int64_t kValueDims = 128;
inline constexpr int64_t kIndexHeads = 64;
inline constexpr int64_t kIndexDims = 128;

/// One call for queries at the end of a context: query q of n sees context - n + q + 1 keys.
struct AttentionCase {
  int64_t n_queries = 1;
  int64_t context = 131072;
};

/// Floating-point operations of latent attention per query and row.
inline constexpr double kMlaFlops = 2.0 * kHeads * (2 * kLatentDims + kRopeDims);
/// The same in the expanded form, and of the expansion per row.
inline constexpr double kMlaExpandedFlops = 2.0 * kHeads * (kNopeDims + kRopeDims + kValueDims);
inline constexpr double kExpansionFlops = 2.0 * kHeads * kLatentDims * (kNopeDims + kValueDims);
/// Of index scores per query and key.
inline constexpr double kIndexFlops = 2.0 * kIndexHeads * kIndexDims;

double index_seconds(const AttentionCase& which, cuda::IndexKeyFormat format);
/// Queries and keys of a case that meet.
double index_pairs(const AttentionCase& which);

double top_k_seconds(const AttentionCase& which);

enum class Rows { kSelected, kAll, kNone };
using MlaLaunch = std::function<void(const cuda::MlaParams& params, cudaStream_t stream)>;

/// What attention over kSelectedRows random rows, over all, or over none at all reads and writes: random
/// numbers, and a scale at which neither one row nor all count. More than 32 queries get outputs of bf16,
/// fewer of float32.
class MlaInputs {
 public:
  MlaInputs(const AttentionCase& which, cuda::LatentFormat format, Rows rows, const cuda::MlaPlan& plan);

  /// Of launch `i`: caches take turns.
  [[nodiscard]] cuda::MlaParams params(int64_t i) const;
  /// Of one launch(params(i), stream) in a captured graph of them.
  [[nodiscard]] double seconds(const MlaLaunch& launch) const;

 private:
  AttentionCase case_;
  cuda::LatentFormat format_;
  Rows rows_;
  cuda::MlaPlan plan_;
  int64_t cache_bytes_;
  int64_t copies_;
  cuda::DeviceBuffer<std::byte> caches_;   // [copies_, context] rows
  cuda::DeviceBuffer<std::byte> queries_;  // [n_queries, kHeads, kLatentDims + kRopeDims] of bf16
  cuda::DeviceBuffer<int32_t> selected_;   // [n_queries, kSelectedRows]
  cuda::DeviceBuffer<int32_t> counts_;     // [n_queries]
  cuda::DeviceBuffer<float> out_;          // [n_queries, kHeads, kLatentDims], room for float32
  cuda::DeviceBuffer<std::byte> scratch_;
};

/// Of launch_mla. Over no rows: what launching costs.
double mla_seconds(const AttentionCase& which, cuda::LatentFormat format, Rows rows,
                   const cuda::MlaPlan& plan);
/// Dense attention over bf16 rows in the expanded form, the expansion of all rows included.
double mla_expanded_seconds(const AttentionCase& which);
/// The plan for this thread's GPU.
cuda::MlaPlan plan_of(const AttentionCase& which, Rows rows);

}  // namespace sluice::bench
