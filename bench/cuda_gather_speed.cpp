#include "bench/cuda_gather_speed.h"

#include <fmt/format.h>

#include <cmath>
#include <span>
#include <vector>

#include "kernels_cuda/base/stream.h"
#include "quant/base/error.h"
#include "quant/base/number.h"

namespace sluice::bench {
namespace {

// Few queries stay in L2 between kernels, many fill the GPU better. 256 take 0.8 GiB.
constexpr int64_t kChunks[] = {8, 16, 32, 64, 128, 256};

/// |actual - expected| / |expected| of a head's output, launch_mla's being what is expected: both sides round
/// weights and outputs to bf16, 2^-8 each at most, and scores of bf16, to the base 2 below 16 here, are off
/// by 2^-5 at most.
double allowed(ScoreType scores) {
  return 4 * 0x1p-8 + (scores == ScoreType::kBf16 ? 0.6931 * 0x1p-5 : 0.0);
}

double relative_difference(std::span<const uint16_t> actual, std::span<const uint16_t> expected) {
  double difference = 0.0;
  double size = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto x = static_cast<double>(bf16_to_f32(actual[i]));
    const auto y = static_cast<double>(bf16_to_f32(expected[i]));
    difference += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(difference / size);
}

/// [n_queries, kHeads, kLatentDims] of a call; NaN where it writes nothing.
std::vector<uint16_t> output_of(const MlaInputs& inputs, const MlaLaunch& launch) {
  cuda::MlaParams params = inputs.params(0);
  const cuda::Stream stream;
  const cuda::DeviceBuffer<uint16_t> out(params.n_queries * kHeads * kLatentDims);
  out.fill_bytes(0xFF, stream.get());
  params.out = out.data();
  launch(params, stream.get());
  return out.to_host(stream.get());
}

void check_output(std::span<const uint16_t> actual, std::span<const uint16_t> expected, int64_t chunk,
                  ScoreType scores) {
  constexpr auto kValues = static_cast<size_t>(kLatentDims);
  for (size_t at = 0; at < expected.size(); at += kValues) {
    const double found = relative_difference(actual.subspan(at, kValues), expected.subspan(at, kValues));
    if (!(found <= allowed(scores))) {  // NaN neither
      const size_t head = at / kValues;
      throw Error(fmt::format("gather + cuBLAS, {} queries a chunk: query {}, head {}", chunk, head / kHeads,
                              head % kHeads),
                  fmt::format("launch_mla's output but for {:.4f} of its size", allowed(scores)),
                  fmt::format("{:.4f}", found));
    }
  }
}

double seconds_until(GatherPart last, const MlaInputs& inputs, const GatherRival& rival) {
  return inputs.seconds(
      [&](const cuda::MlaParams& params, cudaStream_t stream) { rival.launch(params, last, stream); });
}

void measure_parts(const MlaInputs& inputs, GatherSeconds& best) {
  const GatherRival rival(best.chunk, best.scores);
  double before = 0.0;
  for (const GatherPart part : {GatherPart::kGather, GatherPart::kScores, GatherPart::kSoftmax}) {
    const double seconds = seconds_until(part, inputs, rival);
    best.parts[static_cast<size_t>(part)] = seconds - before;
    before = seconds;
  }
  best.parts[static_cast<size_t>(GatherPart::kOutput)] = best.whole - before;
}

}  // namespace

GatherSeconds gather_seconds(const AttentionCase& which, ScoreType scores) {
  const MlaInputs inputs(which, cuda::LatentFormat::kBf16, Rows::kSelected, plan_of(which, Rows::kSelected));
  const std::vector<uint16_t> expected = output_of(inputs, cuda::launch_mla);
  GatherSeconds best{.scores = scores};
  for (const int64_t chunk : kChunks) {
    const GatherRival rival(chunk, scores);
    const std::vector<uint16_t> actual =
        output_of(inputs, [&](const cuda::MlaParams& params, cudaStream_t stream) {
          rival.launch(params, GatherPart::kOutput, stream);
        });
    check_output(actual, expected, chunk, scores);
    const double seconds = seconds_until(GatherPart::kOutput, inputs, rival);
    if (best.chunk == 0 || seconds < best.whole) {
      best.chunk = chunk;
      best.whole = seconds;
    }
  }
  measure_parts(inputs, best);
  return best;
}

}  // namespace sluice::bench
