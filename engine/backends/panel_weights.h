// The matrices that every token meets, as panels for the int8 kernels: copies of the file's rows, made once.
#pragma once

#include <cstddef>
#include <stop_token>
#include <unordered_map>

#include "engine/model_part.h"
#include "engine/model_weights.h"
#include "offload/arena.h"
#include "offload/workers.h"
#include "quant/panel.h"

namespace sluice {

class PanelWeights {
 public:
  /// Packs every matrix of a part but the routed experts', those in F32 and the embedding table, which is
  /// read by rows. Throws Error when there is no memory for them, LoadStopped when `stop` was requested.
  PanelWeights(const ModelWeights& weights, const ModelPart& part, offload::Workers& workers,
               const std::stop_token& stop);

  /// What it would allocate for them.
  static int64_t bytes_needed(const ModelWeights& weights, const ModelPart& part);

  /// The panels of a matrix of those weights; null for one that is left as rows.
  [[nodiscard]] const quant::PanelView* find(const quant::WeightView& w) const;
  [[nodiscard]] int64_t bytes() const { return static_cast<int64_t>(arena_.bytes().size()); }

 private:
  offload::Arena arena_;
  std::unordered_map<const std::byte*, quant::PanelView> panels_;  // by the address of a matrix's rows
};

}  // namespace sluice
