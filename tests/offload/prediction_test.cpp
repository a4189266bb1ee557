// Predictions: what has to hold whatever the machine, and the arithmetic of a case made by hand.
#include "offload/prediction.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/plan_cases.h"

namespace sluice::offload {
namespace {

using testing::Random;

constexpr int kCases = 200;
constexpr double kAlittle = 1 + 1e-9;
// What two sides at once must gain, or else one of them does all (offload/batch_split.h).
constexpr double kUndivided = 1.05;

// Of prompts that holds while as many layers are resident: what one layer more leaves of the memory is all
// that the others' copies run ahead in.
TEST(Prediction, MoreGpuMemoryIsNeverSlower) {
  Random random;
  SCOPED_TRACE(random.describe());
  int faster = 0;
  int compared = 0;
  for (int i = 0; i < kCases; ++i) {
    const PlanModel model = testing::random_plan_model(random);
    MachineProfile machine = testing::random_machine(random);
    double decode = 1e30;
    double prefill = 1e30;
    int64_t resident = -1;
    for (int step = 0; step < 12; ++step) {
      const Plan p = plan(model, machine, {.context = 32768});
      machine.gpu->memory_bytes += 3'000'000'000;
      if (!p.fits()) continue;
      const double decode_us = predict_decode(model, machine, p, 1000).us;
      const double prefill_us = predict_prefill(model, machine, p, 20000).us;
      EXPECT_LE(decode_us, decode * kAlittle);
      if (p.resident_layers() == resident) {
        ++compared;
        EXPECT_LE(prefill_us, prefill * kUndivided);
      }
      resident = p.resident_layers();
      faster += decode < 1e30 && decode_us < decode ? 1 : 0;
      decode = decode_us;
      prefill = prefill_us;
    }
  }
  EXPECT_GT(faster, 0);
  EXPECT_GT(compared, 0);
}

TEST(Prediction, FasterMachinesAndShorterContextsAreNeverSlower) {
  Random random;
  SCOPED_TRACE(random.describe());
  for (int i = 0; i < kCases; ++i) {
    const PlanModel model = testing::random_plan_model(random);
    const MachineProfile machine = testing::random_machine(random);
    const Plan p = plan(model, machine, {.context = 32768});
    const double decode = predict_decode(model, machine, p, 4000).us;
    const double prefill = predict_prefill(model, machine, p, 5000).us;
    EXPECT_LE(predict_decode(model, machine, p, 3000).us, decode * kAlittle);
    EXPECT_LE(predict_prefill(model, machine, p, 2500).us, prefill * kUndivided);
    MachineProfile faster = machine;
    faster.cpu.read_gb_per_s *= 2;
    faster.cpu.int8_gops *= 2;
    GpuProfile gpu = machine.gpu.value();
    gpu.read_gb_per_s *= 2;
    gpu.to_gpu_gb_per_s *= 2;
    faster.gpu = gpu;
    EXPECT_LE(predict_decode(model, faster, p, 4000).us, decode * kAlittle);
    EXPECT_LE(predict_prefill(model, faster, p, 5000).us, prefill * kUndivided);
  }
}

/// One layer of experts, round numbers.
struct ByHand {
  PlanModel model{.name = "by hand"};
  MachineProfile machine;
  Plan plan;

