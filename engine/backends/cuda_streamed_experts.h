// Routed experts computed from slots of the stream (cuda_expert_stream.h): a batch's choices are sorted by
// expert on the host, and an arrived slot is multiplied with all tokens that chose its experts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/backends/cuda_arena.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/panel_gemm.h"
#include "offload/expert_weights.h"
#include "quant/base/view.h"

namespace sluice {

struct StreamedShape {
  int64_t max_tokens = 0;  // of a batch
  int64_t d_model = 0;
  int64_t d_expert = 0;
  int64_t experts = 0;
  int64_t used = 0;
};

class CudaStreamedExperts {
 public:
  /// Keeps a reference to `weights`. Throws Error when memory cannot be had.
  CudaStreamedExperts(const offload::ExpertWeights& weights, const StreamedShape& shape);

  /// GPU memory that it takes.
  static int64_t bytes_needed(const StreamedShape& shape);
  /// Whether it can compute experts of these types: quantized ones.
  static bool takes(const offload::ExpertWeights& weights);

  /// A layer's batch: what tokens chose (ids [n_tokens, used], on the host) and the experts of the slots that
  /// will come, each at most once and ascending, of at most `per_slot` a slot. Choices of other experts are
  /// left out. What was said of the layer before must be done in `stream`, so that its tables can be written
  /// over.
  void begin_layer(int64_t layer, MatrixView<const int32_t> ids, std::span<const std::vector<int32_t>> slots,
                   int64_t per_slot, cudaStream_t stream);

  /// On the GPU.
  struct Batch {
    const uint16_t* f = nullptr;     // bf16 [n_tokens, d_model]
    const float* weights = nullptr;  // [n_tokens, used]
    float* y = nullptr;              // [n_tokens, d_model]
  };
  /// y[t] += the weighted outputs of the experts in slot `slot` of the layer that t chose, whose bytes are at
  /// `data` on the GPU. Slots in ascending order: then a token's experts are added in theirs. Nothing here
  /// waits.
  void add(size_t slot, const std::byte* data, const Batch& batch, cudaStream_t stream) const;

 private:
  /// Choices that go through the products together: of some experts of a slot, or a part of one's.
  struct Piece {
    int64_t first_expert = 0;  // in the slot
    int64_t experts = 0;
    int64_t first_choice = 0;
    int64_t choices = 0;
    int64_t begins_at = 0;  // in begins
  };
  struct Slot {
    int64_t first_expert = 0;  // in the order of all slots
    std::vector<Piece> pieces;
  };
  /// Parts of one piece of memory, that is written on the host and fetched by the GPU.
  struct Tables {
    Tables(const StreamedShape& shape, std::byte* data);
    int64_t bytes;
    int32_t* tokens;   // [max_tokens * used]: the token of a choice
    int32_t* choices;  // [max_tokens, used]: where a token's choice is among those, or -1
    int32_t* begins;   // of each piece [experts + 1], from its first choice on
    float* scales[3];  // gate, up, down: [experts], in the order of slots
  };
  struct Buffers {
    Buffers(const StreamedShape& shape, DeviceLayout& layout);
    std::byte* tables;
    float* gate;       // [kMostChoices, d_expert]
    float* up;         // [kMostChoices, d_expert]
    uint16_t* hidden;  // [kMostChoices, d_expert] bf16
    float* parts;      // [kMostChoices, d_model]
  };

  void sort_choices(MatrixView<const int32_t> ids, std::span<const std::vector<int32_t>> slots);
  void cut_slots(std::span<const std::vector<int32_t>> slots);
  void fill_scales(int64_t layer, std::span<const std::vector<int32_t>> slots);
  void add_piece(const Slot& slot, const Piece& piece, const std::byte* data, const Batch& batch,
                 cudaStream_t stream) const;
  void multiply_node(const Slot& slot, const Piece& piece, int64_t node, const std::byte* data,
                     const uint16_t* f, cudaStream_t stream) const;

  const offload::ExpertWeights& weights_;
  StreamedShape shape_;
  CudaArena arena_;
  Buffers buffers_;
  cuda::PinnedBuffer<std::byte> host_tables_;
  Tables host_;
  Tables gpu_;
  int64_t layer_ = 0;
  int64_t n_tokens_ = 0;
  int64_t per_slot_ = 0;
  std::vector<int64_t> begins_;  // [experts in slots + 1], in the order of slots
  std::vector<int64_t> next_;    // [experts]
  std::vector<Slot> slots_;
};

}  // namespace sluice
