// Experts in memory, mapped, divided among nodes: the same model wherever they are.
#include "engine/routed_experts.h"

#include <gtest/gtest.h>
#include <stdlib.h>  // setenv

#include <optional>
#include <set>

#include "engine/convert/convert.h"
#include "engine/engine.h"
#include "engine/load_stopped.h"
#include "engine/loaded_weights.h"
#include "offload/bandwidth.h"
#include "offload/machine.h"
#include "offload/workers.h"
#include "support/compare.h"
#include "support/temporary_directory.h"
#include "support/tiny_checkpoint.h"

namespace sluice {
namespace {

using testing::Random;

constexpr int64_t kTokens = 20;

class RoutedExpertsTest : public ::testing::Test {
 protected:
  // A model of this type, converted; its logits of the last token.
  std::filesystem::path model_file(quant::DType type) {
    std::filesystem::create_directories(directory_ / "checkpoint");
    testing::write_tiny_checkpoint(directory_ / "checkpoint", {}, random_);
    std::filesystem::path file = directory_ / "model.gguf";
    ConvertOptions options;
    options.dtype = type;
    convert_checkpoint(directory_ / "checkpoint", file, options);
    return file;
  }

  std::vector<float> logits(const Model& model, const RuntimeOptions& options,
                            std::string* description = nullptr) {
    Runtime runtime(model, options);
    if (description != nullptr) *description = runtime.description();
    Session session(runtime, 64, CacheType::kF32);
    session.prefill(ids_);
    return {session.logits().begin(), session.logits().end()};
  }

  void choose_tokens(const Model& model) {
    for (int64_t i = 0; i < kTokens; ++i) {
      ids_.push_back(static_cast<int32_t>(random_.integer(0, model.config().vocab_size - 1)));
    }
  }

  Random random_;
  testing::TemporaryDirectory directory_;
  std::vector<int32_t> ids_;
};

TEST_F(RoutedExpertsTest, LoadedAndMappedAreTheSameBits) {
  SCOPED_TRACE(random_.describe());
  const Model model = Model::load(model_file(quant::DType::kQ8_0));
  choose_tokens(model);
  for (const Activations activations : {Activations::kInt8, Activations::kFloat32}) {
    RuntimeOptions options;
    options.threads = 2;
    options.activations = activations;
    std::string loaded_text;
    std::string mapped_text;
    const auto loaded = logits(model, options, &loaded_text);
    options.expert_memory = ExpertMemory::kMapped;
    EXPECT_TRUE(testing::identical(logits(model, options, &mapped_text), loaded));
    EXPECT_NE(loaded_text.find(" MB of experts"), std::string::npos) << loaded_text;
    EXPECT_NE(mapped_text.find("experts mapped"), std::string::npos) << mapped_text;
    options.expert_memory = ExpertMemory::kLoaded;
    for (const NumaMode numa : {NumaMode::kOff, NumaMode::kInterleave}) {
      options.numa = numa;
      EXPECT_TRUE(testing::identical(logits(model, options), loaded));
    }
  }
}

TEST_F(RoutedExpertsTest, ProgressIsToldUpToTheEnd) {
  const Model model = Model::load(model_file(quant::DType::kBF16));
  choose_tokens(model);
  RuntimeOptions options;
  options.threads = 2;
  std::optional<offload::LoadProgress> last;
  options.load_progress = [&](const offload::LoadProgress& progress) { last = progress; };
  logits(model, options);
  ASSERT_TRUE(last.has_value());
  EXPECT_GT(last->bytes_total, 0);
  EXPECT_EQ(last->bytes_done, last->bytes_total);
}

TEST_F(RoutedExpertsTest, RuntimesShareLoadedWeights) {
  SCOPED_TRACE(random_.describe());
  const Model model = Model::load(model_file(quant::DType::kQ8_0));
  choose_tokens(model);
  RuntimeOptions options;
  options.threads = 2;
  const auto alone = logits(model, options);
  int loads = 0;
  options.load_progress = [&](const offload::LoadProgress& progress) {
    loads += progress.bytes_done == progress.bytes_total ? 1 : 0;
  };
  const offload::Machine machine = offload::probe_machine();
  std::optional<offload::Workers> workers(3);
  const LoadedWeights weights(model, options, machine, *workers);
  workers.reset();
  EXPECT_EQ(loads, 1);
  for (const int64_t threads : {1, 2}) {
    options.threads = threads;
    options.max_batch = 7 * threads;
    EXPECT_TRUE(weights.suit(options));
    Runtime runtime(weights, options);
    Session session(runtime, 64, CacheType::kF32);
    session.prefill(ids_);
    EXPECT_TRUE(testing::identical(session.logits(), alone));
  }
  EXPECT_EQ(loads, 1);
  options.activations = Activations::kFloat32;
  EXPECT_FALSE(weights.suit(options));
}

TEST_F(RoutedExpertsTest, LoadingStopsWhenAsked) {
  const Model model = Model::load(model_file(quant::DType::kQ8_0));
  choose_tokens(model);
  for (const ExpertMemory memory : {ExpertMemory::kLoaded, ExpertMemory::kMapped}) {
    std::stop_source before;
    before.request_stop();
    EXPECT_THROW(logits(model, {.threads = 2, .expert_memory = memory, .load_stop = before.get_token()}),
                 LoadStopped);
  }
  // At the last moment: nobody else would notice.
  std::stop_source late;
  RuntimeOptions options;
  options.load_stop = late.get_token();
  options.load_progress = [&](const offload::LoadProgress& progress) {
    if (progress.bytes_done == progress.bytes_total) late.request_stop();
  };
  EXPECT_THROW(logits(model, options), LoadStopped);
}

/// Environment variables that are put back.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = getenv(name); old != nullptr) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() { old_.has_value() ? setenv(name_, old_->c_str(), 1) : unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

// A made-up machine of two nodes: every expert is divided, and the sums differ in their order only.
TEST_F(RoutedExpertsTest, TwoNodesShareEveryExpert) {
  SCOPED_TRACE(random_.describe());
  const Model model = Model::load(model_file(quant::DType::kBF16));
  choose_tokens(model);
  RuntimeOptions options;
  options.threads = 4;
  const auto whole = logits(model, options);
  const Variable cache("XDG_CACHE_HOME", (directory_ / "cache").string());
  const Variable nodes("HWLOC_SYNTHETIC", "numa:2(memory=1073741824) core:2 pu:1");
  std::string text;
  const auto divided = logits(model, options, &text);
  EXPECT_NE(text.find("of experts on 2 NUMA nodes"), std::string::npos) << text;
  EXPECT_TRUE(testing::close(divided, whole, 1e-3, 1e-3));
  EXPECT_TRUE(std::filesystem::exists(offload::cache_directory()));
  options.threads = 1;
  EXPECT_TRUE(testing::identical(logits(model, options), divided)) << "one thread for both nodes";
}

TEST_F(RoutedExpertsTest, PlacesCountTheNodesThatHoldExperts) {
  offload::Machine machine = offload::machine_from_synthetic("numa:3 core:2 pu:2");
  machine.nodes[0].memory_bytes = 0;  // computes, and holds nothing
  std::set<int32_t> nodes;
  std::set<int32_t> cpus;
  for (const offload::ThreadPlace& place : runtime_places(machine, 6)) {
    nodes.insert(place.node);
    EXPECT_TRUE(cpus.insert(place.cpu).second);
  }
  EXPECT_EQ(nodes, (std::set<int32_t>{0, 1}));
  EXPECT_EQ(runtime_places(machine, 1)[0].cpu, -1);  // left to the scheduler
}

}  // namespace
}  // namespace sluice
