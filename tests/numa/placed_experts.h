// Small experts with random weights, loaded with a share on every node: what the store and layer checks look
// at.
#pragma once

#include <vector>

#include "offload/expert_store.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "support/random_experts.h"

namespace sluice::testing {

inline constexpr int64_t kPlacedModel = 512;   // d_model
inline constexpr int64_t kPlacedExpert = 768;  // d_expert
inline constexpr int64_t kPlacedExperts = 8;   // in each of the MoE layers, which are all but layer 0

/// Layers: a dense one, one of Q8_0, one of NVFP4.
void add_layers(RandomExperts& source);

/// A home on every node of the machine, in its order; the later the faster, so that shares differ.
std::vector<offload::ExpertHome> homes_of(const offload::Machine& machine);

/// The same with each on the next one's node: the wrong place.
std::vector<offload::ExpertHome> exchanged(const std::vector<offload::ExpertHome>& homes);

/// The store, each home's arena bound to its node. Throws Error when it does not load.
offload::ExpertStore load_placed(const RandomExperts& source, const std::vector<offload::ExpertHome>& homes,
                                 offload::Workers& workers);

}  // namespace sluice::testing
