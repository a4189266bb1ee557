// Order in a stream, between streams and in graphs.
#include "tests/cuda_emulator/stream.h"

#include <cuda.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace sluice::emulator {
namespace {

constexpr auto kWhile = std::chrono::milliseconds(20);

/// A stream, destroyed when it is left.
class Made {
 public:
  Made() { EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess); }
  ~Made() { EXPECT_EQ(cudaStreamDestroy(stream_), cudaSuccess); }
  Made(const Made&) = delete;
  Made& operator=(const Made&) = delete;
  [[nodiscard]] cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class MadeEvent {
 public:
  explicit MadeEvent(unsigned flags) { EXPECT_EQ(cudaEventCreateWithFlags(&event_, flags), cudaSuccess); }
  ~MadeEvent() { EXPECT_EQ(cudaEventDestroy(event_), cudaSuccess); }
  MadeEvent(const MadeEvent&) = delete;
  MadeEvent& operator=(const MadeEvent&) = delete;
  [[nodiscard]] cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

/// Work that does not end before it is told to.
class Gate {
 public:
  Gate() = default;
  ~Gate() {
    open();
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << "its streams have passed it";
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void put_into(cudaStream_t stream) {
    enqueue(stream, [this] { open_.wait(false); });
  }
  void open() {
    open_ = true;
    open_.notify_all();
  }

 private:
  std::atomic<bool> open_ = false;
};

TEST(EmulatedStream, DoesOneThingAfterTheOther) {
  const Made stream;
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) enqueue(stream.get(), [&order, i] { order.push_back(i); });
  ASSERT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  ASSERT_EQ(order.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

TEST(EmulatedStream, RunsBesideTheHostAndOtherStreams) {
  const Made slow;
  const Made quick;
  Gate gate;
  gate.put_into(slow.get());
  bool done = false;
  enqueue(quick.get(), [&] { done = true; });
  EXPECT_EQ(cudaStreamSynchronize(quick.get()), cudaSuccess);
  EXPECT_TRUE(done);
  EXPECT_EQ(cudaStreamQuery(slow.get()), cudaErrorNotReady);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "not ready is no error";
  gate.open();
  EXPECT_EQ(cudaStreamSynchronize(slow.get()), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(slow.get()), cudaSuccess);
}

TEST(EmulatedStream, DeviceSynchronizeWaitsForAllAndForThoseThatAreDestroyed) {
  std::atomic<int> done = 0;
  {
    const Made a;
    const Made b;
    for (const cudaStream_t stream : {a.get(), b.get(), cudaStream_t{nullptr}}) {
      enqueue(stream, [&] {
        std::this_thread::sleep_for(kWhile);
        ++done;
      });
    }
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  EXPECT_EQ(done, 3);
}

TEST(EmulatedStream, OnlyKnownHandlesAndKinds) {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamDefault), cudaErrorNotSupported);
  EXPECT_EQ(cudaGetLastError(), cudaErrorNotSupported);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamDestroy(nullptr), cudaErrorInvalidResourceHandle);
  enqueue(stream, [] { FAIL() << "in a stream that is gone"; });
  EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidResourceHandle);
  EXPECT_EQ(cudaStreamSynchronize(cudaStreamLegacy), cudaSuccess);
}

TEST(EmulatedEvent, HoldsAnotherStreamUntilItsPointIsReached) {
  const Made first;
  const Made second;
  const MadeEvent event(cudaEventDisableTiming);
  Gate gate;
  std::atomic<bool> before = false;
  bool seen = false;
  ASSERT_EQ(cudaStreamWaitEvent(second.get(), event.get(), 0), cudaSuccess) << "never recorded: no wait";
  ASSERT_EQ(cudaStreamSynchronize(second.get()), cudaSuccess);
  gate.put_into(first.get());
  enqueue(first.get(), [&] { before = true; });
  ASSERT_EQ(cudaEventRecordWithFlags(event.get(), first.get(), cudaEventRecordDefault), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second.get(), event.get(), 0), cudaSuccess);
  enqueue(second.get(), [&] { seen = before; });
  std::this_thread::sleep_for(kWhile);
  EXPECT_EQ(cudaStreamQuery(second.get()), cudaErrorNotReady);
  EXPECT_EQ(cudaEventQuery(event.get()), cudaErrorNotReady);
  gate.open();
  EXPECT_EQ(cudaStreamSynchronize(second.get()), cudaSuccess);
  EXPECT_TRUE(seen);
  EXPECT_EQ(cudaEventQuery(event.get()), cudaSuccess);
}

// A later recording of the event is not what was waited for.
TEST(EmulatedEvent, AWaitIsForTheRecordingOfItsTime) {
  const Made first;
  const Made second;
  Gate gate;
  const MadeEvent event(cudaEventDisableTiming);
  ASSERT_EQ(cudaEventRecordWithFlags(event.get(), first.get(), cudaEventRecordDefault), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second.get(), event.get(), 0), cudaSuccess);
  gate.put_into(first.get());
  ASSERT_EQ(cudaEventRecordWithFlags(event.get(), first.get(), cudaEventRecordDefault), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(second.get()), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event.get()), cudaErrorNotReady);
}

