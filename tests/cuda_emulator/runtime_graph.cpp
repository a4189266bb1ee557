// Capture of one stream, the graphs that come of it, and the driver's memory operations of streams.
#include <cuda.h>
#include <cuda_runtime_api.h>

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>

#include "tests/cuda_emulator/failure.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

using namespace sluice::emulator;  // this file is the emulator's face

namespace {

cudaError_t begin_capture(cudaStream_t handle) {
  const std::scoped_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  // The default stream cannot be captured.
  if (stream == Streams::all().find(nullptr)) return cudaErrorStreamCaptureUnsupported;
  if (stream->capture != nullptr) return cudaErrorIllegalState;
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t end_capture(cudaStream_t handle, cudaGraph_t* graph) {
  *graph = nullptr;
  const std::scoped_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture == nullptr) return cudaErrorIllegalState;
  std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  if (std::exchange(stream->capture_broken, false)) return cudaErrorStreamCaptureInvalidated;
  // A node that was added and that the stream does not come after.
  if (!captured->nodes.empty() && captured->tail != &captured->nodes.back()) {
    return cudaErrorStreamCaptureUnjoined;
  }
  *graph = captured.release();
  return cudaSuccess;
}

cudaError_t status_of(cudaStream_t handle, cudaStreamCaptureStatus* status, cudaGraph_t* graph) {
  const std::scoped_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
            : stream->capture_broken   ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  *graph = stream->capture.get();
  return cudaSuccess;
}

/// Only the newest node: a graph here is a chain.
cudaError_t set_tail(cudaStream_t handle, const cudaGraphNode_t* nodes, size_t count, unsigned flags) {
  const std::scoped_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture == nullptr) return cudaErrorIllegalState;
  CUgraph_st& graph = *stream->capture;
  const bool newest = count == 1 && !graph.nodes.empty() && nodes[0] == &graph.nodes.back();
  if (flags != cudaStreamSetCaptureDependencies || !newest) return cudaErrorNotSupported;
  graph.tail = nodes[0];
  return cudaSuccess;
}

cudaError_t launch(const CUgraphExec_st& exec, cudaStream_t handle) {
  const std::scoped_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (failure() != cudaSuccess) return failure();
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture != nullptr) return cudaErrorNotSupported;  // a graph within a graph
  for (const Item& item : exec.items) Streams::all().append(*stream, item);
  return cudaSuccess;
}

/// As long as `word` is not `value` the stream stands still, and takes little of the CPUs' time.
void wait_for_word(const uint32_t* word, uint32_t value) {
  constexpr int kLooks = 64;
  const std::atomic_ref<const uint32_t> seen(*word);
  for (int looks = 0; seen.load(std::memory_order_acquire) != value; ++looks) {
    if (failure() != cudaSuccess) return;
    if (looks < kLooks) {
      _mm_pause();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
  }
}

/// What the operations do, or nothing where one is none that the project uses.
std::function<void()> work_of(const CUstreamBatchMemOpParams* operations, unsigned count) {
  if (count != 1 || operations[0].operation != CU_STREAM_MEM_OP_WAIT_VALUE_32) return {};
  const auto& wait = operations[0].waitValue;
  const auto* const word = reinterpret_cast<const uint32_t*>(static_cast<uintptr_t>(wait.address));
  if (wait.flags != CU_STREAM_WAIT_VALUE_EQ || place_of(word, sizeof *word) == Place::kPageable) return {};
  return [word, value = wait.value] { wait_for_word(word, value); };
}

CUresult add_node(CUgraph_st& graph, const CUgraphNode* after, size_t count, std::function<void()> work) {
  const std::scoped_lock lock(Streams::all().mutex());
  const bool chain = graph.nodes.empty() ? count == 0 : count == 1 && after[0] == &graph.nodes.back();
  if (!chain) return CUDA_ERROR_NOT_SUPPORTED;
  graph.nodes.push_back({{.work = std::move(work), .event = nullptr}});
  return CUDA_SUCCESS;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode /*mode*/) {
  return told(begin_capture(stream));
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return told(end_capture(stream, graph));
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  cudaGraph_t graph = nullptr;
  return told(status_of(stream, status, &graph));
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  if (id != nullptr || graph == nullptr || nodes == nullptr || edges == nullptr || count == nullptr) {
    return told(cudaErrorNotSupported);
  }
  const cudaError_t result = status_of(stream, status, graph);
  if (result == cudaSuccess && *graph != nullptr) {
    *nodes = &(*graph)->tail;
    *edges = nullptr;
    *count = (*graph)->tail == nullptr ? 0 : 1;
  }
  return told(result);
}

cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t* nodes,
                                                const cudaGraphEdgeData* /*edges*/, size_t count,
                                                unsigned flags) {
  return told(set_tail(stream, nodes, count, flags));
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long flags) {
  if (graph == nullptr || flags != 0) return told(cudaErrorInvalidValue);
  auto made = std::make_unique<CUgraphExec_st>();
  for (const CUgraphNode_st& node : graph->nodes) made->items.push_back(node.item);
  *exec = made.release();
  return told(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  return told(exec == nullptr ? cudaErrorInvalidValue : launch(*exec, stream));
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  static_cast<void>(std::unique_ptr<CUgraph_st>(graph));
  return told(graph == nullptr ? cudaErrorInvalidValue : cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  static_cast<void>(std::unique_ptr<CUgraphExec_st>(exec));
  return told(exec == nullptr ? cudaErrorInvalidValue : cudaSuccess);
}

CUresult cuCtxGetCurrent(CUcontext* context) {
  static std::byte the_context;
  *context = reinterpret_cast<CUcontext>(&the_context);
  return CUDA_SUCCESS;
}

CUresult cuStreamBatchMemOp(CUstream stream, unsigned count, CUstreamBatchMemOpParams* operations,
                            unsigned /*flags*/) {
  std::function<void()> work = work_of(operations, count);
  if (work == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const cudaError_t result = put(stream, {.work = std::move(work), .event = nullptr});
  return static_cast<CUresult>(result);  // the run-time library has the driver's numbers
}

CUresult cuGraphAddBatchMemOpNode(CUgraphNode* node, CUgraph graph, const CUgraphNode* after, size_t count,
                                  const CUDA_BATCH_MEM_OP_NODE_PARAMS* parameters) {
  CUcontext context = nullptr;
  cuCtxGetCurrent(&context);
  if (graph == nullptr || parameters->ctx != context) return CUDA_ERROR_INVALID_VALUE;
  std::function<void()> work = work_of(parameters->paramArray, parameters->count);
  if (work == nullptr) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = add_node(*graph, after, count, std::move(work));
  if (result == CUDA_SUCCESS) *node = &graph->nodes.back();
  return result;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned /*version*/,
                                             unsigned long long /*flags*/,
                                             cudaDriverEntryPointQueryResult* status) {
  struct Known {
    std::string_view name;
    void* function;
  };
  const Known known[] = {
      {"cuCtxGetCurrent", reinterpret_cast<void*>(&cuCtxGetCurrent)},
      {"cuStreamBatchMemOp", reinterpret_cast<void*>(&cuStreamBatchMemOp)},
      {"cuGraphAddBatchMemOpNode", reinterpret_cast<void*>(&cuGraphAddBatchMemOpNode)},
  };
  const auto* const found = std::ranges::find(known, std::string_view(name), &Known::name);
  const bool is_known = found != std::end(known);
  *function = is_known ? found->function : nullptr;
  *status = is_known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return told(cudaSuccess);
}

}  // extern "C"
