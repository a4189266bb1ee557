// Plans of random models on random machines: never over a limit, every byte counted, more memory never worse.
#include "offload/plan.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "support/error_text.h"
#include "support/plan_cases.h"

namespace sluice::offload {
namespace {

using testing::Random;

constexpr int kCases = 300;

class PlanTest : public ::testing::Test {
 protected:
  Random random_;
};

/// Bytes as the model states them for this placement, summed anew.
int64_t gpu_weights_of(const PlanModel& model, const Plan& plan) {
  const auto layers = static_cast<int64_t>(model.layers.size());
  int64_t bytes = (plan.gpu_layers > 0 ? model.ends.gpu_head : 0) +
                  (plan.gpu_layers > layers ? model.ends.gpu_embedding : 0);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    bytes += plan.layers[i].on_gpu ? model.layers[i].gpu_weights : 0;
    bytes += plan.layers[i].experts_on_gpu ? model.layers[i].gpu_experts : 0;
  }
  return bytes;
}

int64_t ram_weights_of(const PlanModel& model, const Plan& plan) {
  int64_t bytes = plan.gpu_layers > 0 ? 0 : model.ends.ram_head;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    bytes += plan.layers[i].on_gpu ? 0 : model.layers[i].ram_weights;
    bytes += plan.layers[i].experts_on_gpu ? 0 : model.layers[i].ram_experts;
  }
  return bytes;
}

int64_t part(const DevicePlan& device, const std::string& what) {
  int64_t bytes = 0;
  for (const PlannedBytes& p : device.parts) bytes += p.what == what ? p.bytes : 0;
  return bytes;
}

TEST_F(PlanTest, EveryByteIsCountedOnceAndNothingIsOverALimit) {
  SCOPED_TRACE(random_.describe());
  int fitting = 0;
  for (int i = 0; i < kCases; ++i) {
    const PlanModel model = testing::random_plan_model(random_);
    const MachineProfile machine = testing::random_machine(random_);
    PlanConstraints c{.context = random_.integer(1, 65536), .micro_batch = random_.integer(1, 1024)};
    if (random_.integer(0, 1) == 1) c.vram_limit = random_.integer(1, machine.gpu->memory_bytes);
    if (random_.integer(0, 1) == 1) c.ram_limit = random_.integer(1, machine.memory_bytes());
    if (random_.integer(0, 1) == 1) c.gpu_layers = random_.integer(0, 15);
    const Plan p = plan(model, machine, c);
    const int64_t on_gpu = p.gpu.has_value() ? part(*p.gpu, "weights") + part(*p.gpu, "routed experts") : 0;
    EXPECT_EQ(on_gpu, gpu_weights_of(model, p));
    EXPECT_EQ(part(p.ram, "weights") + part(p.ram, "routed experts"), ram_weights_of(model, p));
    const bool gpu_over =
        p.gpu.has_value() && p.gpu->total() > c.vram_limit.value_or(machine.gpu->memory_bytes);
    const bool ram_over = p.ram.total() > c.ram_limit.value_or(machine.memory_bytes());
    if (p.fits()) {
      ++fitting;
      EXPECT_FALSE(gpu_over || ram_over);
      for (size_t n = 0; n < p.node_bytes.size(); ++n) {
        EXPECT_LE(p.node_bytes[n], machine.cpu.nodes[n].memory_bytes);
      }
    } else if (!gpu_over && !ram_over) {
      EXPECT_NE(p.shortfalls.front().device.find("node"), std::string::npos);
    }
    for (const Shortfall& s : p.shortfalls) EXPECT_GT(s.needed, s.available);
  }
  EXPECT_GT(fitting, kCases / 20);
  EXPECT_LT(fitting, kCases);
}

TEST_F(PlanTest, ResidentExpertsAreTheLastLayersAndNotOneMoreWouldFit) {
  SCOPED_TRACE(random_.describe());
  int filled = 0;
  for (int i = 0; i < kCases; ++i) {
    const PlanModel model = testing::random_plan_model(random_);
    const MachineProfile machine = testing::random_machine(random_);
    const Plan p = plan(model, machine, {.context = 4096});
    ASSERT_TRUE(p.cpu_moe_layers().has_value());
    const auto first = static_cast<size_t>(*p.cpu_moe_layers());
    if (!p.fits() || first == 0 || model.layers[first - 1].experts == 0) continue;
    filled += p.resident_layers() > 0 ? 1 : 0;
    // What the ring would free if the last layer with experts in RAM went, and what is spared by rounding.
    EXPECT_LT(p.gpu->free(), model.layers[first - 1].gpu_experts + 10'000'000) << "layer " << first - 1;
    PlanConstraints same{.context = 4096, .batch = p.pass_tokens};
    for (size_t layer = 0; layer < model.layers.size(); ++layer) {
      same.experts.push_back(layer >= first ? ExpertWish::kGpu : ExpertWish::kRam);
    }
    EXPECT_EQ(plan(model, machine, same).gpu->parts, p.gpu->parts) << "said as flags it is the same plan";
  }
  EXPECT_GT(filled, 0);
}

