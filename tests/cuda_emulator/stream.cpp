#include "tests/cuda_emulator/stream.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include "tests/cuda_emulator/failure.h"

namespace sluice::emulator {
namespace {

constexpr auto kPolled =
    std::chrono::milliseconds(2);  // Chosen: long beside a poll, short beside an emulated layer
constexpr auto kLook = std::chrono::milliseconds(20);  // between looks at failure(), which wakes nobody

bool launches_block() {
  const char* const value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::string_view(value) == "1";
}

void capture(CUstream_st& stream, Item item) {
  CUgraph_st& graph = *stream.capture;
  graph.nodes.push_back({std::move(item)});
  graph.tail = &graph.nodes.back();
}

/// Under the mutex.
cudaError_t put_locked(cudaStream_t handle, Item item) {
  if (failure() != cudaSuccess) return failure();
  Streams& streams = Streams::all();
  CUstream_st* const stream = streams.find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture_broken) return cudaErrorStreamCaptureInvalidated;
  if (stream->capture != nullptr) {
    capture(*stream, std::move(item));
  } else {
    streams.append(*stream, std::move(item));
  }
  return cudaSuccess;
}

}  // namespace

Streams& Streams::all() {
  static Streams& streams = *new Streams;
  return streams;
}

cudaStream_t Streams::create() {
  auto made = std::make_unique<CUstream_st>();
  CUstream_st& stream = *made;
  stream.id = ++created_;
  streams_.emplace(&stream, std::move(made));
  std::thread([this, &stream] { run(stream); }).detach();  // it takes the stream with it: run()
  return &stream;
}

CUstream_st* Streams::find(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) {
    if (default_stream_ == nullptr) default_stream_ = create();
    return default_stream_;
  }
  const auto found = streams_.find(handle);
  return found == streams_.end() || found->second->closing ? nullptr : found->second.get();
}

void Streams::close(CUstream_st& stream) {
  stream.closing = true;
  stream.came.notify_one();
}

void Streams::append(CUstream_st& stream, Item item) {
  if (item.event != nullptr) {
    item.recording = ++item.event->recorded;
    item.event->captured = false;
  }
  stream.items.push_back(std::move(item));
  ++stream.appended;
  stream.came.notify_one();
}

cudaError_t Streams::wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& is_so) {
  while (failure() == cudaSuccess && !is_so()) changed_.wait_for(lock, kLook);
  return failure();
}

bool Streams::is_done(const Mark& mark) const {
  const auto found = streams_.find(mark.handle);
  return found == streams_.end() || found->second->id != mark.id || found->second->done >= mark.appended;
}

cudaError_t Streams::wait_for(std::unique_lock<std::mutex>& lock, cudaStream_t handle) {
  CUstream_st* const stream = find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  const Mark mark{stream, stream->id, stream->appended};
  return wait(lock, [&] { return is_done(mark); });
}

cudaError_t Streams::wait_for_all(std::unique_lock<std::mutex>& lock) {
  std::vector<Mark> marks;
  for (const auto& [handle, stream] : streams_) marks.push_back({handle, stream->id, stream->appended});
  return wait(lock, [&] { return std::ranges::all_of(marks, [&](const Mark& m) { return is_done(m); }); });
}

bool Streams::is_idle_soon(std::unique_lock<std::mutex>& lock, const CUstream_st& stream) {
  const Mark mark{const_cast<cudaStream_t>(&stream), stream.id, stream.appended};
  return changed_.wait_for(lock, kPolled, [&] { return failure() != cudaSuccess || is_done(mark); });
}

void Streams::run(CUstream_st& stream) {
  std::unique_lock lock(mutex_);
  for (;;) {
    stream.came.wait(lock, [&] { return stream.closing || !stream.items.empty(); });
    if (stream.items.empty()) break;
    Item item = std::move(stream.items.front());
    stream.items.pop_front();
    do_item(lock, std::move(item));
    ++stream.done;
    changed_.notify_all();
  }
  streams_.erase(&stream);
  changed_.notify_all();
}

void Streams::do_item(std::unique_lock<std::mutex>& lock, Item item) {
  if (item.event != nullptr) {
    item.event->reached = std::max(item.event->reached, item.recording);
    item.event->at = std::chrono::steady_clock::now();
    return;
  }
  lock.unlock();
  if (failure() == cudaSuccess) {
    const FailingThread failing;
    item.work();
  }
  item = {};  // what it holds may want the mutex
  lock.lock();
}

cudaError_t put(cudaStream_t stream, Item item) {
  const std::scoped_lock lock(Streams::all().mutex());
  return put_locked(stream, std::move(item));
}

cudaError_t put_and_wait(cudaStream_t stream, Item item) {
  Streams& streams = Streams::all();
  std::unique_lock lock(streams.mutex());
  if (const CUstream_st* const found = streams.find(stream); found != nullptr && found->capture != nullptr) {
    return cudaErrorStreamCaptureUnsupported;
  }
  const cudaError_t result = put_locked(stream, std::move(item));
  return result == cudaSuccess ? streams.wait_for(lock, stream) : result;
}

bool is_captured(cudaStream_t stream) {
  Streams& streams = Streams::all();
  const std::scoped_lock lock(streams.mutex());
  const CUstream_st* const found = streams.find(stream);
  return found != nullptr && found->capture != nullptr;
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const bool waits = launches_block() && !is_captured(stream);
  static_cast<void>(told(waits ? put_and_wait(stream, {.work = std::move(work), .event = nullptr})
                               : put(stream, {.work = std::move(work), .event = nullptr})));
}

}  // namespace sluice::emulator
