// One MoE layer against plain loops in double precision over the decoded weights, with what quantized
// activations and float32 sums may differ from it; and the same bits whatever the threads and batches.
#include "offload/expert_team.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "offload/expert_store.h"
#include "offload/mapped_experts.h"
#include "support/compare.h"
#include "support/random_experts.h"

namespace sluice::offload {
namespace {

using quant::DType;
using testing::kRounding;
using testing::RandomExperts;
using testing::RandomExpertShape;

/// A value and how far a right implementation may be from it.
struct Bounded {
  double value = 0;
  double allowed = 0;
};

/// A vector that is multiplied with weights.
struct Vector {
  std::vector<double> values;
  std::vector<double> allowed;  // what each element may be off by already
};

// What quantizing to int8 adds: half a step of the block's scale, which follows its largest magnitude.
void quantize_bound(Vector& x) {
  for (size_t begin = 0; begin < x.values.size(); begin += 32) {
    double largest = 0;
    const size_t end = std::min(begin + 32, x.values.size());
    for (size_t k = begin; k < end; ++k) largest = std::max(largest, std::abs(x.values[k]) + x.allowed[k]);
    for (size_t k = begin; k < end; ++k) x.allowed[k] += largest / 254 * 1.0001 + 1e-30;
  }
}

// One row times x. Every partial sum rounds, at the size of what has been added up; Q4_K and Q5_K subtract a
// minimum of about their product's size, hence the factor.
Bounded product(const double* row, const Vector& x) {
  Bounded y;
  double magnitude = 0;
  for (size_t k = 0; k < x.values.size(); ++k) {
    y.value += row[k] * x.values[k];
    y.allowed += std::abs(row[k]) * x.allowed[k];
    double largest = 0;  // of the sub-block
    for (size_t i = k / 32 * 32; i < std::min(k / 32 * 32 + 32, x.values.size()); ++i) {
      largest = std::max(largest, std::abs(row[i]));
    }
    magnitude += 4 * largest * (std::abs(x.values[k]) + x.allowed[k]);
  }
  y.allowed += magnitude * kRounding * static_cast<double>(x.values.size() + 16);
  return y;
}

Bounded swiglu(const Bounded& gate, const Bounded& up) {
  constexpr double kSteepest = 1.1;  // of silu
  const double silu = gate.value / (1 + std::exp(-gate.value));
  Bounded h{.value = silu * up.value, .allowed = 0};
  h.allowed = kSteepest * gate.allowed * (std::abs(up.value) + up.allowed) + std::abs(silu) * up.allowed +
              16 * kRounding * std::abs(h.value) + 1e-30;
  return h;
}

struct Choice {
  std::vector<int32_t> ids;  // [tokens, used]
  std::vector<float> weights;
  int64_t used = 1;

  [[nodiscard]] Routes routes(int64_t first, int64_t tokens) const {
    return {{ids.data() + first * used, tokens, used}, {weights.data() + first * used, tokens, used}};
  }
};

class ExpertTeamTest : public ::testing::Test {
 protected:
  Choice choose(int64_t experts, int64_t used, int64_t tokens) {
    Choice choice{.ids = {}, .weights = random_.normal(tokens * used), .used = used};
    std::vector<int32_t> all(static_cast<size_t>(experts));
    for (int64_t t = 0; t < tokens; ++t) {
      std::iota(all.begin(), all.end(), 0);
      for (int64_t i = 0; i < used; ++i) {
        std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(random_.integer(i, experts - 1))]);
      }
      std::sort(all.begin(), all.begin() + used);
      choice.ids.insert(choice.ids.end(), all.begin(), all.begin() + used);
    }
    return choice;
  }

