// A layer while it is computed: who reads a panel runs on the node that the panel lies on.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "kernels_cpu/isa.h"
#include "offload/expert_store.h"
#include "offload/expert_team.h"
#include "offload/machine.h"
#include "offload/thread_places.h"
#include "offload/workers.h"
#include "tests/numa/checks.h"
#include "tests/numa/placed_experts.h"
#include "tests/numa/placement.h"

namespace sluice::testing {
namespace {

constexpr int64_t kUsed = 4;  // experts per token

// A panel that was fetched, and the processor that the thread ran on.
struct PanelRead {
  int64_t cpu = -1;
  std::span<const std::byte> panel;
};

/// A store's weights; notes who fetches which panel.
class WatchedWeights final : public offload::ExpertWeights {
 public:
  /// Keeps a reference to `store`.
  explicit WatchedWeights(const offload::ExpertStore& store) : store_(store) {}

  [[nodiscard]] int64_t layers() const override { return store_.layers(); }
  [[nodiscard]] int64_t nodes() const override { return store_.nodes(); }
  [[nodiscard]] int64_t experts(int64_t layer) const override { return store_.experts(layer); }
  [[nodiscard]] const offload::ExpertShare& share(int64_t layer, int64_t node) const override {
    return store_.share(layer, node);
  }
  [[nodiscard]] float scale(int64_t layer, offload::ExpertPart part, int64_t expert) const override {
    return store_.scale(layer, part, expert);
  }
  [[nodiscard]] const std::byte* panel(const offload::ExpertPanel& which,
                                       std::span<std::byte> scratch) const override {
    note(which, scratch);
    return store_.panel(which, scratch);
  }
  [[nodiscard]] quant::WeightView rows(const offload::ExpertPanel& which,
                                       std::span<std::byte> scratch) const override {
    note(which, scratch);
    return store_.rows(which, scratch);
  }
  [[nodiscard]] std::span<const std::byte> piece(int64_t layer, int64_t expert, int64_t node) const override {
    return store_.piece(layer, expert, node);
  }
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const override { return store_.memory(); }

  /// What was fetched since the last time. Not while a layer is computed.
  [[nodiscard]] std::vector<PanelRead> take() { return std::exchange(reads_, {}); }

 private:
  void note(const offload::ExpertPanel& which, std::span<std::byte> scratch) const {
    const auto bytes = store_.share(which.layer, which.node).layout(which.part).panel_bytes;
    const PanelRead read{.cpu = sched_getcpu(),
                         .panel = {store_.panel(which, scratch), static_cast<size_t>(bytes)}};
    const std::lock_guard lock(mutex_);
    reads_.push_back(read);
  }

  const offload::ExpertStore& store_;
  mutable std::mutex mutex_;
  mutable std::vector<PanelRead> reads_;
};

// The panels of the experts that all tokens use, on all nodes.
int64_t panels_of_layer(const offload::ExpertStore& store, int64_t layer) {
  int64_t panels = 0;
  for (int64_t node = 0; node < store.nodes(); ++node) {
    const offload::ExpertShare& share = store.share(layer, node);
    panels += kUsed * (2 * share.gate_panels + share.down_panels);
  }
  return panels;
}

// Experts 0, 2, 4, 6 for every token.
void compute(offload::ExpertTeam& team, int64_t layer, int64_t n_tokens) {
  Random random(1);  // the values do not matter
  const std::vector<float> f = random.normal(n_tokens * kPlacedModel);
  std::vector<float> y(f.size());
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n_tokens * kUsed; ++i) {
    ids.push_back(static_cast<int32_t>(2 * (i % kUsed)));
  }
  const std::vector<float> weights(ids.size(), 0.25F);
  team.add(layer, {f.data(), n_tokens, kPlacedModel},
           {.ids = {ids.data(), n_tokens, kUsed}, .weights = {weights.data(), n_tokens, kUsed}},
           {y.data(), n_tokens, kPlacedModel});
}

int64_t count_local(const std::vector<PanelRead>& reads, int64_t nodes) {
  const std::vector<int64_t> node_of_cpu = node_of_cpus();
  return std::count_if(reads.begin(), reads.end(), [&](const PanelRead& read) {
    return all_on_node(page_places(read.panel, nodes), node_of_cpu.at(static_cast<size_t>(read.cpu)));
  });
}

// Lines: one per layer and number of tokens.
void check_reads(const offload::ExpertStore& store, offload::Workers& workers, const Expected& expected,
                 Report& report) {
  constexpr int64_t kTokens[] = {1, 24};
  WatchedWeights weights(store);
  offload::ExpertTeam team(weights,
                           {.d_model = kPlacedModel,
                            .d_expert = kPlacedExpert,
                            .used = kUsed,
                            .max_tokens = 24,
                            .isa = cpu::chosen_isa()},
                           workers);
  const offload::ThreadBinding caller = workers.bind_caller();
  for (int64_t layer = 1; layer < store.layers(); ++layer) {
    for (const int64_t n_tokens : kTokens) {
      compute(team, layer, n_tokens);
      const std::vector<PanelRead> reads = weights.take();
      const int64_t local = count_local(reads, expected.nodes);
      const int64_t panels = panels_of_layer(store, layer);
      report.check(local == panels && static_cast<int64_t>(reads.size()) == panels,
                   fmt::format("layer {}, tokens {}: panels read on their own node", layer, n_tokens),
                   fmt::format("{} of {}, {} in the layer", local, reads.size(), panels));
    }
  }
}

}  // namespace

void check_layers(const Expected& expected, Report& report) {
  const offload::Machine machine = offload::probe_machine();
  offload::Workers workers(offload::place_threads(machine, machine.cores));
  RandomExperts source;
  add_layers(source);
  const std::vector<offload::ExpertHome> homes = homes_of(machine);
  check_reads(load_placed(source, homes, workers), workers, expected, report);
  check_seats("after the layers", workers, machine, report);

  // The judge: with the shares on each other's nodes every read is remote.
  Report judged = Report::silent();
  check_reads(load_placed(source, exchanged(homes), workers), workers, expected, judged);
  report.check_equal("layers from the wrong nodes are reported: lines", 4, judged.failures());
}

}  // namespace sluice::testing
