// Work captured from a stream once and put into it again with one call.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <utility>

namespace sluice::cuda {

/// Move-only.
class Graph {
 public:
  Graph() = default;
  /// Everything that `record` puts into `stream`; nothing of it runs. Throws Error when CUDA refuses, and
  /// what `record` throws.
  Graph(cudaStream_t stream, const std::function<void()>& record);
  ~Graph();
  Graph(Graph&& other) noexcept : exec_(std::exchange(other.exec_, nullptr)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(exec_, other.exec_);
    return *this;
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Does not wait. Throws Error.
  void launch(cudaStream_t stream) const;

 private:
  cudaGraphExec_t exec_ = nullptr;
};

}  // namespace sluice::cuda