  // The layer's formula for all tokens.
  static std::vector<Bounded> expected(const RandomExperts& source, const RandomExpertShape& shape,
                                       ExpertArithmetic arithmetic, const Choice& choice,
                                       const std::vector<float>& f, const std::vector<float>& before) {
    const auto int8 = [&](DType dtype) {
      return arithmetic == ExpertArithmetic::kInt8 && cpu::takes_int8(dtype);
    };
    std::vector<Bounded> y;
    for (const float value : before) y.push_back({.value = double{value}, .allowed = 0});
    std::map<std::pair<int32_t, ExpertPart>, std::vector<double>> decoded;
    const auto weights = [&](int32_t expert, ExpertPart part) -> const std::vector<double>& {
      auto& values = decoded[{expert, part}];
      if (values.empty()) values = source.values(1, part, expert);
      return values;
    };
    for (size_t slot = 0; slot < choice.ids.size(); ++slot) {
      const auto token = static_cast<int64_t>(slot) / choice.used;
      const int32_t expert = choice.ids[slot];
      if (expert < 0) continue;
      const float* const row = f.data() + token * shape.d_model;
      const Vector plain{.values = {row, row + shape.d_model},
                         .allowed = std::vector<double>(static_cast<size_t>(shape.d_model))};
      Vector quantized = plain;
      quantize_bound(quantized);
      Vector hidden;
      for (int64_t r = 0; r < shape.d_expert; ++r) {
        const auto gate = product(weights(expert, ExpertPart::kGate).data() + r * shape.d_model,
                                  int8(shape.gate) ? quantized : plain);
        const auto up = product(weights(expert, ExpertPart::kUp).data() + r * shape.d_model,
                                int8(shape.up) ? quantized : plain);
        const Bounded h = swiglu(gate, up);
        hidden.values.push_back(h.value);
        hidden.allowed.push_back(h.allowed);
      }
      if (int8(shape.down)) quantize_bound(hidden);
      for (int64_t r = 0; r < shape.d_model; ++r) {
        const Bounded out = product(weights(expert, ExpertPart::kDown).data() + r * shape.d_expert, hidden);
        const auto weight = static_cast<double>(choice.weights[slot]);
        Bounded& sum = y[static_cast<size_t>(token * shape.d_model + r)];
        sum.value += weight * out.value;
        sum.allowed += std::abs(weight) * (out.allowed + 2 * kRounding * std::abs(out.value)) +
                       2 * kRounding * std::abs(sum.value);
      }
    }
    return y;
  }

  static ExpertStoreOptions homes(int64_t n) {
    ExpertStoreOptions options;
    options.homes.clear();
    for (int64_t i = 0; i < n; ++i) {
      options.homes.push_back({.node_os_index = 0, .gb_per_s = 1.0 + static_cast<double>(i)});
    }
    options.huge_pages = HugePages::kOff;
    return options;
  }

  // Threads with homes on made-up nodes, bound to nothing.
  std::vector<ThreadPlace> places(int64_t threads, int64_t nodes) {
    std::vector<ThreadPlace> result;
    for (int64_t t = 0; t < threads; ++t) {
      result.push_back({.cpu = -1, .node = static_cast<int32_t>(random_.integer(0, nodes - 1))});
    }
    return result;
  }

  struct Input {
    RandomExpertShape shape;
    int64_t tokens = 1;
    Choice choice;
    std::vector<float> f;
    std::vector<float> before;
  };

  Input input(const RandomExpertShape& shape, int64_t used, int64_t tokens) {
    return {.shape = shape,
            .tokens = tokens,
            .choice = choose(shape.experts, used, tokens),
            .f = random_.normal(tokens * shape.d_model),
            .before = random_.normal(tokens * shape.d_model, 0.1F)};
  }

  // In batches of `batch` tokens; the team has seen another batch before.
  std::vector<float> run(const ExpertWeights& weights, const Input& in, ExpertArithmetic arithmetic,
                         std::vector<ThreadPlace> where, int64_t batch) const {
    Workers workers(std::move(where));
    ExpertTeam team(weights,
                    {.d_model = in.shape.d_model,
                     .d_expert = in.shape.d_expert,
                     .used = in.choice.used,
                     .max_tokens = batch + 1,
                     .arithmetic = arithmetic,
                     .isa = isa_},
                    workers);
    std::vector<float> y(in.before);
    const int64_t width = in.shape.d_model;
    std::vector<float> spoilt(static_cast<size_t>(width));
    team.add(1, {in.f.data(), 1, width}, in.choice.routes(0, 1), {spoilt.data(), 1, width});
    for (int64_t first = 0; first < in.tokens; first += batch) {
      const int64_t n = std::min(batch, in.tokens - first);
      team.add(1, {in.f.data() + first * width, n, width}, in.choice.routes(first, n),
               {y.data() + first * width, n, width});
    }
    return y;
  }

