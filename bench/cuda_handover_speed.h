// The way from the GPU to the experts on the CPU and back, with nobody computing anything.
#pragma once

#include "bench/report.h"

namespace sluice::bench {

/// One decoded token of DeepSeek-V3.2's width. Needs a GPU.
void guard_cuda_handover(Report& report);

}  // namespace sluice::bench
