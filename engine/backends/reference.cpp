#include "engine/backends/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quant/block_codec.h"

namespace sluice {
namespace {

using Vector = std::vector<float>;

size_t at(int64_t i) {
  return static_cast<size_t>(i);
}

float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}

Vector decode_row(const quant::WeightView& w, int64_t row) {
  Vector values(at(w.cols));
  quant::dequantize_row(w.dtype, {w.row(row), at(w.row_bytes)}, values);
  return values;
}

// y[t] = W x[t]; x holds n vectors of w.cols.
Vector matmul(const quant::WeightView& w, const Vector& x) {
  const int64_t n = static_cast<int64_t>(x.size()) / w.cols;
  Vector y(at(n * w.rows));
  for (int64_t r = 0; r < w.rows; ++r) {
    const Vector row = decode_row(w, r);
    for (int64_t t = 0; t < n; ++t) {
      y[at(t * w.rows + r)] = w.scale * dot(row.data(), x.data() + t * w.cols, w.cols);
    }
  }
  return y;
}

// Row-wise, 2.0. Works on the first `width` entries of rows of `stride`.
void rms_norm(Vector& x, int64_t stride, std::span<const float> gain, float eps) {
  const auto width = static_cast<int64_t>(gain.size());
  for (int64_t start = 0; start < static_cast<int64_t>(x.size()); start += stride) {
    float* row = x.data() + start;
    const float factor = 1.0F / std::sqrt(dot(row, row, width) / static_cast<float>(width) + eps);
    for (int64_t i = 0; i < width; ++i) {
      row[i] = gain[at(i)] * row[i] * factor;
    }
  }
}

void layer_norm(Vector& x, std::span<const float> gain, std::span<const float> bias) {
  const auto width = static_cast<int64_t>(gain.size());
  for (int64_t start = 0; start < static_cast<int64_t>(x.size()); start += width) {
    float* row = x.data() + start;
    const float mean = std::accumulate(row, row + width, 0.0F) / static_cast<float>(width);
    float variance = 0;
    for (int64_t i = 0; i < width; ++i) {
      variance += (row[i] - mean) * (row[i] - mean);
    }
    const float factor = 1.0F / std::sqrt(variance / static_cast<float>(width) + kIndexerLayerNormEps);
    for (int64_t i = 0; i < width; ++i) {
      row[i] = gain[at(i)] * (row[i] - mean) * factor + bias[at(i)];
    }
  }
}

// 2.3. `step` is the distance of the two numbers of a pair: 1 interleaved, dims / 2 half-split.
void rotate(float* x, int64_t dims, int64_t step, int64_t position, const std::vector<float>& frequencies) {
  for (int64_t i = 0; i < dims / 2; ++i) {
    const double angle = static_cast<double>(static_cast<float>(position) * frequencies[at(i)]);
    const auto c = static_cast<float>(std::cos(angle));
    const auto s = static_cast<float>(std::sin(angle));
    float& a = x[step == 1 ? 2 * i : i];
    float& b = x[step == 1 ? 2 * i + 1 : i + step];
    const float rotated = a * c - b * s;
    b = a * s + b * c;
    a = rotated;
  }
}

void softmax(Vector& scores) {
  const float largest = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (float& score : scores) {
    score = std::exp(score - largest);
    sum += score;
  }
  for (float& score : scores) {
    score /= sum;
  }
}

Vector swiglu(const FfnWeights& w, const Vector& f) {
  Vector gate = matmul(w.gate, f);
  const Vector up = matmul(w.up, f);
  for (size_t i = 0; i < gate.size(); ++i) {
    gate[i] = gate[i] / (1.0F + std::exp(-gate[i])) * up[i];
  }
  return matmul(w.down, gate);
}

class Reference {
 public:
  Reference(const Model& model, std::span<const int32_t> ids, const ReferenceOptions& options)
      : model_(model),
        c_(model.config()),
        options_(options),
        n_(static_cast<int64_t>(ids.size())),
        frequencies_(cpu::yarn_frequencies(c_.rope)) {
    for (const int32_t id : ids) {
      const Vector row = decode_row(model.weights().token_embedding, id);
      x_.insert(x_.end(), row.begin(), row.end());
    }
  }

