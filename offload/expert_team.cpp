#include "offload/expert_team.h"

#include <algorithm>
#include <array>
#include <cassert>

#include "kernels_cpu/matmul.h"

namespace sluice::offload {
namespace {

constexpr int64_t kTokenTile = 64;
constexpr int64_t kTokenGrain = 8;  // tokens quantized per task; so many or fewer the caller does alone
constexpr int64_t kUnitRows = cpu::kActivationBlock;  // rows of gate and up per task
constexpr int64_t kUnitPanels = kUnitRows / quant::kPanelRows;

// Panels of down per task: as many as leave every worker enough tasks to even out who is slower.
constexpr int64_t kDownTasksPerWorker = 8;
constexpr int64_t kMostDownPanels = 8;

int64_t most_experts(const ExpertWeights& weights) {
  int64_t most = 0;
  for (int64_t layer = 0; layer < weights.layers(); ++layer) {
    most = std::max(most, weights.experts(layer));
  }
  return most;
}

/// What the layers need in the way of memory.
struct Needs {
  bool int8_gate = false;
  bool int8_up_of_its_own = false;
  bool float_input = false;
  int64_t int8_hidden = 0;   // columns
  int64_t float_hidden = 0;  // columns
  int64_t panel_bytes = 0;

  // For one node; the others' hidden vectors have other widths.
  Needs(const ExpertWeights& weights, const PanelProduct& product, int64_t node) {
    for (int64_t layer = 0; layer < weights.layers(); ++layer) {
      if (weights.experts(layer) == 0) {
        continue;
      }
      const ExpertShare& share = weights.share(layer, node);
      const bool gate = product.wants_int8(share.gate.dtype);
      const bool up = product.wants_int8(share.up.dtype);
      int8_gate = int8_gate || gate;
      float_input = float_input || !gate || !up;
      int8_up_of_its_own =
          int8_up_of_its_own ||
          (up && !(gate && cpu::panel_numerics(share.gate.dtype) == cpu::panel_numerics(share.up.dtype)));
      int64_t& columns = product.wants_int8(share.down.dtype) ? int8_hidden : float_hidden;
      columns = std::max(columns, share.rows.size());
      panel_bytes = std::max(panel_bytes, share.largest_panel());
    }
  }
};

}  // namespace

ExpertTeam::ExpertTeam(const ExpertWeights& weights, const ExpertTeamOptions& options, Workers& workers)
    : weights_(weights),
      workers_(workers),
      product_(weights, options.arithmetic, options.isa),
      loop_(workers, weights.nodes()),
      d_model_(options.d_model),
      tile_(std::min(kTokenTile, options.max_tokens)),
      groups_(most_experts(weights), options.max_tokens * options.used),
      max_tokens_(options.max_tokens),
      counts_(static_cast<size_t>(weights.nodes())) {
  allocate(options);
}

void ExpertTeam::allocate(const ExpertTeamOptions& options) {
  const int64_t slots = max_tokens_ * options.used;
  int64_t panel_bytes = 0;
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    const Needs needs(weights_, product_, node);
    panel_bytes = std::max(panel_bytes, needs.panel_bytes);
    hidden_.push_back({.codes = Int8Rows(slots * needs.int8_hidden),
                       .values = AlignedVector<float>(static_cast<size_t>(slots * needs.float_hidden))});
  }
  partial_.resize(static_cast<size_t>((weights_.nodes() - 1) * max_tokens_ * d_model_));
  const Needs needs(weights_, product_, 0);  // types are the same on all nodes
  gate_input_ = Int8Rows(needs.int8_gate ? max_tokens_ * d_model_ : 0);
  up_input_ = Int8Rows(needs.int8_up_of_its_own ? max_tokens_ * d_model_ : 0);
  scratch_.resize(static_cast<size_t>(workers_.threads()));
  for (Scratch& scratch : scratch_) {
    scratch.panels.resize(static_cast<size_t>(2 * kUnitPanels * panel_bytes));
    scratch.gate_codes = Int8Rows(needs.int8_gate ? tile_ * d_model_ : 0);
    scratch.up_codes = Int8Rows(needs.int8_up_of_its_own ? tile_ * d_model_ : 0);
    scratch.values.resize(static_cast<size_t>(needs.float_input ? tile_ * d_model_ : 0));
    scratch.products.resize(static_cast<size_t>(2 * tile_ * kUnitRows));
    scratch.hidden.resize(static_cast<size_t>(tile_ * kUnitRows));
    scratch.matmul.resize(
        static_cast<size_t>(cpu::matmul_scratch_floats(std::max(d_model_, options.d_expert))));
  }
}

