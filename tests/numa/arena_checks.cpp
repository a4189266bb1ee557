// Arenas: every page on the node that the arena is bound to, whichever node's thread writes it first.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "offload/arena.h"
#include "offload/workers.h"
#include "tests/numa/checks.h"
#include "tests/numa/placement.h"

namespace sluice::testing {
namespace {

constexpr int64_t kBytes = (int64_t{6} << 20) + 4096 + 64;  // huge pages, small ones, and a part of one

// Some CPU of a node.
int32_t cpu_of(int64_t node) {
  const std::vector<int64_t> nodes = node_of_cpus();
  return static_cast<int32_t>(std::find(nodes.begin(), nodes.end(), node) - nodes.begin());
}

// Written by a thread of another node: where nothing is bound, the kernel takes the writer's node.
offload::Arena written_arena(const offload::ArenaOptions& options, int64_t writers_node) {
  offload::Arena arena(kBytes, options);
  const offload::ThreadBinding writer(cpu_of(writers_node));
  std::ranges::fill(arena.bytes(), std::byte{1});
  return arena;
}

void check_bound(int64_t node, const Expected& expected, offload::HugePages huge_pages, Report& report) {
  const int64_t other = (node + 1) % expected.nodes;
  const offload::Arena arena = written_arena({.purpose = "numa_check",
                                              .policy = offload::MemoryPolicy::kNode,
                                              .node_os_index = static_cast<int32_t>(node),
                                              .huge_pages = huge_pages},
                                             other);
  const std::string_view size = huge_pages == offload::HugePages::kOn ? "huge" : "small";
  const auto name = fmt::format("arena of node {}, {} pages, written from node {}", node, size, other);
  check_pages(name, arena.bytes(), node, expected, report);
  report.check(arena.not_bound().empty(), fmt::format("{}: bound", name),
               arena.not_bound().empty() ? "yes" : arena.not_bound());
  const std::vector<offload::NodePages> said = arena.pages_per_node();
  report.check(
      said.size() == 1 && said[0].node_os_index == node, fmt::format("{}: says so itself", name),
      said.empty() ? "no pages" : fmt::format("{} pages on node {}", said[0].pages, said[0].node_os_index));

  Report judged = Report::silent();
  check_pages("wrong", arena.bytes(), other, expected, judged);
  report.check_equal(fmt::format("{}: reported when node {} was wanted", name, other), 1, judged.failures());
}

// Shows that the bound arenas' pages would be elsewhere without the binding.
void check_unbound(int64_t node, const Expected& expected, Report& report) {
  const offload::Arena arena =
      written_arena({.purpose = "numa_check", .huge_pages = offload::HugePages::kOff}, node);
  check_pages(fmt::format("unbound arena, written from node {}", node), arena.bytes(), node, expected,
              report);
}

void check_interleaved(const Expected& expected, Report& report) {
  const offload::Arena arena = written_arena({.purpose = "numa_check",
                                              .policy = offload::MemoryPolicy::kInterleave,
                                              .huge_pages = offload::HugePages::kOff},
                                             0);
  const PagePlaces places = page_places(arena.bytes(), expected.nodes);
  const auto [least, most] = std::minmax_element(places.on_node.begin(), places.on_node.end());
  report.check(places.absent == 0 && *most - *least <= 1, "interleaved arena: as many pages on every node",
               describe(places));
}

}  // namespace

void check_pages(std::string_view what, std::span<const std::byte> bytes, int64_t node,
                 const Expected& expected, Report& report) {
  const PagePlaces places = page_places(bytes, expected.nodes);
  report.check(all_on_node(places, node), fmt::format("{}: all on node {}", what, node), describe(places));
}

void check_arenas(const Expected& expected, Report& report) {
  for (int64_t node = 0; node < expected.nodes; ++node) {
    check_bound(node, expected, offload::HugePages::kOff, report);
    check_bound(node, expected, offload::HugePages::kOn, report);
    check_unbound(node, expected, report);
  }
  check_interleaved(expected, report);
}

}  // namespace sluice::testing
