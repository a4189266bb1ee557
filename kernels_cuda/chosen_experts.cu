// The host's side of chosen experts: checks, plans, launches; and the kernel of float matrices.
#include "kernels_cuda/chosen_experts.h"

#include <algorithm>
#include <bit>
#include <string>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/chosen_args.cuh"
#include "kernels_cuda/device/float_rows.cuh"
#include "kernels_cuda/device/gemv_kernel.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using quant::DType;

constexpr int kFloatThreads = 128;
constexpr int kFloatWarps = kFloatThreads / 32;
constexpr int kRows = static_cast<int>(quant::kPanelRows);

/// A block for each panel of a choice: blockIdx.x counts panels, blockIdx.y choices. Warps divide the
/// columns.
template <DType kType>
__global__ void __launch_bounds__(kFloatThreads)
    chosen_float_kernel(const __grid_constant__ ChosenArgs args) {
  __shared__ float partial[kFloatWarps][kRows];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto choice = static_cast<int64_t>(blockIdx.y);
  wait_for_last();
  let_next_begin();
  const int64_t expert = args.ids[choice];
  if (expert < 0) return;
  const ChosenMatrix& matrix = args.matrices[0];
  const unsigned char* const panel =
      matrix.panels + expert * matrix.expert_bytes + static_cast<int64_t>(blockIdx.x) * args.panel_bytes;
  const float* const x = args.x + choice / args.choices_of_x * args.cols;
  float sums[2] = {};
  const auto add = [&](int col, const float(&w)[2][4]) {
    const float4 v = *reinterpret_cast<const float4*>(x + col);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      sums[row] = fmaf(w[row][0], v.x, sums[row]);
      sums[row] = fmaf(w[row][1], v.y, sums[row]);
      sums[row] = fmaf(w[row][2], v.z, sums[row]);
      sums[row] = fmaf(w[row][3], v.w, sums[row]);
    }
  };
  FloatRows<kType>::for_each_quad(args, panel, lane, add, {warp, kFloatWarps});
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    sums[row] += __shfl_xor_sync(0xFFFFFFFFU, sums[row], 1);
    sums[row] += __shfl_xor_sync(0xFFFFFFFFU, sums[row], 2);
    if (lane % 4 == 0) partial[warp][lane / 4 * 2 + row] = sums[row];
  }
  __syncthreads();
  const auto row = static_cast<int>(blockIdx.x * kRows + threadIdx.x);
  if (threadIdx.x >= kRows || row >= args.rows) return;
  float sum = 0;
  for (int w = 0; w < kFloatWarps; ++w) sum += partial[w][threadIdx.x];
  const float value = sum * scale_of(matrix, expert);
  float* const y = args.y + choice * args.rows + row;
  *y = args.result == ChosenResult::kTimesSilu ? silu(*y) * value : value;
}

void require(bool right, const char* expected, int64_t found) {
  if (!right) throw Error("chosen_experts", expected, std::to_string(found));
}

bool is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

bool is_quantized(const quant::PanelView& w) {
  return gemv_format(w.layout.dtype)->launch_chosen != nullptr;
}

void check_matrix(const ExpertPanels& w, int64_t rows, int64_t cols) {
  const quant::PanelLayout& layout = w.first.layout;
  if (gemv_format(layout.dtype) == nullptr) {
    throw Error("chosen_experts", "a weight type", std::string(quant::dtype_info(layout.dtype).name));
  }
  require(w.first.rows == rows && rows >= 1 && rows < (int64_t{1} << 24),
          "as many rows as the others ask for", w.first.rows);
  require(layout.cols == cols && cols >= 32 && cols % 32 == 0 && cols < (int64_t{1} << 24),
          "as many columns as the others ask for, a multiple of 32", layout.cols);
  require(!is_quantized(w.first) || ActivationStage::shared_bytes(1, cols / 32) <= kMostStageBytes,
          "columns of a quantized matrix that have room in shared memory", cols);
  require(w.expert_bytes >= 0 && w.expert_bytes % quant::kPanelAlignment == 0 &&
              reinterpret_cast<uintptr_t>(w.first.data) % quant::kPanelAlignment == 0,
          "matrices aligned to 64 bytes", w.expert_bytes);
}

ChosenMatrix matrix_of(const ExpertPanels& w) {
  return {reinterpret_cast<const unsigned char*>(w.first.data), w.expert_bytes, w.scales};
}

template <DType kType>
void launch_float(const ChosenArgs& args, cudaStream_t stream) {
  launch_overlapping(chosen_float_kernel<kType>, "chosen_experts",
                     {.grid = dim3(static_cast<unsigned>(args.panels), static_cast<unsigned>(args.choices)),
                      .block = dim3(kFloatThreads),
                      .stream = stream},
                     args);
}

