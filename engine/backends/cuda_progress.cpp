#include "engine/backends/cuda_progress.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

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

cuda::Mark CudaProgress::begin_of(CudaBlock block, int64_t layer) {
  const uint32_t mark = block_mark(block, layer);
  launches_[mark].begin();
  return {.word = word_.data(), .value = mark};
}

std::string CudaProgress::text() const {
  const uint32_t mark = std::atomic_ref(word_.data()[0]).load(std::memory_order_relaxed);
  const auto launches = launches_.find(mark);
  return launches == launches_.end()
             ? block_text(mark)
             : fmt::format("{} (one of {})", block_text(mark), fmt::join(launches->second.names(), ", "));
}

}  // namespace sluice
