// Streams and events that own themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace sluice::cuda {

/// A stream of this thread's GPU that does not wait for the default stream. Move-only.
class Stream {
 public:
  /// Throws Error. The same goes for every call of this header but destructors and moves.
  Stream();
  ~Stream();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  [[nodiscard]] cudaStream_t get() const { return stream_; }
  /// Waits until everything put into the stream so far is done; an error of a kernel comes out here.
  void synchronize() const;

 private:
  cudaStream_t stream_ = nullptr;
};

enum class EventKind { kOrder, kTiming };

/// A point in a stream. Move-only.
class Event {
 public:
  explicit Event(EventKind kind = EventKind::kOrder);
  ~Event();
  Event(Event&& other) noexcept : kind_(other.kind_), event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(event_, other.event_);
    return *this;
  }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  [[nodiscard]] cudaEvent_t get() const { return event_; }
  /// In a stream that is captured, an event of kTiming is recorded whenever the graph runs.
  void record(cudaStream_t stream) const;
  /// `stream` goes on only after what was recorded; the host does not wait.
  void make_wait(cudaStream_t stream) const;
  void synchronize() const;
  /// Whether all that was recorded is done; true when nothing was. Does not wait.
  [[nodiscard]] bool is_reached() const;

 private:
  EventKind kind_;
  cudaEvent_t event_ = nullptr;
};

/// Milliseconds between two events of kTiming, both of which have been reached.
float elapsed_ms(const Event& begin, const Event& end);

}  // namespace sluice::cuda