TEST_F(PlanTest, EachRemedyIsEnoughByItself) {
  SCOPED_TRACE(random_.describe());
  int tried[4] = {};
  for (int i = 0; i < 10 * kCases; ++i) {
    const PlanModel model = testing::random_plan_model(random_);
    const MachineProfile machine = testing::random_machine(random_);
    PlanConstraints c{.context = random_.integer(4096, 131072)};
    if (random_.integer(0, 1) == 1) c.batch = random_.integer(512, 65536);
    if (random_.integer(0, 1) == 1) {
      for (const PlanLayer& layer : model.layers) {
        c.experts.push_back(layer.experts > 0 ? ExpertWish::kGpu : ExpertWish::kRam);
      }
    }
    const Plan p = plan(model, machine, c);
    EXPECT_TRUE(!p.fits() || p.remedies.empty());
    for (const Remedy& remedy : p.remedies) {
      ++tried[static_cast<int>(remedy.kind)];
      PlanConstraints changed = c;
      const auto layers = static_cast<int64_t>(model.layers.size());
      if (remedy.kind == Remedy::Kind::kContext) changed.context = remedy.value;
      if (remedy.kind == Remedy::Kind::kBatch) changed.batch = remedy.value;
      if (remedy.kind == Remedy::Kind::kGpuLayers) changed.gpu_layers = remedy.value;
      for (int64_t l = 0; l < static_cast<int64_t>(c.experts.size()); ++l) {
        const bool leaves_ram = remedy.kind == Remedy::Kind::kCpuMoeLayers ? l >= remedy.value
                                : remedy.kind == Remedy::Kind::kGpuLayers  ? l >= layers - remedy.value + 1
                                                                           : true;
        if (!leaves_ram) changed.experts[static_cast<size_t>(l)] = ExpertWish::kRam;
      }
      EXPECT_TRUE(plan(model, machine, changed).fits())
          << static_cast<int>(remedy.kind) << " " << remedy.value;
    }
  }
  for (const int times : tried) EXPECT_GT(times, 0);
}

TEST_F(PlanTest, LayersAreCountedAsLlamaCppDoes) {
  SCOPED_TRACE(random_.describe());
  PlanModel model = testing::random_plan_model(random_);
  const MachineProfile machine = testing::random_machine(random_);
  const auto layers = static_cast<int64_t>(model.layers.size());
  for (int64_t n = 0; n <= layers + 3; ++n) {
    const Plan p = plan(model, machine, {.context = 512, .gpu_layers = n});
    EXPECT_EQ(p.gpu_layers, std::min(n, layers + 1));
    EXPECT_EQ(p.gpu.has_value(), n > 0);
    const auto there = std::ranges::count_if(p.layers, &LayerPlace::on_gpu);
    EXPECT_EQ(there, std::clamp<int64_t>(n - 1, 0, layers));
    EXPECT_TRUE(std::ranges::is_sorted(p.layers, {}, &LayerPlace::on_gpu)) << "the last ones";
  }
}

