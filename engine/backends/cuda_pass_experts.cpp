#include "engine/backends/cuda_pass_experts.h"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "kernels_cuda/base/check.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/post.h"
#include "kernels_cuda/row_lists.h"

namespace sluice {

using offload::ExpertPart;

CudaPassExperts::CudaPassExperts(const PassExpertShape& shape)
    : shape_(shape),
      arena_(pass_expert_bytes(shape)),
      buffers_(shape, arena_),
      host_ids_(shape.max_tokens * shape.used),
      host_weights_(shape.max_tokens * shape.used),
      host_tables_(PassTables(shape, shape.max_tokens, nullptr).bytes),
      gpu_(shape, 0, buffers_.tables),
      choices_(shape),
      all_(static_cast<size_t>(shape.experts)) {
  std::iota(all_.begin(), all_.end(), 0);
}

bool CudaPassExperts::takes(const CudaExpertLayer& layer) {
  return takes(layer.gate.first.layout.dtype) && takes(layer.up.first.layout.dtype) &&
         takes(layer.down.first.layout.dtype);
}

void CudaPassExperts::put_rows(const float* normed, RowRange rows, cudaStream_t stream) const {
  const int64_t n = shape_.d_model;
  cuda::to_bf16({.x = normed,
                 .x_stride = n,
                 .y = buffers_.f + rows.begin * n,
                 .y_stride = n,
                 .rows = rows.count,
                 .n = n},
                stream);
}

void CudaPassExperts::send_routes(int64_t n_tokens, cudaStream_t stream) {
  assert(n_tokens <= shape_.max_tokens);
  const auto bytes = static_cast<size_t>(n_tokens * shape_.used) * 4;
  cuda::check(cudaMemcpyAsync(host_ids_.data(), buffers_.ids, bytes, cudaMemcpyDeviceToHost, stream),
              "reading routes");
  cuda::check(cudaMemcpyAsync(host_weights_.data(), buffers_.weights, bytes, cudaMemcpyDeviceToHost, stream),
              "reading routes");
  sent_.record(stream);
  n_tokens_ = n_tokens;
}

offload::Routes CudaPassExperts::receive_routes() const {
  sent_.synchronize();
  return routes();
}

offload::Routes CudaPassExperts::routes() const {
  return {{host_ids_.data(), n_tokens_, shape_.used}, {host_weights_.data(), n_tokens_, shape_.used}};
}

void CudaPassExperts::begin_layer(std::span<const ExpertGroup> groups, const Scales& scales,
                                  cudaStream_t stream) {
  const PassTables host(shape_, n_tokens_, host_tables_.data());
  gpu_ = PassTables(shape_, n_tokens_, buffers_.tables);
  choices_.sort(routes().ids, groups, host);
  for (size_t part = 0; part < scales.size(); ++part) {
    std::ranges::copy(scales[part], host.scales[part]);
  }
  cuda::fetch({host_tables_.data(), buffers_.tables, host.bytes / 4}, stream);
}

const float* CudaPassExperts::scales(ExpertPart part, size_t group) const {
  return gpu_.scales[static_cast<size_t>(part)] + choices_.first_expert(group);
}

// Every share has its rows of gate and up and its columns of down: their sums are added one after the other.
void CudaPassExperts::add(size_t group, std::span<const CudaExpertLayer> shares, float* y,
                          cudaStream_t stream) const {
  for (const PassChoices::Piece& piece : choices_.pieces(group)) {
    for (const CudaExpertLayer& share : shares) {
      multiply(share, piece, stream);
      cuda::add_slots({.parts = buffers_.parts,
                       .first_slot = piece.first_choice,
                       .count = piece.choices,
                       .slots = gpu_.choices,
                       .weights = buffers_.weights,
                       .y = y,
                       .n_tokens = n_tokens_,
                       .used = shape_.used,
                       .n = shape_.d_model},
                      stream);
    }
  }
}

void CudaPassExperts::add_all(const CudaExpertLayer& layer, float* y, cudaStream_t stream) {
  begin_layer({&all_, 1}, {}, stream);
  add(0, {&layer, 1}, y, stream);
}

void CudaPassExperts::multiply(const CudaExpertLayer& share, const PassChoices::Piece& piece,
                               cudaStream_t stream) const {
  const int64_t width = share.gate.first.rows;
  const auto multiply_by = [&](const cuda::ExpertPanels& all, const uint16_t* x, const int32_t* tokens,
                               float* y) {
    cuda::ExpertPanels w = all;
    w.first.data += piece.first_expert * all.expert_bytes;
    w.scales = all.scales == nullptr ? nullptr : all.scales + piece.first_expert;
    w.experts = piece.experts;
    cuda::panel_gemm({.w = w,
                      .x = x,
                      .x_stride = w.first.layout.cols,
                      .begins = gpu_.begins + piece.begins_at,
                      .tokens = tokens,
                      .slots = piece.choices,
                      .y = y,
                      .y_stride = w.first.rows},
                     stream);
  };
  const int32_t* const tokens = gpu_.tokens + piece.first_choice;
  multiply_by(share.gate, buffers_.f, tokens, buffers_.gate);
  multiply_by(share.up, buffers_.f, tokens, buffers_.up);
  cuda::swiglu(buffers_.gate, buffers_.up, piece.choices * width, buffers_.gate, stream);
  cuda::to_bf16({.x = buffers_.gate,
                 .x_stride = width,
                 .y = buffers_.hidden,
                 .y_stride = width,
                 .rows = piece.choices,
                 .n = width},
                stream);
  multiply_by(share.down, buffers_.hidden, nullptr, buffers_.parts);
}

}  // namespace sluice
