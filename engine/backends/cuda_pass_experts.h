// Routed experts that meet all of a pass's tokens at once, wherever on the GPU their panels lie: in its
// memory to stay, or in a slot of the stream (cuda_expert_stream.h). Tokens and choices are gathered tile by
// tile; the host sorts the choices by expert (pass_choices.h) and puts the products into the stream.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backends/backend.h"
#include "engine/backends/cuda_arena.h"
#include "engine/backends/cuda_expert_weights.h"
#include "engine/backends/gpu_working_memory.h"
#include "engine/backends/pass_choices.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/panel_gemm.h"
#include "offload/expert_source.h"
#include "offload/routes.h"

namespace sluice {

/// A layer at a time: put_rows() and the router for all of the pass's tokens, send_routes(),
/// receive_routes(), then begin_layer() and add() for each group, or add_all(). All in one stream, but
/// receive_routes(): after it everything that was said of the layer before is done there, so tables and rows
/// may be written over.
class CudaPassExperts {
 public:
  /// Throws Error when memory cannot be had.
  explicit CudaPassExperts(const PassExpertShape& shape);

  /// Whether it can compute experts of this type: a quantized one.
  static bool takes(quant::DType dtype) { return cuda::panel_gemm_takes(dtype); }
  static bool takes(const CudaExpertLayer& layer);

  /// Where the router writes for the pass's token `row` and those behind it, on the GPU: [rows, used].
  [[nodiscard]] int32_t* ids(int64_t row) const { return buffers_.ids + row * shape_.used; }
  [[nodiscard]] float* weights(int64_t row) const { return buffers_.weights + row * shape_.used; }
  /// What experts read of these rows: normed [rows.count, d_model] on the GPU.
  void put_rows(const float* normed, RowRange rows, cudaStream_t stream) const;
  /// All that were put: bf16 [n_tokens, d_model] on the GPU.
  [[nodiscard]] const uint16_t* rows() const { return buffers_.f; }

  /// After all rows: the choices of n_tokens tokens go to the host.
  void send_routes(int64_t n_tokens, cudaStream_t stream);
  /// Waits for them. Throws Error when the stream failed.
  offload::Routes receive_routes() const;
  /// Those that were received last, on the host.
  [[nodiscard]] offload::Routes routes() const;

  /// The groups that will come, with their experts' scales of gate, up and down on the host, in the order of
  /// groups; none where panels have their own. Choices of other experts are left out. Does not wait.
  using Scales = std::array<std::vector<float>, 3>;
  void begin_layer(std::span<const ExpertGroup> groups, const Scales& scales, cudaStream_t stream);
  /// The group's scales on the GPU.
  [[nodiscard]] const float* scales(offload::ExpertPart part, size_t group) const;
  /// y[t] += the weighted outputs of the group's experts that t chose; y [n_tokens, d_model] on the GPU.
  /// `shares` are of the group's experts one after the other, a share for each NUMA node that has one: rows
  /// of gate and up, columns of down. Groups in ascending order: then a token's experts are added in theirs.
  /// Does not wait.
  void add(size_t group, std::span<const CudaExpertLayer> shares, float* y, cudaStream_t stream) const;

  /// begin_layer() and add() for all experts of a layer.
  void add_all(const CudaExpertLayer& layer, float* y, cudaStream_t stream);

 private:
  void multiply(const CudaExpertLayer& share, const PassChoices::Piece& piece, cudaStream_t stream) const;

  PassExpertShape shape_;
  CudaArena arena_;
  PassExpertBuffers buffers_;
  cuda::PinnedBuffer<int32_t> host_ids_;    // [max_tokens, used]
  cuda::PinnedBuffer<float> host_weights_;  // [max_tokens, used]
  cuda::PinnedBuffer<std::byte> host_tables_;
  PassTables gpu_;  // of this layer
  PassChoices choices_;
  ExpertGroup all_;       // a layer's experts
  int64_t n_tokens_ = 0;  // whose choices are there
  cuda::Event sent_;
};

}  // namespace sluice
