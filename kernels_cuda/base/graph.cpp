#include "kernels_cuda/base/graph.h"

#include "kernels_cuda/base/check.h"

namespace sluice::cuda {
namespace {

/// A graph that goes when it is left.
struct Captured {
  Captured() = default;
  ~Captured() {
    if (graph != nullptr) static_cast<void>(cudaGraphDestroy(graph));
  }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  cudaGraph_t graph = nullptr;
};

}  // namespace

Graph::Graph(cudaStream_t stream, const std::function<void()>& record) {
  Captured captured;
  // Relaxed: a kernel's first launch may load it, which other modes forbid.
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  try {
    record();
  } catch (...) {
    static_cast<void>(cudaStreamEndCapture(stream, &captured.graph));
    static_cast<void>(cudaGetLastError());  // of the capture that was broken off
    throw;
  }
  check(cudaStreamEndCapture(stream, &captured.graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&exec_, captured.graph, 0), "cudaGraphInstantiate");
}

Graph::~Graph() {
  if (exec_ != nullptr) static_cast<void>(cudaGraphExecDestroy(exec_));
}

void Graph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(exec_, stream), "cudaGraphLaunch");
}

}  // namespace sluice::cuda
