// Experts that meet a pass's tokens at once, streamed through the GPU and resident there: against each other,
// against the CPU, mixed at random with the CPU's share; stops and what does not fit.
#include "engine/backends/cuda_prefill.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "kernels_cuda/base/check.h"
#include "offload/expert_store.h"
#include "offload/expert_team.h"
#include "offload/thread_places.h"
#include "quant/base/number.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/on_gpu.h"
#include "support/random_experts.h"

namespace sluice {
namespace {

constexpr int64_t kContext = 192;
constexpr int64_t kTokens = 150;

class CudaPrefillTest : public testing::OnGpu {
 protected:
  Model random_model(const std::string& type) {
    Model model = synth::open_model(
        synth::parse_model_spec(fmt::format("synth:tiny,dense=1,moe=3,type={},dense_type={},seed={}", type,
                                            type, random_.integer(0, 1'000'000))),
        {});
    ids_.resize(static_cast<size_t>(kTokens));
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random_.integer(0, model.config().vocab_size - 1));
    }
    return model;
  }

  /// Dense, so that no selection of positions can flip.
  static RuntimeOptions options(Prefill prefill, int64_t batch, int64_t tile = 512) {
    return {.max_batch = batch,
            .tile = tile,
            .attention = AttentionMode::kDense,
            .device = Device::kGpu,
            .prefill = prefill};
  }

  /// Of every position, [kTokens, vocabulary].
  std::vector<float> logits(Runtime& runtime) {
    const auto cache = runtime.make_cache(kContext, CacheType::kF32);
    const int64_t batch = runtime.options().max_batch;
    std::vector<float> all;
    for (int64_t first = 0; first < kTokens; first += batch) {
      const int64_t n = std::min(batch, kTokens - first);
      const auto ids = std::span(ids_).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
      const MatrixView<const float> rows =
          runtime.forward({.ids = ids, .first_position = first, .logits = Logits::kAll, .stop = {}}, *cache)
              .logits;
      all.insert(all.end(), rows.data, rows.data + n * rows.cols);
    }
    return all;
  }
  std::vector<float> logits(const Model& model, const RuntimeOptions& options) {
    Runtime runtime(model, options);
    return logits(runtime);
  }

  static double row_error(std::span<const float> a, std::span<const float> b, double share) {
    return testing::at_share(testing::row_errors(a, b, kTokens), share);
  }

  std::vector<int32_t> ids_;
};

std::vector<int64_t> moe_layers(const Model& model) {
  std::vector<int64_t> layers(static_cast<size_t>(model.config().layers - model.config().dense_layers));
  std::iota(layers.begin(), layers.end(), model.config().dense_layers);
  return layers;
}

// The same products in the same order, when no node has a part of an expert; up to kFewExpertTokens tokens
// resident ones are not rounded.
TEST_F(CudaPrefillTest, StreamedExpertsAreTheResidentOnes) {
  SCOPED_TRACE(random_.describe());
  for (const char* const type : {"q8_0", "nvfp4", "q4_k"}) {
    const Model model = random_model(type);
    for (const int64_t batch : {7, 64, 512, 0}) {
      RuntimeOptions streamed = options(Prefill::kStream, batch, batch == 64 ? 16 : 512);
      streamed.numa = NumaMode::kOff;
      RuntimeOptions resident = streamed;
      resident.prefill = Prefill::kAuto;
      resident.gpu_expert_layers = moe_layers(model);
      const std::vector<float> expected = logits(model, streamed);
      const std::vector<float> found = logits(model, resident);
      if (batch == 7) {
        // A choice of experts that flips in one row is seen by all rows behind it, a little.
        EXPECT_LT(row_error(found, expected, 0.5), 0.1) << type << ", batch " << batch;
      } else {
        EXPECT_TRUE(testing::identical(found, expected)) << type << ", batch " << batch;
      }
    }
  }
}

