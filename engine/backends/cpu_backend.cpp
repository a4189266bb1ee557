#include "engine/backends/cpu_backend.h"

#include <algorithm>

namespace sluice {
namespace {

// A task of at least this many multiply-adds: a few microseconds, above the cost of handing it to a worker.
constexpr int64_t kTaskMultiplyAdds = 1 << 15;
// Weight rows per task at least, so that a decoded tile serves a whole register block.
constexpr int64_t kMinTaskRows = 16;
// Tasks per worker, so that a slow one does not keep the others waiting for half of the work.
constexpr int64_t kTasksPerWorker = 4;
constexpr int64_t kNormGrain = 8;

int64_t largest_matmul_cols(const ModelConfig& c) {
  return std::max(
      {c.d_model, c.q_rank, c.heads * c.d_value, c.d_latent, c.d_ffn, c.shared_experts * c.d_expert});
}

}  // namespace

CpuBackend::CpuBackend(const Model& model, const cpu::Kernels& kernels, offload::Workers& workers,
                       int64_t max_tokens)
    : model_(model),
      config_(model.config()),
      kernels_(kernels),
      workers_(workers),
      frequencies_(cpu::yarn_frequencies(config_.rope)),
      buffers_(config_, max_tokens),
      attention_(config_, kernels, workers) {
  const int64_t floats = std::max(cpu::matmul_scratch_floats(largest_matmul_cols(config_)),
                                  cpu::router_scratch_floats(config_.router));
  scratch_.resize(static_cast<size_t>(workers.threads()));
  for (WorkerScratch& scratch : scratch_) {
    scratch.floats.resize(static_cast<size_t>(floats));
  }
}

void CpuBackend::matmul(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y) {
  const int64_t wanted =
      std::max(kTaskMultiplyAdds / (w.cols * x.rows), w.rows / (kTasksPerWorker * workers_.threads()));
  const int64_t grain = std::max(kMinTaskRows, wanted / kMinTaskRows * kMinTaskRows);
  workers_.for_ranges(w.rows, grain, [&](int64_t begin, int64_t end, int64_t worker) {
    cpu::matmul_rows(kernels_, w, begin, end, x, y, scratch_[static_cast<size_t>(worker)].floats);
  });
}

void CpuBackend::rms_norm(MatrixView<const float> x, std::span<const float> gain, MatrixView<float> y) {
  workers_.for_ranges(x.rows, kNormGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.rms_norm(x.row(t).data(), gain.data(), config_.rms_eps, x.cols, y.row(t).data());
    }
  });
}

void CpuBackend::embed(const Batch& batch, MatrixView<float> x) {
  const quant::WeightView& table = model_.weights().token_embedding;
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    float* row = x.row(t).data();
    kernels_.dequantize_row[static_cast<size_t>(table.dtype)](table.row(batch.ids[static_cast<size_t>(t)]),
                                                              table.cols, row);
    if (table.scale != 1.0F) {
      kernels_.scale(table.scale, table.cols, row);
    }
  }
}

void CpuBackend::final_norm(MatrixView<float> x) {
  rms_norm(x, model_.weights().output_norm, x);
}

void CpuBackend::head(MatrixView<const float> x, MatrixView<float> logits) {
  matmul(model_.weights().output, x, logits);
}

}  // namespace sluice
