// What a thread of a kernel asks of the block and the warp it belongs to: the intrinsics of device_code.h and
// the headers in shadow/ are made of this. Only to be called from within run_grid.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace sluice::emulator {

inline constexpr int kWarpLanes = 32;
inline constexpr uint32_t kAllLanes = 0xFFFFFFFFU;

/// Ends the process with a line on stderr: kernel, block, thread, `what`.
[[noreturn]] void fault(const std::string& what);

/// What a lane brings to a collective of its warp, and then what it takes from it: A, B and C of a matrix
/// product are the most.
using LaneWords = std::array<uint32_t, 16>;
using WarpWords = std::span<LaneWords, kWarpLanes>;

/// This thread's, kept until the collective's end.
LaneWords& lane_words();
int lane();

/// Waits until all lanes of `mask` have come with the same `call` and mask; the last one calls `compute`, if
/// it is not null, on all of the warp's words. Fault when a lane comes with another call, has returned, or is
/// not of the mask. `call` is the intrinsic's name, a literal.
void meet(const char* call, uint32_t mask, void (*compute)(WarpWords words, uint32_t mask));

/// Waits for all threads of the block that have not returned. Returns whether any of them brought true.
bool barrier_of_block(const char* call, bool value);

/// Waits until `threads` threads have come to barrier `id`, in [1, 15]. Fault for a number that is no
/// multiple of 32, or not what others at this barrier brought.
void barrier_of_threads(int id, int threads);

/// The block's dynamic shared memory, aligned to 128 bytes and no more.
std::byte* shared_memory();
/// Becomes a pointer to it of any type.
struct DynamicShared {
  template <typename T>
  operator T*() const {  // NOLINT(google-explicit-constructor): that is all it is for
    return reinterpret_cast<T*>(shared_memory());
  }
};
/// As ldmatrix and cp.async take it; fault when it is not in the dynamic shared memory.
uint32_t shared_address(const void* at);
/// The 16 bytes at a shared address; fault when they are misaligned or not all in the dynamic shared memory.
std::byte* at_shared_address(uint32_t address, const char* call);

/// cp.async: copies `bytes`, at most 16, and fills the rest of 16 with zeros, now or in wait_for_copies.
void copy_16_async(uint32_t to, const void* from, int bytes);
void commit_copies();
/// Returns when at most `pending` groups of this thread are left.
void wait_for_copies(int pending);

/// Fault when `at` is not a multiple of `bytes`.
inline void check_aligned(const void* at, size_t bytes, const char* call) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0) {
    fault(std::string(call) + " of " + std::to_string(bytes) + " bytes at a misaligned address");
  }
}

}  // namespace sluice::emulator
