// What numa_check checks, by subject. Each takes what the machine is supposed to be and reports line by line.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "tests/numa/report.h"

namespace sluice::offload {
struct Machine;
class Workers;
}  // namespace sluice::offload

namespace sluice::testing {

/// The machine that the program is told it runs on.
struct Expected {
  int64_t nodes = 2;  // at least 2: with one there is no wrong place
  int64_t cores_per_node = 2;
};

/// offload::probe_machine and the kernel's own description.
void check_machine(const Expected& expected, Report& report);

/// page_places sees pages where a system call put them, and all_on_node objects when they are elsewhere.
void check_judge(const Expected& expected, Report& report);

/// Every worker of a team of all cores runs on its node, and may run on no other; a NodeLoop's ranges are
/// computed on their node; a team on the wrong nodes is reported.
void check_threads(const Expected& expected, Report& report);

/// The same of a given team. `when` names it in the lines. Reports one line per worker.
void check_seats(std::string_view when, offload::Workers& workers, const offload::Machine& machine,
                 Report& report);

/// Arenas bound to each node lie there whoever writes them; one on the wrong node is reported; an interleaved
/// one is on all nodes.
void check_arenas(const Expected& expected, Report& report);

/// Every panel of an ExpertStore lies on the node whose share it is of; a store on the wrong nodes is
/// reported.
void check_store(const Expected& expected, Report& report);

/// While an ExpertTeam computes a layer, for one token and for many, every panel is read by a processor of
/// the node that it lies on; a store on the wrong nodes is reported.
void check_layers(const Expected& expected, Report& report);

/// One line: every page of `bytes` lies on `node`.
void check_pages(std::string_view what, std::span<const std::byte> bytes, int64_t node,
                 const Expected& expected, Report& report);

}  // namespace sluice::testing
