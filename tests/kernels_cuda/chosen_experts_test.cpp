// Experts that few tokens chose, against decoded weights in double precision; bits that do not change.
#include "kernels_cuda/chosen_experts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels_cuda/base/buffer.h"
#include "kernels_cuda/base/graph.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"
#include "support/panel_products.h"

namespace sluice::testing {
namespace {

using quant::DType;

/// One matrix for each expert, with a gap behind each.
class Matrices {
 public:
  Matrices(DType type, int64_t experts, int64_t rows, int64_t cols, Random& random) {
    const int64_t gap = 64 * random.integer(0, 2);
    std::vector<std::byte> bytes;
    std::vector<float> scales;
    for (int64_t e = 0; e < experts; ++e) {
      const RandomPanels& matrix = host_.emplace_back(type, rows, cols, random).matrix();
      bytes.insert(bytes.end(), matrix.panels.begin(), matrix.panels.end());
      bytes.insert(bytes.end(), static_cast<size_t>(gap), std::byte{0xFF});
      scales.push_back(random.uniform(1e-3F, 2e-3F));
    }
    expert_bytes_ = std::ssize(bytes) / experts;
    device_ = cuda::DeviceBuffer<std::byte>(bytes);
    if (random.integer(0, 1) == 0) {
      scales_ = scales;
      scales_there_ = cuda::DeviceBuffer<float>(scales);
    }
  }

  [[nodiscard]] cuda::ExpertPanels there() const {
    const RandomPanels& first = host_.front().matrix();
    return {.first = {.layout = first.layout, .data = device_.data(), .rows = first.rows},
            .expert_bytes = expert_bytes_,
            .scales = scales_.empty() ? nullptr : scales_there_.data(),
            .experts = std::ssize(host_)};
  }
  [[nodiscard]] ExpectedProduct product(int64_t expert, const float* x) const {
    const auto e = static_cast<size_t>(expert);
    return host_[e].with(x, scales_.empty() ? 1.0 : double{scales_[e]});
  }
  /// Bytes that no product may meet: NaN in every float.
  void poison(int64_t expert, cudaStream_t stream) const {
    cuda::check(cudaMemsetAsync(device_.data() + expert * expert_bytes_, 0xFF,
                                static_cast<size_t>(expert_bytes_), stream),
                "cudaMemsetAsync");
  }

 private:
  std::vector<PanelProducts> host_;
  int64_t expert_bytes_ = 0;
  cuda::DeviceBuffer<std::byte> device_;
  std::vector<float> scales_;  // or none
  cuda::DeviceBuffer<float> scales_there_;
};

struct Types {
  DType gate;
  DType up;
  DType down;
};

struct Layer {
  Layer(const Types& types, int64_t experts, int64_t model_dims, int64_t expert_dims, Random& random)
      : gate(types.gate, experts, expert_dims, model_dims, random),
        up(types.up, experts, expert_dims, model_dims, random),
        down(types.down, experts, model_dims, expert_dims, random),
        name(quant::dtype_info(types.gate).name),
        d_model(model_dims),
        d_expert(expert_dims) {}

  Matrices gate;
  Matrices up;
  Matrices down;
  std::string name;
  int64_t d_model;
  int64_t d_expert;
};

struct Choices {
  std::vector<int32_t> ids;  // [tokens, used]
  int64_t used;
  [[nodiscard]] int64_t tokens() const { return std::ssize(ids) / used; }
};

/// What is behind every array of results before a call.
constexpr float kBefore = -7.5F;

struct Results {
  std::vector<float> hidden;  // [tokens, used, d_expert]
  std::vector<float> y;       // [tokens, used, d_model]
};

class CudaChosenExperts : public OnGpu {
 protected:
  Choices choices(int64_t tokens, int64_t used, int64_t least, int64_t experts) {
    Choices made{.ids = {}, .used = used};
    for (int64_t i = 0; i < tokens * used; ++i)
      made.ids.push_back(static_cast<int32_t>(random_.integer(least, experts - 1)));
    return made;
  }

