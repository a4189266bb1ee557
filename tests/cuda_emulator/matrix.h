// Tensor-core products and ldmatrix, whole warps at a time, with the fragments of the PTX ISA ("Matrix
// Fragments for mma.m16n8k16", "... m16n8k32", "ldmatrix"). For meet(): lane l's words are those of its
// registers.
#pragma once

#include "tests/cuda_emulator/thread.h"

namespace sluice::emulator {

/// Where a lane's operands lie in its words. A has one or two pairs of registers, B half as many.
inline constexpr size_t kWordsOfC = 0;
inline constexpr size_t kWordsOfA = 4;
inline constexpr size_t kWordsOfB = 8;

/// C [16, 8] += A [16, 16] B [16, 8] in bf16, sums in float32 from k = 0 upward, C last. (A GPU's order is
/// not told.)
void multiply_bf16(WarpWords words, uint32_t mask);
/// C += A [16, 32] B [32, 8] in int8, sums in int32 that wrap.
void multiply_int8_k32(WarpWords words, uint32_t mask);
/// The same with 16 for 32: two registers of A, one of B.
void multiply_int8_k16(WarpWords words, uint32_t mask);

/// Four 8 x 8 matrices of 16-bit values: words 0..3 of lane l are row l % 8 of matrix l / 8, and become its
/// elements of the four matrices.
void spread_matrices(WarpWords words, uint32_t mask);
void spread_matrices_transposed(WarpWords words, uint32_t mask);

}  // namespace sluice::emulator
