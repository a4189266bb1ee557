// The host's side of GEMV: checks, the plan, the launch.
#include "kernels_cuda/gemv.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels_cuda/base/launch.cuh"
#include "kernels_cuda/device/gemv_kernel.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using quant::DType;

/// Columns that are worth a block of their own. Chosen.
constexpr int64_t kLeastCols = 256;

void require(bool right, const char* expected, const std::string& found) {
  if (!right) throw Error("gemv", expected, found);
}

void check_input(const GemvInput& input) {
  require(input.n_tokens >= 1 && input.n_tokens <= kMostGemvTokens, "1 to 8 tokens",
          std::to_string(input.n_tokens));
  require(input.stride % 4 == 0 && reinterpret_cast<uintptr_t>(input.x) % 16 == 0,
          "rows of x aligned to 16 bytes", "others");
}

void check_weights(const quant::PanelView& w, const quant::PanelLayout& layout) {
  require(gemv_format(w.layout.dtype) != nullptr, "a weight type",
          std::string(quant::dtype_info(w.layout.dtype).name));
  require(w.layout == layout, "matrices of one type and width", "others");
  require(layout.panel_bytes < (int64_t{1} << 31), "panels below 2 GiB", std::to_string(layout.panel_bytes));
  require(
      w.rows >= 1 && w.rows < (int64_t{1} << 30) && w.layout.cols >= 1 && w.layout.cols < (int64_t{1} << 30),
      "a shape of at least 1 x 1", std::to_string(w.rows) + " x " + std::to_string(w.layout.cols));
  require(reinterpret_cast<uintptr_t>(w.data) % quant::kPanelAlignment == 0, "panels aligned to 64 bytes",
          "others");
}

GemvTarget target_of(const GemvProduct& product) {
  return {.panels = reinterpret_cast<const unsigned char*>(product.w.data),
          .y = product.y,
          .stride = product.stride,
          .panel_count = static_cast<int>(product.w.panels()),
          .rows = static_cast<int>(product.w.rows),
          .first_group = 0,
          .scale = product.w.scale};
}

/// Everything but targets, swiglu and groups.
GemvArgs arguments(const quant::PanelLayout& layout, const GemvInput& input, const GemvScratch& scratch) {
  GemvArgs args{};
  args.n_tokens = static_cast<int>(input.n_tokens);
  args.cols = static_cast<int>(layout.cols);
  args.panel_bytes = layout.panel_bytes;
  args.scales_at = layout.scales_at;
  args.x = input.x;
  args.x_stride = input.stride;
  args.partials = scratch.partials();
  args.arrived = scratch.arrived();
  return args;
}

/// Numbers the targets' groups of `panels` panels each.
void cut_groups(GemvArgs& args, int panels) {
  args.group_panels = panels;
  args.groups = 0;
  if (args.swiglu) {
    args.groups = ceil_div(args.targets[1].panel_count, panels / 2);
    return;
  }
  for (int i = 0; i < args.n_targets; ++i) {
    args.targets[i].first_group = args.groups;
    args.groups += ceil_div(args.targets[i].panel_count, panels);
  }
}

/// False when this is nothing for gemv_stream.cuh.
bool launch_stream(GemvArgs& args, const GemvFormat& format, const GemvScratch& scratch,
                   cudaStream_t stream) {
  if (format.launch_stream == nullptr || args.n_tokens > 2 ||
      ActivationStage::shared_bytes(args.n_tokens, args.cols / 32) > kMostStageBytes) {
    return false;
  }
  int64_t panels = 0;
  for (int i = 0; i < args.n_targets; ++i) panels += args.targets[i].panel_count;
  const int64_t capacity = scratch.multiprocessors();
  const GemvStreamPlan plan =
      gemv_stream_plan({.panels = panels,
                        .steps = args.steps,
                        .depth = format.depth,
                        .least_panels = args.swiglu ? 2 : 1,
                        .warps = args.n_tokens == 1 ? format.stream_warps : kGemvPairWarps},
                       capacity);
  cut_groups(args, static_cast<int>(plan.group_panels));
  args.shares = static_cast<int>(plan.shares);
  args.steps_per_slice = static_cast<int>(plan.steps_per_share);
  format.launch_stream(args, static_cast<unsigned>(std::min<int64_t>(args.groups, capacity)), stream);
  return true;
}

