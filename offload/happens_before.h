// The order of events that ThreadSanitizer cannot see for itself: oneTBB's library is built without it.
#pragma once

#ifdef SLUICE_THREAD_SANITIZER
extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);
#endif

namespace sluice::offload {

/// What a thread did before release() happened before what a thread does after a later acquire(). Says so to
/// ThreadSanitizer and enforces nothing: whoever calls these has the guarantee from elsewhere. Costs nothing
/// in other builds.
class HappensBefore {
 public:
#ifdef SLUICE_THREAD_SANITIZER
  void release() {
    __tsan_release(&address_);
  }
  void acquire() {
    __tsan_acquire(&address_);
  }

 private:
  char address_ = 0;
#else
  void release() {}
  void acquire() {}
#endif
};

}  // namespace sluice::offload
