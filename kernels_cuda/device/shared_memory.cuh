// The shared memory that a kernel is launched with (LaunchShape::shared_bytes).
#pragma once

/// Declares it in the kernel as an array `name` of T, which may begin with __align__(n), n <= 128. A macro,
/// as the emulator of the tests declares a pointer instead (tests/cuda_emulator); and a function that
/// returned the array would have it of one type, with which ptxas makes other code of some kernels.
#define SLUICE_DYNAMIC_SHARED(T, name) extern __shared__ T name[]
