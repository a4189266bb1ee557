// CUDA's loads, stores, fences and atomic functions. Loads and stores of every cache policy are plain ones
// that check their alignment; atomic functions are atomic for other CPU threads, too: the host may look.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "tests/cuda_emulator/thread.h"

namespace sluice::emulator {

template <typename T>
T load(const T* at, const char* call) {
  check_aligned(at, sizeof(T), call);
  return *at;
}

template <typename T>
void store(T* at, T value, const char* call) {
  check_aligned(at, sizeof(T), call);
  *at = value;
}

/// Puts `change(old)` where `old` was, returns `old`.
template <typename T, typename Change>
T change_atomically(T* at, const char* call, Change change) {
  check_aligned(at, sizeof(T), call);
  const std::atomic_ref<T> value(*at);
  T old = value.load();
  while (!value.compare_exchange_weak(old, change(old))) {
  }
  return old;
}

/// So that a literal of another type takes the pointer's: atomicAdd(&counts[i], 1).
template <typename T>
using Same = std::type_identity_t<T>;

}  // namespace sluice::emulator

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): CUDA's names
template <typename T>
T __ldg(const T* at) {
  return sluice::emulator::load(at, "__ldg");
}
template <typename T>
T __ldcg(const T* at) {
  return sluice::emulator::load(at, "__ldcg");
}
template <typename T>
T __ldcs(const T* at) {
  return sluice::emulator::load(at, "__ldcs");
}
template <typename T>
T __ldcv(const T* at) {
  return sluice::emulator::load(at, "__ldcv");
}
template <typename T>
void __stcg(T* at, sluice::emulator::Same<T> value) {
  sluice::emulator::store(at, value, "__stcg");
}
template <typename T>
void __stcs(T* at, sluice::emulator::Same<T> value) {
  sluice::emulator::store(at, value, "__stcs");
}

inline void __threadfence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
inline void __threadfence_block() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
inline void __threadfence_system() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

template <typename T>
T atomicAdd(T* at, sluice::emulator::Same<T> value) {
  return sluice::emulator::change_atomically(at, "atomicAdd",
                                             [&](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMin(T* at, sluice::emulator::Same<T> value) {
  return sluice::emulator::change_atomically(at, "atomicMin",
                                             [&](T old) { return value < old ? value : old; });
}
template <typename T>
T atomicMax(T* at, sluice::emulator::Same<T> value) {
  return sluice::emulator::change_atomically(at, "atomicMax",
                                             [&](T old) { return old < value ? value : old; });
}
template <typename T>
T atomicOr(T* at, sluice::emulator::Same<T> value) {
  return sluice::emulator::change_atomically(at, "atomicOr",
                                             [&](T old) { return static_cast<T>(old | value); });
}
template <typename T>
T atomicExch(T* at, sluice::emulator::Same<T> value) {
  return sluice::emulator::change_atomically(at, "atomicExch", [&](T) { return value; });
}
template <typename T>
T atomicCAS(T* at, sluice::emulator::Same<T> expected, sluice::emulator::Same<T> value) {
  return sluice::emulator::change_atomically(at, "atomicCAS",
                                             [&](T old) { return old == expected ? value : old; });
}
/// Counts to `most` and begins again at 0.
inline unsigned atomicInc(unsigned* at, unsigned most) {
  return sluice::emulator::change_atomically(at, "atomicInc",
                                             [&](unsigned old) { return old >= most ? 0U : old + 1; });
}
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)
