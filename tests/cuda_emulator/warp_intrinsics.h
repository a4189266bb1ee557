// CUDA's intrinsics that threads of a warp or a block do together (CUDA C++ Programming Guide,
// "Synchronization Functions", "Warp Vote Functions", "Warp Reduce Functions", "Warp Shuffle Functions").
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "tests/cuda_emulator/thread.h"

namespace sluice::emulator {

/// Calls `each(lane)` for the lanes of `mask`.
template <typename Each>
void for_lanes(uint32_t mask, Each each) {
  for (; mask != 0; mask &= mask - 1) each(static_cast<size_t>(std::countr_zero(mask)));
}

/// Words 0 and 1 of each lane become those of the lane that word 2 names.
inline void take_from_named(WarpWords words, uint32_t mask) {
  uint64_t values[kWarpLanes];
  std::array<uint32_t, kWarpLanes> from;
  for_lanes(mask, [&](size_t lane) {
    std::memcpy(&values[lane], words[lane].data(), sizeof values[lane]);
    from[lane] = words[lane][2];
  });
  for_lanes(mask, [&](size_t lane) {
    if ((mask >> from[lane] & 1) == 0) {
      fault("a shuffle's lane " + std::to_string(lane) + " asks for lane " + std::to_string(from[lane]) +
            ", which is not of the mask");
    }
    std::memcpy(words[lane].data(), &values[from[lane]], sizeof values[0]);
  });
}

template <typename T>
T shuffle(const char* call, uint32_t mask, T value, int from) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  LaneWords& words = lane_words();
  std::memcpy(words.data(), &value, sizeof value);
  words[2] = static_cast<uint32_t>(from);
  meet(call, mask, take_from_named);
  std::memcpy(&value, words.data(), sizeof value);
  return value;
}

/// Word 0 of each lane becomes the mask of the lanes whose word 0 is not 0.
inline void vote(WarpWords words, uint32_t mask) {
  uint32_t ballot = 0;
  for_lanes(mask, [&](size_t lane) { ballot |= words[lane][0] != 0 ? 1U << lane : 0; });
  for_lanes(mask, [&](size_t lane) { words[lane][0] = ballot; });
}

inline uint32_t ballot(const char* call, uint32_t mask, bool value) {
  lane_words()[0] = value ? 1 : 0;
  meet(call, mask, vote);
  return lane_words()[0];
}

/// Word 0 of each lane becomes all lanes' words 0 as T, put together by Operation. Integers: the order is
/// nothing.
template <typename T, typename Operation>
void reduce_words(WarpWords words, uint32_t mask) {
  T all = std::bit_cast<T>(words[static_cast<size_t>(std::countr_zero(mask))][0]);
  for_lanes(mask & (mask - 1),
            [&](size_t lane) { all = Operation()(all, std::bit_cast<T>(words[lane][0])); });
  for_lanes(mask, [&](size_t lane) { words[lane][0] = std::bit_cast<uint32_t>(all); });
}

template <typename T, typename Operation>
T reduce(const char* call, uint32_t mask, T value) {
  static_assert(std::is_integral_v<T> && sizeof(T) == 4);
  lane_words()[0] = std::bit_cast<uint32_t>(value);
  meet(call, mask, reduce_words<T, Operation>);
  return std::bit_cast<T>(lane_words()[0]);
}

struct Sum {
  template <typename T>
  T operator()(T a, T b) const {
    return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }
};
struct Least {
  template <typename T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Largest {
  template <typename T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};

}  // namespace sluice::emulator

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): CUDA's names
inline void __syncthreads() {
  sluice::emulator::barrier_of_block("__syncthreads", false);
}
inline int __syncthreads_or(int value) {
  return sluice::emulator::barrier_of_block("__syncthreads_or", value != 0) ? 1 : 0;
}
inline void __syncwarp(unsigned mask = sluice::emulator::kAllLanes) {
  sluice::emulator::meet("__syncwarp", mask, nullptr);
}

inline unsigned __ballot_sync(unsigned mask, int value) {
  return sluice::emulator::ballot("__ballot_sync", mask, value != 0);
}
inline int __all_sync(unsigned mask, int value) {
  return sluice::emulator::ballot("__all_sync", mask, value == 0) == 0 ? 1 : 0;
}
inline int __any_sync(unsigned mask, int value) {
  return sluice::emulator::ballot("__any_sync", mask, value != 0) != 0 ? 1 : 0;
}

template <typename T>
T __reduce_add_sync(unsigned mask, T value) {
  return sluice::emulator::reduce<T, sluice::emulator::Sum>("__reduce_add_sync", mask, value);
}
template <typename T>
T __reduce_min_sync(unsigned mask, T value) {
  return sluice::emulator::reduce<T, sluice::emulator::Least>("__reduce_min_sync", mask, value);
}
template <typename T>
T __reduce_max_sync(unsigned mask, T value) {
  return sluice::emulator::reduce<T, sluice::emulator::Largest>("__reduce_max_sync", mask, value);
}

// A warp is cut into segments of `width` lanes, a power of two; a lane that would ask beyond its own asks
// itself.
template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int first = sluice::emulator::lane() & -width;
  return sluice::emulator::shuffle("__shfl_sync", mask, value, first + (from & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = sluice::emulator::lane();
  const int from = lane - static_cast<int>(distance);
  return sluice::emulator::shuffle("__shfl_up_sync", mask, value, from < (lane & -width) ? lane : from);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
  const int lane = sluice::emulator::lane();
  const int from = lane + static_cast<int>(distance);
  return sluice::emulator::shuffle("__shfl_down_sync", mask, value,
                                   from > (lane | (width - 1)) ? lane : from);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  const int lane = sluice::emulator::lane();
  const int from = lane ^ lanes;
  return sluice::emulator::shuffle("__shfl_xor_sync", mask, value, from > (lane | (width - 1)) ? lane : from);
}
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)
