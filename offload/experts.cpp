#include "offload/experts.h"

#include <algorithm>
#include <cassert>

#include "kernels_cpu/matmul.h"

namespace sluice::offload {
namespace {

constexpr int64_t kRowGrain =
    32;  // rows of an expert per task: small enough to balance, large enough to decode once
constexpr int64_t kTokenTile = 64;  // tokens gathered at a time, so that scratch does not grow with the batch

}  // namespace

Experts::Experts(std::span<const ExpertLayer> layers, int64_t d_model, int64_t d_expert, int64_t used,
                 int64_t max_tokens, const cpu::Kernels& kernels, Workers& workers)
    : layers_(layers),
      d_model_(d_model),
      d_expert_(d_expert),
      kernels_(kernels),
      workers_(workers),
      slots_(static_cast<size_t>(max_tokens * used)),
      hidden_(static_cast<size_t>(max_tokens * used * d_expert)) {
  int64_t experts = 0;
  for (const ExpertLayer& layer : layers) {
    experts = std::max(experts, layer.experts);
  }
  first_slot_.resize(static_cast<size_t>(experts + 1));
  active_.reserve(static_cast<size_t>(experts));
  const int64_t matmul = cpu::matmul_scratch_floats(std::max(d_model, d_expert));
  const int64_t gathered = kTokenTile * (d_model + 2 * kRowGrain);
  scratch_.assign(static_cast<size_t>(workers.threads()),
                  std::vector<float>(static_cast<size_t>(matmul + gathered)));
}

void Experts::group_by_expert(int64_t experts, const Routes& routes) {
  std::fill(first_slot_.begin(), first_slot_.end(), 0);
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    for (const int32_t e : routes.ids.row(t)) {
      ++first_slot_[static_cast<size_t>(e) + 1];
    }
  }
  active_.clear();
  for (int64_t e = 0; e < experts; ++e) {
    if (first_slot_[static_cast<size_t>(e) + 1] > 0) {
      active_.push_back(static_cast<int32_t>(e));
    }
    first_slot_[static_cast<size_t>(e) + 1] += first_slot_[static_cast<size_t>(e)];
  }
  // Filling moves each expert's start to its end; shifting back afterwards restores the starts.
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    for (int64_t i = 0; i < routes.ids.cols; ++i) {
      const auto e = static_cast<size_t>(routes.ids.row(t)[static_cast<size_t>(i)]);
      const auto slot = static_cast<size_t>(first_slot_[e]++);
      slots_[slot] = {static_cast<int32_t>(t), routes.weights.row(t)[static_cast<size_t>(i)]};
    }
  }
  for (size_t e = static_cast<size_t>(experts); e > 0; --e) {
    first_slot_[e] = first_slot_[e - 1];
  }
  first_slot_[0] = 0;
}

void Experts::gate_up(const ExpertLayer& layer, int64_t expert, int64_t row_begin, int64_t row_end,
                      MatrixView<const float> f, std::span<float> scratch) {
  const int64_t begin = first_slot_[static_cast<size_t>(expert)];
  const int64_t end = first_slot_[static_cast<size_t>(expert) + 1];
  const int64_t rows = row_end - row_begin;
  const quant::WeightView gate = layer.gate.expert(expert).rows_from(row_begin, rows);
  const quant::WeightView up = layer.up.expert(expert).rows_from(row_begin, rows);
  float* const gathered = scratch.data();
  float* const gate_out = gathered + kTokenTile * d_model_;
  float* const up_out = gate_out + kTokenTile * kRowGrain;
  const auto used = static_cast<size_t>(up_out + kTokenTile * kRowGrain - scratch.data());
  for (int64_t first = begin; first < end; first += kTokenTile) {
    const int64_t n = std::min(kTokenTile, end - first);
    MatrixView<const float> x(gathered, n, d_model_);
    if (n == 1) {
      x = f.rows_from(slots_[static_cast<size_t>(first)].token, 1);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        const auto source = f.row(slots_[static_cast<size_t>(first + i)].token);
        std::copy(source.begin(), source.end(), gathered + i * d_model_);
      }
    }
    cpu::matmul_rows(kernels_, gate, 0, rows, x, {gate_out, n, rows, kRowGrain}, scratch.subspan(used));
    cpu::matmul_rows(kernels_, up, 0, rows, x, {up_out, n, rows, kRowGrain}, scratch.subspan(used));
    for (int64_t i = 0; i < n; ++i) {
      kernels_.swiglu(gate_out + i * kRowGrain, up_out + i * kRowGrain, rows,
                      hidden_.data() + (first + i) * d_expert_ + row_begin);
    }
  }
}

void Experts::down(const ExpertLayer& layer, int64_t row_begin, int64_t row_end, MatrixView<float> y,
                   std::span<float> scratch) {
  const int64_t rows = row_end - row_begin;
  float* const out = scratch.data();
  const std::span<float> matmul_scratch = scratch.subspan(static_cast<size_t>(kTokenTile * kRowGrain));
  for (const int32_t expert : active_) {
    const quant::WeightView weight = layer.down.expert(expert).rows_from(row_begin, rows);
    const int64_t begin = first_slot_[static_cast<size_t>(expert)];
    const int64_t end = first_slot_[static_cast<size_t>(expert) + 1];
    for (int64_t first = begin; first < end; first += kTokenTile) {
      const int64_t n = std::min(kTokenTile, end - first);
      const MatrixView<const float> hidden(hidden_.data() + first * d_expert_, n, d_expert_);
      cpu::matmul_rows(kernels_, weight, 0, rows, hidden, {out, n, rows, kRowGrain}, matmul_scratch);
      for (int64_t i = 0; i < n; ++i) {
        const Slot& slot = slots_[static_cast<size_t>(first + i)];
        kernels_.add_scaled(out + i * kRowGrain, slot.weight, rows, y.row(slot.token).data() + row_begin);
      }
    }
  }
}

void Experts::add(int64_t layer_index, MatrixView<const float> f, const Routes& routes, MatrixView<float> y) {
  const ExpertLayer& layer = layers_[static_cast<size_t>(layer_index)];
  assert(routes.ids.rows == f.rows && y.rows == f.rows);
  group_by_expert(layer.experts, routes);

  const int64_t ranges = (d_expert_ + kRowGrain - 1) / kRowGrain;
  const auto active = static_cast<int64_t>(active_.size());
  workers_.for_ranges(active * ranges, 1, [&](int64_t begin, int64_t end, int64_t worker) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task % ranges * kRowGrain;
      gate_up(layer, active_[static_cast<size_t>(task / ranges)], row, std::min(row + kRowGrain, d_expert_),
              f, scratch_[static_cast<size_t>(worker)]);
    }
  });
  workers_.for_ranges(d_model_, kRowGrain, [&](int64_t begin, int64_t end, int64_t worker) {
    down(layer, begin, end, y, scratch_[static_cast<size_t>(worker)]);
  });
}

}  // namespace sluice::offload
