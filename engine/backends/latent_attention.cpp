#include "engine/backends/latent_attention.h"

#include <algorithm>
#include <array>

namespace sluice {
namespace {

constexpr int64_t kKeyGrain = 1024;      // index keys per task: about 0.1 ms of a core
constexpr int64_t kMergeHeads = 8;       // heads per task when pieces are merged
constexpr int64_t kLeastTaskHeads = 16;  // a vector of heads

int64_t last_position(const Batch& batch, int64_t begin, int64_t count) {
  return batch.first_position + begin + count - 1;
}

}  // namespace

LatentAttention::LatentAttention(const ModelConfig& config, const cpu::Kernels& kernels,
                                 offload::Workers& workers)
    : config_(config), kernels_(kernels), workers_(workers) {
  const int64_t floats = std::max(cpu::mla_scratch_floats(config.heads, config.d_cache()),
                                  cpu::index_scratch_floats(config.index_heads, config.d_index));
  scratch_.resize(static_cast<size_t>(workers.threads()));
  for (WorkerScratch& scratch : scratch_) {
    scratch.floats.resize(static_cast<size_t>(floats));
    scratch.selected.resize(static_cast<size_t>(cpu::kMaxIndexQueries * config.index_top_k));
  }
  const int64_t statistics = cpu::kMaxMlaPieces * config.heads;
  piece_max_.resize(static_cast<size_t>(statistics));
  piece_sum_.resize(static_cast<size_t>(statistics));
  piece_out_.resize(static_cast<size_t>((statistics - config.heads) * config.d_latent));
}

bool LatentAttention::selects(const Batch& batch, int64_t position) const {
  // Up to top-k tokens of context everything is selected: sparse attention is dense attention then.
  return batch.attention == AttentionMode::kSparse && position + 1 > config_.index_top_k;
}

bool LatentAttention::any_selects(const Call& call, const Block& block) const {
  return selects(call.batch, last_position(call.batch, block.begin, block.count));
}

void LatentAttention::reserve(const Batch& batch) {
  const int64_t visible = batch.first_position + batch.n_tokens();
  if (!selects(batch, visible - 1)) {
    return;
  }
  // Grows to the largest cache that comes. Rows of scores are a capacity apart, whatever is visible.
  const auto floats = static_cast<size_t>(cpu::kMaxIndexQueries * batch.cache->capacity());
  for (WorkerScratch& scratch : scratch_) {
    if (scratch.scores.size() < floats) {
      scratch.scores.resize(floats);
      scratch.top_k.resize(static_cast<size_t>(cpu::top_k_scratch(batch.cache->capacity())));
    }
  }
}

void LatentAttention::attend(int64_t layer, const Batch& batch, const Queries& queries,
                             MatrixView<float> out) {
  const int64_t n = batch.n_tokens();
  const int64_t threads = workers_.threads();
  const Call call{layer, batch, dynamic_cast<const CpuCache&>(*batch.cache), queries, out};
  reserve(batch);
  if (threads == 1 || n >= 2 * threads) {
    // Blocks share the conversion of keys, but a few per worker must remain.
    const int64_t grain = std::clamp<int64_t>(n / (4 * threads), 1, cpu::kMaxIndexQueries);
    workers_.for_ranges(n, grain, [&](int64_t begin, int64_t end, int64_t worker) {
      attend_alone(call, {begin, end - begin}, scratch_[static_cast<size_t>(worker)]);
    });
    return;
  }
  for (int64_t begin = 0; begin < n; begin += cpu::kMaxIndexQueries) {
    attend_together(call, {begin, std::min(cpu::kMaxIndexQueries, n - begin)});
  }
}

void LatentAttention::attend_alone(const Call& call, const Block& block, WorkerScratch& scratch) {
  if (any_selects(call, block)) {
    score_keys(call, block, 0, last_position(call.batch, block.begin, block.count) + 1, scratch,
               scratch.floats);
  }
  for (int64_t t = block.begin; t < block.begin + block.count; ++t) {
    const std::span<const int32_t> selected = select(call, block, t, scratch, scratch.top_k);
    cpu::mla_attend(kernels_, mla_query(call, t, selected), output(call, t), scratch.floats);
  }
}

void LatentAttention::attend_together(const Call& call, const Block& block) {
  WorkerScratch& home = scratch_[0];
  if (any_selects(call, block)) {
    const int64_t visible = last_position(call.batch, block.begin, block.count) + 1;
    workers_.for_ranges(visible, kKeyGrain, [&](int64_t begin, int64_t end, int64_t worker) {
      score_keys(call, block, begin, end, home, scratch_[static_cast<size_t>(worker)].floats);
    });
  }
  std::array<std::span<const int32_t>, cpu::kMaxIndexQueries> selected;
  workers_.for_ranges(block.count, 1, [&](int64_t i, int64_t, int64_t worker) {
    selected[static_cast<size_t>(i)] =
        select(call, block, block.begin + i, home, scratch_[static_cast<size_t>(worker)].top_k);
  });
  for (int64_t i = 0; i < block.count; ++i) {
    attend_shared(call, block.begin + i, selected[static_cast<size_t>(i)]);
  }
}

// 2.6, step 7.
void LatentAttention::score_keys(const Call& call, const Block& block, int64_t key_begin, int64_t key_end,
                                 WorkerScratch& home, std::span<float> floats) {
  cpu::CacheRows keys = call.cache.index_rows(call.layer);
  keys.data += key_begin * keys.row_bytes;
  const MatrixView<float> scores(home.scores.data(), block.count, call.cache.capacity());
  cpu::index_scores(kernels_,
                    {call.queries.index_heads.rows_from(block.begin, block.count),
                     call.queries.index_weights.rows_from(block.begin, block.count)},
                    keys, scores.cols_from(key_begin, key_end - key_begin), floats);
}

// 2.6, step 8.
std::span<const int32_t> LatentAttention::select(const Call& call, const Block& block, int64_t t,
                                                 WorkerScratch& home, std::span<int32_t> top_k) {
  const int64_t position = call.batch.first_position + t;
  std::span<const int32_t> selected;
  std::span<const float> scores;
  if (selects(call.batch, position)) {
    const int64_t row = t - block.begin;
    scores =
        std::span(home.scores)
            .subspan(static_cast<size_t>(row * call.cache.capacity()), static_cast<size_t>(position + 1));
    const auto chosen = std::span(home.selected)
                            .subspan(static_cast<size_t>(row * config_.index_top_k),
                                     static_cast<size_t>(config_.index_top_k));
    const int64_t count = cpu::top_k(kernels_, scores, config_.index_top_k, chosen, top_k);
    selected = chosen.first(static_cast<size_t>(count));
  }
  if (call.batch.observer != nullptr) {
    const std::lock_guard lock(observer_mutex_);
    call.batch.observer->selection(call.layer, position, selected, scores);
  }
  return selected;
}

cpu::MlaQuery LatentAttention::mla_query(const Call& call, int64_t t,
                                         std::span<const int32_t> selected) const {
  const int64_t visible = call.batch.first_position + t + 1;
  return {.heads = {call.queries.heads.row(t).data(), config_.heads, config_.d_cache()},
          .rows = call.cache.latent_rows(call.layer),
          .selection = {selected, selected.empty() ? visible : static_cast<int64_t>(selected.size())},
          .softmax_scale = config_.softmax_scale()};
}

MatrixView<float> LatentAttention::output(const Call& call, int64_t t) const {
  return {call.out.row(t).data(), config_.heads, config_.d_latent};
}

cpu::MlaPartial LatentAttention::partial(const Call& call, int64_t t, int64_t piece) {
  float* out =
      piece == 0 ? output(call, t).data : piece_out_.data() + (piece - 1) * config_.heads * config_.d_latent;
  return {{out, config_.heads, config_.d_latent},
          piece_max_.data() + piece * config_.heads,
          piece_sum_.data() + piece * config_.heads};
}

/// The fewer heads a task has, the more tasks convert the same row; two tasks per worker even out their
/// speeds.
int64_t LatentAttention::heads_per_task(int64_t pieces) const {
  int64_t heads = cpu::head_panels(config_.heads) * cpu::kPanelHeads;
  while (heads > kLeastTaskHeads && pieces * (config_.heads / heads) < 2 * workers_.threads()) {
    heads /= 2;
  }
  return heads;
}

void LatentAttention::attend_shared(const Call& call, int64_t t, std::span<const int32_t> selected) {
  const cpu::MlaQuery query = mla_query(call, t, selected);
  const int64_t pieces = cpu::mla_pieces(query.selection.count);
  const int64_t task_heads = std::min(heads_per_task(pieces), config_.heads);
  const int64_t groups = (config_.heads + task_heads - 1) / task_heads;
  workers_.for_ranges(pieces * groups, 1, [&](int64_t task, int64_t, int64_t worker) {
    const int64_t begin = task % groups * task_heads;
    const int64_t heads = std::min(task_heads, config_.heads - begin);
    cpu::MlaQuery part = query;
    part.heads = query.heads.rows_from(begin, heads);
    cpu::mla_attend_piece(kernels_, part, task / groups, partial(call, t, task / groups).heads(begin, heads),
                          scratch_[static_cast<size_t>(worker)].floats);
  });
  workers_.for_ranges(config_.heads, kMergeHeads, [&](int64_t begin, int64_t end, int64_t) {
    const cpu::MlaPartial all = partial(call, t, 0).heads(begin, end - begin);
    for (int64_t piece = 1; piece < pieces; ++piece) {
      cpu::mla_merge(kernels_, partial(call, t, piece).heads(begin, end - begin), all);
    }
    cpu::mla_normalize(kernels_, all);
  });
}

}  // namespace sluice
