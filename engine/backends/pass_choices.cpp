#include "engine/backends/pass_choices.h"

#include <algorithm>
#include <cassert>

#include "engine/backends/device_layout.h"

namespace sluice {
namespace {

/// A piece ends with its group or when it is full, and an expert that is cut counts in two.
int64_t most_begins(const PassExpertShape& shape, int64_t n_tokens) {
  const int64_t cuts = n_tokens * shape.used / most_choices(shape) + 1;
  return 2 * shape.experts + 2 * cuts;
}

}  // namespace

int64_t most_choices(const PassExpertShape& shape) {
  return std::min(kPassChoices, shape.max_tokens * shape.used);
}

PassTables::PassTables(const PassExpertShape& shape, int64_t n_tokens, std::byte* data) : bytes(0) {
  const auto take = [&](int64_t count) {
    std::byte* const at = data == nullptr ? nullptr : data + bytes;
    bytes += DeviceLayout::aligned(count * 4);
    return at;
  };
  tokens = reinterpret_cast<int32_t*>(take(n_tokens * shape.used));
  choices = reinterpret_cast<int32_t*>(take(n_tokens * shape.used));
  begins = reinterpret_cast<int32_t*>(take(most_begins(shape, n_tokens)));
  for (float*& scale : scales) {
    scale = reinterpret_cast<float*>(take(shape.experts));
  }
}

PassChoices::PassChoices(const PassExpertShape& shape)
    : shape_(shape), next_(static_cast<size_t>(shape.experts)) {}

void PassChoices::sort(MatrixView<const int32_t> ids, std::span<const ExpertGroup> groups,
                       const PassTables& tables) {
  assert(ids.rows <= shape_.max_tokens && ids.cols == shape_.used);
  place(ids, groups, tables);
  cut(groups, tables);
}

// By counting.
void PassChoices::place(MatrixView<const int32_t> ids, std::span<const ExpertGroup> groups,
                        const PassTables& tables) {
  std::ranges::fill(next_, 0);
  for (int64_t t = 0; t < ids.rows; ++t) {
    for (const int32_t id : ids.row(t)) {
      ++next_[static_cast<size_t>(id)];
    }
  }
  begins_.assign(1, 0);
  std::vector<bool> comes(next_.size(), false);
  for (const ExpertGroup& group : groups) {
    for (const int32_t expert : group) {
      const auto e = static_cast<size_t>(expert);
      const int64_t count = next_[e];
      comes[e] = true;
      next_[e] = begins_.back();
      begins_.push_back(begins_.back() + count);
    }
  }
  for (int64_t t = 0; t < ids.rows; ++t) {
    for (int64_t k = 0; k < ids.cols; ++k) {
      const auto e = static_cast<size_t>(ids.row(t)[static_cast<size_t>(k)]);
      const auto choice = static_cast<int32_t>(comes[e] ? next_[e]++ : -1);
      tables.choices[t * ids.cols + k] = choice;
      if (choice >= 0) {
        tables.tokens[choice] = static_cast<int32_t>(t);
      }
    }
  }
}

void PassChoices::cut(std::span<const ExpertGroup> groups, const PassTables& tables) {
  groups_.clear();
  const int64_t most = most_choices(shape_);
  int64_t begins_at = 0;
  int64_t first = 0;  // expert, in the order of groups
  for (const ExpertGroup& experts : groups) {
    Group& group = groups_.emplace_back(Group{.first_expert = first, .pieces = {}});
    const int64_t last = first + static_cast<int64_t>(experts.size());
    const auto begin_of = [&](int64_t e) { return begins_[static_cast<size_t>(e)]; };
    for (int64_t begin = begin_of(first), end = 0; begin < begin_of(last); begin = end) {
      end = std::min(begin + most, begin_of(last));
      int64_t from = first;
      while (begin_of(from + 1) <= begin) {
        ++from;
      }
      int64_t to = from + 1;
      while (begin_of(to) < end) {
        ++to;
      }
      group.pieces.push_back({from - first, to - from, begin, end - begin, begins_at});
      for (int64_t e = from; e <= to; ++e) {
        tables.begins[begins_at++] = static_cast<int32_t>(std::clamp(begin_of(e), begin, end) - begin);
      }
    }
    first = last;
  }
}

}  // namespace sluice
