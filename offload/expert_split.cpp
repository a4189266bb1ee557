#include "offload/expert_split.h"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>

#include "kernels_cpu/panel.h"
#include "quant/base/error.h"

namespace sluice::offload {
namespace {

// Largest remainder: every node gets its share rounded down, those cut most get what is left.
std::vector<int64_t> units_per_node(int64_t units, std::span<const double> gb_per_s) {
  const double total = std::accumulate(gb_per_s.begin(), gb_per_s.end(), 0.0);
  std::vector<int64_t> counts;
  std::vector<std::pair<double, size_t>> cut;
  int64_t left = units;
  for (size_t node = 0; node < gb_per_s.size(); ++node) {
    const double share = static_cast<double>(units) * (gb_per_s[node] / total);
    counts.push_back(std::min(static_cast<int64_t>(share), left));
    left -= counts.back();
    cut.emplace_back(static_cast<double>(counts.back()) - share, node);  // most negative first, then node
  }
  std::sort(cut.begin(), cut.end());
  for (size_t i = 0; left > 0; i = (i + 1) % cut.size(), --left) {
    ++counts[cut[i].second];
  }
  return counts;
}

}  // namespace

int64_t split_unit(quant::DType down) {
  // All blocks are powers of two, so the larger of both is a multiple of the smaller.
  return std::max(cpu::kActivationBlock, quant::dtype_info(down).elements_per_block);
}

std::vector<RowRange> split_rows(int64_t d_expert, int64_t unit, std::span<const double> gb_per_s) {
  assert(d_expert >= 0 && unit >= 1);
  if (gb_per_s.empty()) {
    throw Error("split of the experts", "at least one NUMA node", "none");
  }
  for (size_t node = 0; node < gb_per_s.size(); ++node) {
    if (!(gb_per_s[node] > 0) || !std::isfinite(gb_per_s[node])) {
      throw Error(fmt::format("split of the experts: node {}", node), "a positive bandwidth",
                  fmt::format("{} GB/s", gb_per_s[node]));
    }
  }
  std::vector<RowRange> ranges;
  int64_t begin = 0;
  for (const int64_t units : units_per_node((d_expert + unit - 1) / unit, gb_per_s)) {
    const int64_t end = std::min(begin + units * unit, d_expert);
    ranges.push_back({.begin = begin, .end = end});
    begin = end;
  }
  return ranges;
}

}  // namespace sluice::offload
