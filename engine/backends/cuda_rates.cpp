// Rates of the kernels that a model spends its time in, at DeepSeek-V3.2's widths; each the median of a few
// runs of a graph of several launches.
#include <immintrin.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

#include "engine/backends/gpu.h"
#include "engine/backends/gpu_rates.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/check.h"
#include "kernels_cuda/base/device.h"
#include "kernels_cuda/base/graph.h"
#include "kernels_cuda/base/host_flag.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/gemv.h"
#include "kernels_cuda/indexer.h"
#include "kernels_cuda/panel_gemm.h"
#include "kernels_cuda/post.h"
#include "offload/prediction.h"

namespace sluice {
namespace {

using cuda::DeviceBuffer;
using cuda::PinnedBuffer;

constexpr int kDevice = 0;
constexpr int kRepeats = 5;
constexpr int64_t kModelDim = 7168;
constexpr int64_t kExpertDim = 2048;
constexpr int64_t kUsed = 8;
constexpr int64_t kCopyBytes = int64_t{256} << 20;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

/// Bytes whose values are moderate as float, bf16 and f16: what a product costs depends on its values.
DeviceBuffer<std::byte> random_bytes(int64_t bytes) {
  constexpr int64_t kPattern = int64_t{1} << 20;  // words
  std::mt19937 engine(1);
  std::vector<uint32_t> words(static_cast<size_t>(kPattern));
  std::ranges::generate(words, [&] { return (static_cast<uint32_t>(engine()) & 0x83FF83FFU) | 0x38003800U; });
  DeviceBuffer<std::byte> buffer(bytes);
  for (int64_t at = 0; at < bytes; at += kPattern * 4) {
    cuda::check(cudaMemcpy(buffer.data() + at, words.data(),
                           static_cast<size_t>(std::min(bytes - at, kPattern * 4)), cudaMemcpyHostToDevice),
                "cudaMemcpy");
  }
  return buffer;
}

/// Seconds of one of `launches` launches.
double seconds_of(int64_t launches, const std::function<void(int64_t i, cudaStream_t)>& launch) {
  const cuda::Stream stream;
  launch(0, stream.get());  // loads kernels, which a capture must not
  stream.synchronize();
  const cuda::Graph graph(stream.get(), [&] {
    for (int64_t i = 0; i < launches; ++i) {
      launch(i, stream.get());
    }
  });
  const cuda::Event begin(cuda::EventKind::kTiming);
  const cuda::Event end(cuda::EventKind::kTiming);
  std::vector<double> seconds;
  for (int i = -1; i < kRepeats; ++i) {
    begin.record(stream.get());
    graph.launch(stream.get());
    end.record(stream.get());
    end.synchronize();
    if (i >= 0) {
      seconds.push_back(static_cast<double>(cuda::elapsed_ms(begin, end)) * 1e-3);
    }
  }
  return median(seconds) / static_cast<double>(launches);
}

/// Products of one token with a matrix of Q8_0 that no cache holds: GB/s of its bytes.
double read_gb_per_s(int64_t free_bytes) {
  const quant::PanelLayout layout = quant::panel_layout(quant::DType::kQ8_0, kModelDim);
  const int64_t panels = std::min(int64_t{2} << 30, free_bytes / 4) / layout.panel_bytes;
  const DeviceBuffer<std::byte> data = random_bytes(panels * layout.panel_bytes);
  const DeviceBuffer<std::byte> x = random_bytes(kModelDim * 4);
  const quant::PanelView w{.layout = layout, .data = data.data(), .rows = panels * quant::kPanelRows};
  const DeviceBuffer<float> y(w.rows);
  const cuda::GemvScratch scratch(w.rows);
  const double seconds = seconds_of(3, [&](int64_t, cudaStream_t stream) {
    const cuda::GemvProduct product{w, y.data(), w.rows};
    cuda::gemv({&product, 1}, {reinterpret_cast<const float*>(x.data()), kModelDim, 1}, scratch, stream);
  });
  return static_cast<double>(data.bytes()) / seconds / 1e9;
}

/// 32 experts of Q8_0 with 256 tokens each.
double expert_tflops() {
  constexpr int64_t kExperts = 32;
  constexpr int64_t kTokens = 256;
  quant::PanelView one{.layout = quant::panel_layout(quant::DType::kQ8_0, kModelDim), .rows = kExpertDim};
  const DeviceBuffer<std::byte> data = random_bytes(kExperts * one.bytes());
  one.data = data.data();
  const DeviceBuffer<std::byte> x = random_bytes(kExperts * kTokens * kModelDim * 2);
  std::vector<int32_t> begins;
  for (int64_t e = 0; e <= kExperts; ++e) {
    begins.push_back(static_cast<int32_t>(e * kTokens));
  }
  const DeviceBuffer<int32_t> begins_there(begins);
  const DeviceBuffer<float> y(kExperts * kTokens * kExpertDim);
  const double seconds = seconds_of(4, [&](int64_t, cudaStream_t stream) {
    cuda::panel_gemm(
        {.w = {.first = one, .expert_bytes = one.bytes(), .scales = nullptr, .experts = kExperts},
         .x = reinterpret_cast<const uint16_t*>(x.data()),
         .x_stride = kModelDim,
         .begins = begins_there.data(),
         .tokens = nullptr,
         .slots = kExperts * kTokens,
         .y = y.data(),
         .y_stride = kExpertDim},
        stream);
  });
  return 2.0 * kExperts * kTokens * kModelDim * kExpertDim / seconds / 1e12;
}

/// Scores of 512 queries and 16,384 int8 keys: a share of what int8 products reach.
double int8_tops() {
  constexpr int64_t kQueries = 512;
  constexpr int64_t kKeys = 16384;
  constexpr int64_t kHeads = 64;
  constexpr int64_t kDims = 128;
  const DeviceBuffer<std::byte> queries = random_bytes(kQueries * kHeads * kDims);
  const DeviceBuffer<std::byte> weights = random_bytes(kQueries * kHeads * 4);
  const DeviceBuffer<std::byte> keys = random_bytes(kKeys * kDims);
  const DeviceBuffer<std::byte> scales = random_bytes(kKeys * 4);
  const DeviceBuffer<int32_t> lengths(std::vector<int32_t>(static_cast<size_t>(kQueries), kKeys));
  const DeviceBuffer<float> scores(kQueries * kKeys);
  const double seconds = seconds_of(4, [&](int64_t, cudaStream_t stream) {
    cuda::launch_index_scores({.queries = {.values = queries.data(),
                                           .low = nullptr,
                                           .weights = reinterpret_cast<float*>(weights.data())},
                               .keys = {.values = keys.data(),
                                        .scales = reinterpret_cast<const float*>(scales.data()),
                                        .format = cuda::IndexKeyFormat::kInt8,
                                        .n_keys = kKeys},
                               .n_queries = kQueries,
                               .n_heads = kHeads,
                               .d_index = kDims,
                               .lengths = lengths.data(),
                               .most_keys = kKeys,
                               .scores = scores.data(),
                               .score_stride = kKeys},
                              stream);
  });
  return 2.0 * kQueries * kKeys * kHeads * kDims / seconds / 1e12 / offload::kScanShare;
}

struct CopyRates {
  double to_gpu = 0;
  double from_gpu = 0;
};

/// GB/s of page-locked memory, one way at a time.
CopyRates copy_rates() {
  const PinnedBuffer<std::byte> host(kCopyBytes);
  const DeviceBuffer<std::byte> device(kCopyBytes);
  std::ranges::fill(host.values(), std::byte{1});
  const auto rate = [&](void* to, const void* from, cudaMemcpyKind kind) {
    const double seconds = seconds_of(2, [&](int64_t, cudaStream_t stream) {
      cuda::check(cudaMemcpyAsync(to, from, static_cast<size_t>(kCopyBytes), kind, stream),
                  "cudaMemcpyAsync");
    });
    return static_cast<double>(kCopyBytes) / seconds / 1e9;
  };
  return {.to_gpu = rate(device.data(), host.data(), cudaMemcpyHostToDevice),
          .from_gpu = rate(host.data(), device.data(), cudaMemcpyDeviceToHost)};
}

/// What ExpertHandover (expert_handover.h) does for a token, with nothing to compute.
class Crossing {
 public:
  Crossing() { x_.fill_bytes(0, stream_.get()); }