  Vector run() {
    for (int64_t layer = 0; layer < c_.layers; ++layer) {
      attention(layer);
      if (c_.is_dense_layer(layer)) {
        add(swiglu(model_.weights().layers[at(layer)].dense, ffn_input(layer)));
      } else {
        moe(layer);
      }
      if (options_.observer != nullptr) {
        options_.observer->layer_output(layer, 0, {x_.data(), n_, c_.d_model});
      }
    }
    rms_norm(x_, c_.d_model, model_.weights().output_norm, c_.rms_eps);
    return matmul(model_.weights().output, x_);
  }

 private:
  void add(const Vector& y) {
    for (size_t i = 0; i < x_.size(); ++i) {
      x_[i] += y[i];
    }
  }

  Vector ffn_input(int64_t layer) const {
    Vector f = x_;
    rms_norm(f, c_.d_model, model_.weights().layers[at(layer)].ffn_norm, c_.rms_eps);
    return f;
  }

  // 2.2, then 2.5 per token over its selection.
  void attention(int64_t index) {
    const LayerWeights& layer = model_.weights().layers[at(index)];
    Vector a = x_;
    rms_norm(a, c_.d_model, layer.attention_norm, c_.rms_eps);
    Vector q_latent = matmul(layer.query_a, a);
    rms_norm(q_latent, c_.q_rank, layer.query_a_norm, c_.rms_eps);
    Vector q = matmul(layer.query_b, q_latent);
    Vector u = matmul(layer.kv_a, a);
    rms_norm(u, c_.d_cache(), layer.kv_a_norm, c_.rms_eps);
    for (int64_t t = 0; t < n_; ++t) {
      for (int64_t h = 0; h < c_.heads; ++h) {
        rotate(q.data() + (t * c_.heads + h) * c_.d_head() + c_.d_nope, c_.d_rope, 1, t, frequencies_);
      }
      rotate(u.data() + t * c_.d_cache() + c_.d_latent, c_.d_rope, 1, t, frequencies_);
    }
    const std::vector<std::vector<int32_t>> selected = select(index, a, q_latent);
    const Vector heads = options_.form == AttentionForm::kExpanded ? attend_expanded(layer, q, u, selected)
                                                                   : attend_absorbed(layer, q, u, selected);
    const Vector output = matmul(layer.output, heads);
    if (options_.observer != nullptr) {
      options_.observer->attention_output(index, 0, {output.data(), n_, c_.d_model});
    }
    add(output);
  }

  // 2.6. Per token the positions it attends to, ascending.
  std::vector<std::vector<int32_t>> select(int64_t index, const Vector& a, const Vector& q_latent) {
    std::vector<std::vector<int32_t>> selected(at(n_));
    for (int64_t t = 0; t < n_; ++t) {
      selected[at(t)].resize(at(t + 1));
      std::iota(selected[at(t)].begin(), selected[at(t)].end(), 0);
    }
    if (options_.attention == AttentionMode::kDense) {
      return selected;
    }
    const IndexerWeights& w = model_.weights().layers[at(index)].indexer;
    Vector keys = matmul(w.key, a);
    layer_norm(keys, w.norm_gain, w.norm_bias);
    Vector queries = matmul(w.query, q_latent);
    const Vector head_weights = matmul(w.head_weights, a);
    for (int64_t t = 0; t < n_; ++t) {
      rotate(keys.data() + t * c_.d_index, c_.d_rope, c_.d_rope / 2, t, frequencies_);
      for (int64_t h = 0; h < c_.index_heads; ++h) {
        rotate(queries.data() + (t * c_.index_heads + h) * c_.d_index, c_.d_rope, c_.d_rope / 2, t,
               frequencies_);
      }
    }
    const float scale = 1.0F / std::sqrt(static_cast<float>(c_.index_heads * c_.d_index));
    for (int64_t t = c_.index_top_k; t < n_; ++t) {
      Vector scores(at(t + 1));
      for (int64_t j = 0; j <= t; ++j) {
        for (int64_t h = 0; h < c_.index_heads; ++h) {
          const float product = dot(queries.data() + (t * c_.index_heads + h) * c_.d_index,
                                    keys.data() + j * c_.d_index, c_.d_index);
          scores[at(j)] += head_weights[at(t * c_.index_heads + h)] * scale * std::max(0.0F, product);
        }
      }
      std::vector<int32_t>& chosen = selected[at(t)];
      std::stable_sort(chosen.begin(), chosen.end(),
                       [&](int32_t i, int32_t j) { return scores[at(i)] > scores[at(j)]; });
      chosen.resize(at(c_.index_top_k));
      std::sort(chosen.begin(), chosen.end());
      if (options_.observer != nullptr) {
        options_.observer->selection(index, t, chosen, scores);
      }
    }
    return selected;
  }

