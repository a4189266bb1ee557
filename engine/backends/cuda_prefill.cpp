#include "engine/backends/cuda_prefill.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace sluice {
namespace {

using offload::ExpertPart;
using offload::SplitSide;

/// Where the rates begin that layers then correct. Chosen, of a workstation.
constexpr double kRamGbPerSecond = 100;
constexpr double kCpuGopsPerThread = 60;
constexpr double kCopyGbPerSecond = 25;
constexpr double kCopyUs = 5;
constexpr double kGpuTflops = 60;

offload::SplitMode mode_of(Prefill prefill) {
  return prefill == Prefill::kAuto  ? offload::SplitMode::kAuto
         : prefill == Prefill::kCpu ? offload::SplitMode::kCpu
                                    : offload::SplitMode::kStream;
}

offload::SplitRates first_rates(const PassExpertShape& shape, int64_t threads) {
  return offload::split_rates({.ram_gb_per_s = kRamGbPerSecond,
                               .cpu_gops = kCpuGopsPerThread * static_cast<double>(threads),
                               .copy_gb_per_s = kCopyGbPerSecond,
                               .copy_us = kCopyUs,
                               .gpu_tflops = kGpuTflops},
                              shape.d_model, shape.d_expert);
}

int64_t expert_bytes(const offload::ExpertWeights& weights, int64_t layer) {
  int64_t bytes = 0;
  for (int64_t node = 0; node < weights.nodes(); ++node) {
    bytes += weights.share(layer, node).piece_bytes();
  }
  return bytes;
}

}  // namespace

CudaPrefill::CudaPrefill(const offload::ExpertWeights& weights, const CudaPinnedStore& store,
                         const PrefillShape& shape, CudaPassExperts& experts, offload::Workers& workers)
    : weights_(weights),
      shape_(shape),
      experts_(experts),
      stream_(weights, store, shape.staging, workers),
      cpu_({shape.cpu_rows, shape.experts.d_model, shape.experts.used}),
      split_(shape.experts.experts),
      learner_(first_rates(shape.experts, workers.threads())),
      tokens_(static_cast<size_t>(shape.experts.experts)),
      is_here_(static_cast<size_t>(shape.experts.experts)),
      is_cpus_(static_cast<size_t>(shape.experts.experts)) {}

// As many experts are touched as so many tokens choose on average, all alike.
bool CudaPrefill::is_for(int64_t n_tokens) const {
  if (shape_.mode != Prefill::kAuto) {
    return shape_.mode == Prefill::kStream;
  }
  if (n_tokens > shape_.cpu_rows) {
    return true;
  }
  const int64_t choices = n_tokens * shape_.experts.used;
  const int64_t touched = std::min(choices, shape_.experts.experts);
  std::vector<int64_t> tokens(static_cast<size_t>(shape_.experts.experts), 0);
  for (int64_t e = 0; e < touched; ++e) {
    tokens[static_cast<size_t>(e)] = choices / touched;
  }
  int64_t layer = 0;
  while (weights_.experts(layer) == 0) {
    ++layer;
  }
  offload::BatchSplit expected(shape_.experts.experts);
  expected.split({.tokens = tokens,
                  .resident = {},
                  .expert_bytes = expert_bytes(weights_, layer),
                  .probe = learner_.probe()},
                 learner_.rates(), offload::SplitMode::kAuto);
  return expected.work().copied_experts > 0;
}

void CudaPrefill::send_routes(int64_t n_tokens, cudaStream_t stream) {
  experts_.send_routes(n_tokens, stream);
  ++routed_layers_;
  routed(0).record(stream);
}

void CudaPrefill::begin_pass(int64_t layer, int64_t n_tokens) {
  static_cast<void>(stream_.want(layer, sure_of_next(n_tokens)));
  stream_.fill();
}

void CudaPrefill::learn() {
  if (!measured_) {
    return;
  }
  // The last layer is done: what came after it in the stream is.
  times_.stream = static_cast<double>(cuda::elapsed_ms(routed(1), computed_)) * 1e6;
  learner_.learn(work_, times_);
  measured_ = false;
}

