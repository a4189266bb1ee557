#include "bench/cuda_chosen_speed.h"

#include <numeric>
#include <vector>

#include "bench/report.h"
#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/chosen_experts.h"
#include "kernels_cuda/elementwise.h"

namespace sluice::bench {
namespace {

using quant::DType;

constexpr int64_t kModel = 7168;
constexpr int64_t kHidden = 2048;
constexpr int64_t kUsed = 8;
/// In memory: several times what a token reads, and far more than any L2.
constexpr int64_t kExperts = 40;
constexpr int64_t kLaunches = 15;

/// The experts of a layer.
class Experts {
 public:
  explicit Experts(DType dtype)
      : wide_{.layout = quant::panel_layout(dtype, kModel), .rows = kHidden},
        tall_{.layout = quant::panel_layout(dtype, kHidden), .rows = kModel},
        bytes_((2 * wide_.bytes() + tall_.bytes()) * kExperts) {
    fill_random(bytes_.data(), bytes_.bytes(), 5);
  }

  [[nodiscard]] cuda::ExpertPanels gate() const { return at(wide_, 0); }
  [[nodiscard]] cuda::ExpertPanels up() const { return at(wide_, wide_.bytes()); }
  [[nodiscard]] cuda::ExpertPanels down() const { return at(tall_, 2 * wide_.bytes()); }
  [[nodiscard]] int64_t bytes_of_expert() const { return bytes_.bytes() / kExperts; }

 private:
  [[nodiscard]] cuda::ExpertPanels at(quant::PanelView view, int64_t begin) const {
    view.data = bytes_.data() + begin * kExperts;
    return {.first = view, .expert_bytes = view.bytes(), .scales = nullptr, .experts = kExperts};
  }

  quant::PanelView wide_;
  quant::PanelView tall_;
  cuda::DeviceBuffer<std::byte> bytes_;
};

/// Of so many tokens, `here` of whose kUsed experts are on the GPU.
struct ChosenCase {
  int64_t tokens;
  int64_t here;
};

/// For each launch kUsed experts for each token, all of a launch different as long as there are others.
std::vector<int32_t> choices(const ChosenCase& which) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kLaunches * which.tokens * kUsed; ++i)
    ids.push_back(i % kUsed < which.here ? static_cast<int32_t>(i * 3 % kExperts) : -1);
  return ids;
}

double seconds_of(const Experts& experts, const ChosenCase& which) {
  const int64_t n = which.tokens * kUsed;
  const cuda::DeviceBuffer<int32_t> ids(choices(which));
  std::vector<int32_t> every(static_cast<size_t>(n));
  std::iota(every.begin(), every.end(), 0);
  const cuda::DeviceBuffer<int32_t> slots(every);
  const cuda::DeviceBuffer<float> x(which.tokens * kModel);
  const cuda::DeviceBuffer<float> hidden(n * kHidden);
  const cuda::DeviceBuffer<float> parts(n * kModel);
  const cuda::DeviceBuffer<float> weights(n);
  const cuda::DeviceBuffer<float> y(which.tokens * kModel);
  fill_random(x.data(), x.bytes(), 6);
  fill_random(weights.data(), weights.bytes(), 7);
  parts.fill_bytes(0, nullptr);
  y.fill_bytes(0, nullptr);
  return seconds_per_launch(kLaunches, 11, [&](int64_t i, void* stream) {
    cuda::chosen_experts({.gate = experts.gate(),
                          .up = experts.up(),
                          .down = experts.down(),
                          .ids = ids.data() + i * n,
                          .used = kUsed,
                          .n_tokens = which.tokens,
                          .x = x.data(),
                          .hidden = hidden.data(),
                          .y = parts.data()},
                         static_cast<cudaStream_t>(stream));
    cuda::add_experts({.parts = parts.data(),
                       .slots = slots.data(),
                       .weights = weights.data(),
                       .y = y.data(),
                       .n_tokens = which.tokens,
                       .used = kUsed,
                       .n = kModel},
                      static_cast<cudaStream_t>(stream));
  });
}

}  // namespace

void report_cuda_chosen(const CudaFloors& floors) {
  for (const DType dtype : {DType::kNVFP4, DType::kQ8_0}) {
    const Experts experts(dtype);
    for (const ChosenCase& which : {ChosenCase{1, 8}, {1, 4}, {2, 8}, {4, 8}, {16, 8}}) {
      const double seconds = seconds_of(experts, which);
      const double rate =
          static_cast<double>(which.tokens * which.here * experts.bytes_of_expert()) / seconds;
      Report::note(
          fmt::format("routed experts of {} token{}, {} of {} here, {}", which.tokens,
                      which.tokens == 1 ? "" : "s", which.here, kUsed, quant::dtype_info(dtype).name),
          fmt::format("{:.0f} GB/s {:.1f} us", rate * 1e-9, seconds * 1e6),
          fmt::format("read {:.0f} GB/s", floors.read_bytes_per_second * 1e-9),
          rate / floors.read_bytes_per_second);
    }
  }
}

}  // namespace sluice::bench