  // Keys and values of every head are computed from the latents: multi-head attention.
  Vector attend_expanded(const LayerWeights& layer, const Vector& q, const Vector& u,
                         const std::vector<std::vector<int32_t>>& selected) const {
    Vector out(at(n_ * c_.heads * c_.d_value));
    for (int64_t h = 0; h < c_.heads; ++h) {
      const Vector values = matmul(layer.value_b[at(h)], latents(u));
      const Vector keys = expand_keys(layer.key_b[at(h)], u);
      for (int64_t t = 0; t < n_; ++t) {
        const float* query = q.data() + (t * c_.heads + h) * c_.d_head();
        Vector p;
        for (const int32_t j : selected[at(t)]) {
          p.push_back(c_.softmax_scale() * (dot(query, keys.data() + j * c_.d_nope, c_.d_nope) +
                                            dot(query + c_.d_nope, rope_part(u, j), c_.d_rope)));
        }
        softmax(p);
        for (size_t i = 0; i < p.size(); ++i) {
          for (int64_t k = 0; k < c_.d_value; ++k) {
            out[at((t * c_.heads + h) * c_.d_value + k)] +=
                p[i] * values[at(selected[at(t)][i] * c_.d_value + k)];
          }
        }
      }
    }
    return out;
  }

  // The query moves into latent space instead: multi-query attention over the cache rows themselves.
  Vector attend_absorbed(const LayerWeights& layer, const Vector& q, const Vector& u,
                         const std::vector<std::vector<int32_t>>& selected) const {
    Vector out(at(n_ * c_.heads * c_.d_value));
    for (int64_t h = 0; h < c_.heads; ++h) {
      for (int64_t t = 0; t < n_; ++t) {
        const float* query = q.data() + (t * c_.heads + h) * c_.d_head();
        const Vector absorbed = matmul(layer.key_b[at(h)], Vector(query, query + c_.d_nope));
        Vector p;
        for (const int32_t j : selected[at(t)]) {
          p.push_back(c_.softmax_scale() * (dot(absorbed.data(), u.data() + j * c_.d_cache(), c_.d_latent) +
                                            dot(query + c_.d_nope, rope_part(u, j), c_.d_rope)));
        }
        softmax(p);
        Vector mixed(at(c_.d_latent));
        for (size_t i = 0; i < p.size(); ++i) {
          for (int64_t k = 0; k < c_.d_latent; ++k) {
            mixed[at(k)] += p[i] * u[at(selected[at(t)][i] * c_.d_cache() + k)];
          }
        }
        const Vector value = matmul(layer.value_b[at(h)], mixed);
        std::copy(value.begin(), value.end(), out.begin() + (t * c_.heads + h) * c_.d_value);
      }
    }
    return out;
  }

  [[nodiscard]] const float* rope_part(const Vector& u, int64_t j) const {
    return u.data() + j * c_.d_cache() + c_.d_latent;
  }

  [[nodiscard]] Vector latents(const Vector& u) const {
    Vector all;
    for (int64_t t = 0; t < n_; ++t) {
      all.insert(all.end(), u.begin() + t * c_.d_cache(), u.begin() + t * c_.d_cache() + c_.d_latent);
    }
    return all;
  }