// As the runtime resolves -b and -ub (engine/backends/gpu_cuda.cpp).
TEST_F(PlanTest, PassesAreWhatTheRuntimeTakes) {
  SCOPED_TRACE(random_.describe());
  PlanModel model = testing::random_plan_model(random_);
  PlanLayer layer = model.layers.back();
  layer.experts = 16;
  layer.gpu_experts = layer.ram_experts = 1'000'000'000;
  model.layers = {layer, layer, layer};
  MachineProfile machine = testing::random_machine(random_);
  machine.cpu.nodes = {{int64_t{1} << 50, 100}};
  machine.gpu->memory_bytes = int64_t{1} << 45;
  const std::vector<ExpertWish> in_ram(3, ExpertWish::kRam);
  const auto pass = [&](PlanConstraints c) {
    c.micro_batch = 100;
    return plan(model, machine, c).pass_tokens;
  };
  EXPECT_EQ(pass({.context = 70'000, .experts = in_ram}), kMostPassTokens);
  EXPECT_EQ(pass({.context = 4096, .experts = in_ram}), 4096);
  EXPECT_EQ(pass({.context = 50, .experts = in_ram}), 100) << "at least a tile";
  EXPECT_EQ(pass({.context = 4096, .batch = 7000, .experts = in_ram}), 7000);
  EXPECT_EQ(pass({.context = 4096}), 4096) << "all experts are resident: they are read once for a pass";
  EXPECT_EQ(pass({.context = 4096, .batch = 7000}), 7000);
  EXPECT_EQ(pass({.context = 4096, .batch = 7}), 7);
  EXPECT_EQ(pass({.context = 4096, .gpu_layers = 3, .experts = in_ram}), 100) << "the CPU has a whole layer";
  EXPECT_EQ(pass({.context = 4096, .batch = 7000, .gpu_layers = 3, .experts = in_ram}), 7000);
  EXPECT_EQ(pass({.context = 4096, .batch = 7000, .gpu_layers = 1}), 100) << "the head alone streams nothing";
  EXPECT_EQ(pass({.context = 4096, .batch = 7000, .gpu_layers = 0}), 7000);
  EXPECT_EQ(pass({.context = 4096, .gpu_layers = 0}), 100);
  model.streams = false;
  EXPECT_EQ(pass({.context = 4096, .batch = 7000, .experts = in_ram}), 100);
  EXPECT_EQ(pass({.context = 4096}), 100) << "types that meet no pass at once";
}

TEST_F(PlanTest, WithoutRoomForAStreamThereIsNone) {
  SCOPED_TRACE(random_.describe());
  int without = 0;
  for (int i = 0; i < kCases; ++i) {
    PlanModel model = testing::random_plan_model(random_);
    MachineProfile machine = testing::random_machine(random_);
    machine.cpu.nodes = {{int64_t{1} << 50, 100}};
    const std::vector<ExpertWish> in_ram(model.layers.size(), ExpertWish::kRam);
    const auto plan_for = [&](int64_t bytes) {
      machine.gpu->memory_bytes = bytes;
      return plan(model, machine, {.context = 4096, .experts = in_ram});
    };
    const Plan roomy = plan_for(int64_t{1} << 45);
    if (roomy.ring_bytes == 0) continue;  // no layer has experts
    EXPECT_EQ(roomy.pass_tokens, 4096);
    EXPECT_EQ(part(*roomy.gpu, "staging ring"), model.staging_bytes);
    const Plan tight = plan_for(roomy.gpu->total());
    EXPECT_EQ(tight.ring_bytes, model.staging_bytes) << "exactly";
    const int64_t least =
        plan(model, machine, {.context = 4096, .batch = 512, .experts = in_ram}).gpu->total();
    const Plan one_less = plan_for(least - 1);
    EXPECT_TRUE(one_less.fits());
    EXPECT_EQ(one_less.ring_bytes, 0);
    EXPECT_EQ(one_less.pass_tokens, 512);
    EXPECT_EQ(part(*one_less.gpu, "staging ring"), 0);
    EXPECT_FALSE(plan_for(one_less.gpu->total() - 1).fits());
    ++without;
  }
  EXPECT_GT(without, 0);
}

TEST_F(PlanTest, ImpossibleWishesNameTheirFlag) {
  SCOPED_TRACE(random_.describe());
  PlanModel model = testing::random_plan_model(random_);
  model.layers = {model.layers.front(), model.layers.front()};
  model.layers[0].experts = 0;
  model.layers[1].experts = 16;
  MachineProfile machine = testing::random_machine(random_);
  const auto error = [&](const PlanConstraints& c) {
    return testing::error_text([&] { static_cast<void>(plan(model, machine, c)); });
  };
  EXPECT_EQ(error({.context = 163841}), "-c/--ctx-size: expected 0 to 163840, found 163841");
  EXPECT_EQ(error({.micro_batch = 0}), "-ub/--ubatch-size: expected 1 to 65536, found 0");
  EXPECT_TRUE(
      error({.vram_limit = machine.gpu->memory_bytes + 1}).starts_with("--vram-limit: expected 1 to "));
  EXPECT_TRUE(error({.ram_limit = machine.memory_bytes() + 1}).starts_with("--ram-limit: expected 1 to "));
  const char* const kExperts =
      "-ncmoe, -ot: expected routed experts of layers that the GPU computes, found layer ";
  EXPECT_EQ(error({.experts = {ExpertWish::kGpu, ExpertWish::kRam}}), std::string(kExperts) + "0");
  EXPECT_EQ(error({.gpu_layers = 1, .experts = {ExpertWish::kRam, ExpertWish::kGpu}}),
            std::string(kExperts) + "1");
  machine.gpu.reset();
  EXPECT_EQ(error({.gpu_layers = 2}),
            "-ngl/--n-gpu-layers: expected 0, or a machine with a GPU, found random");
  EXPECT_EQ(error({.vram_limit = 1}), "--vram-limit: expected a machine with a GPU, found random");
  EXPECT_EQ(error({.context = 512}), "no error");
}

}  // namespace
}  // namespace sluice::offload
