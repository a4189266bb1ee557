#include "kernels_cuda/head_product.h"

#include <cuda_fp16.h>

#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/overlap.cuh"
#include "kernels_cuda/device/panel_values.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using quant::DType;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kRows = static_cast<int>(quant::kPanelRows);
/// Tokens that share the decoding of a weight. Chosen: more would take more registers than four warps of a
/// scheduler have.
constexpr int kManyTokens = 8;

struct HeadArgs {
  const unsigned char* panels;
  int64_t panel_bytes;
  int64_t scales_at;
  int64_t n_panels;  // of all heads, or of all choices of a token
  int panels_of_head;
  int cols;
  int rows;  // of a head
  int n_tokens;
  const float* x;
  int64_t x_stride;
  int64_t x_head_stride;
  float* y;
  int64_t y_stride;
  int64_t y_head_stride;
  float scale;
  const int32_t* ids;  // [n_tokens, heads]: whose matrix a part meets; null: each head its own
  int64_t matrix_bytes;
  const float* scales;
};

/// Part `index` of `count` of a row's columns.
struct Part {
  int index;
  int count;
  [[nodiscard]] __device__ int begin(int steps) const { return steps * index / count; }
  [[nodiscard]] __device__ int end(int steps) const { return steps * (index + 1) / count; }
};

/// Calls `use(column, values of rows 2g and 2g + 1 at four columns from it on)` for all columns of a lane in
/// the part.
template <class Format>
struct QuantizedRows {
  template <typename Use>
  static __device__ __forceinline__ void for_each_quad(const HeadArgs& args, const unsigned char* panel,
                                                       int lane, Part part, const Use& use) {
    constexpr int kCols = 32 * Format::kChunks;
    const uint32_t zeros[4] = {0, 0, 0, 0};
    const typename Format::Tables tables(zeros);
    const PanelLane at = PanelLane::of(panel, args.scales_at, lane);
    const int steps = args.cols / kCols;
#pragma unroll 2
    for (int step = part.begin(steps); step < part.end(steps); ++step) {
      const typename Format::Raw raw = Format::load(at, step);
#pragma unroll
      for (int c = 0; c < Format::kChunks; ++c) {
        uint32_t a[4];
        ChunkScales scales;
        Format::chunk(raw, tables, c, step, a, scales);
#pragma unroll
        for (int quad = 0; quad < 2; ++quad) {
          float w[2][4];
          quad_values<Format>(a, scales, 0, quad, w[0]);
          quad_values<Format>(a, scales, 1, quad, w[1]);
          use(step * kCols + c * 32 + quad_of<Format::kOrder>(lane % 4, quad), w);
        }
      }
    }
  }
};

/// F32, F16 and BF16.
template <DType kType>
struct FloatRows {
  static __device__ __forceinline__ float value(const unsigned char* panel, int col, int row) {
    if constexpr (kType == DType::kF32) {
      return __ldg(reinterpret_cast<const float*>(panel) + col * kRows + row);
    } else if constexpr (kType == DType::kF16) {
      return __half2float(__ldg(reinterpret_cast<const __half*>(panel) + col * kRows + row));
    } else {
      const uint16_t bits =
          __ldg(reinterpret_cast<const uint16_t*>(panel) + (col / 2 * kRows + row) * 2 + col % 2);
      return __uint_as_float(static_cast<uint32_t>(bits) << 16);
    }
  }

  template <typename Use>
  static __device__ __forceinline__ void for_each_quad(const HeadArgs& args, const unsigned char* panel,
                                                       int lane, Part part, const Use& use) {
    const int steps = args.cols / 16;
#pragma unroll 1  // sm_80 spills otherwise
    for (int step = part.begin(steps); step < part.end(steps); ++step) {
      const int col = step * 16 + 4 * (lane % 4);
      float w[2][4];
#pragma unroll
      for (int b = 0; b < 4; ++b) {
        w[0][b] = value(panel, col + b, lane / 4 * 2);
        w[1][b] = value(panel, col + b, lane / 4 * 2 + 1);
      }
      use(col, w);
    }
  }
};