/// Completes what the streaming kernel is told of a product with matrices of `layout`.
void launch_stream(ChosenArgs args, const GemvFormat& format, int64_t used, cudaStream_t stream) {
  const int64_t sms = multiprocessors();
  const int64_t chunks = args.cols / 32;
  args.steps = static_cast<int>(ceil_div<int64_t>(args.cols, format.step_cols));
  const ChosenPlan plan = chosen_plan({.panels = args.panels,
                                       .matrices = args.result == ChosenResult::kGateAndUp ? 2 : 1,
                                       .used = used,
                                       .steps = args.steps,
                                       .depth = format.depth,
                                       .warps = format.stream_warps},
                                      sms);
  args.shares = static_cast<int>(plan.shares);
  args.share_bits = std::countr_zero(static_cast<unsigned>(args.shares));
  args.steps_per_share = static_cast<int>(plan.steps_per_share);
  args.stage_rows = 1;
  while (args.stage_rows < args.choices / args.choices_of_x &&
         ActivationStage::shared_bytes(args.stage_rows + 1, chunks) <= kMostStageBytes) {
    ++args.stage_rows;
  }
  const int64_t units = int64_t{args.panels} * args.choices;
  format.launch_chosen(args, static_cast<unsigned>(std::min(units, sms)), stream);
}

/// args.ids, choices, choices_of_x, x and y are there.
void launch(ChosenArgs args, const quant::PanelView& w, int64_t used, cudaStream_t stream) {
  args.panel_bytes = w.layout.panel_bytes;
  args.scales_at = w.layout.scales_at;
  args.panels = static_cast<int>(w.panels());
  args.rows = static_cast<int>(w.rows);
  args.cols = static_cast<int>(w.layout.cols);
  switch (w.layout.dtype) {
    case DType::kF32:
      return launch_float<DType::kF32>(args, stream);
    case DType::kF16:
      return launch_float<DType::kF16>(args, stream);
    case DType::kBF16:
      return launch_float<DType::kBF16>(args, stream);
    default:
      return launch_stream(args, *gemv_format(w.layout.dtype), used, stream);
  }
}

/// At most kMostChosen choices of `experts`, tokens from `first` on.
void launch_tokens(const ChosenExperts& experts, int64_t first, int64_t n_tokens, cudaStream_t stream) {
  const int64_t hidden = experts.gate.first.rows;
  const int64_t choice = first * experts.used;
  ChosenArgs args{};
  args.ids = experts.ids + choice;
  args.choices = static_cast<int>(n_tokens * experts.used);
  args.choices_of_x = static_cast<int>(experts.used);
  args.x = experts.x + first * experts.gate.first.layout.cols;
  args.y = experts.hidden + choice * hidden;
  args.matrices[0] = matrix_of(experts.gate);
  args.matrices[1] = matrix_of(experts.up);
  if (experts.gate.first.layout == experts.up.first.layout && is_quantized(experts.gate.first)) {
    args.result = ChosenResult::kGateAndUp;
    launch(args, experts.gate.first, experts.used, stream);
    args.start = ChosenStart::kBehindSelf;
  } else {
    launch(args, experts.gate.first, experts.used, stream);
    args.start = ChosenStart::kBehindSelf;
    args.matrices[0] = args.matrices[1];
    args.result = ChosenResult::kTimesSilu;
    launch(args, experts.up.first, experts.used, stream);
  }
  args.choices_of_x = 1;
  args.x = experts.hidden + choice * hidden;
  args.y = experts.y + choice * experts.down.first.rows;
  args.matrices[0] = matrix_of(experts.down);
  args.result = ChosenResult::kProduct;
  launch(args, experts.down.first, experts.used, stream);
}

}  // namespace

void chosen_experts(const ChosenExperts& experts, cudaStream_t stream) {
  const int64_t d_model = experts.down.first.rows;
  const int64_t d_expert = experts.gate.first.rows;
  check_matrix(experts.gate, d_expert, d_model);
  check_matrix(experts.up, d_expert, d_model);
  check_matrix(experts.down, d_model, d_expert);
  require(experts.used >= 1 && experts.used <= kMostChosen, "1 to 128 choices of a token", experts.used);
  require(experts.n_tokens >= 0, "tokens", experts.n_tokens);
  require(is_aligned(experts.x) && is_aligned(experts.hidden), "rows aligned to 16 bytes", 0);
  const int64_t most = kMostChosen / experts.used;
  for (int64_t first = 0; first < experts.n_tokens; first += most) {
    launch_tokens(experts, first, std::min(most, experts.n_tokens - first), stream);
  }
}

}  // namespace sluice::cuda
