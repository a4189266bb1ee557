// The panel kernels among the Google Benchmark cases.
#pragma once

namespace sluice::bench {

/// panel/TYPE/m=TOKENS/256x7168 for every weight type, on one thread. Counters: bytes/s of weights, op/s
/// (int8 or float32; a multiply-add is two), and `of_floor` = the time of bare loops, which read the same
/// bytes or multiply in registers, over the measured one.
void register_panel_cases();

}  // namespace sluice::bench
