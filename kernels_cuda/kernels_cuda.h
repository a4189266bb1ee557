// The door of kernels_cuda/. Plain C++20: no CUDA syntax reaches those who include it.
#pragma once

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/stream.h"
