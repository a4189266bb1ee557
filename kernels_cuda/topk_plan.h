// What a top-k of rows takes, and where its ways of working part: without CUDA.
#pragma once

#include <cstdint>

namespace sluice::cuda {

inline constexpr int64_t kMostTopKScores = 163840;  // of a row
inline constexpr int64_t kMostTopK = 2048;

inline constexpr int kTopKChunk = 4096;            // scores that a block has where several share a row
inline constexpr int64_t kFewTopKRows = 32;        // that get several blocks each
inline constexpr int kFewTopKCapacity = 8192;      // candidates of a row that fit into shared memory then
inline constexpr int64_t kTopKCandidateBytes = 8;  // key and position

/// Whether several blocks collect a row's candidates first.
bool top_k_rows_are_few(int64_t n_rows, int64_t most_scores);

/// Bytes of scratch of launch_top_k; nothing has to be in it, and nothing stays.
int64_t top_k_scratch_bytes(int64_t n_rows, int64_t most_scores);

}  // namespace sluice::cuda