TEST(EmulatedEvent, MeasuresTime) {
  const Made stream;
  const MadeEvent begin(cudaEventDefault);
  const MadeEvent end(cudaEventDefault);
  const MadeEvent untimed(cudaEventDisableTiming);
  float ms = 0;
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin.get(), end.get()), cudaErrorInvalidResourceHandle);
  ASSERT_EQ(cudaEventRecordWithFlags(begin.get(), stream.get(), cudaEventRecordDefault), cudaSuccess);
  enqueue(stream.get(), [] { std::this_thread::sleep_for(kWhile); });
  ASSERT_EQ(cudaEventRecordWithFlags(end.get(), stream.get(), cudaEventRecordDefault), cudaSuccess);
  ASSERT_EQ(cudaEventRecordWithFlags(untimed.get(), stream.get(), cudaEventRecordDefault), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(end.get()), cudaSuccess);
  ASSERT_EQ(cudaEventElapsedTime(&ms, begin.get(), end.get()), cudaSuccess);
  EXPECT_GE(ms, 20.0F);
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin.get(), untimed.get()), cudaErrorInvalidResourceHandle);
}

TEST(EmulatedEvent, MayGoBeforeItsStreamComesToIt) {
  const Made stream;
  Gate gate;
  gate.put_into(stream.get());
  {
    const MadeEvent event(cudaEventDisableTiming);
    ASSERT_EQ(cudaEventRecordWithFlags(event.get(), stream.get(), cudaEventRecordDefault), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(stream.get(), event.get(), 0), cudaSuccess);
  }
  gate.open();
  EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
}

/// A graph of what `record` puts into the stream.
template <typename Record>
cudaGraphExec_t captured(cudaStream_t stream, const Record& record) {
  EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), cudaSuccess);
  record();
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t exec = nullptr;
  EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  return exec;
}

TEST(EmulatedGraph, RunsWhenItIsLaunchedAndInOrder) {
  const Made stream;
  const MadeEvent begin(cudaEventDefault);
  const MadeEvent end(cudaEventDefault);
  const MadeEvent order(cudaEventDisableTiming);
  int value = 0;
  const cudaGraphExec_t exec = captured(stream.get(), [&] {
    EXPECT_EQ(cudaEventRecordWithFlags(begin.get(), stream.get(), cudaEventRecordExternal), cudaSuccess);
    enqueue(stream.get(), [&] { value += 3; });
    EXPECT_EQ(cudaEventRecordWithFlags(order.get(), stream.get(), cudaEventRecordDefault), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(stream.get(), order.get(), 0), cudaSuccess);
    EXPECT_EQ(cudaEventQuery(order.get()), cudaErrorCapturedEvent);
    enqueue(stream.get(), [&] {
      value *= 2;
      std::this_thread::sleep_for(kWhile);
    });
    EXPECT_EQ(cudaEventRecordWithFlags(end.get(), stream.get(), cudaEventRecordExternal), cudaSuccess);
  });
  EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_EQ(value, 0) << "a capture runs nothing";
  for (int i = 0; i < 3; ++i) EXPECT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
  EXPECT_EQ(cudaEventSynchronize(end.get()), cudaSuccess);
  EXPECT_EQ(value, 42);
  float ms = 0;
  EXPECT_EQ(cudaEventElapsedTime(&ms, begin.get(), end.get()), cudaSuccess);
  EXPECT_GE(ms, 20.0F);
  EXPECT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess) << "while it runs";
  EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_EQ(value, 90);
}

TEST(EmulatedGraph, ACaptureBreaksWhenItsStreamIsWaitedFor) {
  const Made stream;
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed), cudaErrorIllegalState);
  EXPECT_EQ(cudaStreamQuery(stream.get()), cudaErrorStreamCaptureUnsupported);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  EXPECT_EQ(cudaStreamIsCapturing(stream.get(), &status), cudaSuccess);
  EXPECT_EQ(status, cudaStreamCaptureStatusInvalidated);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaErrorStreamCaptureInvalidated);
  EXPECT_EQ(graph, nullptr);
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaErrorIllegalState);
  EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_EQ(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed), cudaErrorStreamCaptureUnsupported);
  static_cast<void>(cudaGetLastError());
}

/// A word of page-locked memory.
class Word {
 public:
  Word() {
    EXPECT_EQ(cudaHostAlloc(&data_, sizeof(uint32_t), cudaHostAllocMapped), cudaSuccess);
    set(0);
  }
  ~Word() { EXPECT_EQ(cudaFreeHost(data_), cudaSuccess); }
  Word(const Word&) = delete;
  Word& operator=(const Word&) = delete;
  void set(uint32_t value) const { std::atomic_ref(*static_cast<uint32_t*>(data_)).store(value); }
  [[nodiscard]] CUstreamBatchMemOpParams wait() const {
    CUstreamBatchMemOpParams operation{};
    operation.waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    operation.waitValue.address = static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(data_));
    operation.waitValue.value = 1;
    operation.waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
    return operation;
  }

 private:
  void* data_ = nullptr;
};