  Results run(const Layer& layer, const Choices& c, const std::vector<float>& x) {
    const int64_t n = std::ssize(c.ids);
    const cuda::DeviceBuffer<float> x_there(x);
    const cuda::DeviceBuffer<int32_t> ids(c.ids);
    const cuda::DeviceBuffer<float> hidden(
        std::vector<float>(static_cast<size_t>(n * layer.d_expert), kBefore));
    const cuda::DeviceBuffer<float> y(std::vector<float>(static_cast<size_t>(n * layer.d_model), kBefore));
    cuda::chosen_experts({.gate = layer.gate.there(),
                          .up = layer.up.there(),
                          .down = layer.down.there(),
                          .ids = ids.data(),
                          .used = c.used,
                          .n_tokens = c.tokens(),
                          .x = x_there.data(),
                          .hidden = hidden.data(),
                          .y = y.data()},
                         stream());
    return {hidden.to_host(stream()), y.to_host(stream())};
  }

  /// silu(gate . x) * (up . x) of a choice within what float32 may be off by, and its products with what was
  /// found; untouched where there is no expert.
  static void check_choice(const Layer& layer, int32_t id, const float* x, std::span<const float> hidden,
                           std::span<const float> y) {
    if (id < 0) {
      EXPECT_TRUE(std::ranges::all_of(hidden, [](float v) { return v == kBefore; }));
      EXPECT_TRUE(std::ranges::all_of(y, [](float v) { return v == kBefore; }));
      return;
    }
    const ExpectedProduct gate = layer.gate.product(id, x);
    const ExpectedProduct up = layer.up.product(id, x);
    std::vector<double> expected;
    std::vector<double> allowed;
    for (size_t r = 0; r < gate.y.size(); ++r) {
      const double silu = gate.y[r] / (1 + std::exp(-gate.y[r]));
      expected.push_back(silu * up.y[r]);
      // The slope of silu is below 1.1.
      allowed.push_back(1.1 * gate.allowed[r] * (std::abs(up.y[r]) + up.allowed[r]) +
                        up.allowed[r] * std::abs(silu) + 8 * kRounding * std::abs(expected.back()) + 1e-36);
    }
    EXPECT_TRUE(within(hidden, expected, allowed)) << "hidden";
    const ExpectedProduct down = layer.down.product(id, hidden.data());
    EXPECT_TRUE(within(y, down.y, down.allowed)) << "down";
  }

  void check_all(const Layer& layer, const Choices& c, const std::vector<float>& x) {
    const Results found = run(layer, c, x);
    SCOPED_TRACE(layer.name + ' ' + std::to_string(layer.d_model) + " x " + std::to_string(layer.d_expert) +
                 ", " + std::to_string(c.tokens()) + " tokens, " + std::to_string(c.used) + " choices");
    for (size_t i = 0; i < c.ids.size(); ++i) {
      const auto d_expert = static_cast<size_t>(layer.d_expert);
      const auto d_model = static_cast<size_t>(layer.d_model);
      check_choice(layer, c.ids[i], x.data() + static_cast<int64_t>(i) / c.used * layer.d_model,
                   std::span(found.hidden).subspan(i * d_expert, d_expert),
                   std::span(found.y).subspan(i * d_model, d_model));
    }
  }
};

int64_t unit_of(DType type) {
  return std::max<int64_t>(32, quant::dtype_info(type).elements_per_block);
}

TEST_F(CudaChosenExperts, EveryTypeAndShape) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const int64_t unit = unit_of(type);
    for (int i = 0; i < 4; ++i) {
      const Layer layer({type, type, type}, 6, unit * random_.integer(1, 9), unit * random_.integer(1, 5),
                        random_);
      const int64_t tokens = i == 0 ? 1 : random_.integer(2, 16);
      const Choices c = choices(tokens, random_.integer(1, 8), i % 2 == 0 ? 0 : -2, 6);
      check_all(layer, c, random_.normal(tokens * layer.d_model));
    }
  }
}

