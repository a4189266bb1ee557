// Which of an MoE layer's experts the CPU computes for a batch, and which are copied to the GPU and computed
// there, so that both are done as early as possible. A cost model, pure; the caller carries it out.
//
//   CPU     reads each of its experts from RAM once, and multiplies; the products of an expert's first token
//           hide behind the reading:
//             a * bytes + b * (tokens - experts)
//           while copies run they take their part of the memory's speed: up to a * copied bytes more
//   stream  copies expert after expert, the busiest first, and multiplies what has arrived; expert i is
//           multiplied after it arrived and after expert i - 1 was, resident experts before all. With equal
//           bytes an expert and tokens in descending order that takes
//             max(resident + all products, one copy + all products, all copies + the last product)
//
// "Tokens" are choices: a token that chose three of the experts counts three times.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::offload {

/// What a batch costs, in ns.
struct SplitRates {
  double cpu_per_byte = 0;     // an expert's weights, read once by all workers
  double cpu_per_token = 0;    // per token of an expert beyond its first
  double copy_per_byte = 0;    // from page-locked memory
  double copy_per_expert = 0;  // beside its bytes
  double gpu_per_token = 0;    // per token and expert
};

/// A machine's figures, for the rates to start from. GB are 1e9 bytes; a multiply-add is two operations.
struct SplitMachine {
  double ram_gb_per_s = 0;   // read by all workers
  double cpu_gops = 0;       // products of panels with many tokens
  double copy_gb_per_s = 0;  // from page-locked memory to the GPU
  double copy_us = 0;        // what a copy costs beside its bytes
  double gpu_tflops = 0;     // products of panels with many tokens
};
/// Throws Error when a figure is not positive and finite (`copy_us` may be 0).
SplitRates split_rates(const SplitMachine& machine, int64_t d_model, int64_t d_expert);
/// The same from the `operations` of a token and one of its experts.
SplitRates split_rates(const SplitMachine& machine, double operations);

/// Tokens of a pass that the CPU is given beside a stream, at most. Chosen: its experts are those that few
/// tokens chose.
inline constexpr int64_t kMostSharedTokens = 4096;

/// How many experts of the next layer may be copied before its routes are known, for a pass with so many
/// `choices` there and after a layer that left `on_gpu` of its `experts` to the GPU. With eight choices for
/// each expert on average every one of them is as good as sure to be chosen. All of them where that is
/// `whole`, the CPU having no share and getting none; else half of what the GPU had, so that a choice is
/// left: a CPU to which nothing is left would never have a share again.
int64_t sure_experts(int64_t experts, int64_t choices, int64_t on_gpu, bool whole);

/// Who computes an expert of a batch.
enum class SplitSide : uint8_t {
  kNone,      // no token chose it
  kCpu,       // where it lies in RAM
  kStream,    // on the GPU, after a copy
  kResident,  // on the GPU, where it is already
};

enum class SplitMode {
  kAuto,  // what is predicted to be done first
  kCpu,   // all that is not resident
  kStream,
};

/// The batch of one layer.
struct SplitBatch {
  std::span<const int64_t> tokens;    // [experts]
  std::span<const uint8_t> resident;  // [experts]: not 0 for what needs no copy; or empty for none
  int64_t expert_bytes = 0;           // of one expert, all nodes
  bool probe = false;  // kAuto: give both sides something to do if that costs little (SplitLearner::probe)
};

/// What a split gives both to do.
struct SplitWork {
  int64_t expert_bytes = 0;
  int64_t cpu_experts = 0;
  int64_t cpu_tokens = 0;
  int64_t copied_experts = 0;
  int64_t copied_tokens = 0;
  int64_t last_tokens = 0;  // of the copied expert that comes last
  int64_t resident_tokens = 0;
};

/// From when the routes are known until a side is done, in ns; 0 for one that has nothing to do, or that was
/// not measured.
struct SplitTimes {
  double cpu = 0;
  double stream = 0;

  [[nodiscard]] double both() const { return cpu > stream ? cpu : stream; }
};

SplitTimes predict_split(const SplitWork& work, const SplitRates& rates);

/// Owns the lists of one split.
class BatchSplit {
 public:
  explicit BatchSplit(int64_t max_experts);

  /// Splits anew. kAuto takes the best of all cuts through the experts in order of their tokens, the busy
  /// ones to the stream; what is not predicted to gain 5 % over the better of kCpu and kStream is not done.
  /// With `probe` a side that would get nothing gets a few experts, if that is predicted to cost 10 % at
  /// most. Allocates nothing.
  void split(const SplitBatch& batch, const SplitRates& rates, SplitMode mode);

  /// [experts]
  [[nodiscard]] std::span<const SplitSide> sides() const { return sides_; }
  /// Experts to copy, in this order.
  [[nodiscard]] std::span<const int32_t> streamed() const {
    return std::span(order_).first(static_cast<size_t>(work_.copied_experts));
  }
  [[nodiscard]] const SplitWork& work() const { return work_; }

 private:
  [[nodiscard]] int64_t best_cut(const SplitRates& rates) const;
  [[nodiscard]] int64_t probing_cut(int64_t copied_experts, const SplitRates& rates) const;
  [[nodiscard]] SplitWork cut(int64_t copied_experts) const;
  void sort(const SplitBatch& batch);

  std::vector<SplitSide> sides_;
  std::vector<int32_t> order_;          // that are neither resident nor unused, the busiest first
  std::vector<int64_t> tokens_before_;  // [order + 1]: sums
  int64_t resident_tokens_ = 0;
  int64_t expert_bytes_ = 0;
  SplitWork work_;
};

/// Corrects rates by what layers took. A measurement tells of the term that dominated it: bytes or tokens of
/// the CPU, copies or products of the stream. The median of the last three is followed, so that one outlier
/// changes nothing, and a rate stays within a factor of 16 of where it started. A side that has nothing to do
/// is probed now and then, for else one that was taken for slow would never be tried.
class SplitLearner {
 public:
  /// Rates above 0; only copy_per_expert may be 0.
  explicit SplitLearner(const SplitRates& start) : start_(start), rates_(start) {}

  [[nodiscard]] const SplitRates& rates() const { return rates_; }
  /// Whether a side has been measured less than three times, or not for sixteen layers.
  [[nodiscard]] bool probe() const { return cpu_age_.old() || stream_age_.old(); }
  /// `work` may be of some layers ago. Not finite times count as not measured.
  void learn(const SplitWork& work, const SplitTimes& measured);

 private:
  /// The logarithm of a rate over its start.
  class Correction {
   public:
    void follow(double measured);
    [[nodiscard]] double factor() const;
    [[nodiscard]] double log() const { return log_; }

   private:
    double log_ = 0;
    double last_[3] = {};
    int next_ = 0;
  };
  /// A prediction's two terms, in ns, each with its own correction.
  struct Terms {
    double first = 0;
    double second = 0;
    Correction& of_first;
    Correction& of_second;
  };
  static void follow(const Terms& predicted, double measured);

  /// How well a side is known.
  struct Age {
    int64_t measurements = 0;
    int64_t layers_since = 0;

    [[nodiscard]] bool old() const { return measurements < 3 || layers_since >= 16; }
  };

  SplitRates start_;
  SplitRates rates_;
  Age cpu_age_;
  Age stream_age_;
  Correction cpu_bytes_;
  Correction cpu_tokens_;
  Correction copies_;
  Correction products_;
};

}  // namespace sluice::offload