TEST_F(CudaPrefillTest, PassesAreLongWhenTheGpuHasAllExperts) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("nvfp4");
  RuntimeOptions all = options(Prefill::kCpu, 0, 16);
  all.planned_context = kContext;
  const auto resolved = [&] { return Runtime(model, all).options(); };
  EXPECT_EQ(resolved().max_batch, 16) << "the CPU gets a tile's tokens";
  all.gpu_expert_layers = moe_layers(model);
  EXPECT_EQ(resolved().max_batch, kContext);
  EXPECT_EQ(resolved().tile, 16);
  EXPECT_EQ(resolved().staging_bytes, 0);
  all.gpu_expert_layers.pop_back();
  EXPECT_EQ(resolved().max_batch, 16) << "one layer's are the CPU's";
  all.gpu_expert_layers = moe_layers(model);
  all.activations = Activations::kFloat32;
  EXPECT_EQ(resolved().max_batch, 16) << "--exact computes sixteen tokens at a time";
  all.activations = Activations::kInt8;
  all.prefill = Prefill::kAuto;
  all.max_batch = 40;
  EXPECT_EQ(resolved().max_batch, 40);
  const Model floats = random_model("bf16");
  all.max_batch = 0;
  EXPECT_EQ(Runtime(floats, all).options().max_batch, 16) << "as it does float types";
}

/// Layers drawn at random: the CPU's whole, or resident, or of experts in RAM.
RuntimeOptions random_placement(const Model& model, RuntimeOptions options, testing::Random& random) {
  options.first_gpu_layer = random.integer(0, 2);
  for (const int64_t layer : moe_layers(model)) {
    if (layer >= options.first_gpu_layer && random.integer(0, 1) == 0) {
      options.gpu_expert_layers.push_back(layer);
    }
  }
  return options;
}

std::string text_of(const RuntimeOptions& options) {
  return fmt::format("--prefill {}, batch {}, tile {}, border {}, layers {} resident",
                     prefill_name(options.prefill), options.max_batch, options.tile, options.first_gpu_layer,
                     fmt::join(options.gpu_expert_layers, " "));
}

TEST_F(CudaPrefillTest, StaysNearTheCpuWhereverExpertsAre) {
  SCOPED_TRACE(random_.describe());
  for (const char* const type : {"q8_0", "nvfp4"}) {
    const Model model = random_model(type);
    RuntimeOptions on_cpu{.max_batch = 512,
                          .attention = AttentionMode::kDense,
                          .activations = Activations::kFloat32,
                          .device = Device::kCpu};
    const std::vector<float> expected = logits(model, on_cpu);
    on_cpu.activations = Activations::kInt8;
    // How much roundings matter differs from one random model to the next.
    const double bound = 0.05 + 2 * row_error(logits(model, on_cpu), expected, 0.5);
    for (const Prefill prefill : {Prefill::kAuto, Prefill::kStream, Prefill::kCpu}) {
      for (const int64_t batch : {1, 7, 64, 512, 0}) {
        RuntimeOptions there =
            random_placement(model, options(prefill, batch, batch == 64 ? 16 : 512), random_);
        const int64_t streamed = model.config().layers -
                                 std::max(there.first_gpu_layer, model.config().dense_layers) -
                                 std::ssize(there.gpu_expert_layers);
        if (streamed == 0) there.prefill = Prefill::kAuto;
        EXPECT_LT(row_error(logits(model, there), expected, 0.5), bound) << type << ", " << text_of(there);
      }
      RuntimeOptions all = options(Prefill::kAuto, 0);
      all.gpu_expert_layers = moe_layers(model);
      EXPECT_LT(row_error(logits(model, all), expected, 0.5), bound) << type << ", all resident";
    }
  }
}

// The last layer for the last token alone: its experts are not rounded then, and rows of the cache may come
// from products in another order. In one prompt of several that may flip a choice of experts.
TEST_F(CudaPrefillTest, LastLogitsAreNearThoseOfAll) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const auto vocab = static_cast<size_t>(model.config().vocab_size);
  constexpr size_t lengths[] = {2, 31, 34, 70, 72, 90, 107, 148, 150};  // each prompt goes on from the last
  for (const Prefill prefill : {Prefill::kAuto, Prefill::kStream, Prefill::kCpu}) {
    for (const int64_t batch : {7, 64, 512}) {
      RuntimeOptions there =
          random_placement(model, options(prefill, batch, batch == 64 ? 16 : 512), random_);
      if (prefill == Prefill::kStream) there.gpu_expert_layers.clear();
      Runtime runtime(model, there);
      const std::vector<float> all = logits(runtime);
      Session session(runtime, kContext, CacheType::kF32);
      std::vector<double> errors;
      for (const size_t length : lengths) {
        session.prefill(std::span(ids_).first(length));
        const auto expected = std::span(all).subspan((length - 1) * vocab, vocab);
        errors.push_back(testing::row_errors(session.logits(), expected, 1).front());
      }
      std::ranges::sort(errors);
      EXPECT_LT(testing::at_share(errors, 0.5), 0.1) << text_of(there);
    }
  }
}

