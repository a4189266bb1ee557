// The rival of sparse latent attention over many queries: what one writes without a fused kernel. For a chunk
// of queries at a time the selected rows are gathered, cuBLAS multiplies each query's heads with its rows,
// scores become probabilities, and cuBLAS multiplies these with the latent columns of the gathered rows.
#pragma once

#include <cublas_v2.h>

#include <cstddef>
#include <cstdint>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/mla.h"

namespace sluice::bench {

/// What the first product writes and the softmax reads. bf16 is half the bytes, but rounds what launch_mla
/// keeps in float32.
enum class ScoreType { kF32, kBf16 };

/// The kernels of a chunk, in their order.
enum class GatherPart { kGather, kScores, kSoftmax, kOutput };

/// A cuBLAS handle of this thread's GPU with its workspace. The engine's (kernels_cuda/blas.h) forbids cuBLAS
/// to round within sums; a rival may do as cuBLAS does by default.
class GatherBlas {
 public:
  /// Throws Error, as does use.
  GatherBlas();
  ~GatherBlas();
  GatherBlas(const GatherBlas&) = delete;
  GatherBlas& operator=(const GatherBlas&) = delete;

  /// The handle, for calls into this stream.
  [[nodiscard]] cublasHandle_t use(cudaStream_t stream) const;

 private:
  cublasHandle_t handle_ = nullptr;
  cuda::DeviceBuffer<std::byte> workspace_;  // its own, so that captured graphs may replay
};

class GatherRival {
 public:
  /// With working memory for `chunk` queries: 2.25 MiB each for the rows, 1 MiB or half of it for the scores.
  GatherRival(int64_t chunk, ScoreType scores);

  /// Does what cuda::launch_mla(params) does, where `params` are those of many queries in
  /// cuda_attention_cases.h: kHeads heads of kLatentDims + kRopeDims, kSelectedRows rows for every query, all
  /// of them there (counts are not read), in a cache of bf16 rows without gaps, bf16 queries and output.
  /// Throws Error for others, and for calls that fail. Parts behind `last` are left out, so that differences
  /// tell what each takes. One stream at a time; may be captured after a first call.
  void launch(const cuda::MlaParams& params, GatherPart last, cudaStream_t stream) const;

 private:
  void launch_chunk(const cuda::MlaParams& chunk, GatherPart last, cudaStream_t stream) const;

  int64_t chunk_;
  ScoreType score_type_;
  GatherBlas blas_;
  cuda::DeviceBuffer<uint16_t> gathered_;  // [chunk, kSelectedRows, kLatentDims + kRopeDims]
  cuda::DeviceBuffer<std::byte> scores_;   // [chunk, kHeads, kSelectedRows]; the softmax works in place
};

}  // namespace sluice::bench
