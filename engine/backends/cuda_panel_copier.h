// Weights of the file, or of a generator, to the memory of a GPU as panels: packed by all workers in
// page-locked memory and copied piece by piece.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/stream.h"
#include "offload/read_buffer.h"
#include "offload/workers.h"
#include "quant/panel.h"

namespace sluice {

/// Rows [first, first + count) of a matrix as GGUF blocks, which may be made in `buffer`. Called by several
/// threads at once.
using RowsOfMatrix =
    std::function<quant::WeightView(int64_t first, int64_t count, offload::ReadBuffer& buffer)>;

struct PanelJob {
  RowsOfMatrix rows;
  quant::PanelView to;  // on the GPU
};

class PanelCopier {
 public:
  /// Keeps references. No panel is larger than `largest_panel` bytes. Throws Error.
  PanelCopier(offload::Workers& workers, const std::stop_token& stop, int64_t largest_panel);

  /// Returns before the last pieces are copied. Throws Error, and LoadStopped when `stop` was requested.
  void copy(const PanelJob& job);
  /// Waits for all copies.
  void finish() const { stream_.synchronize(); }

 private:
  struct Stage {
    cuda::PinnedBuffer<std::byte> memory;
    cuda::Event copied;
  };
  static constexpr int64_t kStages = 2;

  void pack(const PanelJob& job, int64_t begin, int64_t count, std::byte* out);

  offload::Workers& workers_;
  const std::stop_token& stop_;
  cuda::Stream stream_;
  std::array<Stage, kStages> stages_;
  std::vector<offload::ReadBuffer> buffers_;  // [workers]
  int64_t next_ = 0;
};

}  // namespace sluice
