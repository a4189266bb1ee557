// The matrix instructions that every GPU from sm_80 up has, and the loads that feed them. A warp holds A [16,
// K], B [K, 8] and C [16, 8]; with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for
// mma.m16n8k16" and "m16n8k32"):
//
//   C: c[0], c[1] = row g, columns 2t, 2t+1     c[2], c[3] = row g + 8
//   A: a[0] = row g, a[1] = row g + 8: the 4 bytes t of the first 16 bytes of k;  a[2], a[3]: of the second
//   16 bytes B: b[0] = column g: the 4 bytes t of the first 16 bytes of k;                 b[1]: of the
//   second 16 bytes
#pragma once

#include <cstdint>

namespace sluice::cuda::device {

/// C += A B in bf16 with float32 sums; K = 16.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// C = A B + C0 in int8 with int32 sums; K = 32.
__device__ __forceinline__ void mma_s8(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                       const int32_t (&c0)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c0[0]), "r"(c0[1]), "r"(c0[2]),
        "r"(c0[3]));
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// Four 8 x 8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8 (16 bytes,
/// aligned).
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// The same, every matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Words (column, lane) of four lanes become (lane, column): lane t gets word t of each, in the order of the
/// lanes.
__device__ __forceinline__ uint4 transpose_words(const uint32_t (&w)[4], int t) {
  const bool is_upper = (t & 2) != 0;
  const bool is_odd = (t & 1) != 0;
  const uint32_t r0 = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? w[0] : w[2], 2);
  const uint32_t r1 = __shfl_xor_sync(0xFFFFFFFFU, is_upper ? w[1] : w[3], 2);
  const uint32_t a0 = is_upper ? r0 : w[0];
  const uint32_t a1 = is_upper ? r1 : w[1];
  const uint32_t b0 = is_upper ? w[2] : r0;
  const uint32_t b1 = is_upper ? w[3] : r1;
  const uint32_t a = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? a0 : a1, 1);
  const uint32_t b = __shfl_xor_sync(0xFFFFFFFFU, is_odd ? b0 : b1, 1);
  return is_odd ? make_uint4(a, a1, b, b1) : make_uint4(a0, a, b0, b);
}

}  // namespace sluice::cuda::device
