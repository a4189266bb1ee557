#include "engine/backends/cuda_progress.h"

#include <fmt/format.h>

#include <atomic>

namespace sluice {
namespace {

constexpr int64_t kWords = 32;   // a cache line of its own
constexpr uint32_t kBlocks = 4;  // marks per layer

}  // namespace

uint32_t block_mark(CudaBlock block, int64_t layer) {
  return static_cast<uint32_t>(layer) * kBlocks + static_cast<uint32_t>(block);
}

std::string block_text(uint32_t mark) {
  const uint32_t layer = mark / kBlocks;
  switch (static_cast<CudaBlock>(mark % kBlocks)) {
    case CudaBlock::kAttention:
      return fmt::format("attention of layer {}", layer);
    case CudaBlock::kFfn:
      return fmt::format("feed-forward of layer {}", layer);
    case CudaBlock::kHead:
      return "the head";
  }
  return "none";
}

CudaProgress::CudaProgress() : word_(kWords) {
  word_.data()[0] = 0;
}

cuda::Mark CudaProgress::begin_of(CudaBlock block, int64_t layer) const {
  return {.word = word_.data(), .value = block_mark(block, layer)};
}

std::string CudaProgress::text() const {
  return block_text(std::atomic_ref(word_.data()[0]).load(std::memory_order_relaxed));
}

}  // namespace sluice
