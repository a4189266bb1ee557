// The routed experts in memory: every panel on the node whose share of the expert it is.
#include <fmt/format.h>

#include <string>
#include <vector>

#include "offload/expert_store.h"
#include "offload/machine.h"
#include "offload/thread_places.h"
#include "offload/workers.h"
#include "tests/numa/checks.h"
#include "tests/numa/placed_experts.h"
#include "tests/numa/placement.h"

namespace sluice::testing {
namespace {

struct PanelCount {
  int64_t all = 0;
  int64_t at_home = 0;
};

void count_panels(const quant::PanelView& view, int64_t node, int64_t nodes, PanelCount& count) {
  for (int64_t p = 0; p < view.panels(); ++p) {
    ++count.all;
    const PagePlaces places =
        page_places({view.panel(p), static_cast<size_t>(view.layout.panel_bytes)}, nodes);
    count.at_home += all_on_node(places, node) ? 1 : 0;
  }
}

// The panels of a share, and how many lie on `node`.
PanelCount panels_at(const offload::ExpertStore& store, int64_t share, int64_t node, int64_t nodes) {
  PanelCount count;
  for (int64_t layer = 0; layer < store.layers(); ++layer) {
    for (int64_t expert = 0; expert < store.experts(layer); ++expert) {
      const offload::ExpertStore::Expert held = store.expert(layer, expert, share);
      for (const quant::PanelView& view : {held.gate, held.up, held.down}) {
        count_panels(view, node, nodes, count);
      }
    }
  }
  return count;
}

void check_panels(const offload::ExpertStore& store, const std::vector<offload::ExpertHome>& homes,
                  const Expected& expected, Report& report) {
  for (int64_t share = 0; share < store.nodes(); ++share) {
    const int64_t node = homes[static_cast<size_t>(share)].node_os_index;
    const PanelCount count = panels_at(store, share, node, expected.nodes);
    report.check(count.all > 0 && count.at_home == count.all,
                 fmt::format("expert store: panels of node {} lie there", node),
                 fmt::format("{} of {}", count.at_home, count.all));
  }
}

}  // namespace

void check_store(const Expected& expected, Report& report) {
  const offload::Machine machine = offload::probe_machine();
  offload::Workers workers(offload::place_threads(machine, machine.cores));
  RandomExperts source;
  add_layers(source);
  const std::vector<offload::ExpertHome> homes = homes_of(machine);
  const offload::ExpertStore store = load_placed(source, homes, workers);
  const std::string& not_bound = store.facts().not_bound;
  report.check(not_bound.empty(), "expert store: bound", not_bound.empty() ? "yes" : not_bound);
  report.check_equal("expert store: shares", expected.nodes, store.nodes());
  check_panels(store, homes, expected, report);
  for (size_t i = 0; i < homes.size(); ++i) {
    check_pages("expert store: arena", store.arenas()[i].bytes(), homes[i].node_os_index, expected, report);
  }

  // The judge: a store whose shares are on each other's nodes must not pass.
  const offload::ExpertStore misplaced = load_placed(source, exchanged(homes), workers);
  Report judged = Report::silent();
  check_panels(misplaced, homes, expected, judged);
  report.check_equal("a store on the wrong nodes is reported: nodes", expected.nodes, judged.failures());
}

}  // namespace sluice::testing