void ExpertTeam::quantize_input(Batch& batch) {
  const ExpertShare& share = weights_.share(batch.layer, 0);
  const bool gate = product_.wants_int8(share.gate.dtype);
  const bool up = product_.wants_int8(share.up.dtype);
  const cpu::PanelNumerics gate_form = cpu::panel_numerics(share.gate.dtype);
  const cpu::PanelNumerics up_form = cpu::panel_numerics(share.up.dtype);
  batch.up_reads_gates_input = gate && up && gate_form == up_form;
  batch.one_input = batch.up_reads_gates_input || (!gate && !up);
  const auto quantize = [&](Int8Rows& rows, cpu::PanelNumerics form) {
    rows.set_shape(batch.f.rows, d_model_, form);
    workers_.for_ranges(batch.f.rows, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t t = begin; t < end; ++t) {
        if (batch.takes(t)) {
          rows.quantize(product_.panel_kernels(), t, 0, d_model_, batch.f.row(t).data());
        }
      }
    });
  };
  if (gate) {
    quantize(gate_input_, gate_form);
  }
  if (up && !batch.up_reads_gates_input) {
    quantize(up_input_, up_form);
  }
}

// The rows of an expert's tokens, one after the other.
void ExpertTeam::gather(const Batch& batch, int64_t first_slot, int64_t n, Scratch& scratch) const {
  // Tasks of an expert mostly follow each other on a worker: then this has been done.
  if (scratch.gathered_batch == batch.number && scratch.gathered_slot == first_slot) {
    return;
  }
  scratch.gathered_batch = batch.number;
  scratch.gathered_slot = first_slot;
  const ExpertShare& share = weights_.share(batch.layer, 0);
  const bool gate = product_.wants_int8(share.gate.dtype);
  const bool up = product_.wants_int8(share.up.dtype);
  const bool up_of_its_own = up && !batch.up_reads_gates_input;
  if (gate) {
    scratch.gate_codes.set_shape(n, d_model_, gate_input_.numerics());
  }
  if (up_of_its_own) {
    scratch.up_codes.set_shape(n, d_model_, up_input_.numerics());
  }
  for (int64_t i = 0; i < n; ++i) {
    const int64_t token = groups_.slot(first_slot + i).token;
    if (gate) {
      scratch.gate_codes.copy_row(gate_input_, token, i);
    }
    if (up_of_its_own) {
      scratch.up_codes.copy_row(up_input_, token, i);
    }
    if (!gate || !up) {
      std::ranges::copy(batch.f.row(token), scratch.values.begin() + i * d_model_);
    }
  }
}

ExpertTeam::Inputs ExpertTeam::inputs(const Batch& batch, int64_t first_slot, int64_t n,
                                      Scratch& scratch) const {
  const ExpertShare& share = weights_.share(batch.layer, 0);
  const bool gate = product_.wants_int8(share.gate.dtype);
  const bool up = product_.wants_int8(share.up.dtype);
  const Int8Rows* gate_rows = &gate_input_;
  const Int8Rows* up_rows = &up_input_;
  int64_t first = groups_.slot(first_slot).token;
  MatrixView<const float> values = batch.f.rows_from(first, 1);
  if (n > 1) {  // a single token is read where it is
    gather(batch, first_slot, n, scratch);
    gate_rows = &scratch.gate_codes;
    up_rows = &scratch.up_codes;
    first = 0;
    values = {scratch.values.data(), n, d_model_};
  }
  Inputs in{.gate = {.codes = {}, .values = values}, .up = {.codes = {}, .values = values}};
  if (gate) {
    in.gate.codes = gate_rows->rows(first, n);
  }
  if (up) {
    in.up.codes = batch.up_reads_gates_input ? in.gate.codes : up_rows->rows(first, n);
  }
  return in;
}

