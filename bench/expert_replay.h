// What tokens chose, and how often different ways to keep some experts in GPU memory would have had them
// there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/expert_residency.h"

namespace sluice::bench {

/// Experts by their ids in the layer, of each token and each MoE layer.
struct RouteTrace {
  int64_t layers = 0;             // MoE layers
  int64_t experts = 0;            // of each
  int64_t used = 0;               // of a layer by a token
  std::vector<int32_t> ids = {};  // [tokens, layers, used]

  [[nodiscard]] int64_t choices() const { return layers * used; }  // of a token
  [[nodiscard]] int64_t tokens() const { return static_cast<int64_t>(ids.size()) / choices(); }
  [[nodiscard]] std::span<const int32_t> chosen(int64_t token, int64_t layer) const {
    return std::span(ids).subspan(static_cast<size_t>((token * layers + layer) * used),
                                  static_cast<size_t>(used));
  }
};

/// Of the second half of a trace; what learns has had the first half to do so.
struct Residence {
  double hit_rate = 0;                   // share of the choices that were resident
  double replacements = 0;               // per token
  std::vector<double> layers_with = {};  // [used + 1]: share of the layers of tokens that had so many hits
};

enum class LearnFrom { kFirstHalf, kSecondHalf };

/// As many experts of every layer, as far as that goes, whichever.
Residence replay_spread(const RouteTrace& trace, int64_t slots);
/// The `slots` experts that `from` chose most often, of all layers, for good.
Residence replay_static(const RouteTrace& trace, int64_t slots, LearnFrom from);
/// Every expert that is used and not there takes the place of the least recently used one of its layer; the
/// slots are divided evenly among the layers. Copies are done before the next token.
Residence replay_least_recent(const RouteTrace& trace, int64_t slots);
/// offload::ExpertResidency with at most `most` replacements begun a token, done before the next one.
Residence replay_residency(const RouteTrace& trace, int64_t slots, const offload::ResidencyRules& rules,
                           int64_t most);

/// Microseconds that offload::ExpertResidency takes for a token, with a quarter of the experts resident.
double residency_us(const RouteTrace& trace, const offload::ResidencyRules& rules, int64_t most);

}  // namespace sluice::bench
