#include "bench/cuda_attention_speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "bench/cuda_attention_cases.h"
#include "bench/cuda_gather_speed.h"

namespace sluice::bench {
namespace {

using cuda::IndexKeyFormat;
using cuda::LatentFormat;

std::string in_us(double seconds) {
  return fmt::format("{:.1f} us", seconds * 1e6);
}

/// Seconds that reading the selected rows or multiplying with them takes at best.
double sparse_floor(const CudaFloors& floors, double queries, LatentFormat format) {
  const auto row_bytes = static_cast<double>(cuda::latent_row_bytes(format, kLatentDims, kRopeDims));
  return queries * kSelectedRows *
         std::max(row_bytes / floors.read_bytes_per_second, kMlaFlops / floors.mma_bf16_flops);
}

void index_bars(const CudaFloors& floors, Report& report) {
  for (const int64_t context : {131072, 32768, 4096}) {
    for (const IndexKeyFormat format : {IndexKeyFormat::kInt8, IndexKeyFormat::kBf16}) {
      const double bytes = static_cast<double>(context) *
                           (static_cast<double>(cuda::index_key_bytes(format, kIndexDims)) +
                            (format == IndexKeyFormat::kInt8 ? 8.0 : 4.0));  // a key, its scale, its score
      const double seconds = index_seconds({1, context}, format);
      const std::string name = fmt::format("index scores, 1 query, {} keys, {}", context,
                                           format == IndexKeyFormat::kInt8 ? "int8" : "bf16");
      const std::string floor = fmt::format("read {:.0f} GB/s", floors.read_bytes_per_second * 1e-9);
      const double share = bytes / seconds / floors.read_bytes_per_second;
      if (context == 131072 && format == IndexKeyFormat::kInt8) {
        report.line(name, in_us(seconds), floor, share, Bar::kAtLeast, 0.60);
      } else {
        Report::note(name, in_us(seconds), floor, share);
      }
    }
  }
  const AttentionCase prefill{2048, 32768};
  const double flops = index_pairs(prefill) * kIndexFlops;
  const double int8 = index_seconds(prefill, IndexKeyFormat::kInt8);
  report.line("index scores, 2048 queries at 32768, int8", in_us(int8),
              fmt::format("mma int8 {:.0f} Top/s", floors.mma_int8_ops * 1e-12),
              flops / int8 / floors.mma_int8_ops, Bar::kAtLeast, 0.40);
  const double bf16 = index_seconds(prefill, IndexKeyFormat::kBf16);
  Report::note("index scores, 2048 queries at 32768, bf16 x2", in_us(bf16),
               fmt::format("mma bf16 {:.0f} Tflop/s", floors.mma_bf16_flops * 1e-12),
               2 * flops / bf16 / floors.mma_bf16_flops);
}

void top_k_bars(const CudaFloors& floors, Report& report) {
  const auto read = [&](const AttentionCase& which) {
    return index_pairs(which) * 4 / floors.read_bytes_per_second;
  };
  const AttentionCase prefill{2048, 131072};
  const double seconds = top_k_seconds(prefill);
  report.line("top 2048, 2048 queries at 131072", in_us(seconds), in_us(read(prefill)) + " to read",
              seconds / read(prefill), Bar::kAtMost, 3.0);
  for (const AttentionCase& which :
       {AttentionCase{2048, 32768}, AttentionCase{32, 131072}, AttentionCase{1, 131072},
        AttentionCase{1, 32768}, AttentionCase{1, 4096}}) {
    const double few = top_k_seconds(which);
    Report::note(fmt::format("top 2048, {} queries at {}", which.n_queries, which.context), in_us(few),
                 in_us(read(which)) + " to read", few / read(which));
  }
}

double mla(const AttentionCase& which, LatentFormat format, Rows rows) {
  return mla_seconds(which, format, rows, plan_of(which, rows));
}

void decode_bars(const CudaFloors& floors, Report& report) {
  const double nothing = mla({1, 131072}, LatentFormat::kBf16, Rows::kNone);
  Report::note("attention, 1 token, no rows: launches", in_us(nothing), "", 0.0);
  for (const LatentFormat format : {LatentFormat::kBf16, LatentFormat::kFp8}) {
    const char* name = format == LatentFormat::kBf16 ? "bf16" : "fp8";
    const double floor = sparse_floor(floors, 1, format);
    const double far = mla({1, 131072}, format, Rows::kSelected);
    const double near = mla({1, 4096}, format, Rows::kSelected);
    report.line(fmt::format("sparse attention, 1 token, {}", name), in_us(far), in_us(floor) + " floor",
                far / floor, Bar::kAtMost, 4.0);
    report.line(fmt::format("the same at 131072 and 4096, {}", name), in_us(far), in_us(near), far / near,
                Bar::kAtMost, 1.15);
    for (const int64_t context : {65536, 131072}) {
      const double dense = mla({1, context}, format, Rows::kAll);
      const double rows_floor = floor * static_cast<double>(context) / kSelectedRows;
      const double sparse = mla({1, context}, format, Rows::kSelected);
      const double selecting =
          index_seconds({1, context}, IndexKeyFormat::kInt8) + top_k_seconds({1, context});
      Report::note(fmt::format("dense attention, 1 token at {}, {}", context, name), in_us(dense),
                   in_us(rows_floor) + " floor", dense / rows_floor);
      report.line(fmt::format("dense to sparse at {}, {}", context, name), in_us(dense), in_us(sparse),
                  dense / sparse, Bar::kAtLeast, context == 65536 ? 5.0 : 9.0);
      report.line(fmt::format("dense to sparse, indexer, top-k at {}, {}", context, name), in_us(dense),
                  in_us(sparse + selecting), dense / (sparse + selecting), Bar::kAtLeast,
                  context == 65536 ? 3.0 : 5.0);
    }
    const double eight = mla({8, 131072}, format, Rows::kSelected);
    Report::note(fmt::format("sparse attention, 8 tokens, {}", name), in_us(eight),
                 in_us(8 * floor) + " floor", eight / (8 * floor));
  }
}

/// The rival at its best: scores of either type.
void gather_bars(const AttentionCase& which, double ours, Report& report) {
  const GatherSeconds f32 = gather_seconds(which, ScoreType::kF32);
  const GatherSeconds bf16 = gather_seconds(which, ScoreType::kBf16);
  for (const GatherSeconds& rival : {f32, bf16}) {
    const char* scores = rival.scores == ScoreType::kF32 ? "f32" : "bf16";
    Report::note(fmt::format("gather + cuBLAS, {} scores, {} queries a chunk", scores, rival.chunk),
                 in_us(rival.whole), "", rival.whole / ours);
    constexpr const char* kParts[] = {"its gather", "its scores", "its softmax", "its output"};
    for (size_t i = 0; i < rival.parts.size(); ++i) {
      Report::note(kParts[i], in_us(rival.parts[i]), "of " + in_us(rival.whole),
                   rival.parts[i] / rival.whole);
    }
  }
  const double rival = std::min(f32.whole, bf16.whole);
  report.line(fmt::format("sparse attention against gather + cuBLAS, {} queries at {}", which.n_queries,
                          which.context),
              in_us(ours), in_us(rival) + " rival", rival / ours, Bar::kAtLeast, 2.0);
}

void prefill_bars(const CudaFloors& floors, Report& report) {
  const std::string floor = fmt::format("mma bf16 {:.0f} Tflop/s", floors.mma_bf16_flops * 1e-12);
  const AttentionCase prefill{2048, 32768};
  const double flops = static_cast<double>(prefill.n_queries) * kSelectedRows * kMlaFlops;
  const double bf16 = mla(prefill, LatentFormat::kBf16, Rows::kSelected);
  report.line("sparse attention, 2048 queries at 32768, bf16", in_us(bf16), floor,
              flops / bf16 / floors.mma_bf16_flops, Bar::kAtLeast, 0.35);
  const double fp8 = mla(prefill, LatentFormat::kFp8, Rows::kSelected);
  Report::note("the same, fp8", in_us(fp8), floor, flops / fp8 / floors.mma_bf16_flops);
  for (const AttentionCase& dense : {AttentionCase{256, 32768}, AttentionCase{2048, 32768}}) {
    const std::string name = fmt::format("dense attention, {} queries at {}", dense.n_queries, dense.context);
    const double absorbed = mla(dense, LatentFormat::kBf16, Rows::kAll);
    Report::note(name + ", bf16", in_us(absorbed), floor,
                 index_pairs(dense) * kMlaFlops / absorbed / floors.mma_bf16_flops);
    const double expanded = mla_expanded_seconds(dense);
    const double expanded_flops =
        index_pairs(dense) * kMlaExpandedFlops + static_cast<double>(dense.context) * kExpansionFlops;
    Report::note(name + ", expanded (expansion included)", in_us(expanded), floor,
                 expanded_flops / expanded / floors.mma_bf16_flops);
  }
  gather_bars(prefill, bf16, report);
}

}  // namespace

void guard_cuda_attention(const CudaFloors& floors, Report& report) {
  index_bars(floors, report);
  top_k_bars(floors, report);
  decode_bars(floors, report);
  prefill_bars(floors, report);
}

}  // namespace sluice::bench
