#include "kernels_cuda/dequantize.h"

#include <cuda_bf16.h>

#include <algorithm>
#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/panel_values.cuh"

namespace sluice::cuda {
namespace {

using quant::DType;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = static_cast<int>(quant::kPanelRows);

/// Which panel and which of its rows: all of a range of panels, or one row for each token.
struct Source {
  const unsigned char* panels;
  int64_t panel_bytes;
  int64_t scales_at;
  int64_t cols;
  const int32_t* ids;  // null: panel i of the range
  float scale;
};

template <typename T>
struct Sink {
  T* out;
  int64_t stride;
};

__device__ __forceinline__ void put(float value, float* to) {
  *to = value;
}
__device__ __forceinline__ void put(float value, uint16_t* to) {
  *to = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ __forceinline__ void put_four(const float (&v)[4], float* to) {
  *reinterpret_cast<float4*>(to) = {v[0], v[1], v[2], v[3]};
}
__device__ __forceinline__ void put_four(const float (&v)[4], uint16_t* to) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(v[0], v[1]);
  const __nv_bfloat162 high = __floats2bfloat162_rn(v[2], v[3]);
  *reinterpret_cast<uint2*>(to) = {*reinterpret_cast<const uint32_t*>(&low),
                                   *reinterpret_cast<const uint32_t*>(&high)};
}

/// One row's eight values of a chunk: quads at columns quad_of(t, 0) and quad_of(t, 1).
template <class Format, typename T>
__device__ __forceinline__ void write_row(const uint32_t (&a)[4], const ChunkScales& s, int row, float scale,
                                          T* chunk) {
  const int t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int quad = 0; quad < 2; ++quad) {
    float values[4];
    quad_values<Format>(a, s, row, quad, values);
#pragma unroll
    for (float& value : values) value *= scale;
    put_four(values, chunk + quad_of<Format::kOrder>(t, quad));
  }
}

/// A warp for each step of each panel or token: blockIdx.x counts those, blockIdx.y groups of steps.
template <class Format, typename T>
__global__ void __launch_bounds__(kThreads) dequantize_kernel(Source from, Sink<T> to) {
  constexpr int kCols = 32 * Format::kChunks;
  const uint32_t zeros[4] = {0, 0, 0, 0};
  const typename Format::Tables tables(zeros);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t steps = from.cols / kCols;
  const int64_t item = blockIdx.x;
  const int id = from.ids == nullptr ? 0 : from.ids[item];
  const int64_t panel = from.ids == nullptr ? item : id / kRows;
  PanelLane at = PanelLane::of(from.panels + panel * from.panel_bytes, from.scales_at, lane);
  for (int64_t step = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / 32; step < steps;
       step += static_cast<int64_t>(gridDim.y) * kWarps) {
    const typename Format::Raw raw = Format::load(at, static_cast<int>(step));
#pragma unroll
    for (int c = 0; c < Format::kChunks; ++c) {
      uint32_t a[4];
      ChunkScales scales;
      Format::chunk(raw, tables, c, static_cast<int>(step), a, scales);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        const int in_panel = 2 * (lane / 4) + row;
        if (from.ids != nullptr && in_panel != id % kRows) continue;
        const int64_t out_row = from.ids == nullptr ? item * kRows + in_panel : item;
        write_row<Format>(a, scales, row, from.scale, to.out + out_row * to.stride + step * kCols + c * 32);
      }
    }
  }
}

/// F32, F16 and BF16: a thread for each value, rows of a panel side by side.
template <DType kType, typename T>
__global__ void __launch_bounds__(kThreads) widen_kernel(Source from, Sink<T> to) {
  const int64_t item = blockIdx.x;
  const int id = from.ids == nullptr ? 0 : from.ids[item];
  const int64_t panel = from.ids == nullptr ? item : id / kRows;
  const int rows = from.ids == nullptr ? kRows : 1;
  const unsigned char* base = from.panels + panel * from.panel_bytes;
  for (int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x; i < from.cols * rows;
       i += static_cast<int64_t>(gridDim.y) * kThreads) {
    const int64_t col = i / rows;
    const int64_t row = from.ids == nullptr ? i % rows : id % kRows;
    float value;
    if constexpr (kType == DType::kF32) {
      value = reinterpret_cast<const float*>(base)[col * kRows + row];
    } else if constexpr (kType == DType::kF16) {
      value = __half2float(reinterpret_cast<const __half*>(base)[col * kRows + row]);
    } else {
      value = __uint_as_float(static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(
                                  base)[(col / 2 * kRows + row) * 2 + col % 2])
                              << 16);
    }
    const int64_t out_row = from.ids == nullptr ? item * kRows + row : item;
    put(value * from.scale, to.out + out_row * to.stride + col);
  }
}

