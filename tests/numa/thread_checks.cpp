// The team's threads: each on a processor of its own node, and nowhere else.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <vector>

#include "offload/machine.h"
#include "offload/node_loop.h"
#include "offload/thread_places.h"
#include "offload/workers.h"
#include "tests/numa/checks.h"
#include "tests/numa/placement.h"

namespace sluice::testing {
namespace {

// What a worker sees of itself.
struct Seat {
  int64_t cpu = -1;           // where it runs now
  std::vector<int64_t> cpus;  // where it may run
};

Seat own_seat() {
  Seat seat{.cpu = sched_getcpu(), .cpus = {}};
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    for (size_t cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &allowed)) {
        seat.cpus.push_back(static_cast<int64_t>(cpu));
      }
    }
  }
  return seat;
}

std::vector<Seat> seats_of(offload::Workers& workers) {
  std::vector<Seat> seats(static_cast<size_t>(workers.threads()));
  const offload::ThreadBinding caller = workers.bind_caller();
  workers.on_all([&](int64_t worker) { seats[static_cast<size_t>(worker)] = own_seat(); });
  return seats;
}

bool is_on_node(int64_t cpu, int64_t node, const std::vector<int64_t>& node_of_cpu) {
  return cpu >= 0 && static_cast<size_t>(cpu) < node_of_cpu.size() &&
         node_of_cpu[static_cast<size_t>(cpu)] == node;
}

// True when the worker runs on a processor of `node` and may run on no other node's.
bool belongs(const Seat& seat, int64_t node, const std::vector<int64_t>& node_of_cpu) {
  const auto own = [&](int64_t cpu) { return is_on_node(cpu, node, node_of_cpu); };
  return own(seat.cpu) && !seat.cpus.empty() && std::all_of(seat.cpus.begin(), seat.cpus.end(), own);
}

// A loop with ranges for every node, and on which CPU each range was computed. NodeLoop counts nodes by
// index.
std::vector<std::vector<int64_t>> cpus_of_ranges(offload::Workers& workers, int64_t nodes) {
  constexpr int64_t kRanges = 64;
  std::vector<std::vector<int64_t>> cpus(static_cast<size_t>(nodes), std::vector<int64_t>(kRanges, -1));
  const std::vector<int64_t> counts(static_cast<size_t>(nodes), kRanges);
  const offload::ThreadBinding caller = workers.bind_caller();
  offload::NodeLoop loop(workers, nodes);
  loop.run(counts, [&](int64_t node, int64_t i, int64_t /*worker*/) {
    cpus[static_cast<size_t>(node)][static_cast<size_t>(i)] = sched_getcpu();
  });
  return cpus;
}

void check_loop(std::string_view when, offload::Workers& workers, const offload::Machine& machine,
                Report& report) {
  const std::vector<int64_t> node_of_cpu = node_of_cpus();
  const auto cpus = cpus_of_ranges(workers, machine.numa_nodes);
  for (size_t node = 0; node < cpus.size(); ++node) {
    const int64_t own = std::count_if(cpus[node].begin(), cpus[node].end(), [&](int64_t cpu) {
      return is_on_node(cpu, machine.nodes[node].os_index, node_of_cpu);
    });
    report.check_equal(
        fmt::format("{}: ranges of node {} computed there", when, machine.nodes[node].os_index),
        static_cast<int64_t>(cpus[node].size()), own);
  }
}

}  // namespace

void check_seats(std::string_view when, offload::Workers& workers, const offload::Machine& machine,
                 Report& report) {
  const std::vector<int64_t> node_of_cpu = node_of_cpus();
  const std::vector<Seat> seats = seats_of(workers);
  for (size_t worker = 0; worker < seats.size(); ++worker) {
    const auto place = workers.places()[worker];
    const int64_t node = machine.nodes[static_cast<size_t>(place.node)].os_index;
    report.check(
        belongs(seats[worker], node, node_of_cpu),
        fmt::format("{}: worker {} runs on node {} only", when, worker, node),
        fmt::format("on CPU {}, may run on {}", seats[worker].cpu, fmt::join(seats[worker].cpus, ",")));
  }
}

void check_threads(const Expected& expected, Report& report) {
  const offload::Machine machine = offload::probe_machine();
  offload::Workers workers(offload::place_threads(machine, machine.cores));
  for (int32_t node = 0; node < expected.nodes; ++node) {
    const auto places = workers.places();
    report.check_equal(fmt::format("place_threads: workers of node {}", node), expected.cores_per_node,
                       std::count_if(places.begin(), places.end(),
                                     [&](const offload::ThreadPlace& place) { return place.node == node; }));
  }
  check_seats("team", workers, machine, report);
  check_loop("loop over nodes", workers, machine, report);

  // The judge: a team whose places name the wrong node must not pass.
  std::vector<offload::ThreadPlace> wrong = offload::place_threads(machine, machine.cores);
  for (offload::ThreadPlace& place : wrong) {
    place.node = static_cast<int32_t>((place.node + 1) % expected.nodes);
  }
  offload::Workers misplaced(wrong);
  Report judged = Report::silent();
  check_seats("misplaced", misplaced, machine, judged);
  report.check_equal("a team on the wrong nodes is reported: workers", machine.cores, judged.failures());
  Report loops_judged = Report::silent();
  check_loop("misplaced", misplaced, machine, loops_judged);
  report.check_equal("and so are the ranges that it computes: nodes", expected.nodes,
                     loops_judged.failures());
}

}  // namespace sluice::testing
