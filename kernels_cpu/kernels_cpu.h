// The door of kernels_cpu/.
#pragma once

#include "kernels_cpu/hadamard.h"
#include "kernels_cpu/head_panels.h"
#include "kernels_cpu/indexer.h"
#include "kernels_cpu/isa.h"
#include "kernels_cpu/kernels.h"
#include "kernels_cpu/matmul.h"
#include "kernels_cpu/mla.h"
#include "kernels_cpu/panel.h"
#include "kernels_cpu/panel_matmul.h"
#include "kernels_cpu/rope.h"
#include "kernels_cpu/router.h"
#include "kernels_cpu/topk.h"