  // Of a random part of the choices what is left here, and what another computes: every choice is in one.
  std::pair<Choice, Choice> divided(const Choice& choice) {
    std::pair<Choice, Choice> parts{choice, choice};
    const float here = random_.uniform(0, 1);
    for (size_t i = 0; i < choice.ids.size(); ++i) {
      Choice& other = random_.uniform(0, 1) < here ? parts.second : parts.first;
      other.ids[i] = static_cast<int32_t>(random_.integer(-300, -1));
      other.weights[i] = std::nanf("");  // is not read
    }
    return parts;
  }

  // Token by token, of each only the choices that are computed here.
  std::vector<float> run_without_gaps(const ExpertWeights& weights, const Input& in) const {
    const int64_t width = in.shape.d_model;
    std::vector<float> y;
    for (int64_t t = 0; t < in.tokens; ++t) {
      Input one{.shape = in.shape, .tokens = 1, .choice = {}, .f = {}, .before = {}};
      for (auto i = static_cast<size_t>(t * in.choice.used);
           i < static_cast<size_t>((t + 1) * in.choice.used); ++i) {
        if (in.choice.ids[i] >= 0) {
          one.choice.ids.push_back(in.choice.ids[i]);
          one.choice.weights.push_back(in.choice.weights[i]);
        }
      }
      one.choice.used = static_cast<int64_t>(one.choice.ids.size());
      one.f.assign(in.f.begin() + t * width, in.f.begin() + (t + 1) * width);
      one.before.assign(in.before.begin() + t * width, in.before.begin() + (t + 1) * width);
      const auto row = one.choice.used == 0
                           ? one.before
                           : run(weights, one, ExpertArithmetic::kInt8, {{.cpu = -1, .node = 0}}, 1);
      y.insert(y.end(), row.begin(), row.end());
    }
    return y;
  }

  // What each choice alone adds, by magnitude, and what was there before: rounding of sums is in proportion.
  std::vector<double> magnitudes(const ExpertWeights& weights, const Input& in) {
    std::vector<double> sums;
    for (const float value : in.before) sums.push_back(std::abs(double{value}));
    for (size_t i = 0; i < static_cast<size_t>(in.choice.used); ++i) {
      Input one = in;
      std::ranges::fill(one.before, 0.0F);
      for (size_t k = 0; k < one.choice.ids.size(); ++k) {
        if (k % static_cast<size_t>(in.choice.used) != i) one.choice.ids[k] = -1;
      }
      const auto y = run(weights, one, ExpertArithmetic::kInt8, places(2, 1), in.tokens);
      for (size_t k = 0; k < y.size(); ++k) sums[k] += std::abs(double{y[k]});
    }
    return sums;
  }

  void check(const RandomExpertShape& shape, int64_t used, int64_t tokens) {
    SCOPED_TRACE(::testing::Message()
                 << quant::dtype_info(shape.gate).name << ", " << quant::dtype_info(shape.up).name << ", "
                 << quant::dtype_info(shape.down).name << ", " << used << " of " << shape.experts
                 << " experts, " << tokens << " tokens, " << shape.d_model << "x" << shape.d_expert << ", "
                 << cpu::isa_name(isa_));
    RandomExperts source;
    source.add_dense_layer();
    source.add_layer(shape, random_);
    const Input in = input(shape, used, tokens);
    const auto mapped_layers = source.mapped();
    const MappedExperts mapped(mapped_layers);
    Workers loaders(2);
    for (const auto arithmetic : {ExpertArithmetic::kInt8, ExpertArithmetic::kFloat32}) {
      const auto right = expected(source, shape, arithmetic, in.choice, in.f, in.before);
      std::vector<double> values;
      std::vector<double> allowed;
      for (const Bounded& b : right) {
        values.push_back(b.value);
        allowed.push_back(b.allowed);
      }
      const int64_t nodes = random_.integer(2, 4);
      for (const int64_t n : {int64_t{1}, nodes}) {
        const auto store = ExpertStore::load(source, homes(n), loaders);
        const auto first = run(*store, in, arithmetic, places(1, n), tokens);
        ASSERT_TRUE(testing::within(first, values, allowed)) << n << " nodes";
        const int64_t threads = random_.integer(2, 7);
        const int64_t batch = takes_tiles(tokens) ? tokens : random_.integer(1, tokens);
        ASSERT_TRUE(testing::identical(run(*store, in, arithmetic, places(threads, n), batch), first))
            << n << " nodes, " << threads << " threads, batches of " << batch;
        if (n == 1) {
          ASSERT_TRUE(testing::identical(run(mapped, in, arithmetic, places(threads, 1), batch), first))
              << "mapped";
        }
      }
    }
  }

