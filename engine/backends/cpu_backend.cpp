#include "engine/backends/cpu_backend.h"

#include <algorithm>
#include <array>
#include <cassert>

namespace sluice {
namespace {

// A task of at least this many multiply-adds: a few microseconds, above the cost of handing it to a worker.
constexpr int64_t kTaskMultiplyAdds = 1 << 15;
// Weight rows per task at least, so that a decoded tile serves a whole register block.
constexpr int64_t kMinTaskRows = quant::kPanelRows;
// Tasks per worker, so that a slow one does not keep the others waiting for half of the work.
constexpr int64_t kTasksPerWorker = 4;
constexpr int64_t kNormGrain = 8;
constexpr size_t kMostProducts = 4;  // that share an input

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

CpuBackend::CpuBackend(const Model& model, const RuntimeOptions& options, LayerRange layers,
                       const PanelWeights* panels, cpu::Isa isa, offload::Workers& workers)
    : model_(model),
      config_(model.config()),
      layers_(layers),
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
    if (options.activations == Activations::kInt8) {
      scratch.quantized = offload::Int8Rows(options.max_batch * std::max(config_.d_nope, config_.d_latent));
    }
  }
}

struct CpuBackend::Share {
  const quant::WeightView* w = nullptr;
  const quant::PanelView* panels = nullptr;  // null: rows, decoded or in F32
  MatrixView<float> y;
  int64_t grain = 1;  // units per task
  int64_t tasks = 0;

  [[nodiscard]] int64_t units() const { return (w->rows + quant::kPanelRows - 1) / quant::kPanelRows; }
  /// What its activations must be quantized for; none when they stay float32.
  [[nodiscard]] std::optional<cpu::PanelNumerics> form() const {
    return panels != nullptr && cpu::takes_int8(panels->layout.dtype)
               ? std::optional(cpu::panel_numerics(panels->layout.dtype))
               : std::nullopt;
  }
};

void CpuBackend::matmul(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y) {
  const Product product{&w, y};
  matmul({&product, 1}, x);
}

void CpuBackend::matmul(std::span<const Product> products, MatrixView<const float> x) {
  assert(products.size() <= kMostProducts);
  std::array<Share, kMostProducts> shares;
  size_t count = 0;
  int64_t tasks = 0;
  std::optional<cpu::PanelNumerics> form;
  for (const Product& product : products) {
    Share share{
        .w = product.w, .panels = panels_ != nullptr ? panels_->find(*product.w) : nullptr, .y = product.y};
    if (form && share.form() && *form != *share.form()) {  // another form of x: a loop of its own
      matmul(*product.w, x, product.y);
      continue;
    }
    form = share.form() ? share.form() : form;
    share.grain =
        task_rows(product.w->rows, product.w->cols * x.rows, workers_.threads()) / quant::kPanelRows;
    share.tasks = (share.units() + share.grain - 1) / share.grain;
    tasks += share.tasks;
    shares[count++] = share;
  }
  if (form) {
    quantize(x, *form);
  }
  workers_.for_ranges(tasks, 1, [&](int64_t task, int64_t, int64_t worker) {
    const Share* share = shares.data();
    for (; task >= share->tasks; ++share) {
      task -= share->tasks;
    }
    multiply(*share, task * share->grain, std::min(share->units(), (task + 1) * share->grain), x,
             scratch_[static_cast<size_t>(worker)].floats);
  });
}

void CpuBackend::quantize(MatrixView<const float> x, cpu::PanelNumerics numerics) {
  quantized_.set_shape(x.rows, x.cols, numerics);
  workers_.for_ranges(x.rows, kNormGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      quantized_.quantize(panel_kernels_, t, 0, x.cols, x.row(t).data());
    }
  });
}

// Units [begin, end) of a share.
void CpuBackend::multiply(const Share& share, int64_t begin, int64_t end, MatrixView<const float> x,
                          std::span<float> scratch) {
  if (share.panels == nullptr) {
    cpu::matmul_rows(kernels_, *share.w, begin * quant::kPanelRows,
                     std::min(end * quant::kPanelRows, share.w->rows), x, share.y, scratch);
  } else if (share.form()) {
    cpu::panel_matmul(panel_kernels_, *share.panels, begin, end, quantized_.rows(0, x.rows), share.y);
  } else {
    cpu::panel_matmul(panel_kernels_, *share.panels, begin, end, x, share.y);
  }
}

void CpuBackend::matmul_head(const quant::WeightView& w, MatrixView<const float> x, MatrixView<float> y,
                             int64_t worker) {
  WorkerScratch& scratch = scratch_[static_cast<size_t>(worker)];
  const quant::PanelView* const panels = panels_ != nullptr ? panels_->find(w) : nullptr;
  if (panels == nullptr) {
    cpu::matmul_rows(kernels_, w, 0, w.rows, x, y, scratch.floats);
  } else if (!cpu::takes_int8(w.dtype)) {
    cpu::panel_matmul(panel_kernels_, *panels, 0, panels->panels(), x, y);
  } else {
    scratch.quantized.set_shape(x.rows, x.cols, cpu::panel_numerics(w.dtype));
    for (int64_t t = 0; t < x.rows; ++t) {
      scratch.quantized.quantize(panel_kernels_, t, 0, x.cols, x.row(t).data());
    }
    cpu::panel_matmul(panel_kernels_, *panels, 0, panels->panels(), scratch.quantized.rows(0, x.rows), y);
  }
}

void CpuBackend::rms_norm(MatrixView<const float> x, std::span<const float> gain, MatrixView<float> y) {
  workers_.for_ranges(x.rows, kNormGrain, [&](int64_t begin, int64_t end, int64_t) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.rms_norm(x.row(t).data(), gain.data(), config_.rms_eps, x.cols, y.row(t).data());
    }
  });
}

std::unique_ptr<KvCache> CpuBackend::make_cache(int64_t capacity, CacheType type) {
  return std::make_unique<CpuCache>(config_, layers_, capacity, type);
}

void CpuBackend::embed(const Batch& batch) {
  const MatrixView<float> x = buffers_.residual.rows(batch.n_tokens());
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

void CpuBackend::resume(const Batch& batch, MatrixView<const float> x) {
  const MatrixView<float> residual = buffers_.residual.rows(batch.n_tokens());
  for (int64_t t = 0; t < batch.n_tokens(); ++t) {
    std::ranges::copy(x.row(t), residual.row(t).begin());
  }
}

void CpuBackend::final_norm(RowRange rows) {
  const MatrixView<float> x =
      buffers_.residual.rows(rows.begin + rows.count).rows_from(rows.begin, rows.count);
  rms_norm(x, model_.weights().output_norm, x);
}

void CpuBackend::head(RowRange rows, MatrixView<float> logits) {
  const MatrixView<float> x = buffers_.residual.rows(rows.begin + rows.count);
  matmul(model_.weights().output, x.rows_from(rows.begin, rows.count), logits);
}

}  // namespace sluice
