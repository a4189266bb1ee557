// kernels_cuda/device/ptx.cuh for the emulator: functions of the same names and meanings, without assembly.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "tests/cuda_emulator/device_variables.h"
#include "tests/cuda_emulator/matrix.h"
#include "tests/cuda_emulator/memory_intrinsics.h"
#include "tests/cuda_emulator/number_intrinsics.h"
#include "tests/cuda_emulator/thread.h"

namespace sluice::cuda::ptx {

/// The lane's operands into its words, the product, and C out of them.
template <typename Sum, size_t kWords>
void multiply(const char* call, Sum (&c)[4], const uint32_t (&a)[kWords], std::initializer_list<uint32_t> b,
              void (*product)(emulator::WarpWords, uint32_t)) {
  emulator::LaneWords& words = emulator::lane_words();
  std::transform(c, c + 4, words.begin() + emulator::kWordsOfC, std::bit_cast<uint32_t, Sum>);
  std::copy_n(a, kWords, words.begin() + emulator::kWordsOfA);
  std::ranges::copy(b, words.begin() + emulator::kWordsOfB);
  emulator::meet(call, emulator::kAllLanes, product);
  std::transform(words.begin() + emulator::kWordsOfC, words.begin() + emulator::kWordsOfC + 4, c,
                 std::bit_cast<Sum, uint32_t>);
}

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply("mma.m16n8k16.bf16", c, a, {b0, b1}, emulator::multiply_bf16);
}
inline void mma_int8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply("mma.m16n8k32.s8", c, a, {b0, b1}, emulator::multiply_int8_k32);
}
inline void mma_int8(int32_t (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  multiply("mma.m16n8k16.s8", c, a, {b}, emulator::multiply_int8_k16);
}

inline uint32_t shared_address(const void* at) {
  return emulator::shared_address(at);
}

/// ldmatrix: each lane's row is read when it comes, the last one's coming deals the elements out.
inline void load_row(const char* call, uint32_t (&r)[4], uint32_t address,
                     void (*spread)(emulator::WarpWords, uint32_t)) {
  emulator::LaneWords& words = emulator::lane_words();
  std::memcpy(words.data(), emulator::at_shared_address(address, call), 16);
  emulator::meet(call, emulator::kAllLanes, spread);
  std::copy_n(words.begin(), 4, r);
}
inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  load_row("ldmatrix", r, address, emulator::spread_matrices);
}
inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  load_row("ldmatrix.trans", r, address, emulator::spread_matrices_transposed);
}

inline void copy_16_async(uint32_t to, const void* from, int bytes) {
  emulator::copy_16_async(to, from, bytes);
}
inline void commit_copies() {
  emulator::commit_copies();
}
template <int kPending>
void wait_for_copies() {
  emulator::wait_for_copies(kPending);
}

inline void barrier(int id, int threads) {
  emulator::barrier_of_threads(id, threads);
}

// A kernel begins when the one before it has ended, whatever it was launched with.
inline void launch_dependents() {}
inline void wait_for_dependency() {}

inline void prefetch_l2(const void* /*at*/) {}

inline uint2 load_streamed(const void* at) {
  return emulator::load(static_cast<const uint2*>(at), "ld.global.v2");
}

inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  return emulator::permute_bytes(low, high, selector);
}

inline float max_of_magnitudes(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return NAN;
  return std::max(std::fabs(a), std::fabs(b));
}

/// Correctly rounded, where a GPU is within 2^-22; subnormal arguments and results are zeros as there.
inline float exp2_approx(float x) {
  const float y = std::exp2(x);
  return std::fpclassify(y) == FP_SUBNORMAL ? 0.0F : y;
}

inline int thread_x() {
  return static_cast<int>(threadIdx.x);
}
inline int block_x() {
  return static_cast<int>(blockIdx.x);
}
inline int block_y() {
  return static_cast<int>(blockIdx.y);
}

}  // namespace sluice::cuda::ptx
