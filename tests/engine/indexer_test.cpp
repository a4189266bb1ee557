// What the indexer selects depends on how its vectors and those of attention are turned: the wrong layout of
// rope pairs selects other positions (model specification, section 7 (d)), and the Hadamard rotation none.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "engine/backends/reference.h"
#include "engine/convert/convert.h"
#include "engine/engine.h"
#include "kernels_cpu/kernels_cpu.h"
#include "quant/block_codec.h"
#include "support/compare.h"
#include "support/every_isa.h"
#include "support/golden_model.h"
#include "support/overlap.h"
#include "support/relative_error.h"
#include "support/temporary_directory.h"
#include "support/tiny_checkpoint.h"

namespace sluice::testing {
namespace {

using Rotate = void (*)(std::span<const float> cos_sin, std::span<float> x);

size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

std::vector<float> row_of(const quant::WeightView& w, int64_t row) {
  std::vector<float> values(at(w.cols));
  quant::dequantize_row(w.dtype, {w.row(row), at(w.row_bytes)}, values);
  return values;
}

std::vector<std::vector<float>> rows_of(const quant::WeightView& w) {
  std::vector<std::vector<float>> rows;
  for (int64_t r = 0; r < w.rows; ++r) {
    rows.push_back(row_of(w, r));
  }
  return rows;
}

std::vector<float> product(const std::vector<std::vector<float>>& rows, const std::vector<float>& x) {
  std::vector<float> y;
  y.reserve(rows.size());
  for (const std::vector<float>& row : rows) {
    y.push_back(static_cast<float>(std::inner_product(row.begin(), row.end(), x.begin(), 0.0)));
  }
  return y;
}

std::vector<float> index_scores(const cpu::Kernels& kernels, const std::vector<float>& query,
                                const std::vector<float>& weights, const std::vector<float>& keys,
                                int64_t dim) {
  const auto heads = static_cast<int64_t>(weights.size());
  const cpu::CacheRows rows{cpu::RowFormat::kF32, std::as_bytes(std::span(keys)).data(), dim,
                            dim * static_cast<int64_t>(sizeof(float))};
  std::vector<float> scores(keys.size() / at(dim));
  std::vector<float> scratch(at(cpu::index_scratch_floats(heads, dim)));
  cpu::index_scores(kernels, {{query.data(), 1, heads * dim}, {weights.data(), 1, heads}}, rows,
                    {scores.data(), 1, static_cast<int64_t>(scores.size())}, scratch);
  return scores;
}

/// The scores of the last token of `ids` in the first layer, whose input is the embedding alone: formula 2.6
/// with the rope layout that is given.
std::vector<float> first_layer_scores(const Model& model, std::span<const int32_t> ids, Rotate rotate) {
  const cpu::Kernels& kernels = cpu::kernels_for(cpu::Isa::kScalar);
  const ModelConfig& c = model.config();
  const LayerWeights& layer = model.weights().layers[0];
  const std::vector<float> frequencies = cpu::yarn_frequencies(c.rope);
  const std::vector<std::vector<float>> key_rows = rows_of(layer.indexer.key);
  std::vector<float> cos_sin(at(c.d_rope));
  std::vector<float> normed(at(c.d_model));
  std::vector<float> keys;
  for (size_t t = 0; t < ids.size(); ++t) {
    const std::vector<float> x = row_of(model.weights().token_embedding, ids[t]);
    kernels.rms_norm(x.data(), layer.attention_norm.data(), c.rms_eps, c.d_model, normed.data());
    std::vector<float> key = product(key_rows, normed);
    kernels.layer_norm(key.data(), layer.indexer.norm_gain.data(), layer.indexer.norm_bias.data(),
                       kIndexerLayerNormEps, c.d_index, key.data());
    cpu::rope_angles(frequencies, static_cast<int64_t>(t), cos_sin);
    rotate(cos_sin, std::span(key).first(at(c.d_rope)));
    keys.insert(keys.end(), key.begin(), key.end());
  }
  std::vector<float> latent = product(rows_of(layer.query_a), normed);
  kernels.rms_norm(latent.data(), layer.query_a_norm.data(), c.rms_eps, c.q_rank, latent.data());
  std::vector<float> query = product(rows_of(layer.indexer.query), latent);
  for (int64_t h = 0; h < c.index_heads; ++h) {
    rotate(cos_sin, std::span(query).subspan(at(h * c.d_index), at(c.d_rope)));
  }
  std::vector<float> weights = product(rows_of(layer.indexer.head_weights), normed);
  kernels.scale(1.0F / std::sqrt(static_cast<float>(c.index_heads * c.d_index)), c.index_heads,
                weights.data());
  return index_scores(kernels, query, weights, keys, c.d_index);
}

std::vector<int32_t> largest(std::span<const float> scores, int64_t k) {
  std::vector<int32_t> selected(std::min(at(k), scores.size()));
  std::vector<int32_t> scratch(at(cpu::top_k_scratch(static_cast<int64_t>(scores.size()))));
  cpu::top_k(cpu::kernels_for(cpu::chosen_isa()), scores, k, selected, scratch);
  return selected;
}

/// What every layer selected at every position, and the scores behind it; empty where nothing was left out.
class Selections : public ForwardObserver {
 public:
  void selection(int64_t layer, int64_t position, std::span<const int32_t> selected,
                 std::span<const float> layer_scores) override {
    chosen[layer][position].assign(selected.begin(), selected.end());
    scores[layer][position].assign(layer_scores.begin(), layer_scores.end());
  }
  std::map<int64_t, std::map<int64_t, std::vector<int32_t>>> chosen;
  std::map<int64_t, std::map<int64_t, std::vector<float>>> scores;
};

/// Mean over the positions that select.
double mean_overlap(const Selections& found, const Selections& expected, int64_t layer) {
  double sum = 0;
  int64_t count = 0;
  for (const auto& [position, chosen] : expected.chosen.at(layer)) {
    if (!chosen.empty()) {
      sum += overlap(found.chosen.at(layer).at(position), chosen);
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

ModelConfig long_prompt_config() {
  ModelConfig config = tiny_config();
  config.index_heads = 4;
  config.index_top_k = 16;
  return config;
}

// Rows i and i + dims / 2 of the `dims` rows from `first` on become neighbours. What turns neighbours then
// does to this tensor what turning halves does to the original.
void make_halves_neighbours(StoredTensor& tensor, int64_t first, int64_t dims) {
  const size_t row_bytes = tensor.bytes.size() / at(tensor.shape[0]);
  const std::vector<std::byte> old = tensor.bytes;
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t from = first + i / 2 + (i % 2) * (dims / 2);
    std::copy_n(old.begin() + static_cast<std::ptrdiff_t>(at(from) * row_bytes), row_bytes,
                tensor.bytes.begin() + static_cast<std::ptrdiff_t>(at(first + i) * row_bytes));
  }
}

void turn_halves_in_attention(const ModelConfig& c, StoredTensors& tensors) {
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
    for (int64_t h = 0; h < c.heads; ++h) {
      make_halves_neighbours(tensors.at(prefix + "q_b_proj.weight"), h * c.d_head() + c.d_nope, c.d_rope);
    }
    make_halves_neighbours(tensors.at(prefix + "kv_a_proj_with_mqa.weight"), c.d_latent, c.d_rope);
  }
}

/// A random model and a prompt of many times its top-k.
class RopePairs : public ::testing::Test {
 protected:
  static constexpr int64_t kTokens = 150;

  RopePairs() : ids_(at(kTokens)) {
    for (int32_t& id : ids_) {
      id = static_cast<int32_t>(random_.integer(0, config_.vocab_size - 1));
    }
  }

  // Every call makes the same weights, and then edits them.
  Model make_model(const std::string& name,
                   const std::function<void(const ModelConfig&, StoredTensors&)>& edit = {}) {
    Random weights = random_;
    TinyCheckpointOptions options;
    options.config = config_;
    if (edit) {
      options.edit_tensors = [&](StoredTensors& tensors) { edit(config_, tensors); };
    }
    std::filesystem::create_directories(directory_ / name);
    write_tiny_checkpoint(directory_ / name, options, weights);
    ConvertOptions conversion;
    conversion.dtype = quant::DType::kBF16;
    convert_checkpoint(directory_ / name, directory_ / (name + ".gguf"), conversion);
    return Model::load(directory_ / (name + ".gguf"));
  }

  void run(const Model& model, Selections& selections) {
    Runtime runtime(model, {.threads = 2});
    CpuCache cache(model.config(), kTokens, CacheType::kF32);
    runtime.forward({.ids = ids_, .observer = &selections, .stop = {}}, cache);
  }

  Random random_;
  TemporaryDirectory directory_;
  ModelConfig config_ = long_prompt_config();
  std::vector<int32_t> ids_;
};

TEST_F(RopePairs, IndexerTurnsHalves) {
  SCOPED_TRACE(random_.describe());
  const Model model = make_model("model");
  Selections engine;
  run(model, engine);
  const double one_swapped = 1.0 - 1.0 / static_cast<double>(config_.index_top_k);
  double wrong_overlap = 0;
  for (int64_t t = config_.index_top_k; t < kTokens; ++t) {
    const auto prompt = std::span(ids_).first(at(t + 1));
    const std::vector<float> right = first_layer_scores(model, prompt, cpu::rope_half_split);
    const std::vector<float> wrong = first_layer_scores(model, prompt, cpu::rope_interleaved);
    // The scores agree but for roundings, which may swap the two positions at the edge of the selection.
    ASSERT_EQ(engine.scores[0][t].size(), right.size()) << t;
    ASSERT_LT(relative_rms(right, engine.scores[0][t]), 1e-5) << t;
    ASSERT_EQ(engine.chosen[0][t], largest(engine.scores[0][t], config_.index_top_k)) << t;
    ASSERT_GE(overlap(engine.chosen[0][t], largest(right, config_.index_top_k)), one_swapped) << t;
    wrong_overlap += overlap(largest(wrong, config_.index_top_k), engine.chosen[0][t]);
  }
  EXPECT_LT(wrong_overlap / static_cast<double>(kTokens - config_.index_top_k), 0.9);
}

TEST_F(RopePairs, AttentionTurnsNeighbours) {
  SCOPED_TRACE(random_.describe());
  const Model model = make_model("right");
  Selections reference;
  reference_forward(model, ids_, {.observer = &reference});
  Selections right;
  run(model, right);
  Selections wrong;
  run(make_model("wrong", turn_halves_in_attention), wrong);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    EXPECT_GT(mean_overlap(right, reference, layer), 0.99) << layer;
    if (layer == 0) {
      EXPECT_EQ(wrong.chosen[0], right.chosen[0]);  // attention has not run yet
    } else {
      EXPECT_LT(mean_overlap(wrong, reference, layer), 0.9) << layer;
    }
  }
}

/// The trained model on 1500 tokens, against what transformers selected.
TEST(RopePairsGolden, IndexerTurnsHalves) {
  SLUICE_NEEDS_TINY_MODEL();
  const Goldens goldens;
  const std::vector<int32_t> ids = goldens.ids("t1500.ids");
  const std::vector<int32_t> golden = goldens.ids("t1500.topk0");
  const int64_t top_k = golden_model().config().index_top_k;
  ASSERT_GT(static_cast<int64_t>(ids.size()), top_k);
  const std::vector<float> right = first_layer_scores(golden_model(), ids, cpu::rope_half_split);
  const std::vector<float> wrong = first_layer_scores(golden_model(), ids, cpu::rope_interleaved);
  const std::vector<float> golden_scores = goldens.floats("t1500.iscore0");
  ASSERT_EQ(golden_scores.size(), right.size());
  EXPECT_LT(relative_rms(golden_scores, right), 1e-4);
  EXPECT_GT(overlap(largest(right, top_k), golden), 0.995);
  EXPECT_LT(overlap(largest(wrong, top_k), golden), 0.9);
}

class IndexerHadamard : public EveryIsa {};

std::vector<float> rotated(std::vector<float> vectors, size_t dim) {
  for (size_t start = 0; start < vectors.size(); start += dim) {
    cpu::hadamard(std::span(vectors).subspan(start, dim));
  }
  return vectors;
}

TEST_P(IndexerHadamard, OnBothSidesKeepsTheScoresAndOnOneDoesNot) {
  SCOPED_TRACE(random_.describe());
  constexpr int64_t kHeads = 64;
  constexpr int64_t kDim = 128;
  constexpr int64_t kKeys = 500;
  const std::vector<float> query = random_.normal(kHeads * kDim);
  const std::vector<float> weights =
      random_.normal(kHeads, 1.0F / std::sqrt(static_cast<float>(kHeads * kDim)));
  const std::vector<float> keys = random_.normal(kKeys * kDim);
  const std::vector<float> turned_query = rotated(query, at(kDim));
  const std::vector<float> turned_keys = rotated(keys, at(kDim));
  const std::vector<float> plain = index_scores(kernels_, query, weights, keys, kDim);
  const std::vector<float> both = index_scores(kernels_, turned_query, weights, turned_keys, kDim);
  // Seven additions on each side, then sums of 128 and of 64 terms, whose roundings add up as a random walk.
  EXPECT_LT(relative_rms(plain, both), 32 * kRounding);
  for (const std::vector<float>& one : {index_scores(kernels_, turned_query, weights, keys, kDim),
                                        index_scores(kernels_, query, weights, turned_keys, kDim)}) {
    EXPECT_GT(relative_rms(plain, one), 0.1);  // other scores altogether: near 1
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, IndexerHadamard, ::testing::ValuesIn(testing::float_isas()), isa_of);

}  // namespace
}  // namespace sluice::testing