  // Nothing runs before the graph does: a kernel that is loaded behind a wait would never be.
  double us() {
    const cuda::Graph graph(stream_.get(), [&] {
      for (int64_t i = 0; i < kCrossings; ++i) {
        put();
      }
    });
    const cuda::Event begin(cuda::EventKind::kTiming);
    const cuda::Event end(cuda::EventKind::kTiming);
    std::vector<double> each;
    for (int i = -1; i < kRepeats; ++i) {
      begin.record(stream_.get());
      graph.launch(stream_.get());
      end.record(stream_.get());
      for (int64_t c = 0; c < kCrossings; ++c) {
        answer();
      }
      stream_.synchronize();
      if (i >= 0) {
        each.push_back(static_cast<double>(cuda::elapsed_ms(begin, end)) * 1e3 / kCrossings);
      }
    }
    return median(each);
  }

 private:
  static constexpr int64_t kCrossings = 200;

  void put() {
    const cuda::PostedPart parts[] = {{x_.data(), host_x_.data(), kModelDim},
                                      {ids_.data(), host_ids_.data(), kUsed},
                                      {weights_.data(), host_weights_.data(), kUsed}};
    cuda::post(parts, sent_, scratch_, stream_.get());
    summed_.wait_in(stream_.get());
    cuda::add_from_host(host_sum_.data(), kModelDim, x_.data(), summed_, stream_.get());
  }

