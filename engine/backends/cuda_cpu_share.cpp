#include "engine/backends/cuda_cpu_share.h"

#include <algorithm>
#include <cassert>

#include "kernels_cuda/row_lists.h"

namespace sluice {

CudaCpuShare::CudaCpuShare(const CpuShareShape& shape)
    : shape_(shape),
      list_(shape.max_rows),
      f_(shape.max_rows * shape.d_model),
      sum_(shape.max_rows * shape.d_model),
      ids_(static_cast<size_t>(shape.max_rows * shape.used)),
      weights_(static_cast<size_t>(shape.max_rows * shape.used)) {}

int64_t CudaCpuShare::send(const offload::Routes& routes, std::span<const uint8_t> is_cpus, const uint16_t* f,
                           cudaStream_t stream) {
  const auto is_mine = [&](int32_t id) { return is_cpus[static_cast<size_t>(id)] != 0; };
  rows_ = 0;
  if (std::ranges::none_of(is_cpus, [](uint8_t its) { return its != 0; })) {
    return 0;
  }
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    const std::span<const int32_t> ids = routes.ids.row(t);
    if (std::ranges::none_of(ids, is_mine)) {
      continue;
    }
    assert(rows_ < shape_.max_rows);
    list_.data()[rows_] = static_cast<int32_t>(t);
    std::ranges::transform(ids, ids_.begin() + rows_ * shape_.used,
                           [&](int32_t id) { return is_mine(id) ? id : -1; });
    std::ranges::copy(routes.weights.row(t), weights_.begin() + rows_ * shape_.used);
    ++rows_;
  }
  cuda::gather_rows({.x = f, .list = list_.data(), .y = f_.data(), .rows = rows_, .n = shape_.d_model},
                    stream);
  sent_.record(stream);
  return rows_;
}

Backend::Routed CudaCpuShare::receive() {
  std::fill_n(sum_.data(), rows_ * shape_.d_model, 0.0F);
  sent_.synchronize();
  return {.f = {f_.data(), rows_, shape_.d_model},
          .routes = {{ids_.data(), rows_, shape_.used}, {weights_.data(), rows_, shape_.used}},
          .sum = {sum_.data(), rows_, shape_.d_model}};
}

void CudaCpuShare::add_sum(float* x, cudaStream_t stream) const {
  cuda::add_rows({.x = sum_.data(), .list = list_.data(), .y = x, .rows = rows_, .n = shape_.d_model},
                 stream);
}

}  // namespace sluice
