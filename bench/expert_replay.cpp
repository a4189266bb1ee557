#include "bench/expert_replay.h"

#include <algorithm>
#include <numeric>

#include "bench/timing.h"

namespace sluice::bench {
namespace {

int64_t half(const RouteTrace& trace) {
  return trace.tokens() / 2;
}

/// Counts of what the second half chooses.
class HitCounter {
 public:
  explicit HitCounter(const RouteTrace& trace)
      : first_(half(trace)), trace_(trace), layers_with_(static_cast<size_t>(trace.used + 1)) {}

  void layer(int64_t token, int64_t hits) {
    if (token >= first_) ++layers_with_[static_cast<size_t>(hits)];
  }
  void replaced(int64_t token, int64_t count) { replaced_ += token >= first_ ? count : 0; }

  [[nodiscard]] Residence result() const {
    const auto tokens = static_cast<double>(trace_.tokens() - first_);
    Residence residence{.replacements = static_cast<double>(replaced_) / tokens};
    for (size_t hits = 0; hits < layers_with_.size(); ++hits) {
      const double share =
          static_cast<double>(layers_with_[hits]) / (tokens * static_cast<double>(trace_.layers));
      residence.layers_with.push_back(share);
      residence.hit_rate += share * static_cast<double>(hits) / static_cast<double>(trace_.used);
    }
    return residence;
  }

 private:
  int64_t first_;
  const RouteTrace& trace_;
  std::vector<int64_t> layers_with_;  // [used + 1], by hits
  int64_t replaced_ = 0;
};

/// Hits of a choice that never changes. resident: [layers * experts]
Residence replay_fixed(const RouteTrace& trace, std::span<const uint8_t> resident) {
  HitCounter counter(trace);
  for (int64_t token = half(trace); token < trace.tokens(); ++token) {
    for (int64_t layer = 0; layer < trace.layers; ++layer) {
      counter.layer(token, std::ranges::count_if(trace.chosen(token, layer), [&](int32_t expert) {
                      return resident[static_cast<size_t>(layer * trace.experts + expert)] != 0;
                    }));
    }
  }
  return counter.result();
}

/// Slots of a layer when they are divided evenly.
int64_t layer_slots(const RouteTrace& trace, int64_t slots, int64_t layer) {
  return slots / trace.layers + (layer < slots % trace.layers ? 1 : 0);
}

/// The experts of one layer that are resident, in the order of their last use.
class RecentExperts {
 public:
  explicit RecentExperts(int64_t slots) : slots_(static_cast<size_t>(slots)) {}

  [[nodiscard]] bool has(int32_t expert) const {
    return std::ranges::find(last_first_, expert) != last_first_.end();
  }
  /// Whether another one had to go.
  bool use(int32_t expert) {
    const auto at = std::ranges::find(last_first_, expert);
    if (at != last_first_.end()) {
      std::rotate(last_first_.begin(), at, at + 1);
      return false;
    }
    if (slots_ == 0) return false;
    last_first_.insert(last_first_.begin(), expert);
    if (last_first_.size() <= slots_) return false;
    last_first_.pop_back();
    return true;
  }

 private:
  size_t slots_;
  std::vector<int32_t> last_first_;
};

}  // namespace

Residence replay_spread(const RouteTrace& trace, int64_t slots) {
  std::vector<uint8_t> resident;
  for (int64_t layer = 0; layer < trace.layers; ++layer) {
    const int64_t share = layer_slots(trace, slots, layer);
    for (int64_t e = 0; e < trace.experts; ++e) {
      resident.push_back((e + 1) * share / trace.experts > e * share / trace.experts ? 1 : 0);
    }
  }
  return replay_fixed(trace, resident);
}

Residence replay_static(const RouteTrace& trace, int64_t slots, LearnFrom from) {
  std::vector<int64_t> counts(static_cast<size_t>(trace.layers * trace.experts));
  const bool first = from == LearnFrom::kFirstHalf;
  for (int64_t token = first ? 0 : half(trace); token < (first ? half(trace) : trace.tokens()); ++token) {
    for (int64_t layer = 0; layer < trace.layers; ++layer) {
      for (const int32_t e : trace.chosen(token, layer)) {
        ++counts[static_cast<size_t>(layer * trace.experts + e)];
      }
    }
  }
  std::vector<size_t> order(counts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) { return counts[a] > counts[b]; });
  std::vector<uint8_t> resident(counts.size());
  for (size_t i = 0; i < static_cast<size_t>(slots); ++i) resident[order[i]] = 1;
  return replay_fixed(trace, resident);
}

Residence replay_least_recent(const RouteTrace& trace, int64_t slots) {
  std::vector<RecentExperts> layers;
  for (int64_t layer = 0; layer < trace.layers; ++layer)
    layers.emplace_back(layer_slots(trace, slots, layer));
  HitCounter counter(trace);
  for (int64_t token = 0; token < trace.tokens(); ++token) {
    for (int64_t layer = 0; layer < trace.layers; ++layer) {
      RecentExperts& recent = layers[static_cast<size_t>(layer)];
      const std::span<const int32_t> chosen = trace.chosen(token, layer);
      counter.layer(token, std::ranges::count_if(chosen, [&](int32_t e) { return recent.has(e); }));
      for (const int32_t expert : chosen) counter.replaced(token, recent.use(expert) ? 1 : 0);
    }
  }
  return counter.result();
}

Residence replay_residency(const RouteTrace& trace, int64_t slots, const offload::ResidencyRules& rules,
                           int64_t most) {
  offload::ExpertResidency residency({.layers = trace.layers, .experts = trace.experts, .slots = slots},
                                     rules);
  HitCounter counter(trace);
  for (int64_t token = 0; token < trace.tokens(); ++token) {
    for (int64_t layer = 0; layer < trace.layers; ++layer) {
      const std::span<const int32_t> chosen = trace.chosen(token, layer);
      counter.layer(token,
                    std::ranges::count_if(chosen, [&](int32_t e) { return residency.resident(layer, e); }));
      residency.use(layer, chosen);
    }
    const auto begun = residency.end_token(most);
    counter.replaced(token, static_cast<int64_t>(begun.size()));
    for (const offload::ExpertReplacement& replacement : begun) residency.arrived(replacement.in);
  }
  return counter.result();
}

double residency_us(const RouteTrace& trace, const offload::ResidencyRules& rules, int64_t most) {
  const int64_t slots = trace.layers * trace.experts / 4;
  const double seconds = seconds_of([&] { replay_residency(trace, slots, rules, most); });
  return seconds * 1e6 / static_cast<double>(trace.tokens());
}

}  // namespace sluice::bench
