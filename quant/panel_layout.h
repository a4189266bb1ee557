// Where the words of a panel lie (quant/panel.h): all that a kernel needs to know of it.
#pragma once

#include <cstdint>

#include "quant/dtype.h"

namespace sluice::quant {

inline constexpr int64_t kPanelRows = 16;
inline constexpr int64_t kPanelAlignment = 64;

/// Where things are in every panel of a matrix of this type and width.
struct PanelLayout {
  DType dtype = DType::kF32;
  int64_t cols = 0;
  int64_t block_cols = 1;   // columns of a block; two for BF16, whose words hold pairs
  int64_t blocks = 0;       // along the columns
  int64_t quant_bytes = 0;  // of one block of sixteen rows, a multiple of 32
  int64_t scale_bytes = 0;  // of one block of sixteen rows, a multiple of 16; 0 for F32, F16, BF16
  int64_t scales_at = 0;    // from the panel's first byte to its scales
  int64_t panel_bytes = 0;  // a multiple of kPanelAlignment

  bool operator==(const PanelLayout&) const = default;
};

}  // namespace sluice::quant
