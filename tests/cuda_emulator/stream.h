// Streams of the emulated GPU: each is a thread that does one thing after the other, beside the other streams
// and the host. What CUDA's handles of streams, events and graphs point to.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace sluice::emulator {

/// Appends `work`, a kernel, to the stream, or to the graph that is captured from it. With
/// CUDA_LAUNCH_BLOCKING=1 in the environment it waits for the kernel. An error is cudaGetLastError()'s.
void enqueue(cudaStream_t stream, std::function<void()> work);

/// A point in a stream, the last one that was recorded. Under the streams' mutex.
struct EventState {
  bool timed = false;
  bool captured = false;  // last recorded into a graph, where it orders what follows
  uint64_t recorded = 0;  // times
  uint64_t reached = 0;   // the newest recording that a stream has come to
  std::chrono::steady_clock::time_point at;
};

/// One thing that a stream does: `work`, or, where there is an event, the recording of it.
struct Item {
  std::function<void()> work;
  std::shared_ptr<EventState> event;  // shared, as an event may be destroyed before streams come to it
  uint64_t recording = 0;             // EventState::recorded when it was put into the stream
};

}  // namespace sluice::emulator

// The names are CUDA's own.
// NOLINTBEGIN(readability-identifier-naming)
struct CUgraphNode_st {
  sluice::emulator::Item item;
};

/// Nodes one after the other.
struct CUgraph_st {
  std::deque<CUgraphNode_st> nodes;
  cudaGraphNode_t tail = nullptr;  // what the next node of a capture comes after
};

struct CUgraphExec_st {
  std::vector<sluice::emulator::Item> items;
};

struct CUevent_st {
  std::shared_ptr<sluice::emulator::EventState> state;
};

/// Under the streams' mutex.
struct CUstream_st {
  uint64_t id = 0;                           // of its own, where addresses are used again
  std::deque<sluice::emulator::Item> items;  // that are not begun
  uint64_t appended = 0;
  uint64_t done = 0;
  bool closing = false;  // destroyed; it does what it has
  std::condition_variable came;
  std::unique_ptr<CUgraph_st> capture;
  bool capture_broken = false;
};
// NOLINTEND(readability-identifier-naming)

namespace sluice::emulator {

/// All of them, under one mutex: they do little beside their work.
class Streams {
 public:
  /// The one set of the process; never destroyed, as its threads may run until the process is gone.
  static Streams& all();

  std::mutex& mutex() { return mutex_; }

  // The rest is called with the mutex locked.

  cudaStream_t create();
  /// nullptr for a handle that is none. The default stream is one like the others.
  CUstream_st* find(cudaStream_t handle);
  void close(CUstream_st& stream);
  void append(CUstream_st& stream, Item item);
  /// Returns when `is_so`, or the failure. Gives the mutex away meanwhile.
  cudaError_t wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& is_so);
  /// Until the stream, or every one, has done what it has by now.
  cudaError_t wait_for(std::unique_lock<std::mutex>& lock, cudaStream_t handle);
  cudaError_t wait_for_all(std::unique_lock<std::mutex>& lock);
  /// Whether the stream is idle, by now or soon: a host that polls gives its CPU to the streams meanwhile.
  bool is_idle_soon(std::unique_lock<std::mutex>& lock, const CUstream_st& stream);

 private:
  /// What a stream had when it was asked to be waited for.
  struct Mark {
    cudaStream_t handle;
    uint64_t id;
    uint64_t appended;
  };
  [[nodiscard]] bool is_done(const Mark& mark) const;
  void run(CUstream_st& stream);
  /// Under the mutex but for the work.
  static void do_item(std::unique_lock<std::mutex>& lock, Item item);

  std::mutex mutex_;
  std::condition_variable changed_;  // something was done
  std::unordered_map<cudaStream_t, std::unique_ptr<CUstream_st>> streams_;
  cudaStream_t default_stream_ = nullptr;
  uint64_t created_ = 0;
};

/// Appends to the stream, or to the graph that is captured from it: cudaSuccess, or why not. An event is
/// recorded by an item of its own, in a graph whenever that runs.
cudaError_t put(cudaStream_t stream, Item item);

/// put(), then waits for the stream; an error where it is being captured.
cudaError_t put_and_wait(cudaStream_t stream, Item item);

/// Whether what is put there now goes into a graph.
bool is_captured(cudaStream_t stream);

}  // namespace sluice::emulator
