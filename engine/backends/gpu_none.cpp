// A build without CUDA: everything runs on the CPU.
#include "engine/backends/gpu.h"
#include "engine/backends/gpu_rates.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr const char* kWhyNot = "a build without CUDA, which runs everything on the CPU";

}  // namespace

GpuFound find_gpu() {
  return {.usable = false, .why_not = kWhyNot, .notice = {}};
}

GpuMemory gpu_memory() {
  throw Error("GPU", "one to compute on", kWhyNot);
}

std::optional<offload::GpuProfile> measure_gpu(const RateProgress&, const std::stop_token&) {
  return {};
}

// chosen_device() lets nobody come here.
std::unique_ptr<const GpuWeights> load_gpu_weights(const Model&, const RuntimeOptions&, offload::Workers&) {
  throw Error("-ngl/--n-gpu-layers", "0", kWhyNot);
}

std::unique_ptr<const GpuHostMemory> prepare_host_memory(const offload::ExpertWeights&,
                                                         const RuntimeOptions&) {
  return nullptr;
}

RuntimeOptions sized_for_gpu(const Model&, const GpuWeights&, const offload::ExpertWeights&, RuntimeOptions) {
  throw Error("-ngl/--n-gpu-layers", "0", kWhyNot);
}

std::unique_ptr<Backend> make_gpu_backend(const Model&, const GpuModel&, const RuntimeOptions&,
                                          offload::Workers&) {
  throw Error("-ngl/--n-gpu-layers", "0", kWhyNot);
}

}  // namespace sluice
