// An infinity or NaN anywhere in a model's file is found before anything is computed, and named.
#include "engine/check_tensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/load_stopped.h"
#include "engine/synth/open_model.h"
#include "engine/synth/write_gguf.h"
#include "support/error_text.h"
#include "support/non_finite.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

using testing::Random;

class CheckTensors : public ::testing::Test {
 protected:
  // A model of which all large matrices are of this type.
  [[nodiscard]] std::filesystem::path write_model(const std::string& type) const {
    std::filesystem::path file = directory_ / "model.gguf";
    synth::write_gguf(synth::parse_model_spec("synth:tiny,moe=1,type=" + type + ",dense_type=" + type), file,
                      {});
    return file;
  }

  static std::string refusal(const std::filesystem::path& file, ExpertMemory memory) {
    const Model model = Model::load(file);
    return testing::error_text([&] {
      const Runtime runtime(model, {.threads = 2, .expert_memory = memory, .check_tensors = true});
      return 0;
    });
  }

  Random random_;
  testing::TemporaryDirectory directory_;
};

TEST_F(CheckTensors, AnyTensorOfAnyTypeIsNamedWithThePlace) {
  SCOPED_TRACE(random_.describe());
  for (const std::string type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    std::vector<std::string> names{"token_embd.weight",          "blk.0.attn_norm.weight",
                                   "blk.0.attn_k_b.weight",      "blk.1.ffn_gate_inp.weight",
                                   "blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight",
                                   "blk.1.ffn_down_exps.weight"};
    if (type == "nvfp4") names.insert(names.end(), {"blk.0.attn_output.scale", "blk.1.ffn_down_exps.scale"});
    for (const std::string& name : names) {
      SCOPED_TRACE(type + " " + name);
      const auto file = write_model(type);
      EXPECT_EQ(refusal(file, ExpertMemory::kLoaded), "no error");
      const quant::Tensor tensor = *quant::GgufFile::open(file).find(name);
      const int64_t at = random_.integer(0, tensor.elements() - 1);
      testing::plant_non_finite(file, name, at, random_);
      const int64_t block = quant::dtype_info(tensor.dtype).elements_per_block;
      const int64_t row = at / tensor.ne[0];
      const std::string expected =
          fmt::format("{}: tensor {}: expected finite weights, found infinity or NaN {} {{{}, {}, {}}}",
                      file.string(), name, block > 1 ? "in the block at" : "at",
                      at % tensor.ne[0] / block * block, row % tensor.ne[1], row / tensor.ne[1]);
      EXPECT_EQ(refusal(file, ExpertMemory::kLoaded), expected);
      EXPECT_EQ(refusal(file, ExpertMemory::kMapped), expected);
      const Model model = Model::load(file);
      EXPECT_NO_THROW(Runtime(model, {.threads = 2})) << "unasked";
    }
  }
}

TEST_F(CheckTensors, RandomWeightsAreFinite) {
  for (const char* const type : {"bf16", "q8_0", "nvfp4", "q4_k"}) {
    const Model model = synth::open_model(
        synth::parse_model_spec(fmt::format("synth:tiny,moe=2,type={0},dense_type={0}", type)), {});
    EXPECT_NO_THROW(Runtime(model, {.threads = 2, .check_tensors = true})) << type;
  }
}

TEST_F(CheckTensors, Stops) {
  const Model model = Model::load(write_model("q8_0"));
  offload::Workers workers(2);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(check_tensors(model, TensorsToCheck::kAll, workers, stop.get_token()), LoadStopped);
}

}  // namespace
}  // namespace sluice
