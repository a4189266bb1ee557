#include "kernels_cuda/norm.h"

#include <algorithm>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/block.cuh"
#include "kernels_cuda/device/overlap.cuh"

namespace sluice::cuda {
namespace {

constexpr int kMostThreads = 512;

/// delta is null where nothing is added.
__global__ void rms_norm_kernel(NormRows rows, float* sums, const float* delta, int64_t delta_stride,
                                const float* gain, float eps) {
  __shared__ float scratch[32];
  const int64_t row = blockIdx.x;
  const float* x = rows.x + row * rows.x_stride;
  follow_last();
  if (rows.mark.word != nullptr && row == 0 && threadIdx.x == 0) *rows.mark.word = rows.mark.value;
  float squares = 0.0F;
  for (int64_t i = threadIdx.x; i < rows.n; i += blockDim.x) {
    float value = x[i];
    if (delta != nullptr) {
      value += delta[row * delta_stride + i];
      sums[row * rows.x_stride + i] = value;
    }
    squares = fmaf(value, value, squares);
  }
  const float mean = block_sum(squares, scratch) / static_cast<float>(rows.n);
  const float factor = 1.0F / sqrtf(mean + eps);
  // Each thread reads what it wrote itself.
  const float* from = delta != nullptr ? sums + row * rows.x_stride : x;
  float* y = rows.y + row * rows.y_stride;
  for (int64_t i = threadIdx.x; i < rows.n; i += blockDim.x) y[i] = gain[i] * (from[i] * factor);
}

__global__ void layer_norm_kernel(NormRows rows, const float* gain, const float* bias, float eps) {
  __shared__ float scratch[2][32];
  const int64_t row = blockIdx.x;
  const float* x = rows.x + row * rows.x_stride;
  follow_last();
  const auto n = static_cast<float>(rows.n);
  float sum = 0.0F;
  for (int64_t i = threadIdx.x; i < rows.n; i += blockDim.x) sum += x[i];
  const float mean = block_sum(sum, scratch[0]) / n;
  float squares = 0.0F;
  for (int64_t i = threadIdx.x; i < rows.n; i += blockDim.x) {
    const float off = x[i] - mean;
    squares = fmaf(off, off, squares);
  }
  const float factor = 1.0F / sqrtf(block_sum(squares, scratch[1]) / n + eps);
  float* y = rows.y + row * rows.y_stride;
  for (int64_t i = threadIdx.x; i < rows.n; i += blockDim.x) {
    y[i] = fmaf(gain[i], (x[i] - mean) * factor, bias[i]);
  }
}

/// Whole warps, no more than there is work for.
unsigned threads_for(int64_t n) {
  return static_cast<unsigned>(std::clamp<int64_t>(ceil_div<int64_t>(n, 32) * 32, 32, kMostThreads));
}

/// A block for each row.
LaunchShape shape_for(const NormRows& rows, cudaStream_t stream) {
  return {
      .grid = dim3(static_cast<unsigned>(rows.rows)), .block = dim3(threads_for(rows.n)), .stream = stream};
}

bool any(const NormRows& rows) {
  if (rows.rows < 0 || rows.n < 1 || rows.rows > INT32_MAX)
    throw Error("norm", "rows of at least one value", "others");
  return rows.rows > 0;
}

}  // namespace

void rms_norm(const NormRows& rows, const float* gain, float eps, cudaStream_t stream) {
  if (!any(rows)) return;
  launch_overlapping(rms_norm_kernel, "rms_norm", shape_for(rows, stream), rows, nullptr, nullptr, 0, gain,
                     eps);
}

void add_rms_norm(const ResidualRows& residual, const NormRows& rows, const float* gain, float eps,
                  cudaStream_t stream) {
  if (!any(rows)) return;
  NormRows of_x = rows;
  of_x.x = residual.x;
  launch_overlapping(rms_norm_kernel, "add_rms_norm", shape_for(rows, stream), of_x, residual.x,
                     residual.delta, residual.delta_stride, gain, eps);
}

void layer_norm(const NormRows& rows, const float* gain, const float* bias, float eps, cudaStream_t stream) {
  if (!any(rows)) return;
  launch_overlapping(layer_norm_kernel, "layer_norm", shape_for(rows, stream), rows, gain, bias, eps);
}

}  // namespace sluice::cuda