  // key_b holds W_UK transposed [d_latent, d_nope]: k[t] = W_UK c[t].
  [[nodiscard]] Vector expand_keys(const quant::WeightView& key_b, const Vector& u) const {
    Vector keys(at(n_ * c_.d_nope));
    for (int64_t r = 0; r < c_.d_latent; ++r) {
      const Vector row = decode_row(key_b, r);
      for (int64_t t = 0; t < n_; ++t) {
        for (int64_t k = 0; k < c_.d_nope; ++k) {
          keys[at(t * c_.d_nope + k)] += key_b.scale * row[at(k)] * u[at(t * c_.d_cache() + r)];
        }
      }
    }
    return keys;
  }

  // 2.8, steps 1 to 5.
  std::vector<std::pair<int32_t, float>> choose_experts(const float* logits,
                                                        std::span<const float> bias) const {
    const cpu::RouterParams& r = c_.router;
    Vector gate(at(r.experts));
    Vector biased(at(r.experts));
    for (int64_t e = 0; e < r.experts; ++e) {
      gate[at(e)] = 1.0F / (1.0F + std::exp(-logits[e]));
      biased[at(e)] = gate[at(e)] + bias[at(e)];
    }
    const int64_t per_group = r.experts / r.groups;
    std::vector<std::pair<float, int64_t>> groups;
    for (int64_t g = 0; g < r.groups; ++g) {
      Vector members(biased.begin() + g * per_group, biased.begin() + (g + 1) * per_group);
      std::sort(members.rbegin(), members.rend());
      groups.emplace_back(-(members[0] + (per_group > 1 ? members[1] : 0.0F)), g);
    }
    std::sort(groups.begin(), groups.end());
    std::vector<std::pair<float, int32_t>> candidates;
    for (int64_t g = 0; g < r.groups_used; ++g) {
      for (int64_t e = groups[at(g)].second * per_group; e < (groups[at(g)].second + 1) * per_group; ++e) {
        candidates.emplace_back(-biased[at(e)], static_cast<int32_t>(e));
      }
    }
    std::sort(candidates.begin(), candidates.end());
    std::vector<std::pair<int32_t, float>> chosen;
    float sum = 0;
    for (int64_t i = 0; i < r.experts_used; ++i) {
      chosen.emplace_back(candidates[at(i)].second, gate[at(candidates[at(i)].second)]);
      sum += chosen.back().second;
    }
    std::sort(chosen.begin(), chosen.end());
    for (auto& [expert, weight] : chosen) {
      weight = r.scale * (r.normalize ? weight / sum : weight);
    }
    return chosen;
  }

  void moe(int64_t index) {
    const LayerWeights& layer = model_.weights().layers[at(index)];
    const Vector f = ffn_input(index);
    const Vector logits = matmul(layer.router, f);
    Vector sum(x_.size());
    std::vector<int32_t> ids;
    Vector weights;
    for (int64_t t = 0; t < n_; ++t) {
      const Vector token(f.begin() + t * c_.d_model, f.begin() + (t + 1) * c_.d_model);
      for (const auto& [e, weight] :
           choose_experts(logits.data() + t * c_.router.experts, layer.router_bias)) {
        const FfnWeights expert{layer.experts.gate.expert(e), layer.experts.up.expert(e),
                                layer.experts.down.expert(e)};
        const Vector y = swiglu(expert, token);
        for (int64_t i = 0; i < c_.d_model; ++i) {
          sum[at(t * c_.d_model + i)] += weight * y[at(i)];
        }
        ids.push_back(e);
        weights.push_back(weight);
      }
    }
    if (options_.observer != nullptr) {
      const int64_t used = c_.router.experts_used;
      options_.observer->routes(index, 0, {{ids.data(), n_, used}, {weights.data(), n_, used}});
    }
    add(sum);
    add(swiglu(layer.shared, f));
  }

  const Model& model_;
  const ModelConfig& c_;
  ReferenceOptions options_;
  int64_t n_;
  std::vector<float> frequencies_;
  Vector x_;  // [n, d_model]: residual stream
};

}  // namespace

std::vector<float> reference_forward(const Model& model, std::span<const int32_t> ids,
                                     const ReferenceOptions& options) {
  return Reference(model, ids, options).run();
}

}  // namespace sluice