template <typename T>
void launch(DType type, const Source& from, const Sink<T>& to, int64_t items, cudaStream_t stream) {
  const auto run = [&](auto* kernel, int64_t per_block) {
    const int64_t groups = std::clamp<int64_t>(ceil_div(from.cols, per_block), 1, 64);
    launch_kernel(kernel, "dequantize",
                  {.grid = dim3(static_cast<unsigned>(items), static_cast<unsigned>(groups)),
                   .block = dim3(kThreads),
                   .stream = stream},
                  from, to);
  };
  switch (type) {
    case DType::kQ8_0:
      run(dequantize_kernel<FormatQ8_0, T>, 32 * kWarps);
      break;
    case DType::kNVFP4:
      run(dequantize_kernel<FormatNVFP4, T>, 32 * kWarps);
      break;
    case DType::kMXFP4:
      run(dequantize_kernel<FormatMXFP4, T>, 32 * kWarps);
      break;
    case DType::kQ4_0:
      run(dequantize_kernel<FormatQ4_0, T>, 32 * kWarps);
      break;
    case DType::kQ5_0:
      run(dequantize_kernel<FormatQ5_0, T>, 32 * kWarps);
      break;
    case DType::kQ4_K:
      run(dequantize_kernel<FormatQ4_K, T>, 64 * kWarps);
      break;
    case DType::kQ5_K:
      run(dequantize_kernel<FormatQ5_K, T>, 64 * kWarps);
      break;
    case DType::kQ6_K:
      run(dequantize_kernel<FormatQ6_K, T>, 128 * kWarps);
      break;
    case DType::kF32:
      run(widen_kernel<DType::kF32, T>, kThreads);
      break;
    case DType::kF16:
      run(widen_kernel<DType::kF16, T>, kThreads);
      break;
    case DType::kBF16:
      run(widen_kernel<DType::kBF16, T>, kThreads);
      break;
    default:
      throw Error("dequantize", "a weight type", std::string(quant::dtype_info(type).name));
  }
}

Source source_of(const quant::PanelView& w, int64_t panel, const int32_t* ids, float scale) {
  return {reinterpret_cast<const unsigned char*>(w.data) + panel * w.layout.panel_bytes,
          w.layout.panel_bytes,
          w.layout.scales_at,
          w.layout.cols,
          ids,
          scale};
}

template <typename T>
void dequantize(const quant::PanelView& w, PanelRange panels, const Sink<T>& to, cudaStream_t stream) {
  if (panels.begin < 0 || panels.count < 0 || panels.begin + panels.count > w.panels() ||
      to.stride % 4 != 0) {
    throw Error("dequantize", "panels of the matrix and a stride of whole quads", "others");
  }
  if (panels.count > 0)
    launch(w.layout.dtype, source_of(w, panels.begin, nullptr, 1.0F), to, panels.count, stream);
}

}  // namespace

void dequantize_f32(const quant::PanelView& w, PanelRange panels, float* out, int64_t stride,
                    cudaStream_t stream) {
  dequantize(w, panels, Sink<float>{out, stride}, stream);
}

void dequantize_bf16(const quant::PanelView& w, PanelRange panels, uint16_t* out, int64_t stride,
                     cudaStream_t stream) {
  dequantize(w, panels, Sink<uint16_t>{out, stride}, stream);
}

void embed(const quant::PanelView& w, const int32_t* ids, int64_t n, float* out, int64_t stride,
           cudaStream_t stream) {
  if (stride % 4 != 0) throw Error("embed", "a stride of whole quads", std::to_string(stride));
  if (n > 0) launch(w.layout.dtype, source_of(w, 0, ids, w.scale), Sink<float>{out, stride}, n, stream);
}

}  // namespace sluice::cuda
