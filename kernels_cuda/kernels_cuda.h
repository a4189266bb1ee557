// The door of kernels_cuda/. Plain C++20: no CUDA syntax reaches those who include it.
#pragma once

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/blas.h"
#include "kernels_cuda/cache_write.h"
#include "kernels_cuda/dequantize.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/gemv.h"
#include "kernels_cuda/group_tokens.h"
#include "kernels_cuda/largest.h"
#include "kernels_cuda/matmul.h"
#include "kernels_cuda/norm.h"
#include "kernels_cuda/panel_gemm.h"
#include "kernels_cuda/rope.h"
#include "kernels_cuda/router.h"
