// What does not fit is refused with the numbers; what stays in the file is told with them.
#include "engine/memory_need.h"

#include <gtest/gtest.h>

#include "engine/synth/open_model.h"
#include "engine/synth/write_gguf.h"
#include "support/error_text.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

constexpr const char* kSpec = "synth:tiny,dense=1,moe=2,type=q8_0";

std::string refusal(const Model& model, const MemoryNeed& need, int64_t available) {
  return testing::error_text([&] {
    require_memory(model, need, available);
    return 0;
  });
}

TEST(MemoryNeed, RefusesOneByteTooMany) {
  const testing::TemporaryDirectory directory;
  synth::write_gguf(synth::parse_model_spec(kSpec), directory / "m.gguf", {});
  const Model model = Model::load(directory / "m.gguf");
  const MemoryNeed need{.experts = 371'200'000'000, .panels = 20'000'000'000};
  EXPECT_EQ(refusal(model, need, 391'200'000'000), "no error");
  EXPECT_EQ(refusal(model, need, 391'199'999'999),
            model.path().string() +
                ": expected 391.2 GB of memory: 371.2 GB for the routed experts, 20.0 GB for panels of the "
                "other matrices (--mmap leaves the experts in the file, which is slower), found 391.2 GB "
                "available");
}

TEST(MemoryNeed, WhatNoFileHoldsCannotBeMapped) {
  const Model model = synth::open_model(synth::parse_model_spec(kSpec), {});
  const std::string text = refusal(model, {.experts = 2'000'000'000, .panels = 0}, 1'000'000'000);
  EXPECT_TRUE(text.ends_with("(fewer layers or experts would take less), found 1.0 GB available")) << text;
  EXPECT_EQ(text.find("--mmap"), std::string::npos);
}

TEST(MemoryNeed, GpuIsRefusedOneByteTooMany) {
  const GpuMemoryNeed need{.weights = 17'000'000'000,
                           .working = 1'500'000'000,
                           .max_batch = 512,
                           .cache = 4'500'000'000,
                           .context = 32768};
  const auto refusal_of = [&](int64_t available) {
    return testing::error_text([&] {
      require_gpu_memory("GPU 0 (a card)", need, available);
      return 0;
    });
  };
  EXPECT_EQ(refusal_of(23'000'000'000), "no error");
  EXPECT_EQ(refusal_of(22'999'999'999),
            "GPU 0 (a card): expected 23.0 GB of free memory: 17.0 GB for weights, 1.5 GB for a batch of 512 "
            "tokens (-ub), 4.5 GB for the cache of 32768 tokens (-c); smaller ones take less, a smaller "
            "-ngl leaves layers to the CPU, found 23.0 GB free");
}

TEST(MemoryNeed, ExpertsOfTheGpuAreNamedWithTheirFlag) {
  const GpuMemoryNeed need{.weights = 1'000'000'000, .experts = 5'000'000'000};
  const std::string text = testing::error_text([&] {
    require_gpu_memory("GPU 0 (a card)", need, 5'999'999'999);
    return 0;
  });
  EXPECT_NE(
      text.find("6.0 GB of free memory: 1.0 GB for weights, 5.0 GB for routed experts (a larger -ncmoe"),
      std::string::npos)
      << text;
}

TEST(MemoryNeed, MappedExpertsAreToldWithTheirSize) {
  const Model model = synth::open_model(synth::parse_model_spec(kSpec), {});
  constexpr int64_t kBytes = int64_t{2} * 16 * 3 * 256 * 256 / 32 * 34;
  EXPECT_EQ(expert_bytes(model.weights()), kBytes);
  const std::string fits = mapped_experts_notice(model.weights(), kBytes);
  EXPECT_TRUE(fits.starts_with("--mmap: 0.0 GB of experts stay in the file")) << fits;
  EXPECT_EQ(fits.find("disk"), std::string::npos) << fits;
  const std::string too_large = mapped_experts_notice(model.weights(), kBytes - 1);
  EXPECT_TRUE(too_large.starts_with(fits + "; 0.0 GB of available memory cannot cache them all"))
      << too_large;
}

}  // namespace
}  // namespace sluice
