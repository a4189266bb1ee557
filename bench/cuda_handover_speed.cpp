#include "bench/cuda_handover_speed.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "bench/timing.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/graph.h"
#include "kernels_cuda/base/host_flag.h"
#include "kernels_cuda/base/stream.h"
#include "kernels_cuda/post.h"

namespace sluice::bench {
namespace {

constexpr int64_t kModelDim = 7168;
constexpr int64_t kUsed = 8;
constexpr int64_t kCrossings = 200;  // of a graph
constexpr int kRepeats = 21;

/// What ExpertHandover (engine/backends/expert_handover.h) puts into the stream and does on the host.
class Crossing {
 public:
  Crossing() { x_.fill_bytes(0, stream_.get()); }

  /// Median us of one of kCrossings in a graph; without the host's part, its kernels alone.
  double us(bool with_host) {
    const cuda::Graph graph(stream_.get(), [&] {
      for (int64_t i = 0; i < kCrossings; ++i) put(with_host);
    });
    std::vector<double> seconds;
    for (int i = 0; i < kRepeats; ++i) {
      seconds.push_back(seconds_of([&] {
        graph.launch(stream_.get());
        for (int64_t c = 0; with_host && c < kCrossings; ++c) answer();
        stream_.synchronize();
      }));
      static_cast<void>(sent_.take_down());
    }
    return median(seconds) * 1e6 / static_cast<double>(kCrossings);
  }

 private:
  void put(bool with_host) {
    const cuda::PostedPart parts[] = {{x_.data(), host_x_.data(), kModelDim},
                                      {ids_.data(), host_ids_.data(), kUsed},
                                      {weights_.data(), host_weights_.data(), kUsed}};
    cuda::post(parts, sent_, scratch_, stream_.get());
    if (with_host) summed_.wait_in(stream_.get());
    cuda::add_from_host(host_sum_.data(), kModelDim, x_.data(), summed_, stream_.get());
  }

  void answer() {
    while (!sent_.take_down()) _mm_pause();
    summed_.raise();
    std::fill_n(next_sum_.data(), kModelDim, 0.0F);
  }

  cuda::Stream stream_;
  cuda::DeviceBuffer<float> x_{kModelDim};
  cuda::DeviceBuffer<int32_t> ids_{kUsed};
  cuda::DeviceBuffer<float> weights_{kUsed};
  cuda::PinnedBuffer<float> host_x_{kModelDim};
  cuda::PinnedBuffer<int32_t> host_ids_{kUsed};
  cuda::PinnedBuffer<float> host_weights_{kUsed};
  cuda::PinnedBuffer<float> host_sum_{kModelDim};
  cuda::PinnedBuffer<float> next_sum_{kModelDim};  // layers take turns with two
  cuda::PostScratch scratch_;
  cuda::HostFlag sent_;
  cuda::HostFlag summed_;
};

}  // namespace

void guard_cuda_handover(Report& report) {
  Crossing crossing;
  const double us = crossing.us(true);
  const double alone = crossing.us(false);
  report.line("hand-over GPU -> CPU -> GPU, empty", fmt::format("{:.1f} us", us),
              fmt::format("its kernels {:.1f} us", alone), us, Bar::kAtMost, 12);
}

}  // namespace sluice::bench
