// The variables that tell a thread of a kernel its place. They change with every switch between threads, so
// they are plain globals: the compiler reads them anew after each call that may switch.
#pragma once

#include <vector_types.h>

// NOLINTBEGIN(readability-identifier-naming): CUDA's names
extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
// NOLINTEND(readability-identifier-naming)
