// Which routed experts should be in GPU memory, by what recent tokens chose. A policy, pure: it copies
// nothing and knows no clock; the caller carries replacements out and says when they are done.
//
//   c(e) = sum over the tokens that chose e of 2^(-age / half_life)      age in tokens, 0 for the last one
//
// is an expert's decayed count. An expert that the share p of tokens chooses comes to c = p T, where
// T = half_life / ln 2, with a variance of p T / 2 (of a Poisson process). A resident expert `out` gives its
// slot to `in` when
//
//   c(in) - c(out) >= copy_hits + deviations * sqrt((c(in) + c(out)) / 2)
//
// The left side is how many more tokens of the next T would find `in` than `out` if all went on as it did. It
// has to be more than a copy costs, and more than chance: without the last term the luckiest of many equal
// experts would always be on its way. A free slot is given to whoever is used, because nothing is lost.
//
// Only experts of the last token are looked at for `in` (of all others the count only fell since they were),
// and for `out` the resident with the lowest count. A token of DeepSeek-V3.2 takes microseconds
// (docs/benchmarks.md).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::offload {

struct ResidencyShape {
  int64_t layers = 0;   // MoE layers
  int64_t experts = 0;  // of each
  int64_t slots = 0;    // experts that may be resident, of all layers together
};

struct ResidencyRules {
  double half_life = 256;  // tokens; chosen by bench/expert_reuse.cpp (docs/benchmarks.md)
  double copy_hits = 2;    // chosen: nobody waits for a copy, which reads of RAM what one hit saves
  double deviations = 3;   // chosen
};

/// Experts are numbered layer * experts + expert.
struct ExpertReplacement {
  int32_t in = 0;
  int32_t out = kFreeSlot;  // whose slot it gets

  static constexpr int32_t kFreeSlot = -1;
  bool operator==(const ExpertReplacement&) const = default;
};

class ExpertResidency {
 public:
  /// Nothing is resident. Throws Error when a dimension is not positive, slots are negative or more than
  /// there are experts, half_life is below one token, or another rule is negative or no number.
  ExpertResidency(const ResidencyShape& shape, const ResidencyRules& rules);

  [[nodiscard]] bool resident(int64_t layer, int64_t expert) const;
  [[nodiscard]] int64_t residents() const { return static_cast<int64_t>(by_count_.size()); }
  /// Slots that are neither taken nor promised.
  [[nodiscard]] int64_t free_slots() const { return free_slots_; }
  /// c(e) after the last token that ended.
  [[nodiscard]] double decayed_count(int64_t layer, int64_t expert) const;

  /// The token at hand chose these experts of the layer; ids below 0 are none. Tokens that are computed
  /// together count as one that chose an expert several times.
  void use(int64_t layer, std::span<const int32_t> experts);
  /// The token is done. At most `most` replacements to begin now, the best first. Each `out` is no longer
  /// resident when this returns, and its slot may be written to; each `in` is when it has arrived(). The span
  /// is valid until the next call.
  std::span<const ExpertReplacement> end_token(int64_t most);
  /// What end_token() proposed as `in` is in its slot now.
  void arrived(int32_t in);

 private:
  enum class State : uint8_t {
    kAbsent,
    kCandidate,
    kComing,
    kResident
  };  // kCandidate: absent, in candidates_
  // Counts only grow between two rescalings, so an entry's count is at most its expert's, and an entry on top
  // that is up to date is the lowest of all.
  struct Entry {
    double count = 0;
    int32_t expert = 0;
  };

  [[nodiscard]] size_t number(int64_t layer, int64_t expert) const;
  [[nodiscard]] bool worth_it(double in, double out) const;
  static bool higher(const Entry& a, const Entry& b);
  bool begin(int32_t in);
  Entry lowest();
  void take_lowest();
  void insert(int32_t expert);
  void rescale();

  ResidencyShape shape_;
  ResidencyRules rules_;
  double growth_;      // 2^(1 / half_life)
  double weight_ = 1;  // of the token at hand: counts are kept as sums of these, so that none has to decay
  int64_t free_slots_;
  std::vector<double> counts_;       // [layers * experts], times weight_
  std::vector<State> states_;        // [layers * experts]
  std::vector<Entry> by_count_;      // residents, a heap with the lowest on top
  std::vector<int32_t> candidates_;  // absent experts of the token at hand
  std::vector<ExpertReplacement> begun_;
};

}  // namespace sluice::offload