TEST_F(CudaPrefillTest, ASmallRingGivesTheSameBits) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  const std::vector<float> expected = logits(model, options(Prefill::kStream, 512));
  RuntimeOptions small = options(Prefill::kStream, 512);
  {
    const Runtime runtime(model, small);
    small.staging_bytes = runtime.options().staging_bytes / 2;
  }
  for (int run = 0; run < 3; ++run) {
    Runtime runtime(model, small);
    EXPECT_LE(runtime.options().staging_bytes, small.staging_bytes);
    EXPECT_TRUE(testing::identical(logits(runtime), expected));
    EXPECT_TRUE(testing::identical(logits(runtime), expected)) << "the second time";
  }
}

// Wherever the stop comes: before a layer, among the experts, after the last. A layer streamed, one resident.
TEST_F(CudaPrefillTest, AStoppedPassLeavesTheCacheAsItWas) {
  SCOPED_TRACE(random_.describe());
  const Model model = random_model("q8_0");
  RuntimeOptions mixed = options(Prefill::kStream, 64, 16);
  mixed.gpu_expert_layers = {moe_layers(model)[1]};
  Runtime runtime(model, mixed);
  const std::span<const int32_t> first = std::span(ids_).first(50);
  Session whole(runtime, kContext, CacheType::kF32);
  whole.prefill(first);
  whole.prefill(ids_);
  const std::vector<float> expected(whole.logits().begin(), whole.logits().end());
  for (int64_t layer = 0; layer <= model.config().layers; ++layer) {
    Session session(runtime, kContext, CacheType::kF32);
    session.prefill(first);
    std::stop_source stop;
    if (layer == 0) stop.request_stop();
    int64_t calls = 0;
    const PrefillReport report = session.prefill(
        ids_, [&](int64_t, int64_t) { calls == layer - 1 ? stop.request_stop() : false, ++calls; },
        stop.get_token());
    EXPECT_FALSE(report.completed) << layer;
    session.prefill(ids_);
    EXPECT_TRUE(
        testing::close(session.logits(), std::vector<double>(expected.begin(), expected.end()), 1e-4, 1e-4))
        << "stopped after layer " << layer;
  }
}

TEST_F(CudaPrefillTest, WhatCannotBeStreamedIsRefused) {
  SCOPED_TRACE(random_.describe());
  const auto refusal = [](const Model& model, const RuntimeOptions& wish) {
    return testing::error_text([&] {
      const Runtime runtime(model, wish);
      return 0;
    });
  };
  const Model model = random_model("q8_0");
  // What is left suffices for the backend alone.
  constexpr int64_t kLeft = int64_t{700} << 20;
  const cuda::DeviceBuffer<std::byte> taken(cuda::device_memory().free_bytes - kLeft);
  const std::string large = refusal(model, options(Prefill::kStream, 512));
  for (const char* const part : {"--prefill stream", "512 tokens (-b)", "GB free"}) {
    EXPECT_NE(large.find(part), std::string::npos) << part << " in: " << large;
  }
  const std::string floats = refusal(random_model("bf16"), options(Prefill::kStream, 512));
  EXPECT_NE(floats.find("not quantized"), std::string::npos) << floats;
  EXPECT_EQ(Runtime(model, options(Prefill::kAuto, 512)).options().prefill, Prefill::kCpu);
  RuntimeOptions tight = options(Prefill::kStream, 512);
  tight.staging_bytes = 1;
  const std::string ring = refusal(model, tight);
  EXPECT_NE(ring.find("3 experts under way"), std::string::npos) << ring;
}

/// One layer's experts divided at random.
class CudaExpertPlaces : public testing::OnGpu {
 protected:
  static constexpr int64_t kUsed = 3;

