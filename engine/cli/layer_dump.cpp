// One open file per layer and quantity; batches come in order, so rows are appended.
#include "engine/cli/layer_dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <system_error>
#include <utility>

#include "quant/base/error.h"

namespace sluice::cli {
namespace {

void make_directory(const std::filesystem::path& directory) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) {
    throw Error(directory.string(), "a directory to write to", failure.message());
  }
}

int64_t selected_width(const Runtime& runtime, int64_t n_tokens) {
  const bool sparse = runtime.options().attention == AttentionMode::kSparse;
  return sparse ? std::min(runtime.model().config().index_top_k, n_tokens) : 0;
}

}  // namespace

LayerDump::LayerDump(std::filesystem::path directory, const Runtime& runtime, int64_t n_tokens)
    : directory_(std::move(directory)),
      n_tokens_(n_tokens),
      selected_width_(cli::selected_width(runtime, n_tokens)) {
  make_directory(directory_);
}

void LayerDump::append(const std::string& name, MatrixView<const float> rows) {
  const auto [file, is_new] =
      floats_.try_emplace(name, directory_ / (name + ".npy"), std::vector<int64_t>{n_tokens_, rows.cols});
  file->second.write(rows);
}

void LayerDump::append(const std::string& name, MatrixView<const int32_t> rows) {
  const auto [file, is_new] =
      integers_.try_emplace(name, directory_ / (name + ".npy"), std::vector<int64_t>{n_tokens_, rows.cols});
  file->second.write(rows);
}

void LayerDump::embedding(int64_t /*first_position*/, MatrixView<const float> x) {
  append("embed", x);
}

void LayerDump::attention_output(int64_t layer, int64_t first_position, MatrixView<const float> output) {
  append(fmt::format("attn{}", layer), output);
  if (selected_width_ > 0) {
    flush_selections(layer, first_position, output.rows);
  }
}

void LayerDump::selection(int64_t layer, int64_t position, std::span<const int32_t> selected,
                          std::span<const float> scores) {
  if (selected_width_ > 0 && !selected.empty()) {
    selections_[position].assign(selected.begin(), selected.end());
  }
  if (position == n_tokens_ - 1 && !scores.empty()) {
    const std::string name = fmt::format("index_scores{}", layer);
    const std::vector<int64_t> shape{static_cast<int64_t>(scores.size())};
    floats_.try_emplace(name, directory_ / (name + ".npy"), shape).first->second.write(scores);
  }
}

/// Tokens without a selection of their own attend to all positions up to theirs.
void LayerDump::flush_selections(int64_t layer, int64_t first_position, int64_t count) {
  std::vector<int32_t> rows(static_cast<size_t>(count * selected_width_), -1);
  for (int64_t i = 0; i < count; ++i) {
    const auto row = rows.begin() + i * selected_width_;
    const auto chosen = selections_.find(first_position + i);
    if (chosen == selections_.end()) {
      std::iota(row, row + std::min(first_position + i + 1, selected_width_), 0);
    } else {
      const int64_t used = std::min(static_cast<int64_t>(chosen->second.size()), selected_width_);
      std::copy_n(chosen->second.begin(), used, row);
    }
  }
  selections_.clear();
  append(fmt::format("selected{}", layer), MatrixView<const int32_t>(rows.data(), count, selected_width_));
}

void LayerDump::routes(int64_t layer, int64_t /*first_position*/, const offload::Routes& routes) {
  append(fmt::format("experts{}", layer), routes.ids);
  append(fmt::format("expert_weights{}", layer), routes.weights);
}

void LayerDump::layer_output(int64_t layer, int64_t /*first_position*/, MatrixView<const float> x) {
  append(fmt::format("layer{}", layer), x);
}

void LayerDump::final_norm(int64_t /*first_position*/, MatrixView<const float> x) {
  append("norm", x);
}

void LayerDump::commit() {
  for (auto& [name, file] : floats_) {
    file.commit();
  }
  for (auto& [name, file] : integers_) {
    file.commit();
  }
}

}  // namespace sluice::cli
