// kernels_cuda/device/shared_memory.cuh for the emulator.
#pragma once

#include "tests/cuda_emulator/thread.h"

#define SLUICE_DYNAMIC_SHARED(T, name) T* const name = ::sluice::emulator::DynamicShared()
