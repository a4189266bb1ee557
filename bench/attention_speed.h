// One layer of attention over a long context as the CPU backend runs it (engine/backends/latent_attention.h),
// at the shape of DeepSeek-V3.2, ready to be timed.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "engine/backends/latent_attention.h"

namespace sluice::bench {

struct AttentionOptions {
  int64_t threads = 2;
  int64_t context = 32768;
  int64_t batch = 64;
  int64_t repeats = 20;
};

/// One thing to time; the times are the best of the repeats.
struct AttentionCase {
  std::string name;
  double bytes;  // read at least once
  double flops;
  std::function<void()> work;
  double seconds = std::numeric_limits<double>::infinity();
  double cpu_seconds = std::numeric_limits<double>::infinity();  // of all threads together
};

/// One layer's cache, filled, and the queries of a batch.
struct AttentionScene {
  AttentionScene(const ModelConfig& config, const cpu::Kernels& kernels, const AttentionOptions& options);

  CpuCache cache;
  std::vector<float> heads;
  std::vector<float> index_heads;
  std::vector<float> index_weights;
  std::vector<float> out;
  std::vector<int32_t> ids;
};

class AttentionSpeed {
 public:
  explicit AttentionSpeed(const AttentionOptions& options);

  /// One token sparse, one token dense, `batch` tokens sparse: timed in turn, so that a noisy moment meets
  /// all alike.
  std::vector<AttentionCase> measure();
  /// The cached rows that dense attention reads.
  [[nodiscard]] std::span<const std::byte> rows() const;
  [[nodiscard]] cpu::Isa isa() const { return kernels_.isa; }

 private:
  void attend(int64_t tokens, AttentionMode mode);
  [[nodiscard]] std::vector<AttentionCase> cases();

  AttentionOptions options_;
  ModelConfig config_;
  const cpu::Kernels& kernels_;
  offload::Workers workers_;
  AttentionScene scene_;
  LatentAttention attention_;
};

}  // namespace sluice::bench