  void choose(int64_t tokens, int64_t experts) {
    tokens_ = tokens;
    std::vector<int32_t> all(static_cast<size_t>(experts));
    std::iota(all.begin(), all.end(), 0);
    ids_.clear();
    for (int64_t t = 0; t < tokens_; ++t) {
      for (int64_t i = 0; i < kUsed; ++i) {
        std::swap(all[static_cast<size_t>(i)], all[static_cast<size_t>(random_.integer(i, experts - 1))]);
      }
      std::sort(all.begin(), all.begin() + kUsed);
      ids_.insert(ids_.end(), all.begin(), all.begin() + kUsed);
    }
    route_weights_ = random_.normal(tokens_ * kUsed);
  }
  [[nodiscard]] offload::Routes routes() const {
    return {{ids_.data(), tokens_, kUsed}, {route_weights_.data(), tokens_, kUsed}};
  }

  /// As a layer's tiles do: f [tokens_, d_model] and the routes, in two parts.
  void put_tokens(CudaPassExperts& experts, const std::vector<float>& f) {
    const int64_t d_model = static_cast<int64_t>(f.size()) / tokens_;
    const cuda::DeviceBuffer<float> f_there(f);
    const int64_t first = random_.integer(1, tokens_ - 1);
    for (const RowRange part : {RowRange{0, first}, RowRange{first, tokens_ - first}}) {
      const auto choices = [&](const auto& all) {
        return std::as_bytes(std::span(all).subspan(static_cast<size_t>(part.begin * kUsed),
                                                    static_cast<size_t>(part.count * kUsed)));
      };
      cuda::copy_to_gpu(experts.ids(part.begin), choices(ids_), "cudaMemcpy");
      cuda::copy_to_gpu(experts.weights(part.begin), choices(route_weights_), "cudaMemcpy");
      experts.put_rows(f_there.data() + part.begin * d_model, part, stream());
    }
    experts.send_routes(tokens_, stream());
    cuda::check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");  // before f_there is freed
  }

  static CudaPassExperts::Scales scales(const offload::ExpertStore& store,
                                        std::span<const ExpertGroup> slots) {
    CudaPassExperts::Scales scales;
    for (const auto part :
         {offload::ExpertPart::kGate, offload::ExpertPart::kUp, offload::ExpertPart::kDown}) {
      for (const ExpertGroup& slot : slots) {
        for (const int32_t e : slot) {
          scales[static_cast<size_t>(part)].push_back(store.scale(1, part, e));
        }
      }
    }
    return scales;
  }

  int64_t tokens_ = 0;
  std::vector<int32_t> ids_;
  std::vector<float> route_weights_;
};

