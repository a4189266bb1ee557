#include "engine/backends/cuda_streamed_experts.h"

#include <algorithm>
#include <cassert>

#include "engine/backends/cuda_expert_stream.h"
#include "engine/backends/device_layout.h"
#include "engine/backends/gpu_working_memory.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/post.h"
#include "kernels_cuda/row_lists.h"

namespace sluice {
namespace {

using offload::ExpertPart;

int64_t most_choices(const StreamedShape& shape) {
  return std::min(kStreamedChoices, shape.max_tokens * shape.used);
}

/// A piece ends with its slot or with kStreamedChoices, and an expert that is cut counts in two.
int64_t most_begins(const StreamedShape& shape) {
  const int64_t cuts = shape.max_tokens * shape.used / most_choices(shape) + 1;
  return 2 * shape.experts + 2 * cuts;
}

}  // namespace

CudaStreamedExperts::Tables::Tables(const StreamedShape& shape, std::byte* data) : bytes(0) {
  const auto take = [&](int64_t count) {
    std::byte* const at = data + bytes;
    bytes += DeviceLayout::aligned(count * 4);
    return at;
  };
  tokens = reinterpret_cast<int32_t*>(take(shape.max_tokens * shape.used));
  choices = reinterpret_cast<int32_t*>(take(shape.max_tokens * shape.used));
  begins = reinterpret_cast<int32_t*>(take(most_begins(shape)));
  for (float*& scale : scales) {
    scale = reinterpret_cast<float*>(take(shape.experts));
  }
}

CudaStreamedExperts::Buffers::Buffers(const StreamedShape& s, DeviceLayout& layout) {
  const int64_t choices = most_choices(s);
  tables = layout.take<std::byte>(Tables(s, nullptr).bytes);
  gate = layout.take<float>(choices * s.d_expert);
  up = layout.take<float>(choices * s.d_expert);
  hidden = layout.take<uint16_t>(choices * s.d_expert);
  parts = layout.take<float>(choices * s.d_model);
}

CudaStreamedExperts::CudaStreamedExperts(const offload::ExpertWeights& weights, const StreamedShape& shape)
    : weights_(weights),
      shape_(shape),
      arena_(bytes_needed(shape)),
      buffers_(shape, arena_),
      host_tables_(Tables(shape, nullptr).bytes),
      host_(shape, host_tables_.data()),
      gpu_(shape, buffers_.tables),
      next_(static_cast<size_t>(shape.experts)) {}

int64_t CudaStreamedExperts::bytes_needed(const StreamedShape& shape) {
  DeviceLayout counted;
  static_cast<void>(Buffers(shape, counted));
  return counted.taken();
}

bool CudaStreamedExperts::takes(const offload::ExpertWeights& weights) {
  for (int64_t layer = 0; layer < weights.layers(); ++layer) {
    for (int64_t node = 0; weights.experts(layer) > 0 && node < weights.nodes(); ++node) {
      const offload::ExpertShare& share = weights.share(layer, node);
      if (weights.piece(layer, 0, node).size() != static_cast<size_t>(share.piece_bytes()) ||
          !cuda::panel_gemm_takes(share.gate.dtype) || !cuda::panel_gemm_takes(share.up.dtype) ||
          !cuda::panel_gemm_takes(share.down.dtype)) {
        return false;
      }
    }
  }
  return true;
}

void CudaStreamedExperts::begin_layer(int64_t layer, MatrixView<const int32_t> ids,
                                      std::span<const std::vector<int32_t>> slots, int64_t per_slot,
                                      cudaStream_t stream) {
  assert(ids.rows <= shape_.max_tokens && ids.cols == shape_.used);
  layer_ = layer;
  n_tokens_ = ids.rows;
  per_slot_ = per_slot;
  sort_choices(ids, slots);
  cut_slots(slots);
  fill_scales(layer, slots);
  cuda::fetch({host_tables_.data(), buffers_.tables, host_.bytes / 4}, stream);
}

// By counting: choices of an expert follow each other, in the order of tokens.
void CudaStreamedExperts::sort_choices(MatrixView<const int32_t> ids,
                                       std::span<const std::vector<int32_t>> slots) {
  std::ranges::fill(next_, 0);
  for (int64_t t = 0; t < ids.rows; ++t) {
    for (const int32_t id : ids.row(t)) {
      ++next_[static_cast<size_t>(id)];
    }
  }
  begins_.assign(1, 0);
  std::vector<bool> comes(next_.size(), false);
  for (const std::vector<int32_t>& slot : slots) {
    for (const int32_t expert : slot) {
      const auto e = static_cast<size_t>(expert);
      const int64_t count = next_[e];
      comes[e] = true;
      next_[e] = begins_.back();
      begins_.push_back(begins_.back() + count);
    }
  }
  for (int64_t t = 0; t < ids.rows; ++t) {
    for (int64_t k = 0; k < ids.cols; ++k) {
      const auto e = static_cast<size_t>(ids.row(t)[static_cast<size_t>(k)]);
      const auto choice = static_cast<int32_t>(comes[e] ? next_[e]++ : -1);
      host_.choices[t * ids.cols + k] = choice;
      if (choice >= 0) {
        host_.tokens[choice] = static_cast<int32_t>(t);
      }
    }
  }
}

void CudaStreamedExperts::cut_slots(std::span<const std::vector<int32_t>> slots) {
  slots_.clear();
  const int64_t most = most_choices(shape_);
  int64_t begins_at = 0;
  int64_t first = 0;  // expert, in the order of slots
  for (const std::vector<int32_t>& experts : slots) {
    Slot& slot = slots_.emplace_back(Slot{.first_expert = first, .pieces = {}});
    const int64_t last = first + static_cast<int64_t>(experts.size());
    const auto begin_of = [&](int64_t e) { return begins_[static_cast<size_t>(e)]; };
    for (int64_t begin = begin_of(first), end = 0; begin < begin_of(last); begin = end) {
      end = std::min(begin + most, begin_of(last));
      int64_t from = first;
      while (begin_of(from + 1) <= begin) {
        ++from;
      }
      int64_t to = from + 1;
      while (begin_of(to) < end) {
        ++to;
      }
      slot.pieces.push_back({from - first, to - from, begin, end - begin, begins_at});
      for (int64_t e = from; e <= to; ++e) {
        host_.begins[begins_at++] = static_cast<int32_t>(std::clamp(begin_of(e), begin, end) - begin);
      }
    }
    first = last;
  }
  assert(begins_at <= most_begins(shape_));
}

void CudaStreamedExperts::fill_scales(int64_t layer, std::span<const std::vector<int32_t>> slots) {
  int64_t at = 0;
  for (const std::vector<int32_t>& slot : slots) {
    for (const int32_t expert : slot) {
      for (const ExpertPart part : {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown}) {
        host_.scales[static_cast<size_t>(part)][at] = weights_.scale(layer, part, expert);
      }
      ++at;
    }
  }
}

void CudaStreamedExperts::add(size_t slot, const std::byte* data, const Batch& batch,
                              cudaStream_t stream) const {
  for (const Piece& piece : slots_[slot].pieces) {
    add_piece(slots_[slot], piece, data, batch, stream);
  }
}

// Every node has its rows of gate and up and its columns of down: their sums are added one after the other.
void CudaStreamedExperts::add_piece(const Slot& slot, const Piece& piece, const std::byte* data,
                                    const Batch& batch, cudaStream_t stream) const {
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    if (weights_.share(layer_, node).rows.size() == 0) {
      continue;
    }
    multiply_node(slot, piece, node, data + node_offset(weights_, layer_, node, per_slot_), batch.f, stream);
    cuda::add_slots({.parts = buffers_.parts,
                     .first_slot = piece.first_choice,
                     .count = piece.choices,
                     .slots = gpu_.choices,
                     .weights = batch.weights,
                     .y = batch.y,
                     .n_tokens = n_tokens_,
                     .used = shape_.used,
                     .n = shape_.d_model},
                    stream);
  }
}

