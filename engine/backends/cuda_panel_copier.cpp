#include "engine/backends/cuda_panel_copier.h"

#include <algorithm>

#include "engine/load_stopped.h"
#include "kernels_cuda/base/check.h"

namespace sluice {
namespace {

// Panels are made in one of two pieces of page-locked memory while the other one is copied. Chosen: large
// enough for the copy engine's full rate.
constexpr int64_t kStageBytes = int64_t{16} << 20;

}  // namespace

PanelCopier::PanelCopier(offload::Workers& workers, const std::stop_token& stop, int64_t largest_panel)
    : workers_(workers), stop_(stop), buffers_(static_cast<size_t>(workers.threads())) {
  for (Stage& stage : stages_) {
    stage.memory = cuda::PinnedBuffer<std::byte>(std::max(kStageBytes, largest_panel));
  }
}

void PanelCopier::copy(const PanelJob& job) {
  const int64_t panel_bytes = job.to.layout.panel_bytes;
  const int64_t at_once = stages_[0].memory.size() / panel_bytes;
  auto* const to = const_cast<std::byte*>(job.to.data);  // a view for readers, of memory that is ours
  for (int64_t begin = 0; begin < job.to.panels(); begin += at_once) {
    const int64_t count = std::min(at_once, job.to.panels() - begin);
    Stage& stage = stages_[static_cast<size_t>(next_++ % kStages)];
    stage.copied.synchronize();
    pack(job, begin, count, stage.memory.data());
    cuda::check(
        cudaMemcpyAsync(to + begin * panel_bytes, stage.memory.data(),
                        static_cast<size_t>(count * panel_bytes), cudaMemcpyHostToDevice, stream_.get()),
        "copying weights to the GPU");
    stage.copied.record(stream_.get());
  }
}

void PanelCopier::pack(const PanelJob& job, int64_t begin, int64_t count, std::byte* out) {
  const int64_t panel_bytes = job.to.layout.panel_bytes;
  workers_.for_ranges(count, 1, [&](int64_t i, int64_t, int64_t worker) {
    throw_if_stopped(stop_);
    const int64_t row = (begin + i) * quant::kPanelRows;
    const int64_t rows = std::min(quant::kPanelRows, job.to.rows - row);
    quant::pack_panel(job.to.layout, job.rows(row, rows, buffers_[static_cast<size_t>(worker)]),
                      {out + i * panel_bytes, static_cast<size_t>(panel_bytes)});
  });
}

}  // namespace sluice
