// How the rows of an expert's gate and up matrices, which are the columns of its down matrix, are divided
// among NUMA nodes. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/dtype.h"

namespace sluice::offload {

/// Rows [begin, end) of d_expert; may be empty.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;

  [[nodiscard]] int64_t size() const { return end - begin; }
  bool operator==(const RowRange&) const = default;
};

/// Rows that go to a node together: whole panels of gate and up, whole activation blocks of the hidden vector
/// (32, so that a worker can quantize what it computed), and whole blocks of the down matrix's columns.
int64_t split_unit(quant::DType down);

/// One range per node, in node order, that cover [0, d_expert) in multiples of `unit` (the last may be
/// shorter), as nearly in proportion to `gb_per_s` as units allow. With fewer units than nodes some get
/// nothing. Throws Error when there is no node, or a bandwidth is not a positive finite number.
std::vector<RowRange> split_rows(int64_t d_expert, int64_t unit, std::span<const double> gb_per_s);

}  // namespace sluice::offload
