// What a top-k of rows takes, and where its ways of working part: without CUDA.
#pragma once

#include <cstdint>

namespace sluice::cuda {

inline constexpr int64_t kMostTopKScores = 163840;  // of a row
inline constexpr int64_t kMostTopK = 2048;

inline constexpr int64_t kFewTopKRows = 32;        // that several blocks share, or one that is faster
inline constexpr int kTopKChunk = 2048;            // scores of a row that a block lists candidates of
inline constexpr int kFewTopKCapacity = 8192;      // scores or candidates that one block selects from
inline constexpr int64_t kTopKCandidateBytes = 8;  // key and position
inline constexpr int64_t kTopKSummaryBytes = 16;   // of a chunk

/// Whether the rows are few enough for that.
bool top_k_rows_are_few(int64_t n_rows);

/// Whether several blocks list the candidates of each row first: rows are few and may be long.
bool top_k_collects(int64_t n_rows, int64_t most_scores);

/// Bytes of scratch of launch_top_k; nothing has to be in it, and nothing stays.
int64_t top_k_scratch_bytes(int64_t n_rows, int64_t most_scores);

}  // namespace sluice::cuda