  // Whether an expert of so many tokens is computed by AMX, whose results depend on the batch.
  [[nodiscard]] bool takes_tiles(int64_t tokens) const {
    const cpu::PanelTiles& tiles = cpu::panel_kernels_for(isa_).tiles;
    return tiles.pack != nullptr && tokens >= tiles.least_tokens;
  }

  testing::Random random_;
  const cpu::Isa isa_ = [this] {
    const auto isas = cpu::supported_isas();
    return isas[static_cast<size_t>(random_.integer(0, static_cast<int64_t>(isas.size()) - 1))];
  }();
};

TEST_F(ExpertTeamTest, EveryType) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : testing::weight_types()) {
    auto shape = testing::random_expert_shape(dtype, dtype, random_);
    shape.scaled = dtype == DType::kNVFP4;
    check(shape, random_.integer(1, shape.experts), random_.integer(1, 12));
  }
}

TEST_F(ExpertTeamTest, MixedTypes) {
  SCOPED_TRACE(random_.describe());
  check({.experts = 3,
         .d_model = 256,
         .d_expert = 256,
         .gate = DType::kQ4_K,
         .up = DType::kQ8_0,
         .down = DType::kQ6_K},
        2, 5);
  check({.experts = 4,
         .d_model = 96,
         .d_expert = 64,
         .gate = DType::kF32,
         .up = DType::kQ8_0,
         .down = DType::kNVFP4},
        3, 7);
  check({.experts = 4,
         .d_model = 64,
         .d_expert = 48,
         .gate = DType::kNVFP4,
         .up = DType::kQ8_0,
         .down = DType::kBF16},
        2, 3);
}

TEST_F(ExpertTeamTest, OddSizesOfFloatWeights) {
  SCOPED_TRACE(random_.describe());
  check({.experts = 3, .d_model = 33, .d_expert = 45}, 1, 4);
  check({.experts = 1,
         .d_model = 1,
         .d_expert = 1,
         .gate = DType::kBF16,
         .up = DType::kBF16,
         .down = DType::kBF16},
        1, 2);
  check({.experts = 40,
         .d_model = 31,
         .d_expert = 97,
         .gate = DType::kF16,
         .up = DType::kF16,
         .down = DType::kF16},
        8, 5);
}

TEST_F(ExpertTeamTest, ManyTokensForOneExpertAndManyExperts) {
  SCOPED_TRACE(random_.describe());
  check({.experts = 2,
         .d_model = 64,
         .d_expert = 64,
         .gate = DType::kQ8_0,
         .up = DType::kQ8_0,
         .down = DType::kQ8_0},
        1, 200);
  check({.experts = 2,
         .d_model = 64,
         .d_expert = 128,
         .gate = DType::kNVFP4,
         .up = DType::kNVFP4,
         .down = DType::kNVFP4,
         .scaled = true},
        2, 65);
  check({.experts = random_.integer(100, 300),
         .d_model = 32,
         .d_expert = 32,
         .gate = DType::kQ8_0,
         .up = DType::kQ8_0,
         .down = DType::kQ8_0},
        8, 40);
}

