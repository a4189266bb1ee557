// What `sluice bench` measured, in llama-bench's columns and names.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/cli/extrapolation.h"
#include "engine/engine.h"

namespace sluice::cli {

/// What one row of the table measures: after `depth` tokens that are not timed, `prompt` tokens in batches,
/// then `generated` one by one.
struct BenchTest {
  int64_t prompt = 0;
  int64_t generated = 0;
  int64_t depth = 0;

  /// "pp512", "tg128", "pp512+tg128", each with " @ d4096" behind a depth.
  [[nodiscard]] std::string name() const;
};

/// How it ran.
struct BenchSetup {
  int64_t threads = 0;
  int64_t max_batch = 0;  // -b
  int64_t tile = 0;       // -ub
  Prefill prefill = Prefill::kAuto;
  AttentionMode attention = AttentionMode::kSparse;
  CacheType cache_type = CacheType::kBF16;
  int64_t gpu_layers = 0;      // as -ngl counts them
  int64_t cpu_moe_layers = 0;  // leading layers whose experts stay in memory, where there is a GPU
};

struct BenchRow {
  BenchTest test;
  BenchSetup setup;
  std::string runs;  // Runtime::description()
  std::string time;  // ISO 8601, UTC, of its start
  std::vector<int64_t> samples_ns;
  LayerTimes layers = {};   // of all samples together
  std::string notice = {};  // Runtime::notice() after them

  [[nodiscard]] std::vector<double> tokens_per_second() const;
};

struct MeanDeviation {
  double mean = 0;
  double deviation = 0;  // of the sample; 0 for a single value
};

/// `values` is not empty.
MeanDeviation mean_deviation(const std::vector<double>& values);

/// Columns of the Markdown table that are there when their flags were given.
struct BenchColumns {
  bool cpu_moe_layers = false;
  bool max_batch = false;
  bool prefill = false;
};

/// What is the same in every row.
struct BenchSubject {
  std::string model_file;
  std::string model_name;  // with its dominant type: "DeepSeek V3.2 Q8_0"
  int64_t model_bytes = 0;
  int64_t parameters = 0;
  std::string cpu;
  std::string tokens;                    // where the tokens come from: a file, or "random"
  std::optional<LayerScale> scale = {};  // of a part of a model: rows are extrapolated to all of it, too
  BenchColumns columns = {};
};

enum class BenchFormat { kMarkdown, kCsv, kJson };

/// Rows as text, so that each can be written as soon as it is measured.
class BenchWriter {
 public:
  BenchWriter(BenchFormat format, BenchSubject subject);
  /// With the table's head before the first one.
  [[nodiscard]] std::string row(const BenchRow& row);
  /// What comes after the last row.
  [[nodiscard]] std::string tail() const;

 private:
  [[nodiscard]] std::string head() const;

  BenchFormat format_;
  BenchSubject subject_;
  bool first_ = true;
  std::string extrapolated_;  // Markdown: the rows of a second table
  std::string profiled_;      // and of a third one
  std::string notice_;        // the last row's, below that
};

}  // namespace sluice::cli
