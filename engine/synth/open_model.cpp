// Places the tensors but the experts in one piece of memory and generates them there.
#include "engine/synth/open_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "engine/load_stopped.h"
#include "engine/synth/expert_source.h"
#include "engine/synth/fill.h"
#include "engine/synth/recipe.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "quant/anonymous_memory.h"
#include "quant/base/error.h"
#include "quant/gguf_layout.h"

namespace sluice::synth {
namespace {

using quant::AnonymousMemory;
using quant::Tensor;

constexpr int64_t kAlignment = 64;                  // a cache line
constexpr int64_t kPieceBytes = int64_t{64} << 20;  // between two reports

class Generation {
 public:
  Generation(const OpenOptions& options, offload::Workers& workers, int64_t total)
      : options_(options), workers_(workers), total_(total) {}

  void fill(const Tensor& tensor, const RowGenerator& generator, std::span<std::byte> bytes) {
    const int64_t row_bytes = quant::row_bytes(tensor.dtype, tensor.ne[0]);
    const int64_t rows = tensor.data_bytes() / row_bytes;
    const int64_t most = std::max<int64_t>(1, kPieceBytes / row_bytes);
    for (int64_t first = 0; first < rows; first += most) {
      const int64_t count = std::min(most, rows - first);
      fill_rows(generator, first, row_bytes,
                bytes.subspan(static_cast<size_t>(first * row_bytes), static_cast<size_t>(count * row_bytes)),
                workers_);
      done_ += count * row_bytes;
      throw_if_stopped(options_.stop);
      if (options_.progress) options_.progress(done_, total_);
    }
  }

 private:
  const OpenOptions& options_;
  offload::Workers& workers_;
  int64_t total_;
  int64_t done_ = 0;
};

void require_memory(const ModelSpec& spec, int64_t needed, int64_t there) {
  if (needed > there) {
    throw Error(to_text(spec),
                fmt::format("weights that fit this machine's {:.1f} GB", static_cast<double>(there) / 1e9),
                fmt::format("{:.1f} GB", static_cast<double>(needed) / 1e9));
  }
}

}  // namespace

Model open_model(const ModelSpec& spec, const OpenOptions& options) {
  const ModelConfig config = config_of(spec);
  TensorTable table = plan_tensors(spec, config);
  const offload::Machine machine = offload::probe_machine();
  require_memory(spec, table.bytes(), machine.memory_bytes);
  auto experts = std::make_unique<const SyntheticExperts>(to_text(spec), table, config);
  std::vector<int64_t> sizes;  // [tensors] bytes that are made now
  for (const Tensor& tensor : table.tensors) {
    sizes.push_back(experts->makes(tensor.name) ? 0 : quant::padded_bytes(tensor.data_bytes(), kAlignment));
  }
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  AnonymousMemory memory(static_cast<size_t>(total));
  offload::Workers workers(options.threads > 0 ? options.threads : machine.cores);
  Generation generation(options, workers, total);
  std::span<std::byte> rest = memory.bytes();
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] > 0) {
      Tensor& tensor = table.tensors[i];
      const std::span<std::byte> bytes = rest.first(static_cast<size_t>(tensor.data_bytes()));
      rest = rest.subspan(static_cast<size_t>(sizes[i]));
      generation.fill(tensor, table.generators[i], bytes);
      tensor.bytes = bytes;
    }
  }
  quant::GgufMetadata metadata = make_metadata(spec, config, table.parameters());
  return Model::load(quant::GgufFile::in_memory(to_text(spec), std::move(metadata), std::move(table.tensors),
                                                std::move(memory)),
                     std::move(experts));
}

quant::GgufFile declare_model(const ModelSpec& spec) {
  const ModelConfig config = config_of(spec);
  TensorTable table = plan_tensors(spec, config);
  quant::GgufMetadata metadata = make_metadata(spec, config, table.parameters());
  return quant::GgufFile::in_memory(to_text(spec), std::move(metadata), std::move(table.tensors), {});
}

}  // namespace sluice::synth
