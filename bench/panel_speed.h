// Products of panels with int8 or float activations on all threads, over more memory than the caches hold,
// beside what the machine can do at best: a loop that reads the same bytes, a loop of int8 dot products in
// registers.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels_cpu/panel.h"
#include "offload/activation_rows.h"
#include "offload/arena.h"
#include "offload/workers.h"
#include "quant/panel.h"

namespace sluice::bench {

/// Two rates that were timed one right after the other.
struct Share {
  double measured = 0;  // bytes or operations per second
  double floor = 0;     // the same of the bare loop
  [[nodiscard]] double ratio() const { return measured / floor; }
};

/// The one with the middle ratio, the upper one of two. A shared machine's memory changes its speed between
/// one second and the next, so that rates of different moments say nothing of each other.
inline Share middle(std::vector<Share> shares) {
  assert(!shares.empty());
  const auto at = shares.begin() + static_cast<std::ptrdiff_t>(shares.size() / 2);
  std::ranges::nth_element(shares, at, {}, &Share::ratio);
  return *at;
}

class PanelSpeed {
 public:
  /// Panels of `cols` columns that fill about `bytes`, the same random one again and again: speed does not
  /// depend on the values. Keeps a reference to
  /// `workers`.
  PanelSpeed(quant::DType dtype, int64_t cols, int64_t bytes, offload::Workers& workers,
             cpu::Isa isa = cpu::chosen_isa());

  /// One token: bytes of weights per second, against a loop that reads them.
  Share gemv(int64_t repeats);
  /// Weights per second of one such product with all panels.
  double weights_per_second();
  /// `tokens` tokens, at most 512, tiled as the engine does: int8 operations per second, against the loop of
  /// the instruction that they use (product_loop). int8 types only.
  Share gemm(int64_t tokens, int64_t repeats);

 private:
  void quantize(int64_t tokens);
  double read_seconds();
  double gemv_seconds();
  void multiply_one(int64_t worker);
  void multiply_all(int64_t tokens);
  double int8_peak(double seconds);

  offload::Workers& workers_;
  const cpu::PanelKernels& kernels_;
  quant::PanelLayout layout_;
  offload::Arena arena_;
  int64_t panels_;
  std::vector<float> x_;  // [kMostTokens, cols]
  offload::Int8Rows codes_;
  std::vector<float> products_;  // [workers][tokens, rows of a task]
};

}  // namespace sluice::bench