// Of 14336 columns one row of x has room in shared memory, so that blocks meet rows one after the other.
TEST_F(CudaChosenExperts, RealWidths) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kQ6_K}) {
    for (const auto& [d_model, d_expert] : {std::pair{7168, 256}, {256, 2048}, {256, 14336}}) {
      const Layer layer({type, type, type}, 3, d_model, d_expert, random_);
      for (const int64_t tokens : {1, 5}) {
        check_all(layer, choices(tokens, 4, 0, 3), random_.normal(tokens * d_model, 1e-2F));
      }
    }
  }
}

TEST_F(CudaChosenExperts, MoreJobsThanABlockAddsUpAtOnce) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_0}) {
    const Layer layer({type, type, type}, 3, 4096, std::max<int64_t>(64, unit_of(type)), random_);
    check_all(layer, choices(16, 8, 0, 3), random_.normal(16 * layer.d_model));
  }
}

TEST_F(CudaChosenExperts, MatricesOfDifferentTypes) {
  SCOPED_TRACE(random_.describe());
  for (const Types& types :
       {Types{DType::kQ8_0, DType::kNVFP4, DType::kQ4_0}, Types{DType::kQ4_K, DType::kBF16, DType::kQ6_K},
        Types{DType::kF32, DType::kQ8_0, DType::kF16}}) {
    const Layer layer(types, 4, 512, 256, random_);
    for (const int64_t tokens : {1, 5}) {
      check_all(layer, choices(tokens, 3, -1, 4), random_.normal(tokens * layer.d_model));
    }
  }
}

TEST_F(CudaChosenExperts, MoreChoicesThanALaunchTakes) {
  SCOPED_TRACE(random_.describe());
  const Layer layer({DType::kNVFP4, DType::kNVFP4, DType::kNVFP4}, 4, 64, 64, random_);
  const int64_t tokens = 2 * cuda::kMostChosen / 20 + 1;
  check_all(layer, choices(tokens, 20, -1, 4), random_.normal(tokens * layer.d_model));
  check_all(layer, choices(2, cuda::kMostChosen, 0, 4), random_.normal(2 * layer.d_model));
}

TEST_F(CudaChosenExperts, NothingChosenIsHere) {
  const Layer layer({DType::kQ8_0, DType::kQ8_0, DType::kQ8_0}, 2, 64, 64, random_);
  check_all(layer, choices(2, 3, -1, 0), random_.normal(2 * layer.d_model));
}

// NaN in experts that nobody chose, in other tokens, and in what is hidden of choices without an expert.
TEST_F(CudaChosenExperts, OthersAreNotRead) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const int64_t unit = unit_of(type);
    const Layer layer({type, type, type}, 5, unit * 3, unit * 2, random_);
    for (const int64_t e : {0, 2, 4}) {
      for (const Matrices* m : {&layer.gate, &layer.up, &layer.down}) m->poison(e, stream());
    }
    const Choices c{.ids = {1, 3, 1, 3, -1, -1, 3, -1, 3}, .used = 3};
    std::vector<float> x = random_.normal(3 * layer.d_model);
    check_all(layer, c, x);
    std::fill(x.begin() + layer.d_model, x.begin() + 2 * layer.d_model,
              std::numeric_limits<float>::quiet_NaN());
    const Results found = run(layer, c, x);
    for (size_t i = 0; i < found.y.size(); ++i) {
      const bool bad = i / static_cast<size_t>(layer.d_model) == 3;
      EXPECT_EQ(std::isnan(found.y[i]), bad) << layer.name << ' ' << i;
    }
  }
}

