#include "kernels_cuda/head_product.h"

#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/float_rows.cuh"
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
  int64_t n_panels;  // of all heads
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
};

/// Calls `use(column, values of rows 2g and 2g + 1 at four columns from it on)` for all columns of a lane.
template <class Format>
struct QuantizedRows {
  template <typename Use>
  static __device__ __forceinline__ void for_each_quad(const HeadArgs& args, const unsigned char* panel,
                                                       int lane, const Use& use) {
    constexpr int kCols = 32 * Format::kChunks;
    const uint32_t zeros[4] = {0, 0, 0, 0};
    const typename Format::Tables tables(zeros);
    const PanelLane at = PanelLane::of(panel, args.scales_at, lane);
    const int steps = args.cols / kCols;
#pragma unroll 2
    for (int step = 0; step < steps; ++step) {
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
  Rows::for_each_quad(args, args.panels + panel * args.panel_bytes, lane,
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

template <class Rows>
void launch(const HeadArgs& args, cudaStream_t stream) {
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

void require(bool right, const char* expected, int64_t found) {
  if (!right) throw Error("head_product", expected, std::to_string(found));
}

}  // namespace

void head_product(const HeadProduct& p, cudaStream_t stream) {
  const quant::PanelLayout& layout = p.w.layout;
  require(p.heads >= 1 && p.rows >= 1, "a head and a row or more", p.heads);
  require(layout.cols >= 32 && layout.cols % 32 == 0 && layout.cols < (int64_t{1} << 24),
          "columns in multiples of 32", layout.cols);
  require(p.x_stride % 4 == 0 && p.x_head_stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0,
          "rows of x aligned to 16 bytes", p.x_stride);
  require(p.w.panels() == p.heads * head_panels(p.rows), "whole panels of each head", p.w.panels());
  require(p.n_tokens >= 0 && p.n_tokens <= int64_t{65535} * kManyTokens, "at most 524280 tokens", p.n_tokens);
  if (p.n_tokens == 0) return;
  const HeadArgs args{.panels = reinterpret_cast<const unsigned char*>(p.w.data),
                      .panel_bytes = layout.panel_bytes,
                      .scales_at = layout.scales_at,
                      .n_panels = p.w.panels(),
                      .panels_of_head = static_cast<int>(head_panels(p.rows)),
                      .cols = static_cast<int>(layout.cols),
                      .rows = static_cast<int>(p.rows),
                      .n_tokens = static_cast<int>(p.n_tokens),
                      .x = p.x,
                      .x_stride = p.x_stride,
                      .x_head_stride = p.x_head_stride,
                      .y = p.y,
                      .y_stride = p.y_stride,
                      .y_head_stride = p.y_head_stride,
                      .scale = p.w.scale};
  launch_format(layout.dtype, args, stream);
}

}  // namespace sluice::cuda
