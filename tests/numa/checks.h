// What numa_check checks, by subject. Each takes what the machine is supposed to be and reports line by line.
#pragma once

#include <cstdint>

#include "tests/numa/report.h"

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

}  // namespace sluice::testing
