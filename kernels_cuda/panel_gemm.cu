#include "kernels_cuda/panel_gemm.h"

#include <string>

#include "kernels_cuda/device/panel_gemm.cuh"
#include "quant/base/error.h"

namespace sluice::cuda {
namespace {

using quant::DType;
using Launch = void (*)(const PanelGemmArgs& args, int64_t slots, cudaStream_t stream);

Launch launch_of(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
      return launch_panel_gemm<FormatQ8_0>;
    case DType::kNVFP4:
      return launch_panel_gemm<FormatNVFP4>;
    case DType::kMXFP4:
      return launch_panel_gemm<FormatMXFP4>;
    case DType::kQ4_0:
      return launch_panel_gemm<FormatQ4_0>;
    case DType::kQ5_0:
      return launch_panel_gemm<FormatQ5_0>;
    case DType::kQ4_K:
      return launch_panel_gemm<FormatQ4_K>;
    case DType::kQ5_K:
      return launch_panel_gemm<FormatQ5_K>;
    case DType::kQ6_K:
      return launch_panel_gemm<FormatQ6_K>;
    default:
      return nullptr;
  }
}

}  // namespace

bool panel_gemm_takes(DType dtype) {
  return launch_of(dtype) != nullptr;
}

void panel_gemm(const PanelGemm& gemm, cudaStream_t stream) {
  const quant::PanelLayout& layout = gemm.w.first.layout;
  const Launch launch = launch_of(layout.dtype);
  if (launch == nullptr) {
    throw Error("panel_gemm", "a quantized type", std::string(quant::dtype_info(layout.dtype).name));
  }
  if (gemm.x_stride % 8 != 0 || reinterpret_cast<uintptr_t>(gemm.x) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(gemm.w.first.data) % quant::kPanelAlignment != 0 ||
      gemm.w.expert_bytes % quant::kPanelAlignment != 0) {
    throw Error("panel_gemm", "rows of x aligned to 16 bytes and panels to 64", "others");
  }
  if (gemm.slots == 0 || gemm.w.first.rows == 0) return;
  const PanelGemmArgs args{.panels = reinterpret_cast<const unsigned char*>(gemm.w.first.data),
                           .expert_bytes = gemm.w.expert_bytes,
                           .panel_bytes = layout.panel_bytes,
                           .scales_at = layout.scales_at,
                           .scales = gemm.w.scales,
                           .panel_count = static_cast<int>(gemm.w.first.panels()),
                           .rows = static_cast<int>(gemm.w.first.rows),
                           .cols = static_cast<int>(layout.cols),
                           .experts = static_cast<int>(gemm.w.experts),
                           .x = gemm.x,
                           .x_stride = gemm.x_stride,
                           .begins = gemm.begins,
                           .tokens = gemm.tokens,
                           .y = gemm.y,
                           .y_stride = gemm.y_stride};
  launch(args, gemm.slots, stream);
}

}  // namespace sluice::cuda