  void answer() {
    while (!sent_.take_down()) {
      _mm_pause();
    }
    summed_.raise();
    std::ranges::fill(next_sum_.values(), 0.0F);
  }

  cuda::Stream stream_;
  DeviceBuffer<float> x_{kModelDim};
  DeviceBuffer<int32_t> ids_{kUsed};
  DeviceBuffer<float> weights_{kUsed};
  PinnedBuffer<float> host_x_{kModelDim};
  PinnedBuffer<int32_t> host_ids_{kUsed};
  PinnedBuffer<float> host_weights_{kUsed};
  PinnedBuffer<float> host_sum_{kModelDim};
  PinnedBuffer<float> next_sum_{kModelDim};  // layers take turns with two
  cuda::PostScratch scratch_;
  cuda::HostFlag sent_;
  cuda::HostFlag summed_;
};

}  // namespace

std::optional<offload::GpuProfile> measure_gpu(const RateProgress& progress, const std::stop_token& stop) {
  if (!find_gpu().usable) {
    return {};
  }
  cuda::use_device(kDevice);
  const cuda::DeviceProperties properties = cuda::device_properties(kDevice);
  const cuda::DeviceMemory memory = cuda::device_memory();
  offload::GpuProfile gpu{.name = properties.name,
                          .memory_bytes = memory.total_bytes,
                          .driver_bytes = memory.total_bytes - memory.free_bytes,
                          .multiprocessors = properties.multiprocessors};
  const std::pair<std::string_view, std::function<void()>> steps[] = {
      {"reading GPU memory", [&] { gpu.read_gb_per_s = read_gb_per_s(memory.free_bytes); }},
      {"products of experts", [&] { gpu.expert_tflops = expert_tflops(); }},
      {"products in int8", [&] { gpu.int8_tops = int8_tops(); }},
      {"copies over PCIe",
       [&] {
         const CopyRates rates = copy_rates();
         gpu.to_gpu_gb_per_s = rates.to_gpu;
         gpu.from_gpu_gb_per_s = rates.from_gpu;
       }},
      {"hand-over", [&] { gpu.handover_us = Crossing().us(); }},
  };
  for (const auto& [what, measure] : steps) {
    if (stop.stop_requested()) {
      return {};
    }
    progress(what);
    measure();
  }
  return gpu;
}

}  // namespace sluice
