// Two buffers take turns: one is filled by all workers while a thread of its own writes the other.
#include "engine/synth/write_gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <future>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/convert/output_plan.h"
#include "engine/synth/fill.h"
#include "engine/synth/recipe.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "quant/base/error.h"
#include "quant/gguf_writer.h"

namespace sluice::synth {
namespace {

using quant::Tensor;

// Large enough for the disk, small enough to stop soon.
constexpr int64_t kPieceBytes = int64_t{32} << 20;

/// Before hours of writing: a disk that is filled from elsewhere meanwhile still shows in the writer.
void require_room(const std::filesystem::path& output, int64_t bytes) {
  std::error_code failure;
  const std::filesystem::path directory = output.has_parent_path() ? output.parent_path() : ".";
  const std::filesystem::space_info space = std::filesystem::space(directory, failure);
  if (!failure && std::cmp_less(space.available, bytes)) {
    throw Error(output.string(), fmt::format("room for {} bytes", bytes),
                fmt::format("{} free", space.available));
  }
}

class PieceWriter {
 public:
  PieceWriter(quant::GgufWriter& writer, convert::ProgressMeter& progress, offload::Workers& workers)
      : writer_(writer), progress_(progress), workers_(workers) {}

  void write(const Tensor& tensor, const RowGenerator& generator) {
    const int64_t row_bytes = quant::row_bytes(tensor.dtype, tensor.ne[0]);
    const int64_t rows = tensor.data_bytes() / row_bytes;
    const int64_t most = std::max<int64_t>(1, kPieceBytes / row_bytes);
    for (int64_t first = 0; first < rows; first += most) {
      const int64_t count = std::min(most, rows - first);
      next_.resize(static_cast<size_t>(count * row_bytes));
      fill_rows(generator, first, row_bytes, next_, workers_);
      wait();
      std::swap(next_, writing_);
      done_ = std::async(std::launch::async, [this] { writer_.write(writing_); });
      progress_.wrote(tensor, count * row_bytes);
    }
  }
  /// Until the last piece is written. Throws what the writing thread threw.
  void wait() {
    if (done_.valid()) done_.get();
  }

 private:
  quant::GgufWriter& writer_;
  convert::ProgressMeter& progress_;
  offload::Workers& workers_;
  std::vector<std::byte> next_;
  std::vector<std::byte> writing_;
  std::future<void> done_;  // last: its destructor waits, and the buffers must outlive the writing
};

}  // namespace

ConvertReport write_gguf(const ModelSpec& spec, const std::filesystem::path& output,
                         const WriteOptions& options) {
  const ModelConfig config = config_of(spec);
  TensorTable table = plan_tensors(spec, config);
  require_room(output, table.bytes());
  quant::GgufWriter writer(output, make_metadata(spec, config, table.parameters()), table.tensors);
  convert::ProgressMeter progress(options.progress, output, table.tensors);
  offload::Workers workers(options.threads > 0 ? options.threads : offload::probe_machine().cores);
  {
    PieceWriter pieces(writer, progress, workers);
    for (size_t i = 0; i < table.tensors.size(); ++i) pieces.write(table.tensors[i], table.generators[i]);
    pieces.wait();
  }
  writer.finish();
  ConvertReport report;
  report.tensors = static_cast<int64_t>(table.tensors.size());
  report.bytes = static_cast<int64_t>(std::filesystem::file_size(output));
  report.has_tokenizer = true;
  report.fallbacks = std::move(table.fallbacks);
  return report;
}

}  // namespace sluice::synth