// A choice's bits are its own, whatever else is chosen, here or elsewhere, and on every run.
TEST_F(CudaChosenExperts, AChoicesBitsAreItsOwn) {
  SCOPED_TRACE(random_.describe());
  for (const DType type : weight_types()) {
    const int64_t unit = unit_of(type);
    const Layer layer({type, type, type}, 5, unit * 3, unit * 2, random_);
    const Choices all = choices(16, 4, 0, 5);
    const std::vector<float> x = random_.normal(16 * layer.d_model);
    const std::vector<float> together = run(layer, all, x).y;
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(identical(run(layer, all, x).y, together)) << layer.name;
    Choices fewer = all;
    for (int32_t& id : fewer.ids) id = random_.integer(0, 2) == 0 ? -1 : id;
    const std::vector<float> some = run(layer, fewer, x).y;
    const auto d_model = static_cast<size_t>(layer.d_model);
    for (size_t i = 0; i < all.ids.size(); ++i) {
      if (fewer.ids[i] < 0) continue;
      EXPECT_TRUE(identical(std::span(some).subspan(i * d_model, d_model),
                            std::span(together).subspan(i * d_model, d_model)))
          << layer.name << ", choice " << i;
    }
    for (const int64_t t : {int64_t{0}, random_.integer(1, 14), int64_t{15}}) {
      const Choices alone{.ids = {all.ids.begin() + t * 4, all.ids.begin() + (t + 1) * 4}, .used = 4};
      const std::vector<float> row(x.begin() + t * layer.d_model, x.begin() + (t + 1) * layer.d_model);
      EXPECT_TRUE(identical(run(layer, alone, row).y,
                            std::span(together).subspan(static_cast<size_t>(t) * 4 * d_model, 4 * d_model)))
          << layer.name << ", token " << t;
    }
  }
}

// A graph reads the choices when it runs.
TEST_F(CudaChosenExperts, AGraphsChoicesAreRead) {
  SCOPED_TRACE(random_.describe());
  const Layer layer({DType::kNVFP4, DType::kNVFP4, DType::kNVFP4}, 6, 256, 128, random_);
  const std::vector<float> x = random_.normal(layer.d_model);
  const cuda::DeviceBuffer<float> x_there(x);
  const cuda::DeviceBuffer<int32_t> ids(4);
  const cuda::DeviceBuffer<float> hidden(4 * layer.d_expert);
  const cuda::DeviceBuffer<float> y(4 * layer.d_model);
  run(layer, choices(1, 4, 0, 6), x);  // a first launch is not captured
  const cuda::Graph graph(stream(), [&] {
    cuda::chosen_experts({.gate = layer.gate.there(),
                          .up = layer.up.there(),
                          .down = layer.down.there(),
                          .ids = ids.data(),
                          .used = 4,
                          .n_tokens = 1,
                          .x = x_there.data(),
                          .hidden = hidden.data(),
                          .y = y.data()},
                         stream());
  });
  for (int i = 0; i < 3; ++i) {
    const Choices c = choices(1, 4, 0, 6);
    cuda::copy_to_gpu(ids.data(), std::as_bytes(std::span(c.ids)), "cudaMemcpy");
    graph.launch(stream());
    EXPECT_TRUE(identical(y.to_host(stream()), run(layer, c, x).y));
  }
}

TEST_F(CudaChosenExperts, RefusesWhatItCannotTake) {
  const Layer layer({DType::kQ8_0, DType::kQ8_0, DType::kQ8_0}, 2, 64, 96, random_);
  const auto refusal = [&](auto change) {
    cuda::ChosenExperts experts{
        .gate = layer.gate.there(), .up = layer.up.there(), .down = layer.down.there(), .used = 2};
    change(experts);
    return error_text([&] { return cuda::chosen_experts(experts, stream()), 0; });
  };
  EXPECT_EQ(refusal([](auto&) {}), "no error");
  EXPECT_NE(refusal([](auto& e) { e.up = e.down; }).find("as many rows"), std::string::npos);
  EXPECT_NE(refusal([](auto& e) { e.used = cuda::kMostChosen + 1; }).find("1 to 128"), std::string::npos);
  EXPECT_NE(refusal([](auto& e) { e.gate.expert_bytes += 16; }).find("64 bytes"), std::string::npos);
  EXPECT_NE(refusal([](auto& e) {
              e.gate.first.layout = quant::panel_layout(DType::kQ8_0, 21568);
              e.up.first.layout = e.gate.first.layout;
              e.down.first.rows = 21568;
            }).find("shared memory"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice::testing