/// A warp for each panel: blockIdx.x counts groups of them over all heads, blockIdx.y groups of kTokens
/// tokens.
template <class Rows, int kTokens>
__global__ void __launch_bounds__(kThreads) head_product_kernel(HeadArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  follow_last();
  if (panel >= args.n_panels) return;
  const int64_t head = panel / args.panels_of_head;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * kTokens;
  const int tokens = static_cast<int>(min(static_cast<int64_t>(kTokens), args.n_tokens - first));
  const float* x = args.x + first * args.x_stride + head * args.x_head_stride;
  float sums[kTokens][2] = {};
  Rows::for_each_quad(args, args.panels + panel * args.panel_bytes, lane, {0, 1},
                      [&](int col, const float(&w)[2][4]) {
#pragma unroll
                        for (int t = 0; t < kTokens; ++t) {
                          if (t >= tokens) continue;
                          const float4 v = *reinterpret_cast<const float4*>(x + t * args.x_stride + col);
#pragma unroll
                          for (int row = 0; row < 2; ++row) {
                            float& sum = sums[t][row];
                            sum = fmaf(w[row][0], v.x, sum);
                            sum = fmaf(w[row][1], v.y, sum);
                            sum = fmaf(w[row][2], v.z, sum);
                            sum = fmaf(w[row][3], v.w, sum);
                          }
                        }
                      });
  const int in_head = static_cast<int>(panel % args.panels_of_head) * kRows + lane / 4 * 2;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float sum = sums[t][row];
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
      sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
      if (lane % 4 == 0 && t < tokens && in_head + row < args.rows) {
        args.y[(first + t) * args.y_stride + head * args.y_head_stride + in_head + row] = args.scale * sum;
      }
    }
  }
}

/// A block for each panel of each choice: blockIdx.x counts the panels of all parts of a token, blockIdx.y
/// tokens. Four warps divide the columns.
template <class Rows>
__global__ void __launch_bounds__(kThreads) chosen_product_kernel(HeadArgs args) {
  __shared__ float partial[kWarps][kRows];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t token = blockIdx.y;
  follow_last();
  const int64_t part = blockIdx.x / args.panels_of_head;
  const int64_t in_matrix = blockIdx.x % args.panels_of_head;
  const int64_t matrix = args.ids[token * (args.n_panels / args.panels_of_head) + part];
  if (matrix < 0) return;
  const unsigned char* const panel = args.panels + matrix * args.matrix_bytes + in_matrix * args.panel_bytes;
  const float* const x = args.x + token * args.x_stride + part * args.x_head_stride;
  float sums[2] = {};
  Rows::for_each_quad(args, panel, lane, {warp, kWarps}, [&](int col, const float(&w)[2][4]) {
    const float4 v = *reinterpret_cast<const float4*>(x + col);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      sums[row] = fmaf(w[row][0], v.x, sums[row]);
      sums[row] = fmaf(w[row][1], v.y, sums[row]);
      sums[row] = fmaf(w[row][2], v.z, sums[row]);
      sums[row] = fmaf(w[row][3], v.w, sums[row]);
    }
  });
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    sums[row] += __shfl_xor_sync(0xFFFFFFFFU, sums[row], 1);
    sums[row] += __shfl_xor_sync(0xFFFFFFFFU, sums[row], 2);
    if (lane % 4 == 0) partial[warp][lane / 4 * 2 + row] = sums[row];
  }
  __syncthreads();
  const int64_t row = in_matrix * kRows + threadIdx.x;
  if (threadIdx.x >= kRows || row >= args.rows) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += partial[w][threadIdx.x];
  const float scale = args.scales == nullptr ? args.scale : args.scales[matrix];
  args.y[token * args.y_stride + part * args.y_head_stride + row] = scale * sum;
}

template <class Rows>
void launch(const HeadArgs& args, cudaStream_t stream) {
  if (args.ids != nullptr) {
    const dim3 grid(static_cast<unsigned>(args.n_panels), static_cast<unsigned>(args.n_tokens));
    launch_overlapping(chosen_product_kernel<Rows>, "chosen_product",
                       {.grid = grid, .block = dim3(kThreads), .stream = stream}, args);
    return;
  }
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(args.n_panels, kWarps));
  const auto run = [&](auto* kernel, unsigned tiles) {
    launch_overlapping(kernel, "head_product",
                       {.grid = dim3(blocks, tiles), .block = dim3(kThreads), .stream = stream}, args);
  };
  if (args.n_tokens == 1) {
    run(head_product_kernel<Rows, 1>, 1);
  } else {
    const auto tiles = static_cast<unsigned>(ceil_div(args.n_tokens, kManyTokens));
    run(head_product_kernel<Rows, kManyTokens>, tiles);
  }
}

