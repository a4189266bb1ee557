#include "bench/cuda_gemm_speed.h"

#include <string>
#include <vector>

#include "bench/report.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/elementwise.h"
#include "kernels_cuda/matmul.h"
#include "kernels_cuda/panel_gemm.h"

namespace sluice::bench {
namespace {

using quant::DType;

/// `experts` matrices, each with `tokens` tokens of its own. One expert: any matrix.
struct GemmCase {
  DType dtype;
  int64_t cols;
  int64_t rows;
  int64_t experts;
  int64_t tokens;
};

void line(const std::string& name, const GemmCase& c, double seconds, double floor, const char* floor_name) {
  const double rate = 2.0 * static_cast<double>(c.cols * c.rows * c.experts * c.tokens) / seconds;
  Report::note(name, fmt::format("{:.0f} Tf/s {:.0f} us", rate * 1e-12, seconds * 1e6),
               fmt::format("{} {:.0f} Tf/s", floor_name, floor * 1e-12), rate / floor);
}

void measure(const GemmCase& c, const CudaFloors& floors) {
  const quant::PanelLayout layout = quant::panel_layout(c.dtype, c.cols);
  const int64_t bytes = quant::PanelView{.layout = layout, .rows = c.rows}.bytes();
  const int64_t slots = c.experts * c.tokens;
  const cuda::DeviceBuffer<std::byte> weights(bytes * c.experts);
  const cuda::DeviceBuffer<float> x(slots * c.cols);
  const cuda::DeviceBuffer<uint16_t> half(slots * c.cols);
  const cuda::DeviceBuffer<float> y(slots * c.rows);
  fill_random(weights.data(), weights.bytes(), 11);
  fill_random(x.data(), x.bytes(), 12);
  std::vector<int32_t> begins;
  for (int64_t e = 0; e <= c.experts; ++e) begins.push_back(static_cast<int32_t>(e * c.tokens));
  const cuda::DeviceBuffer<int32_t> begins_there(begins);
  const std::string name = fmt::format("{} {}x{}, {} of {} tokens", quant::dtype_info(c.dtype).name, c.cols,
                                       c.rows, c.experts, c.tokens);
  const double fused = seconds_per_launch(3, 5, [&](int64_t, void* stream) {
    auto* s = static_cast<cudaStream_t>(stream);
    cuda::to_bf16({x.data(), c.cols, half.data(), c.cols, slots, c.cols}, s);
    cuda::panel_gemm({.w = {.first = {.layout = layout, .data = weights.data(), .rows = c.rows},
                            .expert_bytes = bytes,
                            .experts = c.experts},
                      .x = half.data(),
                      .x_stride = c.cols,
                      .begins = begins_there.data(),
                      .slots = slots,
                      .y = y.data(),
                      .y_stride = c.rows},
                     s);
  });
  line("in registers " + name, c, fused, floors.mma_bf16_flops, "mma");
  const cuda::Blas blas;
  const cuda::MatmulScratch scratch(c.tokens, c.cols, int64_t{256} << 20);
  const double through_blas = seconds_per_launch(3, 5, [&](int64_t, void* stream) {
    for (int64_t e = 0; e < c.experts; ++e) {
      cuda::matmul(
          {.layout = layout, .data = weights.data() + e * bytes, .rows = c.rows},
          {x.data() + e * c.tokens * c.cols, c.cols, y.data() + e * c.tokens * c.rows, c.rows, c.tokens},
          scratch, blas, static_cast<cudaStream_t>(stream));
    }
  });
  line("cuBLAS " + name, c, through_blas, floors.cublas_bf16_flops, "cuBLAS");
}

}  // namespace

void report_cuda_gemm(const CudaFloors& floors) {
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4}) {
    for (const int64_t tokens : {64, 512, 2048}) measure({dtype, 7168, 2048, 1, tokens}, floors);
    measure({dtype, 16384, 7168, 1, 2048}, floors);
    for (const int64_t tokens : {16, 64, 256}) measure({dtype, 7168, 2048, 32, tokens}, floors);
  }
}

}  // namespace sluice::bench
