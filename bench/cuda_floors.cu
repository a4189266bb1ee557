#include "bench/cuda_floors.h"

#include <algorithm>
#include <vector>

#include "bench/timing.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/blas.h"

namespace sluice::bench {
namespace {

using cuda::check;
using cuda::check_launch;

__global__ void read_kernel(const uint4* data, int64_t count, uint32_t* sink) {
  constexpr int kUnroll = 8;
  uint32_t sum = 0;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
    uint4 v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) v[u] = __ldcs(data + i + u * stride);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  if (sum == 0x12345678U) *sink = sum;
}

__global__ void fill_kernel(uint32_t* words, int64_t count, uint64_t seed) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    uint64_t z = seed + 0x9E3779B97F4A7C15ULL * static_cast<uint64_t>(i + 1);  // splitmix64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    // As bf16 halves: any sign and mantissa, exponents 0x70..0x77 of 0x7F: 2^-15 to 2^-8.
    words[i] = (static_cast<uint32_t>(z ^ (z >> 31)) & 0x83FF83FFU) | 0x38003800U;
  }
}

constexpr int kAccumulators = 8;  // products under way in a warp
constexpr int kLoops = 4096;

template <bool kInt8>
__global__ void mma_kernel(uint32_t seed, uint32_t* sink) {
  uint32_t a[4];
  uint32_t b[2];
  for (int i = 0; i < 4; ++i) a[i] = seed + threadIdx.x * 2654435761U + i;
  for (int i = 0; i < 2; ++i) b[i] = seed * 3 + threadIdx.x + i;
  uint32_t d[kAccumulators][4] = {};
  for (int loop = 0; loop < kLoops; ++loop) {
#pragma unroll
    for (auto& sums : d) {
      if constexpr (kInt8) {
        asm volatile(
            "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
      } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
      }
    }
  }
  uint32_t sum = 0;
  for (const auto& sums : d) sum += sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  if (sum == 0x12345678U) *sink = sum;
}

int64_t multiprocessors() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return cuda::device_properties(device).multiprocessors;
}

template <bool kInt8>
double mma_rate(uint32_t* sink) {
  const auto blocks = static_cast<unsigned>(multiprocessors() * 2);
  constexpr unsigned kThreads = 256;
  const double seconds = seconds_per_launch(4, 5, [&](int64_t, void* stream) {
    mma_kernel<kInt8><<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(0x3F803F81U, sink);
    check_launch("mma_kernel");
  });
  const double products = static_cast<double>(blocks) * (kThreads / 32) * kLoops * kAccumulators;
  return products * 2 * 16 * 8 * (kInt8 ? 32 : 16) / seconds;
}

double cublas_rate() {
  constexpr int64_t kSize = 8192;
  const cuda::DeviceBuffer<uint16_t> w(kSize * kSize);
  const cuda::DeviceBuffer<uint16_t> x(kSize * kSize);
  const cuda::DeviceBuffer<float> y(kSize * kSize);
  fill_random(w.data(), w.bytes(), 1);
  fill_random(x.data(), x.bytes(), 2);
  const cuda::Blas blas;
  const double seconds = seconds_per_launch(4, 5, [&](int64_t, void* stream) {
    blas.multiply({w.data(), kSize, x.data(), kSize, y.data(), kSize, kSize, kSize, kSize},
                  static_cast<cudaStream_t>(stream));
  });
  return 2.0 * kSize * kSize * kSize / seconds;
}

}  // namespace

void fill_random(void* data, int64_t bytes, uint64_t seed) {
  fill_kernel<<<static_cast<unsigned>(multiprocessors() * 8), 256>>>(static_cast<uint32_t*>(data), bytes / 4,
                                                                     seed);
  check_launch("fill_kernel");
  check(cudaDeviceSynchronize(), "fill_kernel");
}

double seconds_per_launch(int64_t launches, int64_t repeats,
                          const std::function<void(int64_t i, void* stream)>& launch) {
  const cuda::Stream stream;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  launch(0, stream.get());  // loads kernels and sets their attributes, which a capture must not
  stream.synchronize();
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int64_t i = 0; i < launches; ++i) launch(i, stream.get());
  check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
  check(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  const cuda::Event begin(cuda::EventKind::kTiming);
  const cuda::Event end(cuda::EventKind::kTiming);
  std::vector<double> seconds;
  for (int64_t i = 0; i < repeats + 2; ++i) {
    begin.record(stream.get());
    check(cudaGraphLaunch(exec, stream.get()), "cudaGraphLaunch");
    end.record(stream.get());
    end.synchronize();
    if (i >= 2)
      seconds.push_back(static_cast<double>(cuda::elapsed_ms(begin, end)) * 1e-3 /
                        static_cast<double>(launches));
  }
  check(cudaGraphExecDestroy(exec), "cudaGraphExecDestroy");
  check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  return median(std::move(seconds));
}

double pinned_copy_bytes_per_second() {
  constexpr int64_t kBytes = int64_t{64} << 20;
  constexpr int64_t kCopies = 8;
  const cuda::PinnedBuffer<std::byte> from(kCopies * kBytes);
  const cuda::DeviceBuffer<std::byte> to(kCopies * kBytes);
  std::ranges::fill(from.values(), std::byte{1});
  const double seconds = seconds_per_launch(kCopies, 7, [&](int64_t i, void* stream) {
    check(cudaMemcpyAsync(to.data() + i * kBytes, from.data() + i * kBytes, static_cast<size_t>(kBytes),
                          cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)),
          "cudaMemcpyAsync");
  });
  return static_cast<double>(kBytes) / seconds;
}

CudaFloors measure_cuda_floors() {
  CudaFloors floors;
  const cuda::DeviceBuffer<uint32_t> sink(1);
  {
    const int64_t bytes = std::min(int64_t{4} << 30, cuda::device_memory().free_bytes / 4);
    const cuda::DeviceBuffer<std::byte> from(bytes);
    const cuda::DeviceBuffer<std::byte> to(bytes);
    fill_random(from.data(), bytes, 3);
    const auto blocks = static_cast<unsigned>(multiprocessors() * 8);
    const double read = seconds_per_launch(3, 7, [&](int64_t, void* stream) {
      read_kernel<<<blocks, 256, 0, static_cast<cudaStream_t>(stream)>>>(
          reinterpret_cast<const uint4*>(from.data()), bytes / 16, sink.data());
      check_launch("read_kernel");
    });
    const double copy = seconds_per_launch(3, 7, [&](int64_t, void* stream) {
      check(cudaMemcpyAsync(to.data(), from.data(), static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                            static_cast<cudaStream_t>(stream)),
            "cudaMemcpyAsync");
    });
    floors.read_bytes_per_second = static_cast<double>(bytes) / read;
    floors.copy_bytes_per_second = 2.0 * static_cast<double>(bytes) / copy;
  }
  floors.cublas_bf16_flops = cublas_rate();
  floors.mma_bf16_flops = mma_rate<false>(sink.data());
  floors.mma_int8_ops = mma_rate<true>(sink.data());
  return floors;
}

}  // namespace sluice::bench