// One task: 32 rows of gate and up for all tokens of an expert.
void ExpertTeam::gate_up(const Batch& batch, int64_t node, int64_t expert, int64_t unit, Scratch& scratch) {
  const ExpertShare& share = weights_.share(batch.layer, node);
  const int64_t first_panel = unit * kUnitPanels;
  const auto panels = static_cast<size_t>(std::min(kUnitPanels, share.gate_panels - first_panel));
  std::array<PanelProduct::Operand, 2 * kUnitPanels>
      weights;  // gate's, then up's: each follow each other in RAM
  const std::span<std::byte> memory(scratch.panels);
  const size_t step = memory.size() / weights.size();
  for (size_t i = 0; i < 2 * panels; ++i) {
    const ExpertPart part = i < panels ? ExpertPart::kGate : ExpertPart::kUp;
    weights[i] =
        product_.fetch({batch.layer, part, expert, node, first_panel + static_cast<int64_t>(i % panels)},
                       memory.subspan(i * step, step));
  }
  const int64_t end = groups_.first_slot(expert + 1);
  for (int64_t first = groups_.first_slot(expert); first < end; first += tile_) {
    const int64_t n = std::min(tile_, end - first);
    multiply_gate_up(batch, std::span(weights).first(2 * panels), first, n, scratch);
    keep_hidden(batch, node, first, n, unit, scratch);
  }
}

// Hidden values of 32 rows for n tokens of an expert.
void ExpertTeam::multiply_gate_up(const Batch& batch, std::span<const PanelProduct::Operand> weights,
                                  int64_t first_slot, int64_t n, Scratch& scratch) const {
  const Inputs in = inputs(batch, first_slot, n, scratch);
  const size_t panels = weights.size() / 2;
  const int64_t floats = n * quant::kPanelRows;
  float* const gate = scratch.products.data();
  float* const up = gate + static_cast<int64_t>(panels) * floats;
  if (batch.one_input) {
    product_.multiply(weights, in.gate, n, gate, scratch.matmul);
  } else {
    product_.multiply(weights.first(panels), in.gate, n, gate, scratch.matmul);
    product_.multiply(weights.last(panels), in.up, n, up, scratch.matmul);
  }
  product_.kernels().swiglu(gate, up, static_cast<int64_t>(panels) * floats, gate);
  for (int64_t i = 0; i < static_cast<int64_t>(panels); ++i) {
    for (int64_t t = 0; t < n; ++t) {
      std::copy_n(gate + i * floats + t * quant::kPanelRows, quant::kPanelRows,
                  scratch.hidden.data() + t * kUnitRows + i * quant::kPanelRows);
    }
  }
}

void ExpertTeam::keep_hidden(const Batch& batch, int64_t node, int64_t first_slot, int64_t n, int64_t unit,
                             const Scratch& scratch) {
  const ExpertShare& share = weights_.share(batch.layer, node);
  Hidden& hidden = hidden_[static_cast<size_t>(node)];
  const int64_t begin = unit * kUnitRows;
  const int64_t columns = std::min(kUnitRows, share.rows.size() - begin);
  for (int64_t t = 0; t < n; ++t) {
    const float* const values = scratch.hidden.data() + t * kUnitRows;
    if (product_.wants_int8(share.down.dtype)) {
      hidden.codes.quantize(product_.panel_kernels(), first_slot + t, begin, columns, values);
    } else {
      std::copy_n(values, columns, hidden.values.data() + (first_slot + t) * share.rows.size() + begin);
    }
  }
}

Activations ExpertTeam::hidden(const Batch& batch, int64_t node, int64_t first_slot, int64_t n) const {
  const ExpertShare& share = weights_.share(batch.layer, node);
  const Hidden& hidden = hidden_[static_cast<size_t>(node)];
  if (product_.wants_int8(share.down.dtype)) {
    return {.codes = hidden.codes.rows(first_slot, n), .values = {}};
  }
  const int64_t width = share.rows.size();
  return {.codes = {}, .values = {hidden.values.data() + first_slot * width, n, width}};
}

// Node 0 adds to y itself.
MatrixView<float> ExpertTeam::sums(const Batch& batch, int64_t node) {
  return node == 0 ? batch.y
                   : MatrixView<float>(partial_.data() + (node - 1) * max_tokens_ * d_model_, batch.y.rows,
                                       d_model_);
}