void launch_format(DType dtype, const HeadArgs& args, cudaStream_t stream) {
  switch (dtype) {
    case DType::kQ8_0:
      return launch<QuantizedRows<FormatQ8_0>>(args, stream);
    case DType::kNVFP4:
      return launch<QuantizedRows<FormatNVFP4>>(args, stream);
    case DType::kMXFP4:
      return launch<QuantizedRows<FormatMXFP4>>(args, stream);
    case DType::kQ4_0:
      return launch<QuantizedRows<FormatQ4_0>>(args, stream);
    case DType::kQ5_0:
      return launch<QuantizedRows<FormatQ5_0>>(args, stream);
    case DType::kQ4_K:
      return launch<QuantizedRows<FormatQ4_K>>(args, stream);
    case DType::kQ5_K:
      return launch<QuantizedRows<FormatQ5_K>>(args, stream);
    case DType::kQ6_K:
      return launch<QuantizedRows<FormatQ6_K>>(args, stream);
    case DType::kF32:
      return launch<FloatRows<DType::kF32>>(args, stream);
    case DType::kF16:
      return launch<FloatRows<DType::kF16>>(args, stream);
    case DType::kBF16:
      return launch<FloatRows<DType::kBF16>>(args, stream);
    default:
      throw Error("head_product", "a weight type", std::string(quant::dtype_info(dtype).name));
  }
}

/// Throws Errors in the name of a call.
struct Require {
  const char* call;
  void operator()(bool right, const char* expected, int64_t found) const {
    if (!right) throw Error(call, expected, std::to_string(found));
  }
};

void check_rows(const Require& require, const quant::PanelLayout& layout, const float* x, int64_t x_stride,
                int64_t x_part_stride) {
  require(layout.cols >= 32 && layout.cols % 32 == 0 && layout.cols < (int64_t{1} << 24),
          "columns in multiples of 32", layout.cols);
  require(x_stride % 4 == 0 && x_part_stride % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0,
          "rows of x aligned to 16 bytes", x_stride);
}

/// What HeadProduct and ChosenProduct have alike; `rows` are of a matrix.
template <class Product>
HeadArgs args_of(const Product& p, int64_t rows) {
  HeadArgs args{};
  args.panels = reinterpret_cast<const unsigned char*>(p.w.data);
  args.panel_bytes = p.w.layout.panel_bytes;
  args.scales_at = p.w.layout.scales_at;
  args.panels_of_head = static_cast<int>(head_panels(rows));
  args.cols = static_cast<int>(p.w.layout.cols);
  args.rows = static_cast<int>(rows);
  args.n_tokens = static_cast<int>(p.n_tokens);
  args.x = p.x;
  args.x_stride = p.x_stride;
  args.y = p.y;
  args.y_stride = p.y_stride;
  args.scale = p.w.scale;
  return args;
}

}  // namespace

void head_product(const HeadProduct& p, cudaStream_t stream) {
  constexpr Require require{"head_product"};
  require(p.heads >= 1 && p.rows >= 1, "a head and a row or more", p.heads);
  check_rows(require, p.w.layout, p.x, p.x_stride, p.x_head_stride);
  require(p.w.panels() == p.heads * head_panels(p.rows), "whole panels of each head", p.w.panels());
  require(p.n_tokens >= 0 && p.n_tokens <= int64_t{65535} * kManyTokens, "at most 524280 tokens", p.n_tokens);
  if (p.n_tokens == 0) return;
  HeadArgs args = args_of(p, p.rows);
  args.n_panels = p.w.panels();
  args.x_head_stride = p.x_head_stride;
  args.y_head_stride = p.y_head_stride;
  launch_format(p.w.layout.dtype, args, stream);
}

void chosen_product(const ChosenProduct& p, cudaStream_t stream) {
  constexpr Require require{"chosen_product"};
  require(p.used >= 1 && p.w.rows >= 1, "a choice and a row or more", p.used);
  check_rows(require, p.w.layout, p.x, p.x_stride, p.x_part_stride);
  require(p.matrix_bytes >= 0 && p.matrix_bytes % 16 == 0, "matrices aligned to 16 bytes", p.matrix_bytes);
  require(p.n_tokens >= 0 && p.n_tokens <= 65535, "at most 65535 tokens", p.n_tokens);
  if (p.n_tokens == 0) return;
  HeadArgs args = args_of(p, p.w.rows);
  args.n_panels = p.used * p.w.panels();
  args.x_head_stride = p.x_part_stride;
  args.y_head_stride = p.y_part_stride;
  args.ids = p.ids;
  args.matrix_bytes = p.matrix_bytes;
  args.scales = p.scales;
  launch_format(p.w.layout.dtype, args, stream);
}

}  // namespace sluice::cuda