template <typename Function>
Function* driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status = cudaDriverEntryPointSuccess;
  EXPECT_EQ(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &status), cudaSuccess);
  EXPECT_EQ(found != nullptr, status == cudaDriverEntryPointSuccess);
  return reinterpret_cast<Function*>(found);
}

TEST(EmulatedDriver, TheStreamStandsStillUntilTheWordIsSet) {
  const Made stream;
  const Word word;
  auto* const put = driver_function<decltype(cuStreamBatchMemOp)>("cuStreamBatchMemOp");
  CUstreamBatchMemOpParams operation = word.wait();
  ASSERT_EQ(put(stream.get(), 1, &operation, 0), CUDA_SUCCESS);
  bool after = false;
  enqueue(stream.get(), [&] { after = true; });
  std::this_thread::sleep_for(kWhile);
  EXPECT_EQ(cudaStreamQuery(stream.get()), cudaErrorNotReady);
  word.set(1);
  EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  EXPECT_TRUE(after);
  operation.waitValue.flags = CU_STREAM_WAIT_VALUE_NOR;
  EXPECT_EQ(put(stream.get(), 1, &operation, 0), CUDA_ERROR_INVALID_VALUE);
  uint32_t unpinned = 1;
  operation = word.wait();
  operation.waitValue.address = static_cast<CUdeviceptr>(reinterpret_cast<uintptr_t>(&unpinned));
  EXPECT_EQ(put(stream.get(), 1, &operation, 0), CUDA_ERROR_INVALID_VALUE);
  EXPECT_EQ(driver_function<decltype(cuCtxGetCurrent)>("cuNothing"), nullptr);
}

/// Adds a wait to what is captured from the stream; `joined`: what follows comes after it.
void add_wait(const Word& word, cudaStream_t stream, bool joined) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
  const cudaGraphNode_t* nodes = nullptr;
  const cudaGraphEdgeData* edges = nullptr;
  size_t count = 0;
  ASSERT_EQ(cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph, &nodes, &edges, &count), cudaSuccess);
  ASSERT_EQ(status, cudaStreamCaptureStatusActive);
  CUcontext context = nullptr;
  ASSERT_EQ(driver_function<decltype(cuCtxGetCurrent)>("cuCtxGetCurrent")(&context), CUDA_SUCCESS);
  CUstreamBatchMemOpParams operation = word.wait();
  const CUDA_BATCH_MEM_OP_NODE_PARAMS parameters{
      .ctx = context, .count = 1, .paramArray = &operation, .flags = 0};
  CUgraphNode node = nullptr;
  const auto add = driver_function<decltype(cuGraphAddBatchMemOpNode)>("cuGraphAddBatchMemOpNode");
  ASSERT_EQ(add(&node, graph, nodes, count, &parameters), CUDA_SUCCESS);
  if (!joined) return;
  ASSERT_EQ(cudaStreamUpdateCaptureDependencies(stream, &node, nullptr, 1, cudaStreamSetCaptureDependencies),
            cudaSuccess);
}

TEST(EmulatedDriver, AGraphStandsStillUntilTheWordIsSet) {
  const Made stream;
  const Word word;
  std::atomic<int> steps = 0;
  const cudaGraphExec_t exec = captured(stream.get(), [&] {
    add_wait(word, stream.get(), true);  // as the first node, and as a later one
    enqueue(stream.get(), [&] {
      ++steps;
      word.set(0);
    });
    add_wait(word, stream.get(), true);
    enqueue(stream.get(), [&] {
      ++steps;
      word.set(0);
    });
  });
  for (int run = 0; run < 3; ++run) {
    ASSERT_EQ(cudaGraphLaunch(exec, stream.get()), cudaSuccess);
    for (int step = 1; step <= 2; ++step) {
      std::this_thread::sleep_for(kWhile / 4);
      EXPECT_EQ(steps, 2 * run + step - 1);
      word.set(1);
      while (steps < 2 * run + step) std::this_thread::yield();
    }
    EXPECT_EQ(cudaStreamSynchronize(stream.get()), cudaSuccess);
  }
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
}

TEST(EmulatedDriver, ANodeThatNothingComesAfterEndsTheCapture) {
  const Made stream;
  const Word word;
  ASSERT_EQ(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeRelaxed), cudaSuccess);
  add_wait(word, stream.get(), false);
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(stream.get(), &graph), cudaErrorStreamCaptureUnjoined);
  static_cast<void>(cudaGetLastError());
}

}  // namespace
}  // namespace sluice::emulator