void CudaStreamedExperts::multiply_node(const Slot& slot, const Piece& piece, int64_t node,
                                        const std::byte* data, const uint16_t* f, cudaStream_t stream) const {
  const offload::ExpertShare& share = weights_.share(layer_, node);
  const int64_t width = share.rows.size();
  const auto multiply = [&](ExpertPart part, const uint16_t* x, const int32_t* tokens, float* y) {
    const quant::PanelView first{.layout = share.layout(part),
                                 .data = data + piece.first_expert * share.piece_bytes() + share.offset(part),
                                 .rows = part == ExpertPart::kDown ? shape_.d_model : width};
    const int64_t expert = slot.first_expert + piece.first_expert;
    cuda::panel_gemm({.w = {.first = first,
                            .expert_bytes = share.piece_bytes(),
                            .scales = gpu_.scales[static_cast<size_t>(part)] + expert,
                            .experts = piece.experts},
                      .x = x,
                      .x_stride = first.layout.cols,
                      .begins = gpu_.begins + piece.begins_at,
                      .tokens = tokens,
                      .slots = piece.choices,
                      .y = y,
                      .y_stride = first.rows},
                     stream);
  };
  const int32_t* const tokens = gpu_.tokens + piece.first_choice;
  multiply(ExpertPart::kGate, f, tokens, buffers_.gate);
  multiply(ExpertPart::kUp, f, tokens, buffers_.up);
  cuda::swiglu(buffers_.gate, buffers_.up, piece.choices * width, buffers_.gate, stream);
  cuda::to_bf16({.x = buffers_.gate,
                 .x_stride = width,
                 .y = buffers_.hidden,
                 .y_stride = width,
                 .rows = piece.choices,
                 .n = width},
                stream);
  multiply(ExpertPart::kDown, buffers_.hidden, nullptr, buffers_.parts);
}

}  // namespace sluice
