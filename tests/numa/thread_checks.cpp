// The team's threads: each on a processor of its own node, and nowhere else.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <vector>

#include "offload/machine.h"
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

// True when the worker runs on a processor of `node` and may run on no other node's.
bool belongs(const Seat& seat, int64_t node, const std::vector<int64_t>& node_of_cpu) {
  const auto is_on_node = [&](int64_t cpu) {
    return cpu >= 0 && static_cast<size_t>(cpu) < node_of_cpu.size() &&
           node_of_cpu[static_cast<size_t>(cpu)] == node;
  };
  return is_on_node(seat.cpu) && !seat.cpus.empty() &&
         std::all_of(seat.cpus.begin(), seat.cpus.end(), is_on_node);
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

  // The judge: a team whose places name the wrong node must not pass.
  std::vector<offload::ThreadPlace> wrong = offload::place_threads(machine, machine.cores);
  for (offload::ThreadPlace& place : wrong) {
    place.node = static_cast<int32_t>((place.node + 1) % expected.nodes);
  }
  offload::Workers misplaced(wrong);
  Report judged = Report::silent();
  check_seats("misplaced", misplaced, machine, judged);
  report.check_equal("a team on the wrong nodes is reported: workers", machine.cores, judged.failures());
}

}  // namespace sluice::testing
