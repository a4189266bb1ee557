#include "bench/cuda_gemv_speed.h"

#include <algorithm>
#include <string>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/gemv.h"

namespace sluice::bench {
namespace {

using quant::DType;

/// Columns, and rows of each product of a launch.
struct GemvCase {
  const char* name;
  int64_t cols;
  std::vector<int64_t> rows;
};

/// What the bar names, one launch each, and what a layer launches together.
std::vector<GemvCase> cases() {
  return {{"q_a", 7168, {1536}},
          {"q_b", 1536, {24576}},
          {"kv_a", 7168, {576}},
          {"o", 16384, {7168}},
          {"dense gate or up", 7168, {18432}},
          {"q_a, kv_a, indexer k, indexer weights", 7168, {1536, 576, 128, 64}}};
}

struct Measured {
  double bytes_per_second;
  double us;
};

Measured measure(DType dtype, const GemvCase& which, int64_t tokens, bool swiglu) {
  const quant::PanelLayout layout = quant::panel_layout(dtype, which.cols);
  std::vector<int64_t> begins;
  int64_t bytes = 0;
  int64_t rows = 0;
  for (const int64_t r : which.rows) {
    begins.push_back(bytes);
    bytes += quant::PanelView{.layout = layout, .rows = r}.bytes();
    rows += r;
  }
  // Copies enough that one is long out of any L2 when its turn comes again.
  const int64_t copies = std::clamp<int64_t>((int64_t{1} << 30) / bytes, 4, 64);
  const cuda::DeviceBuffer<std::byte> weights(bytes * copies);
  const cuda::DeviceBuffer<float> x(tokens * which.cols);
  const cuda::DeviceBuffer<float> y(tokens * rows);
  fill_random(weights.data(), weights.bytes(), 5);
  fill_random(x.data(), x.bytes(), 6);
  const cuda::GemvScratch scratch(rows);
  const cuda::GemvInput input{x.data(), which.cols, tokens};
  const double seconds = seconds_per_launch(copies, 11, [&](int64_t i, void* stream) {
    std::vector<cuda::GemvProduct> products;
    for (size_t p = 0; p < which.rows.size(); ++p) {
      products.push_back(
          {{.layout = layout, .data = weights.data() + i * bytes + begins[p], .rows = which.rows[p]},
           y.data(),
           rows});
    }
    if (swiglu) {
      cuda::gemv_swiglu(products[0].w, products[1], input, scratch, static_cast<cudaStream_t>(stream));
    } else {
      cuda::gemv(products, input, scratch, static_cast<cudaStream_t>(stream));
    }
  });
  return {static_cast<double>(bytes) / seconds, seconds * 1e6};
}

}  // namespace

void guard_cuda_gemv(const CudaFloors& floors, Report& report) {
  const std::string floor = fmt::format("read {:.0f} GB/s", floors.read_bytes_per_second * 1e-9);
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4}) {
    for (const GemvCase& which : cases()) {
      const Measured got = measure(dtype, which, 1, false);
      report.line(fmt::format("GEMV {} {}", quant::dtype_info(dtype).name, which.name),
                  fmt::format("{:.0f} GB/s {:.1f} us", got.bytes_per_second * 1e-9, got.us), floor,
                  got.bytes_per_second / floors.read_bytes_per_second, Bar::kAtLeast, 0.75);
    }
    const Measured mlp = measure(dtype, {"", 7168, {2048, 2048}}, 1, true);
    Report::note(fmt::format("GEMV {} shared expert gate, up, SwiGLU", quant::dtype_info(dtype).name),
                 fmt::format("{:.0f} GB/s {:.1f} us", mlp.bytes_per_second * 1e-9, mlp.us), floor,
                 mlp.bytes_per_second / floors.read_bytes_per_second);
    for (const int64_t tokens : {2, 4, 8}) {
      const Measured got = measure(dtype, {"", 16384, {7168}}, tokens, false);
      Report::note(fmt::format("GEMV {} o, {} tokens", quant::dtype_info(dtype).name, tokens),
                   fmt::format("{:.0f} GB/s {:.1f} us", got.bytes_per_second * 1e-9, got.us), floor,
                   got.bytes_per_second / floors.read_bytes_per_second);
    }
  }
  for (const DType dtype : {DType::kMXFP4, DType::kQ4_0, DType::kQ5_0, DType::kQ4_K, DType::kQ5_K,
                            DType::kQ6_K, DType::kBF16, DType::kF16}) {
    const Measured got = measure(dtype, {"", 16384, {7168}}, 1, false);
    Report::note(fmt::format("GEMV {} o", quant::dtype_info(dtype).name),
                 fmt::format("{:.0f} GB/s {:.1f} us", got.bytes_per_second * 1e-9, got.us), floor,
                 got.bytes_per_second / floors.read_bytes_per_second);
  }
}

}  // namespace sluice::bench