std::vector<int32_t> CudaPrefill::divide(int64_t layer, const offload::Routes& routes,
                                         std::span<const ExpertGroup> ahead) {
  std::ranges::fill(tokens_, 0);
  for (int64_t t = 0; t < routes.ids.rows; ++t) {
    for (const int32_t id : routes.ids.row(t)) {
      ++tokens_[static_cast<size_t>(id)];
    }
  }
  std::ranges::fill(is_here_, uint8_t{0});
  for (const ExpertGroup& slot : ahead) {
    for (const int32_t expert : slot) {
      is_here_[static_cast<size_t>(expert)] = 1;
    }
  }
  split_.split({.tokens = tokens_,
                .resident = is_here_,
                .expert_bytes = expert_bytes(weights_, layer),
                .probe = learner_.probe()},
               learner_.rates(), mode_of(shape_.mode));
  work_ = split_.work();
  measured_ = true;
  std::ranges::transform(split_.sides(), is_cpus_.begin(), [](SplitSide side) {
    return static_cast<uint8_t>(side == SplitSide::kCpu ? 1 : 0);
  });
  limit_cpu_rows(routes.ids.rows);
  std::vector<int32_t> streamed;
  for (size_t e = 0; e < tokens_.size(); ++e) {
    if (tokens_[e] > 0 && is_here_[e] == 0 && is_cpus_[e] == 0) {
      streamed.push_back(static_cast<int32_t>(e));
    }
  }
  return streamed;
}

// The busiest of the CPU's go to the stream, and what the layer takes says nothing of the division then.
void CudaPrefill::limit_cpu_rows(int64_t n_tokens) {
  int64_t rows = 0;
  for (size_t e = 0; e < tokens_.size(); ++e) {
    rows += is_cpus_[e] != 0 ? tokens_[e] : 0;
  }
  while (rows > shape_.cpu_rows && n_tokens > shape_.cpu_rows) {
    size_t busiest = 0;
    int64_t most = 0;
    for (size_t e = 0; e < tokens_.size(); ++e) {
      if (is_cpus_[e] != 0 && tokens_[e] > most) {
        most = tokens_[e];
        busiest = e;
      }
    }
    is_cpus_[busiest] = 0;
    rows -= most;
    measured_ = false;
  }
}

// Passes that the CPU may share are never taken for the stream's alone.
std::vector<int32_t> CudaPrefill::sure_of_next(int64_t n_tokens) const {
  const auto count = [&](SplitSide side) { return std::ranges::count(split_.sides(), side); };
  const bool may_share = shape_.mode == Prefill::kAuto && n_tokens <= shape_.cpu_rows;
  std::vector<int32_t> sure(static_cast<size_t>(offload::sure_experts(
      shape_.experts.experts, n_tokens * shape_.experts.used,
      count(SplitSide::kStream) + count(SplitSide::kResident), !may_share && count(SplitSide::kCpu) == 0)));
  std::iota(sure.begin(), sure.end(), 0);
  return sure;
}

CudaPassExperts::Scales CudaPrefill::scales(int64_t layer, std::span<const ExpertGroup> slots) const {
  CudaPassExperts::Scales scales;
  for (const ExpertPart part : {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown}) {
    for (const ExpertGroup& slot : slots) {
      for (const int32_t expert : slot) {
        scales[static_cast<size_t>(part)].push_back(weights_.scale(layer, part, expert));
      }
    }
  }
  return scales;
}

std::optional<Backend::Routed> CudaPrefill::run(const Layer& layer, float* x, const std::stop_token& stop,
                                                cudaStream_t stream) {
  const offload::Routes routes = experts_.receive_routes();
  known_ = Clock::now();
  learn();
  std::vector<ExpertGroup> slots = stream_.keep_begun(layer.layer);
  const std::vector<int32_t> streamed = divide(layer.layer, routes, slots);
  const std::vector<ExpertGroup> more = stream_.want(layer.layer, streamed);
  slots.insert(slots.end(), more.begin(), more.end());
  stream_.fill();
  const int64_t rows = cpu_.send(routes, is_cpus_, experts_.rows(), stream);
  experts_.begin_layer(slots, scales(layer.layer, slots), stream);
  if (layer.next >= 0) {
    static_cast<void>(stream_.want(layer.next, sure_of_next(layer.n_tokens)));
  }
  for (size_t slot = 0; slot < slots.size(); ++slot) {
    if (stop.stop_requested()) {
      return {};
    }
    stream_.fill();
    const std::vector<CudaExpertLayer> shares =
        stream_.shares(layer.layer, stream_.take(stream),
                       {experts_.scales(ExpertPart::kGate, slot), experts_.scales(ExpertPart::kUp, slot),
                        experts_.scales(ExpertPart::kDown, slot)});
    experts_.add(slot, shares, x, stream);
    stream_.release(stream);
  }
  stream_.fill();
  computed_.record(stream);
  times_ = {};
  return rows == 0 ? std::nullopt : std::optional(cpu_.receive());
}

void CudaPrefill::finish(float* x, cudaStream_t stream) {
  times_.cpu = static_cast<double>(std::chrono::nanoseconds(Clock::now() - known_).count());
  cpu_.add_sum(x, stream);
}

void CudaPrefill::give_up(cudaStream_t stream) {
  static_cast<void>(cudaStreamSynchronize(stream));
  stream_.reset();
  measured_ = false;
}

}  // namespace sluice
