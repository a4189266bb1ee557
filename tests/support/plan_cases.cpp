#include "support/plan_cases.h"

#include <vector>

namespace sluice::testing {
namespace {

constexpr int64_t kMega = 1'000'000;

offload::PlanLayer random_layer(Random& random, bool has_experts) {
  offload::PlanLayer layer;
  layer.gpu_weights = random.integer(1, 300 * kMega);
  layer.beside_weights = has_experts ? random.integer(0, layer.gpu_weights / 6) : 0;
  layer.ram_weights = layer.gpu_weights;
  layer.weight_operations = 2.0 * static_cast<double>(layer.gpu_weights);
  layer.kernels = 25;
  if (has_experts) {
    layer.experts = random.integer(8, 256);
    layer.ram_experts = random.integer(4'000 * kMega, 12'000 * kMega);
    layer.gpu_experts = layer.ram_experts + 768;
    layer.expert_operations =
        2.0 * 8 * static_cast<double>(layer.ram_experts) / static_cast<double>(layer.experts);
    layer.beside_kernels = 3;
    layer.expert_kernels = 3;
  }
  return layer;
}

}  // namespace

offload::PlanModel random_plan_model(Random& random) {
  offload::PlanModel model{.name = "random"};
  const int64_t layers = random.integer(1, 12);
  const int64_t dense = random.integer(0, layers);
  for (int64_t i = 0; i < layers; ++i) {
    model.layers.push_back(random_layer(random, i >= dense));
  }
  model.ends = {.gpu_embedding = random.integer(1, 900 * kMega),
                .gpu_head = random.integer(1, 900 * kMega),
                .ram_head = random.integer(1, 900 * kMega),
                .head_operations = 1e9,
                .head_kernels = 3};
  model.memory = {.scanned_bytes = 256,
                  .scanned_operations = 32768,
                  .scanned_int8 = random.integer(0, 1) == 1,
                  .scan_kernels = 10,
                  .attended_bytes = 1152,
                  .attended_operations = 278528,
                  .most_attended = 2048};
  model.experts_used = random.integer(4, 8);
  model.context = 163840;
  model.gpu_context = 131072;
  model.residual_bytes = 28672;
  model.staging_bytes = 256 * kMega;
  const auto cache = [](int64_t layers_of, int64_t context) -> std::vector<offload::PlannedBytes> {
    return {{"rows", layers_of * context * 1152}, {"keys", layers_of * context * 256}};
  };
  model.gpu_cache = cache;
  model.ram_cache = cache;
  const int64_t per_tile = random.integer(1, kMega);
  const int64_t per_token = random.integer(1, 60'000);
  model.gpu_working = [=](const offload::PlanWork& work) -> std::vector<offload::PlannedBytes> {
    return {{"tile", per_tile * work.tile_tokens},
            {"pass", per_token * work.pass_tokens},
            {"experts", work.gpu_has_experts ? 10 * kMega : 0}};
  };
  model.ram_working = [=](const offload::PlanWork& work,
                          bool computes) -> std::vector<offload::PlannedBytes> {
    return {{"rows", per_token * work.pass_tokens}, {"layers", computes ? 100 * kMega : 0}};
  };
  return model;
}

offload::MachineProfile random_machine(Random& random) {
  const auto rate = [&](double low, double high) {
    return static_cast<double>(random.uniform(static_cast<float>(low), static_cast<float>(high)));
  };
  offload::MachineProfile machine{.name = "random", .source = "a test"};
  machine.cpu = {.name = "CPU", .isa = "avx2", .cores = random.integer(2, 128)};
  for (int64_t nodes = random.integer(1, 2), i = 0; i < nodes; ++i) {
    machine.cpu.nodes.push_back({random.integer(1000, 400'000) * kMega, rate(20, 250)});
    machine.cpu.read_gb_per_s += machine.cpu.nodes.back().read_gb_per_s;
  }
  machine.cpu.int8_gops = rate(500, 8000);
  const int64_t memory = random.integer(500, 96'000) * kMega;
  machine.gpu = offload::GpuProfile{.name = "GPU",
                                    .memory_bytes = memory,
                                    .driver_bytes = 400 * kMega,
                                    .multiprocessors = random.integer(40, 190),
                                    .read_gb_per_s = rate(1300, 4000),
                                    .bf16_tflops = rate(60, 800),
                                    .expert_tflops = rate(50, 400),
                                    .int8_tops = rate(100, 1500),
                                    .to_gpu_gb_per_s = rate(10, 60),
                                    .from_gpu_gb_per_s = rate(10, 60),
                                    .launch_us = rate(1, 4),
                                    .handover_us = rate(10, 20)};
  return machine;
}

}  // namespace sluice::testing
