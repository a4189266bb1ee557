// Streams and events.
#include <cuda_runtime_api.h>

#include <chrono>
#include <memory>

#include "tests/cuda_emulator/failure.h"
#include "tests/cuda_emulator/stream.h"

using namespace sluice::emulator;  // this file is the emulator's face

namespace {

/// A call that a stream which is being captured does not bear: it breaks the capture.
cudaError_t break_capture(CUstream_st& stream) {
  stream.capture_broken = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t query(cudaStream_t handle) {
  std::unique_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture != nullptr) return break_capture(*stream);
  return Streams::all().is_idle_soon(lock, *stream) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t synchronize(cudaStream_t handle) {
  std::unique_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr) return cudaErrorInvalidResourceHandle;
  if (stream->capture != nullptr) return break_capture(*stream);
  return Streams::all().wait_for(lock, handle);
}

/// In a capture the stream's order is the graph's: nothing is to be done at such a point.
cudaError_t record_in_capture(EventState& event) {
  const std::scoped_lock lock(Streams::all().mutex());
  event.captured = true;
  return cudaSuccess;
}

cudaError_t record(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (event == nullptr) return cudaErrorInvalidResourceHandle;
  const bool captured = is_captured(stream);
  if (flags == cudaEventRecordExternal && !captured) return cudaErrorIllegalState;
  if (flags == cudaEventRecordDefault && captured) return record_in_capture(*event->state);
  return put(stream, {.work = {}, .event = event->state});
}

/// Until the recording that the event has had now.
cudaError_t wait_for(std::unique_lock<std::mutex>& lock, const EventState& event, uint64_t recording) {
  return Streams::all().wait(lock, [&] { return event.reached >= recording; });
}

cudaError_t make_wait(cudaStream_t stream, const std::shared_ptr<EventState>& event) {
  uint64_t recording = 0;
  {
    const std::scoped_lock lock(Streams::all().mutex());
    const CUstream_st* const found = Streams::all().find(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (event->captured || found->capture != nullptr) {
      // Of its own capture it comes after all before it; that of another stream would join the two.
      return event->captured && found->capture != nullptr ? cudaSuccess : cudaErrorNotSupported;
    }
    recording = event->recorded;
  }
  const auto work = [event, recording] {
    std::unique_lock lock(Streams::all().mutex());
    static_cast<void>(wait_for(lock, *event, recording));
  };
  return put(stream, {.work = work, .event = nullptr});
}

cudaError_t query(const EventState& event) {
  if (event.captured) return cudaErrorCapturedEvent;
  return event.reached >= event.recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t elapsed(float* ms, const EventState& begin, const EventState& end) {
  for (const EventState* event : {&begin, &end}) {
    if (!event->timed || event->recorded == 0) return cudaErrorInvalidResourceHandle;
    if (const cudaError_t state = query(*event); state != cudaSuccess) return state;
  }
  *ms = std::chrono::duration<float, std::milli>(end.at - begin.at).count();
  return cudaSuccess;
}

/// Not ready is no error, and cudaGetLastError() does not tell it.
cudaError_t told_unless_not_ready(cudaError_t result) {
  return result == cudaErrorNotReady && failure() == cudaSuccess ? result : told(result);
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  // One that waits for the default stream is nothing that the project makes.
  if (flags != cudaStreamNonBlocking) return told(cudaErrorNotSupported);
  const std::scoped_lock lock(Streams::all().mutex());
  *stream = Streams::all().create();
  return told(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  const std::scoped_lock lock(Streams::all().mutex());
  CUstream_st* const stream = Streams::all().find(handle);
  if (stream == nullptr || stream == Streams::all().find(nullptr)) {
    return told(cudaErrorInvalidResourceHandle);
  }
  Streams::all().close(*stream);
  return told(cudaSuccess);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return told_unless_not_ready(query(stream));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return told(synchronize(stream));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  return told(event == nullptr ? cudaErrorInvalidResourceHandle : make_wait(stream, event->state));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  auto made = std::make_unique<CUevent_st>();
  made->state = std::make_shared<EventState>();
  made->state->timed = (flags & cudaEventDisableTiming) == 0;
  *event = made.release();
  return told(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return told(cudaErrorInvalidResourceHandle);
  static_cast<void>(std::unique_ptr<CUevent_st>(event));
  return told(cudaSuccess);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  return told(record(event, stream, flags));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return told(cudaErrorInvalidResourceHandle);
  const std::scoped_lock lock(Streams::all().mutex());
  return told_unless_not_ready(query(*event->state));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return told(cudaErrorInvalidResourceHandle);
  std::unique_lock lock(Streams::all().mutex());
  const EventState& state = *event->state;
  return told(state.captured ? cudaErrorCapturedEvent : wait_for(lock, state, state.recorded));
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  if (begin == nullptr || end == nullptr) return told(cudaErrorInvalidResourceHandle);
  const std::scoped_lock lock(Streams::all().mutex());
  return told_unless_not_ready(elapsed(ms, *begin->state, *end->state));
}

}  // extern "C"
