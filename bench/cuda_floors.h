// What the GPU can do at best, measured in the same run, and the clock of the CUDA benchmarks.
#pragma once

#include <cstdint>
#include <functional>

namespace sluice::bench {

struct CudaFloors {
  double read_bytes_per_second = 0;  // a kernel that reads 4 GiB, or half of what is free
  double copy_bytes_per_second = 0;  // device to device, bytes read plus bytes written
  double cublas_bf16_flops = 0;      // 8192 x 8192 x 8192 on random data, float32 sums
  double mma_bf16_flops = 0;         // mma.m16n8k16 in registers, as our kernels issue it
  double mma_int8_ops = 0;           // mma.m16n8k32 of int8
};

/// On this thread's GPU; takes about a second.
CudaFloors measure_cuda_floors();

/// Of copies from page-locked memory, 64 MiB each, one after the other. Takes half a GiB on both sides.
double pinned_copy_bytes_per_second();

/// Median seconds of one of `launches` launches. `launch(i, stream)` puts launch i (0 <= i < launches) into
/// the stream (a cudaStream_t); all are captured into one graph, which is replayed `repeats` times after two
/// to warm up. So gaps between launches are those of a decoded token. What the launches read must be more
/// than the GPU's L2 holds: let i choose among copies.
double seconds_per_launch(int64_t launches, int64_t repeats,
                          const std::function<void(int64_t i, void* stream)>& launch);

/// Fills [n] floats or words on the GPU with random bits whose float, bf16 and e4m3 values are moderate:
/// exponents of every number are near zero's. `data` is a device pointer; returns when done.
void fill_random(void* data, int64_t bytes, uint64_t seed);

}  // namespace sluice::bench
