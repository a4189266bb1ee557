#include "engine/backends/cpu_backend.h"

#include <algorithm>

namespace sluice {
namespace {

// A task of at least this many multiply-adds: a few microseconds, above the cost of handing it to a worker.
constexpr int64_t kTaskMultiplyAdds = 1 << 15;
// Weight rows per task at least, so that a decoded tile serves a whole register block.
constexpr int64_t kMinTaskRows = quant::kPanelRows;
// Tasks per worker, so that a slow one does not keep the others waiting for half of the work.
constexpr int64_t kTasksPerWorker = 4;
constexpr int64_t kNormGrain = 8;

int64_t largest_matmul_cols(const ModelConfig& c) {
  return std::max(
      {c.d_model, c.q_rank, c.heads * c.d_value, c.d_latent, c.d_ffn, c.shared_experts * c.d_expert});
}

/// Rows per task of a product whose rows cost `multiply_adds` each: whole panels, or tiles of as many rows.
int64_t task_rows(int64_t rows, int64_t multiply_adds, int64_t threads) {
  const int64_t wanted = std::max(kTaskMultiplyAdds / multiply_adds, rows / (kTasksPerWorker * threads));
  return std::max(kMinTaskRows, wanted / kMinTaskRows * kMinTaskRows);
}

}  // namespace

CpuBackend::CpuBackend(const Model& model, const RuntimeOptions& options, const PanelWeights* panels,
                       cpu::Isa isa, offload::Workers& workers)
    : model_(model),
      config_(model.config()),
      kernels_(cpu::kernels_for(isa)),
      panel_kernels_(cpu::panel_kernels_for(isa)),
      workers_(workers),
      panels_(panels),
      quantized_(options.activations == Activations::kInt8 ? options.max_batch * largest_matmul_cols(config_)
                                                           : 0),
      frequencies_(cpu::yarn_frequencies(config_.rope)),
      buffers_(config_, options.max_batch),
      attention_(config_, kernels_, workers) {
  const int64_t floats = std::max(cpu::matmul_scratch_floats(largest_matmul_cols(config_)),
                                  cpu::router_scratch_floats(config_.router));
  scratch_.resize(static_cast<size_t>(workers.threads()));
  for (WorkerScratch& scratch : scratch_) {
    scratch.floats.resize(static_cast<size_t>(floats));
  }
}

void CpuBackend::matmul(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y) {
  const quant::PanelView* const panels = panels_ != nullptr ? panels_->find(w) : nullptr;
  if (panels != nullptr) {
    matmul_panels(*panels, x, y);
    return;
  }
  const int64_t grain = task_rows(w.rows, w.cols * x.rows, workers_.threads());
  workers_.for_ranges(w.rows, grain, [&](int64_t begin, int64_t end, int64_t worker) {
    cpu::matmul_rows(kernels_, w, begin, end, x, y, scratch_[static_cast<size_t>(worker)].floats);
  });
}

void CpuBackend::matmul_panels(const quant::PanelView& w, MatrixView<const float> x, MatrixView<float> y) {
  const quant::DType dtype = w.layout.dtype;
  const bool int8 = cpu::takes_int8(dtype);
  if (int8) {
    quantized_.set_shape(x.cols, cpu::panel_numerics(dtype));
    workers_.for_ranges(x.rows, kNormGrain, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t t = begin; t < end; ++t) {
        quantized_.quantize(panel_kernels_, t, 0, x.cols, x.row(t).data());
      }
    });
  }
  const int64_t rows = task_rows(w.rows, w.layout.cols * x.rows, workers_.threads());
  workers_.for_ranges(w.panels(), rows / quant::kPanelRows, [&](int64_t begin, int64_t end, int64_t) {
    if (int8) {
      cpu::panel_matmul(panel_kernels_, w, begin, end, quantized_.rows(0, x.rows), y);
    } else {
      cpu::panel_matmul(panel_kernels_, w, begin, end, x, y);
    }
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