void launch(GemvArgs& args, const quant::PanelLayout& layout, const GemvScratch& scratch,
            cudaStream_t stream) {
  const GemvFormat& format = *gemv_format(layout.dtype);
  args.steps = static_cast<int>(ceil_div<int64_t>(layout.cols, format.step_cols));
  if (launch_stream(args, format, scratch, stream)) return;
  cut_groups(args, static_cast<int>(kGemvWarps));
  require(args.groups * kGroupRows <= scratch.rows() + kGroupRows * kMostGemvProducts,
          "a scratch for these rows", "one for " + std::to_string(scratch.rows()));
  const GemvPlan plan = gemv_plan(
      {.groups = args.groups, .steps = args.steps, .least = ceil_div<int64_t>(kLeastCols, format.step_cols)},
      scratch.multiprocessors() * format.blocks);
  args.steps_per_slice = static_cast<int>(plan.steps_per_slice);
  const dim3 grid(static_cast<unsigned>(plan.blocks), static_cast<unsigned>(plan.slices));
  format.launch(args, grid, stream);
}

}  // namespace

GemvScratch::GemvScratch(int64_t rows) : rows_(rows) {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  multiprocessors_ = device_properties(device).multiprocessors;
  const int64_t groups = ceil_div<int64_t>(rows, kGroupRows) + kMostGemvProducts;
  // Slices times groups is at most what the GPU holds at once, or 1 times groups, which needs none.
  const int64_t blocks = multiprocessors_ * kMostGemvBlocks;
  partials_ = DeviceBuffer<float>(blocks * kMostGemvTokens * kGroupRows);
  arrived_ = DeviceBuffer<uint32_t>(std::vector<uint32_t>(static_cast<size_t>(groups)));
}

const GemvFormat* gemv_format(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return &kGemvQ8_0;
    case DType::kNVFP4:
      return &kGemvNVFP4;
    case DType::kMXFP4:
      return &kGemvMXFP4;
    case DType::kQ4_0:
      return &kGemvQ4_0;
    case DType::kQ5_0:
      return &kGemvQ5_0;
    case DType::kQ4_K:
      return &kGemvQ4_K;
    case DType::kQ5_K:
      return &kGemvQ5_K;
    case DType::kQ6_K:
      return &kGemvQ6_K;
    case DType::kF32:
      return &kGemvF32;
    case DType::kF16:
      return &kGemvF16;
    case DType::kBF16:
      return &kGemvBF16;
    default:
      return nullptr;
  }
}

bool gemv_takes(DType dtype) {
  return gemv_format(dtype) != nullptr;
}

void gemv(std::span<const GemvProduct> products, const GemvInput& input, const GemvScratch& scratch,
          cudaStream_t stream) {
  require(!products.empty() && static_cast<int64_t>(products.size()) <= kMostGemvProducts, "1 to 4 products",
          std::to_string(products.size()));
  check_input(input);
  const quant::PanelLayout& layout = products[0].w.layout;
  GemvArgs args = arguments(layout, input, scratch);
  for (const GemvProduct& product : products) {
    check_weights(product.w, layout);
    args.targets[args.n_targets++] = target_of(product);
  }
  launch(args, layout, scratch, stream);
}

void gemv_swiglu(const quant::PanelView& gate, const GemvProduct& up, const GemvInput& input,
                 const GemvScratch& scratch, cudaStream_t stream) {
  check_input(input);
  const quant::PanelLayout& layout = up.w.layout;
  check_weights(up.w, layout);
  check_weights(gate, layout);
  require(gate.rows == up.w.rows, "gate and up of one shape", "others");
  GemvArgs args = arguments(layout, input, scratch);
  args.swiglu = true;
  args.n_targets = 2;
  args.targets[0] = target_of({gate, nullptr, 0});
  args.targets[1] = target_of(up);
  launch(args, layout, scratch, stream);
}

}  // namespace sluice::cuda
