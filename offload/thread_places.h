// Where the threads of a team run: a pure function of the machine.
#pragma once

#include <cstdint>
#include <vector>

#include "offload/machine.h"

namespace sluice::offload {

struct ThreadPlace {
  int32_t cpu = -1;  // the operating system's number; -1: wherever the scheduler puts it
  int32_t node = 0;  // index into Machine::nodes
};

/// Places for `threads` >= 1 threads, those of a node one after the other. Up to the number of cores each has
/// a core of its own, spread over the nodes in proportion to their cores; SMT siblings are used only by more
/// threads than there are cores. With more threads than hardware threads none is bound, because only the
/// scheduler can share a processor fairly.
std::vector<ThreadPlace> place_threads(const Machine& machine, int64_t threads);

}  // namespace sluice::offload
