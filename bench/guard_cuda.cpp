// The GPU's bars, each measured afresh beside its floor: a line per bar as in guard_cpu.cpp, lines without a
// bar for information. Exit code 1 when a bar is short, 2 when there is no GPU or no such part. `./run guard
// cuda` runs it.
//   guard_cuda [handover|layer|gemv|gemm|attention ...]
#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <iterator>
#include <span>
#include <string_view>

#include "bench/cuda_attention_speed.h"
#include "bench/cuda_chosen_speed.h"
#include "bench/cuda_floors.h"
#include "bench/cuda_gemm_speed.h"
#include "bench/cuda_gemv_speed.h"
#include "bench/cuda_handover_speed.h"
#include "bench/cuda_layer_speed.h"
#include "bench/report.h"
#include "kernels_cuda/base/device.h"

namespace sluice::bench {
namespace {

constexpr std::string_view kParts[] = {"handover", "layer", "gemv", "gemm", "attention"};

/// Without names, all parts.
int guard(std::span<const char* const> parts) {
  const auto wanted = [&](std::string_view part) {
    return parts.empty() || std::ranges::find(parts, part) != parts.end();
  };
  for (const std::string_view part : parts) {
    if (std::ranges::find(kParts, part) == std::end(kParts)) {
      fmt::print(stderr, "guard_cuda: expected some of {}, found {}\n", fmt::join(kParts, ", "), part);
      return 2;
    }
  }
  if (cuda::device_count() == 0) {
    fmt::print(stderr, "guard_cuda: no GPU: {}\n", cuda::why_no_device());
    return 2;
  }
  const cuda::DeviceProperties gpu = cuda::device_properties(0);
  fmt::print("{}, sm_{}, {} multiprocessors, L2 {} MiB\n", gpu.name, gpu.capability, gpu.multiprocessors,
             gpu.l2_bytes >> 20);
  const CudaFloors floors = measure_cuda_floors();
  fmt::print(
      "floors: read {:.0f} GB/s, copy {:.0f} GB/s, cuBLAS bf16 {:.0f} Tflop/s, mma bf16 {:.0f} Tflop/s, "
      "mma int8 {:.0f} Top/s\n",
      floors.read_bytes_per_second * 1e-9, floors.copy_bytes_per_second * 1e-9,
      floors.cublas_bf16_flops * 1e-12, floors.mma_bf16_flops * 1e-12, floors.mma_int8_ops * 1e-12);
  Report::head();
  Report report;
  if (wanted("handover")) guard_cuda_handover(report);
  if (wanted("layer")) guard_cuda_layer(report);
  if (wanted("gemv")) {
    guard_cuda_gemv(floors, report);
    report_cuda_chosen(floors);
  }
  if (wanted("gemm")) report_cuda_gemm(floors);
  if (wanted("attention")) guard_cuda_attention(floors, report);
  fmt::print("{} short\n", report.bars_short());
  return report.bars_short() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  try {
    return sluice::bench::guard(std::span(argv, static_cast<size_t>(argc)).subspan(1));
  } catch (const std::exception& error) {
    fmt::print(stderr, "guard_cuda: {}\n", error.what());
    return 1;
  }
}