  ByHand() {
    model.layers = {{.gpu_weights = 1'000'000'000,
                     .beside_weights = 100'000'000,
                     .ram_weights = 900'000'000,
                     .weight_operations = 2e9,
                     .experts = 100,
                     .gpu_experts = 10'000'000'000,
                     .ram_experts = 10'000'000'000,
                     .expert_operations = 2e8,
                     .kernels = 10,
                     .beside_kernels = 0,
                     .expert_kernels = 0},
                    {}};  // the last layer, of a prompt for one token, costs nothing
    model.memory = {.most_attended = 1 << 20};
    model.experts_used = 1;
    model.context = 1 << 20;
    machine.cpu = {.name = "CPU",
                   .isa = "",
                   .cores = 1,
                   .nodes = {{1'000'000'000'000, 100}},
                   .read_gb_per_s = 90 / 0.95,  // products reach 90
                   .int8_gops = 1000};
    machine.gpu = GpuProfile{.read_gb_per_s = 1000,
                             .bf16_tflops = 100,
                             .expert_tflops = 50,
                             .int8_tops = 200,
                             .to_gpu_gb_per_s = 20,
                             .from_gpu_gb_per_s = 20,
                             .launch_us = 2,
                             .handover_us = 12};
    plan = {.context = 4096,
            .pass_tokens = 4096,
            .tile_tokens = 4096,
            .gpu_layers = 2,
            .layers = {{.on_gpu = true, .experts_on_gpu = false}, {.on_gpu = true}},
            .ring_bytes = 20'000'000'000};
  }

  [[nodiscard]] PrefillPrediction prefill(int64_t tokens) const {
    return predict_prefill(model, machine, plan, tokens);
  }
};

TEST(Prediction, OneTokenIsTheGpusPartThenTheLongerOfBoth) {
  ByHand c;
  const DecodePrediction p = predict_decode(c.model, c.machine, c.plan, 0);
  // 900 MB at 1000 GB/s and ten launches of 2 us, and the choice of a token; an expert is 100 MB of RAM at 90
  // GB/s.
  EXPECT_NEAR(p.gpu_us, 900 + 20 + 200, 1e-6);
  EXPECT_NEAR(p.ram_us, 1e5 / 90 + 12, 1e-6);
  EXPECT_EQ(p.handover_us, 12);
  EXPECT_EQ(p.limit, Limit::kRam);
  EXPECT_NEAR(p.tokens_per_second(), 1e6 / (p.gpu_us + p.ram_us + p.handover_us), 1e-6);

  c.plan.layers[0].experts_on_gpu = true;
  const DecodePrediction resident = predict_decode(c.model, c.machine, c.plan, 0);
  EXPECT_NEAR(resident.us, 1000 + 20 + 100 + 200, 1e-6);
  EXPECT_EQ(resident.limit, Limit::kGpu);
  EXPECT_EQ(resident.ram_us, 0);

  c.plan.layers = {{}, {}};
  c.plan.gpu_layers = 0;
  const DecodePrediction alone = predict_decode(c.model, c.machine, c.plan, 0);
  EXPECT_NEAR(alone.us, (900e3 + 100e3) / 90 + 2 * 12 + 200, 1e-6);
  EXPECT_EQ(alone.limit, Limit::kRam);
}

TEST(Prediction, WithoutARingTheCpuHasAllExperts) {
  ByHand c;
  c.model.residual_bytes = 20'000;
  c.plan.ring_bytes = 0;
  const PrefillPrediction p = c.prefill(4096);
  EXPECT_EQ(p.way(), PrefillWay::kCpu);
  EXPECT_EQ(p.limit, Limit::kCpu);
  // 4096 tokens of 2e8 operations; their rows at 20 GB/s, there and back; 2e9 operations at 100 T.
  EXPECT_NEAR(p.cpu_us, 4096 * 200, 1500) << "in whole tokens of an expert";
  EXPECT_NEAR(p.pcie_us, 2 * 4096, 1);
  EXPECT_NEAR(p.gpu_us, 4096 * 20, 1);
  EXPECT_NEAR(p.us, p.gpu_us + p.pcie_us + 12 + p.cpu_us, 1);
}

TEST(Prediction, TheLastLayerOfEachPassIsForItsLastToken) {
  ByHand c;
  const double first_us = c.prefill(4096).us;
  c.model.layers[1] = c.model.layers[0];
  // Of one token: reading 1 GB and 10 launches, and its expert's 100 MB by the CPU.
  const double token_us = 1000 + 20 + 12 + 1e5 / 90;
  EXPECT_NEAR(c.prefill(4096).us, first_us + token_us, 1);
  ByHand halves = c;
  halves.model.layers[1] = {};
  c.plan.pass_tokens = halves.plan.pass_tokens = 2048;
  EXPECT_NEAR(c.prefill(4096).us, halves.prefill(4096).us + 2 * token_us, 1);
}

TEST(Prediction, AFewTokensStayWithTheCpu) {
  const ByHand c;
  const PrefillPrediction p = c.prefill(4);
  EXPECT_EQ(p.way(), PrefillWay::kCpu);
  EXPECT_NEAR(p.cpu_us, 4 * 100e6 / 90e3, 1) << "four experts are read";
  EXPECT_NEAR(p.gpu_us, 1000 + 20, 1);
}

TEST(Prediction, ASlowCpuLeavesAllToTheStream) {
  ByHand c;
  c.machine.cpu.int8_gops = 10;
  const PrefillPrediction p = c.prefill(4096);
  EXPECT_EQ(p.way(), PrefillWay::kStream);
  EXPECT_EQ(p.limit, Limit::kPcie);
  // 100 copies of 5 ms; 16 of them under the 82 ms of what comes before the experts, and behind the last one
  // its 41 tokens of 2e8 operations at 50 T.
  EXPECT_NEAR(p.pcie_us, 500e3, 1);
  EXPECT_NEAR(p.us, 4096 * 20 + 84 * 5000 + 41 * 4, 60);
  EXPECT_NEAR(p.gpu_us, 4096 * 24, 60);

  c.plan.ring_bytes = 300'000'000;  // of three experts: the others wait until one is done
  EXPECT_NEAR(c.prefill(4096).us, 4096 * 20 + 97 * 5000 + 41 * 4, 60);

  c.machine.gpu->to_gpu_gb_per_s = 2000;
  EXPECT_EQ(c.prefill(4096).limit, Limit::kGpu);
}

TEST(Prediction, BothSidesOfASharedPassAreDoneTogether) {
  const ByHand c;
  const PrefillPrediction p = c.prefill(4096);
  EXPECT_EQ(p.way(), PrefillWay::kShared);
  // An expert of 41 tokens takes the CPU 8.2 ms and a copy 5 ms.
  const double shared_us = 4096 * 20;
  EXPECT_NEAR(p.us - shared_us, p.cpu_us + 12, 2 * 8200);
  EXPECT_LT(p.us, 500e3);
  ByHand without = c;
  without.plan.ring_bytes = 0;
  EXPECT_LT(p.us, without.prefill(4096).us / 2);
}

TEST(Prediction, SharingIsNeverWorseThanTheCpuAlone) {
  Random random;
  SCOPED_TRACE(random.describe());
  int shared = 0;
  for (int i = 0; i < kCases; ++i) {
    const PlanModel model = testing::random_plan_model(random);
    const MachineProfile machine = testing::random_machine(random);
    Plan p = plan(model, machine, {.context = 32768});
    const int64_t tokens = random.integer(1, 4096);
    const PrefillPrediction both = predict_prefill(model, machine, p, tokens);
    shared += both.way() == PrefillWay::kShared ? 1 : 0;
    p.ring_bytes = 0;
    EXPECT_LE(both.us, predict_prefill(model, machine, p, tokens).us * kAlittle) << tokens;
  }
  EXPECT_GT(shared, 0);
}

TEST(Prediction, ExpertsAreMetByChance) {
  const PlanLayer layer{.experts = 4};
  EXPECT_DOUBLE_EQ(met_expert_share(layer, 1, 1), 0.25);
  EXPECT_DOUBLE_EQ(met_expert_share(layer, 1, 2), 1 - 0.75 * 0.75);
  EXPECT_DOUBLE_EQ(met_expert_share(layer, 4, 1), 1);
  EXPECT_EQ(met_expert_share(PlanLayer{}, 4, 1), 0);
}

}  // namespace
}  // namespace sluice::offload
