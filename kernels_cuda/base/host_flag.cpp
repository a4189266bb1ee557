// The driver's calls are looked up at run time: nothing links libcuda, so a machine without it starts, too.
#include "kernels_cuda/base/host_flag.h"

#include <cuda.h>

#include <atomic>
#include <string>

#include "kernels_cuda/base/check.h"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

constexpr int64_t kWords = 64;              // a page-locked cache line and its neighbour of its own
constexpr unsigned kDriverVersion = 12000;  // whose form of the calls is asked for

// CUDA 13 gave the calls with edge data the plain names.
#if CUDART_VERSION >= 13000
constexpr auto* kGetCaptureInfo = &cudaStreamGetCaptureInfo;
constexpr auto* kUpdateCaptureDependencies = &cudaStreamUpdateCaptureDependencies;
#else
constexpr auto* kGetCaptureInfo = &cudaStreamGetCaptureInfo_v3;
constexpr auto* kUpdateCaptureDependencies = &cudaStreamUpdateCaptureDependencies_v2;
#endif

template <typename Function>
Function* driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status = cudaDriverEntryPointSuccess;
  check(cudaGetDriverEntryPointByVersion(name, &found, kDriverVersion, cudaEnableDefault, &status), name);
  if (status != cudaDriverEntryPointSuccess || found == nullptr) {
    throw Error(name, "an NVIDIA driver that has it (CUDA 12 or newer)", "none");
  }
  return reinterpret_cast<Function*>(found);
}

void check_driver(CUresult result, const char* name) {
  if (result == CUDA_SUCCESS) return;
  throw Error(name, "success", "driver error " + std::to_string(static_cast<int>(result)));
}

/// Wait for 1. A write of 0 behind it would cost a memory barrier: kernels do that on their way.
CUstreamBatchMemOpParams wait_operation(const uint32_t* word) {
  CUstreamBatchMemOpParams operation{};
  operation.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
  operation.waitValue.address = static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(word));
  operation.waitValue.value = 1;
  operation.waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
  return operation;
}

/// What a capture has come to.
struct Capture {
  cudaGraph_t graph = nullptr;
  const cudaGraphNode_t* nodes = nullptr;  // what the next one depends on
  size_t count = 0;
};

Capture capture_of(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  Capture capture;
  const cudaGraphEdgeData* edges = nullptr;
  check(kGetCaptureInfo(stream, &status, nullptr, &capture.graph, &capture.nodes, &edges, &capture.count),
        "cudaStreamGetCaptureInfo");
  if (status != cudaStreamCaptureStatusActive) capture.graph = nullptr;
  return capture;
}

void add_node(const Capture& capture, CUstreamBatchMemOpParams& operation, cudaStream_t stream) {
  CUcontext context = nullptr;
  check_driver(driver_function<decltype(cuCtxGetCurrent)>("cuCtxGetCurrent")(&context), "cuCtxGetCurrent");
  const CUDA_BATCH_MEM_OP_NODE_PARAMS params{
      .ctx = context, .count = 1, .paramArray = &operation, .flags = 0};
  CUgraphNode node = nullptr;
  const auto add = driver_function<decltype(cuGraphAddBatchMemOpNode)>("cuGraphAddBatchMemOpNode");
  check_driver(add(&node, capture.graph, capture.nodes, capture.count, &params), "cuGraphAddBatchMemOpNode");
  check(kUpdateCaptureDependencies(stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies),
        "cudaStreamUpdateCaptureDependencies");
}

}  // namespace

HostFlag::HostFlag() : word_(kWords) {
  std::atomic_ref(*word_.data()).store(0);
}

void HostFlag::raise() const {
  std::atomic_ref(*word_.data()).store(1, std::memory_order_release);
}

bool HostFlag::is_raised() const {
  return std::atomic_ref(*word_.data()).load(std::memory_order_acquire) == 1;
}

bool HostFlag::take_down() const {
  if (!is_raised()) return false;
  std::atomic_ref(*word_.data()).store(0, std::memory_order_relaxed);
  return true;
}

void HostFlag::wait_in(cudaStream_t stream) const {
  CUstreamBatchMemOpParams operation = wait_operation(word_.data());
  const Capture capture = capture_of(stream);
  if (capture.graph != nullptr) {
    add_node(capture, operation, stream);
    return;
  }
  const auto put = driver_function<decltype(cuStreamBatchMemOp)>("cuStreamBatchMemOp");
  check_driver(put(stream, 1, &operation, 0), "cuStreamBatchMemOp");
}

}  // namespace sluice::cuda
