// Panels of F32, F16 and BF16 as float32 numbers.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "quant/panel.h"

namespace sluice::cuda {

/// Part `index` of `count` of a row's columns, in steps.
struct ColumnPart {
  int index;
  int count;
  [[nodiscard]] __device__ int begin(int steps) const { return steps * index / count; }
  [[nodiscard]] __device__ int end(int steps) const { return steps * (index + 1) / count; }
};

template <quant::DType kType>
struct FloatRows {
  static constexpr int kRows = static_cast<int>(quant::kPanelRows);

  static __device__ __forceinline__ float value(const unsigned char* panel, int col, int row) {
    if constexpr (kType == quant::DType::kF32) {
      return __ldg(reinterpret_cast<const float*>(panel) + col * kRows + row);
    } else if constexpr (kType == quant::DType::kF16) {
      return __half2float(__ldg(reinterpret_cast<const __half*>(panel) + col * kRows + row));
    } else {
      const uint16_t bits =
          __ldg(reinterpret_cast<const uint16_t*>(panel) + (col / 2 * kRows + row) * 2 + col % 2);
      return __uint_as_float(static_cast<uint32_t>(bits) << 16);
    }
  }

  /// Calls `use(column, values of rows 2g and 2g + 1 at four columns from it on)` for all columns of a lane
  /// in the part.
  template <typename Args, typename Use>
  static __device__ __forceinline__ void for_each_quad(const Args& args, const unsigned char* panel, int lane,
                                                       const Use& use, ColumnPart part = {0, 1}) {
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

}  // namespace sluice::cuda
