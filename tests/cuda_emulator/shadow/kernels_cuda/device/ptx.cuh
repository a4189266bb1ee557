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

/// The lane's operands into its words, the product, and D out of them.
template <typename Sum>
void multiply(const char* call, void (*product)(emulator::WarpWords, uint32_t), Sum (&d)[4],
              std::initializer_list<uint32_t> a, std::initializer_list<uint32_t> b, const Sum (&c)[4]) {
  emulator::LaneWords& words = emulator::lane_words();
  std::memcpy(&words[emulator::kWordsOfC], c, sizeof c);
  std::ranges::copy(a, &words[emulator::kWordsOfA]);
  std::ranges::copy(b, &words[emulator::kWordsOfB]);
  emulator::meet(call, emulator::kAllLanes, product);
  std::memcpy(d, &words[emulator::kWordsOfC], sizeof d);
}

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  multiply("mma.m16n8k16.bf16", emulator::multiply_bf16, c, {a[0], a[1], a[2], a[3]}, {b0, b1}, c);
}

template <typename Sum>
void mma_int8(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Sum (&c)[4]) {
  static_assert(sizeof(Sum) == 4);
  multiply("mma.m16n8k32.s8", emulator::multiply_int8_k32, d, {a[0], a[1], a[2], a[3]}, {b0, b1}, c);
}

inline void mma_int8_k16(uint32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b, const uint32_t (&c)[4]) {
  multiply("mma.m16n8k16.s8", emulator::multiply_int8_k16, d, {a0, a1}, {b}, c);
}

inline uint32_t shared_address(const void* pointer) {
  return emulator::shared_address(pointer);
}

/// ldmatrix: each lane's row is read when it comes, the last one's coming deals the elements out.
inline void load_row(const char* call, void (*spread)(emulator::WarpWords, uint32_t), uint32_t (&r)[4],
                     uint32_t address) {
  emulator::LaneWords& words = emulator::lane_words();
  std::memcpy(words.data(), emulator::at_shared_address(address, call), sizeof r);
  emulator::meet(call, emulator::kAllLanes, spread);
  std::memcpy(r, words.data(), sizeof r);
}
inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  load_row("ldmatrix", emulator::spread_matrices, r, address);
}
inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  load_row("ldmatrix.trans", emulator::spread_matrices_transposed, r, address);
}

enum class Fill { kCopy, kZero };

inline void copy_16_async(uint32_t to_shared, const void* from, Fill fill) {
  emulator::copy_16_async(to_shared, from, fill == Fill::kCopy ? 16 : 0);
}
inline void end_copy_group() {
  emulator::commit_copies();
}
template <int kPending>
void wait_for_copies() {
  emulator::wait_for_copies(kPending);
}

inline void sync_threads(int id, int threads) {
  emulator::barrier_of_threads(id, threads);
}

// A kernel begins when the one before it has ended, whatever it was launched with.
inline void launch_dependents() {}
inline void wait_for_dependencies() {}

inline void prefetch_to_l2(const void* /*at*/) {}

inline uint2 load_streamed(const unsigned char* at) {
  return emulator::load(reinterpret_cast<const uint2*>(at), "ld.global.v2");
}

inline uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
  return emulator::permute_bytes(low, high, selector);
}

inline float max_nan(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return NAN;
  return std::max(a, b);
}

/// Correctly rounded, where a GPU is within 2^-22.
inline float fast_exp2(float x) {
  const float y = std::exp2(x);
  return std::fpclassify(y) == FP_SUBNORMAL ? 0.0F : y;
}
inline float fast_reciprocal(float x) {
  return 1.0F / (std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x);
}
inline float fast_log2(float x) {
  return std::log2(std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x);
}

inline int thread_x_again() {
  return static_cast<int>(threadIdx.x);
}
inline uint32_t block_x_again() {
  return blockIdx.x;
}
inline uint32_t block_y_again() {
  return blockIdx.y;
}

}  // namespace sluice::cuda::ptx
