#include "engine/memory_need.h"

#include <fmt/format.h>

#include "quant/base/error.h"

namespace sluice {
namespace {

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.1f} GB", static_cast<double>(bytes) / 1e9);
}

int64_t matrix_bytes(const offload::ExpertMatrix& matrix, int64_t experts) {
  return experts * matrix.rows * quant::row_bytes(matrix.all.dtype, matrix.all.cols);
}

}  // namespace

void require_memory(const Model& model, const MemoryNeed& need, int64_t available) {
  if (need.experts + need.panels <= available) {
    return;
  }
  const bool in_file = model.expert_source() == nullptr;
  throw Error(
      model.path().string(),
      fmt::format("{} of memory: {} for the routed experts, {} for panels of the other matrices ({})",
                  gigabytes(need.experts + need.panels), gigabytes(need.experts), gigabytes(need.panels),
                  in_file ? "--mmap leaves the experts in the file, which is slower"
                          : "fewer layers or experts would take less"),
      gigabytes(available) + " available");
}

void require_gpu_memory(const std::string& gpu, const GpuMemoryNeed& need, int64_t available) {
  const int64_t total = need.weights + need.experts + need.working + need.cache;
  if (total <= available) {
    return;
  }
  const std::string experts =
      need.experts == 0
          ? std::string()
          : fmt::format("{} for routed experts (a larger -ncmoe leaves more of them in memory), ",
                        gigabytes(need.experts));
  throw Error(
      gpu,
      fmt::format("{} of free memory: {} for weights, {}{} for a batch of {} tokens (-ub), {} for the "
                  "cache of {} tokens (-c); smaller ones take less, a smaller -ngl leaves layers to the CPU",
                  gigabytes(total), gigabytes(need.weights), experts, gigabytes(need.working), need.max_batch,
                  gigabytes(need.cache), need.context),
      gigabytes(available) + " free");
}

int64_t expert_bytes(const ModelWeights& weights) {
  int64_t bytes = 0;
  for (const LayerWeights& layer : weights.layers) {
    const offload::ExpertLayer& experts = layer.experts;
    if (experts.experts > 0) {
      bytes += matrix_bytes(experts.gate, experts.experts) + matrix_bytes(experts.up, experts.experts) +
               matrix_bytes(experts.down, experts.experts);
    }
  }
  return bytes;
}

std::string mapped_experts_notice(const ModelWeights& weights, int64_t available) {
  const int64_t bytes = expert_bytes(weights);
  std::string cost = fmt::format(
      "--mmap: {} of experts stay in the file and are made into panels anew whenever they are used, which "
      "is slower than loading them once",
      gigabytes(bytes));
  if (bytes <= available) {
    return cost;
  }
  return fmt::format(
      "{}; {} of available memory cannot cache them all, so some are read from the disk again "
      "for every token",
      cost, gigabytes(available));
}

}  // namespace sluice