// Choices with ids below 0 might as well not be there: the same bits as without them, on any number of nodes.
TEST_F(ExpertTeamTest, ChoicesOfOthersAreLeftOut) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K, DType::kBF16}) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    const auto shape = testing::random_expert_shape(dtype, dtype, random_);
    RandomExperts source;
    source.add_dense_layer();
    source.add_layer(shape, random_);
    Workers loaders(2);
    for (const int64_t nodes : {int64_t{1}, random_.integer(2, 4)}) {
      const auto store = ExpertStore::load(source, homes(nodes), loaders);
      Input in = input(shape, random_.integer(1, shape.experts), random_.integer(1, 20));
      in.choice = divided(in.choice).first;
      const auto y = run(*store, in, ExpertArithmetic::kInt8, places(random_.integer(1, 4), nodes),
                         random_.integer(1, in.tokens));
      EXPECT_TRUE(testing::identical(y, run_without_gaps(*store, in))) << nodes << " nodes";
    }
  }
}

TEST_F(ExpertTeamTest, DividedChoicesAddUpToAll) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : {DType::kQ8_0, DType::kNVFP4, DType::kQ4_K, DType::kBF16}) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    const auto shape = testing::random_expert_shape(dtype, dtype, random_);
    RandomExperts source;
    source.add_dense_layer();
    source.add_layer(shape, random_);
    const auto layers = source.mapped();
    const MappedExperts weights(layers);
    const Input all = input(shape, random_.integer(1, shape.experts), random_.integer(1, 20));
    const auto compute = [&](const Input& in) {
      return run(weights, in, ExpertArithmetic::kInt8, places(2, 1), in.tokens);
    };
    const auto whole = compute(all);
    const auto [here, there] = divided(all.choice);
    Input part = all;
    part.choice = here;
    part.before = compute(part);
    part.choice = there;
    const auto sum = compute(part);
    std::vector<double> allowed = magnitudes(weights, all);
    // Two sums of `used` terms and what was there before, each in an order of its own.
    for (double& a : allowed) a *= 2 * static_cast<double>(all.choice.used + 1) * kRounding;
    EXPECT_TRUE(testing::within(sum, testing::to_double(whole), allowed));
  }
}

TEST_F(ExpertTeamTest, NothingToDo) {
  RandomExperts source;
  source.add_layer({.experts = 2, .d_model = 32, .d_expert = 32}, random_);
  const auto layers = source.mapped();
  const MappedExperts mapped(layers);
  Workers workers(2);
  ExpertTeam team(mapped, {.d_model = 32, .d_expert = 32, .used = 1, .max_tokens = 4, .isa = isa_}, workers);
  team.add(0, {nullptr, 0, 32}, {{nullptr, 0, 1}, {nullptr, 0, 1}}, {nullptr, 0, 32});
  const std::vector<int32_t> others = {-1, -7};
  const std::vector<float> weights(2);
  std::vector<float> y = random_.normal(2 * 32);
  const std::vector<float> before = y;
  team.add(0, {nullptr, 2, 32}, {{others.data(), 2, 1}, {weights.data(), 2, 1}}, {y.data(), 2, 32});
  EXPECT_TRUE(testing::identical(y, before));
}

// A NaN in one token's input reaches that token and no other.
TEST_F(ExpertTeamTest, NanStaysWithItsToken) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : {DType::kQ8_0, DType::kBF16}) {
    RandomExpertShape shape{
        .experts = 3, .d_model = 64, .d_expert = 64, .gate = dtype, .up = dtype, .down = dtype};
    RandomExperts source;
    source.add_dense_layer();
    source.add_layer(shape, random_);
    const auto layers = source.mapped();
    const MappedExperts mapped(layers);
    Input in = input(shape, 2, 6);
    const auto clean = run(mapped, in, ExpertArithmetic::kInt8, places(3, 1), 6);
    in.f[static_cast<size_t>(3 * shape.d_model + random_.integer(0, 63))] = std::nanf("");
    const auto y = run(mapped, in, ExpertArithmetic::kInt8, places(3, 1), 6);
    for (int64_t t = 0; t < 6; ++t) {
      for (int64_t k = 0; k < shape.d_model; ++k) {
        const auto at = static_cast<size_t>(t * shape.d_model + k);
        if (t == 3) {
          EXPECT_TRUE(std::isnan(y[at]));
        } else {
          EXPECT_EQ(y[at], clean[at]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace sluice::offload