TEST_F(CudaExpertPlaces, AnyDivisionGivesTheCpusSums) {
  SCOPED_TRACE(random_.describe());
  offload::Workers workers(2);
  struct Case {
    quant::DType dtype;
    int64_t nodes;
    int64_t tokens;
  };
  using quant::DType;
  constexpr int64_t kCut = kPassChoices / kUsed + 500;  // more choices than go together
  for (const auto [dtype, nodes, tokens] : {Case{DType::kQ8_0, 1, 90}, Case{DType::kQ8_0, 2, kCut},
                                            Case{DType::kNVFP4, 1, kCut}, Case{DType::kNVFP4, 2, 90}}) {
    const testing::RandomExpertShape shape{.experts = 12,
                                           .d_model = 256,
                                           .d_expert = 128,
                                           .gate = dtype,
                                           .up = dtype,
                                           .down = dtype,
                                           .scaled = true};
    testing::RandomExperts source;
    source.add_dense_layer();
    source.add_layer(shape, random_);
    offload::ExpertStoreOptions how;
    how.homes.assign(static_cast<size_t>(nodes), offload::ExpertHome{});
    how.policy = offload::MemoryPolicy::kAnywhere;
    const auto store = offload::ExpertStore::load(source, how, workers);
    ASSERT_TRUE(store.has_value());
    offload::ExpertTeam team(*store,
                             {.d_model = shape.d_model,
                              .d_expert = shape.d_expert,
                              .used = kUsed,
                              .max_tokens = tokens,
                              .arithmetic = offload::ExpertArithmetic::kFloat32},
                             workers);
    // bf16 on both sides.
    std::vector<float> f = random_.normal(tokens * shape.d_model);
    std::ranges::transform(f, f.begin(), [](float v) { return bf16_to_f32(f32_to_bf16(v)); });
    choose(tokens, shape.experts);
    std::vector<float> expected(f.size(), 0.0F);
    team.add(1, {f.data(), tokens_, shape.d_model}, routes(), {expected.data(), tokens_, shape.d_model});

    const CudaPinnedStore pinned(store->memory(), 0, 1 << 16);
    if (random_.integer(0, 1) == 0) pinned.wait();
    const PassExpertShape pass{.max_tokens = tokens_ + random_.integer(0, 9),
                               .d_model = shape.d_model,
                               .d_expert = shape.d_expert,
                               .experts = shape.experts,
                               .used = kUsed};
    const StreamedSizes sizes = streamed_sizes(*store);
    CudaPassExperts experts(pass);
    for (int run = 0; run < 10; ++run) {
      CudaExpertStream stream_of(*store, pinned,
                                 staging_shape(sizes, random_.integer(kLeastSlots, 20) * sizes.expert_bytes),
                                 workers);
      CudaCpuShare share({tokens_, shape.d_model, kUsed});
      std::vector<uint8_t> is_cpus(static_cast<size_t>(shape.experts));
      std::vector<int32_t> others;
      for (int32_t e = 0; e < shape.experts; ++e) {
        is_cpus[static_cast<size_t>(e)] = static_cast<uint8_t>(random_.integer(0, 1));
        if (is_cpus[static_cast<size_t>(e)] == 0) others.push_back(e);
      }
      const cuda::DeviceBuffer<float> y(std::vector<float>(f.size(), 0.0F));
      const auto slots = stream_of.want(1, others);
      stream_of.fill();
      put_tokens(experts, f);
      const int64_t rows = share.send(experts.receive_routes(), is_cpus, experts.rows(), stream());
      experts.begin_layer(slots, scales(*store, slots), stream());
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        stream_of.fill();
        const auto shares = stream_of.shares(
            1, stream_of.take(stream()),
            {experts.scales(offload::ExpertPart::kGate, slot), experts.scales(offload::ExpertPart::kUp, slot),
             experts.scales(offload::ExpertPart::kDown, slot)});
        experts.add(slot, shares, y.data(), stream());
        stream_of.release(stream());
      }
      if (rows > 0) {
        const Backend::Routed left = share.receive();
        team.add(1, left.f, left.routes, left.sum);
        share.add_sum(y.data(), stream());
      }
      const std::vector<float> found = y.to_host(stream());
      double error = 0;
      double total = 0;
      for (size_t i = 0; i < found.size(); ++i) {
        error += std::pow(double{found[i]} - double{expected[i]}, 2);
        total += std::pow(double{expected[i]}, 2);
      }
      EXPECT_LT(std::sqrt(error / total), 0.01) << others.size() << " of 12 streamed, " << nodes << " nodes";
      const CudaExpertStream::Copied copied = stream_of.copied();
      EXPECT_EQ(copied.bytes > 0, !others.empty());
      EXPECT_EQ(copied.ns > 0, !others.empty());
    }
  }
}

TEST_F(CudaExpertPlaces, LockedMemoryIsKnownPieceByPiece) {
  const std::vector<std::byte> memory(size_t{5} << 20);
  const CudaPinnedStore store({memory}, 0, 2 << 20);
  store.wait();
  EXPECT_EQ(store.page_lock().problem, "");
  EXPECT_EQ(store.page_lock().locked_bytes, static_cast<int64_t>(memory.size()));
  EXPECT_EQ(store.page_lock().bytes, static_cast<int64_t>(memory.size()));
  const std::span<const std::byte> all(memory);
  const CudaPinnedStore::Part part = store.first_part(all.subspan((1 << 20) + 5));
  EXPECT_TRUE(part.locked);
  EXPECT_EQ(part.bytes.size(), size_t{(1 << 20) - 5}) << "up to the piece's end";
  EXPECT_EQ(store.first_part(all.last(3)).bytes.size(), 3U);
  const std::vector<std::byte> elsewhere(16);
  EXPECT_FALSE(store.first_part(elsewhere).locked);
  // Locked twice is refused, kept and told.
  const CudaPinnedStore again({memory}, 0);
  again.wait();
  const PageLock refused = again.page_lock();
  EXPECT_NE(refused.problem.find("page-locking"), std::string::npos) << refused.problem;
  EXPECT_EQ(refused.locked_bytes, 0);
  EXPECT_EQ(refused.bytes, static_cast<int64_t>(memory.size()));
  EXPECT_FALSE(again.first_part(all).locked);
}

}  // namespace
}  // namespace sluice
