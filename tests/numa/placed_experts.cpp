#include "tests/numa/placed_experts.h"

#include <utility>

#include "quant/base/error.h"

namespace sluice::testing {

void add_layers(RandomExperts& source) {
  Random random(1);  // the values do not matter
  source.add_dense_layer();
  for (const quant::DType dtype : {quant::DType::kQ8_0, quant::DType::kNVFP4}) {
    source.add_layer({.experts = kPlacedExperts,
                      .d_model = kPlacedModel,
                      .d_expert = kPlacedExpert,
                      .gate = dtype,
                      .up = dtype,
                      .down = dtype,
                      .scaled = dtype == quant::DType::kNVFP4},
                     random);
  }
}

std::vector<offload::ExpertHome> homes_of(const offload::Machine& machine) {
  std::vector<offload::ExpertHome> homes;
  for (const offload::NumaNode& node : machine.nodes) {
    homes.push_back(
        {.node_os_index = node.os_index, .gb_per_s = 100.0 + 50.0 * static_cast<double>(homes.size())});
  }
  return homes;
}

std::vector<offload::ExpertHome> exchanged(const std::vector<offload::ExpertHome>& homes) {
  std::vector<offload::ExpertHome> wrong = homes;
  for (size_t i = 0; i < homes.size(); ++i) {
    wrong[i].node_os_index = homes[(i + 1) % homes.size()].node_os_index;
  }
  return wrong;
}

offload::ExpertStore load_placed(const RandomExperts& source, const std::vector<offload::ExpertHome>& homes,
                                 offload::Workers& workers) {
  offload::ExpertStoreOptions options;
  options.homes = homes;
  options.policy = offload::MemoryPolicy::kNode;
  options.huge_pages = offload::HugePages::kOff;
  const offload::ThreadBinding caller = workers.bind_caller();
  auto store = offload::ExpertStore::load(source, options, workers);
  if (!store.has_value()) {
    throw Error("expert store", "it to load", "it stopped");
  }
  return std::move(*store);
}

}  // namespace sluice::testing
