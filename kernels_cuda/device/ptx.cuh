// Every instruction that C++ has no words for, as inline functions: all of the project's inline assembly.
// Only what sm_80 has, but for griddepcontrol, which is nothing below sm_90. The emulator of the tests has
// functions of the same names (tests/cuda_emulator).
//
// Matrix products: a warp holds A [16, K], B [K, 8] and C [16, 8]; with g = lane / 4 and t = lane % 4 (PTX
// ISA, "Matrix Fragments for mma.m16n8k16" and "m16n8k32"):
//
//   C: c[0], c[1] = row g, columns 2t, 2t + 1     c[2], c[3] = row g + 8
//   A: a[0] = row g, a[1] = row g + 8: the 4 bytes t of the first 16 bytes of k;  a[2], a[3]: of the second
//   16 B: b0 = column g: the 4 bytes t of the first 16 bytes of k;                   b1: of the second 16
#pragma once

#include <cstdint>

namespace sluice::cuda::ptx {

/// C += A B in bf16 with float32 sums; K = 16.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// D = A B + C in int8 with int32 sums, whose bits may be held as uint32_t; K = 32.
template <typename Sum>
__device__ __forceinline__ void mma_int8(Sum (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                         const Sum (&c)[4]) {
  static_assert(sizeof(Sum) == 4);
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]),
        "r"(c[3]));
}

/// The same for K = 16: a[0] and a[1], b0.
__device__ __forceinline__ void mma_int8_k16(uint32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b,
                                             const uint32_t (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(b), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
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

enum class Fill { kCopy, kZero };

/// 16 bytes from global to shared memory while the thread goes on, both sides aligned to 16; kZero writes
/// zeros and reads nothing.
__device__ __forceinline__ void copy_16_async(uint32_t to_shared, const void* from, Fill fill) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(to_shared), "l"(from), "r"(fill == Fill::kCopy ? 16 : 0)
               : "memory");
}

/// Ends a group: the copies of this thread since the last group's end. Groups may be empty.
__device__ __forceinline__ void end_copy_group() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most kPending of this thread's newest groups are under way.
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// A barrier of `threads` threads of the block; `id` in [1, 15] (0 is __syncthreads).
__device__ __forceinline__ void sync_threads(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// See device/overlap.cuh.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_dependencies() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Asks for a line of global memory; nothing waits for it.
__device__ __forceinline__ void prefetch_to_l2(const void* at) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

/// 8 bytes, aligned, that no kernel writes and nobody reads again.
__device__ __forceinline__ uint2 load_streamed(const unsigned char* at) {
  uint2 both;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(both.x), "=r"(both.y) : "l"(at));
  return both;
}

/// Byte i of the result is the byte of the eight in (low, high) that nibble i of `selector` names, or eight
/// times that byte's top bit where the nibble's own top bit is set.
__device__ __forceinline__ uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selector));
  return bytes;
}

/// The larger; NaN if one is.
__device__ __forceinline__ float max_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

/// 2^x to 2^-22; 0 for what would be subnormal.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x to 2^-23, relative; infinity for what is subnormal.
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// The logarithm to the base 2, to 2^-22 where x is in [0.5, 2], relative elsewhere; of a subnormal it is
/// that of 0.
__device__ __forceinline__ float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// threadIdx.x, blockIdx.x and blockIdx.y, asked for anew: what is computed from them need not stay in
/// registers through a loop.
__device__ __forceinline__ int thread_x_again() {
  uint32_t thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return static_cast<int>(thread);
}
__device__ __forceinline__ uint32_t block_x_again() {
  uint32_t x;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
  return x;
}
__device__ __forceinline__ uint32_t block_y_again() {
  uint32_t y;
  asm volatile("mov.u32 %0, %%ctaid.y;" : "=r"(y));
  return y;
}

}  // namespace sluice::cuda::ptx