// One task: some panels of down for all tokens and experts. An expert's panels follow each other in memory,
// and short pieces of it are read more slowly, so experts come outermost.
void ExpertTeam::down(const Batch& batch, int64_t node, int64_t first_panel, int64_t panels,
                      Scratch& scratch) {
  const MatrixView<float> sum = sums(batch, node);
  const int64_t first_row = first_panel * quant::kPanelRows;
  const int64_t rows = std::min(panels * quant::kPanelRows, d_model_ - first_row);
  for (int64_t t = 0; node > 0 && t < sum.rows; ++t) {
    if (batch.takes(t)) {
      std::fill_n(sum.row(t).data() + first_row, rows, 0.0F);
    }
  }
  for (const int32_t expert : groups_.active()) {
    for (int64_t panel = first_panel; panel < first_panel + panels; ++panel) {
      add_down_panel(batch, {batch.layer, ExpertPart::kDown, expert, node, panel}, sum, scratch);
    }
  }
}

void ExpertTeam::add_down_panel(const Batch& batch, const ExpertPanel& which, MatrixView<float> sum,
                                Scratch& scratch) {
  const int64_t row = which.panel * quant::kPanelRows;
  const int64_t rows = std::min(quant::kPanelRows, d_model_ - row);
  const PanelProduct::Operand weight = product_.fetch(which, scratch.panels);
  const int64_t end = groups_.first_slot(which.expert + 1);
  for (int64_t first = groups_.first_slot(which.expert); first < end; first += tile_) {
    const int64_t n = std::min(tile_, end - first);
    product_.multiply({&weight, 1}, hidden(batch, which.node, first, n), n, scratch.products.data(),
                      scratch.matmul);
    for (int64_t i = 0; i < n; ++i) {
      const RouteGroups::Slot& slot = groups_.slot(first + i);
      product_.kernels().add_scaled(scratch.products.data() + i * quant::kPanelRows, slot.weight, rows,
                                    sum.row(slot.token).data() + row);
    }
  }
}

// In the order of nodes, whoever was first.
void ExpertTeam::add_partial_sums(const Batch& batch) {
  workers_.for_ranges(batch.y.rows, kTokenGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t node = 1; node < weights_.nodes(); ++node) {
      if (weights_.share(batch.layer, node).rows.size() == 0) {
        continue;
      }
      for (int64_t t = begin; t < end; ++t) {
        if (batch.takes(t)) {
          product_.kernels().add_scaled(sums(batch, node).row(t).data(), 1.0F, d_model_,
                                        batch.y.row(t).data());
        }
      }
    }
  });
}

void ExpertTeam::add(int64_t layer, MatrixView<const float> f, const Routes& routes, MatrixView<float> y) {
  assert(routes.ids.rows == f.rows && y.rows == f.rows && f.rows <= max_tokens_);
  groups_.group(weights_.experts(layer), routes);
  const auto active = groups_.active();
  if (active.empty()) {
    return;
  }
  Batch batch{.number = batches_++, .layer = layer, .f = f, .ids = routes.ids, .y = y};
  quantize_input(batch);
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    const ExpertShare& share = weights_.share(layer, node);
    if (product_.wants_int8(share.down.dtype)) {
      hidden_[static_cast<size_t>(node)].codes.set_shape(groups_.first_slot(weights_.experts(layer)),
                                                         share.rows.size(),
                                                         cpu::panel_numerics(share.down.dtype));
    }
    counts_[static_cast<size_t>(node)] =
        static_cast<int64_t>(active.size()) * ((share.gate_panels + kUnitPanels - 1) / kUnitPanels);
  }
  loop_.run(counts_, [&](int64_t node, int64_t task, int64_t worker) {
    const int64_t units = counts_[static_cast<size_t>(node)] / static_cast<int64_t>(active.size());
    gate_up(batch, node, active[static_cast<size_t>(task / units)], task % units,
            scratch_[static_cast<size_t>(worker)]);
  });
  const int64_t most = (d_model_ + quant::kPanelRows - 1) / quant::kPanelRows;
  const int64_t step =
      std::clamp<int64_t>(most / (kDownTasksPerWorker * workers_.threads()), 1, kMostDownPanels);
  for (int64_t node = 0; node < weights_.nodes(); ++node) {
    counts_[static_cast<size_t>(node)] = (weights_.share(layer, node).down_panels + step - 1) / step;
  }
  loop_.run(counts_, [&](int64_t node, int64_t task, int64_t worker) {
    const int64_t first = task * step;
    down(batch, node, first, std::min(step, weights_.share(layer, node).down_panels - first),
         scratch_[static_cast<size_t>(worker)]);
  });
  if (weights_.nodes() > 1) {
    add_partial_sums(batch);
  }
}

}  // namespace sluice::offload
