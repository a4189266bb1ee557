// Rows as Markdown, CSV and JSON.
#include "engine/cli/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

namespace sluice::cli {
namespace {

using nlohmann::ordered_json;

constexpr double kNanoseconds = 1e9;

std::string size_text(int64_t bytes) {
  constexpr double kMib = 1024.0 * 1024.0;
  const double mib = static_cast<double>(bytes) / kMib;
  return mib < 1024 ? fmt::format("{:.2f} MiB", mib) : fmt::format("{:.2f} GiB", mib / 1024);
}

std::string count_text(int64_t count) {
  const auto value = static_cast<double>(count);
  return value < 1e9 ? fmt::format("{:.2f} M", value / 1e6) : fmt::format("{:.2f} B", value / 1e9);
}

std::string_view backend_name(const BenchSetup& setup) {
  return setup.gpu_layers > 0 ? "CUDA" : "CPU";
}

// A vertical bar in a model's name would be a column.
std::string cell(std::string text) {
  std::replace(text.begin(), text.end(), '|', '/');
  return text;
}

std::optional<Extrapolation> extrapolation_of(const LayerScale& scale, const BenchRow& row) {
  return extrapolate(scale, row.layers,
                     std::accumulate(row.samples_ns.begin(), row.samples_ns.end(), int64_t{0}),
                     static_cast<int64_t>(row.samples_ns.size()));
}

double tokens_of(const BenchTest& test) {
  return static_cast<double>(test.prompt + test.generated);
}

ordered_json extrapolation_json(const LayerScale& scale, const BenchRow& row) {
  const std::optional<Extrapolation> e = extrapolation_of(scale, row);
  if (!e.has_value()) return nullptr;
  return {{"method", "per-layer arithmetic, not measured"},
          {"n_layer_dense", scale.full.dense},
          {"n_layer_moe", scale.full.moe},
          {"remark", scale.remark},
          {"dense_layer_ns", std::llround(e->dense_layer_ns)},
          {"moe_layer_ns", std::llround(e->moe_layer_ns)},
          {"rest_ns", std::llround(e->rest_ns)},
          {"avg_ns", std::llround(e->total_ns)},
          {"avg_ts", tokens_of(row.test) * kNanoseconds / e->total_ns}};
}

std::string extrapolation_row(const LayerScale& scale, const BenchRow& row) {
  const std::string test = fmt::format("| {} | {} | {} | {} |", row.setup.threads, row.setup.tile,
                                       attention_mode_name(row.setup.attention), row.test.name());
  const std::optional<Extrapolation> e = extrapolation_of(scale, row);
  if (!e.has_value()) return test + " needs one more layer | | | |\n";
  const double us_per_token = 1e-3 / tokens_of(row.test);
  return fmt::format("{} {:.1f} | {:.1f} | {:.1f} | {:.2f} |\n", test, e->dense_layer_ns * us_per_token,
                     e->moe_layer_ns * us_per_token, e->rest_ns * us_per_token,
                     tokens_of(row.test) * kNanoseconds / e->total_ns);
}

std::string profile_row(const BenchRow& row) {
  const BlockTimes& b = row.layers.blocks;
  const auto us = [&](int64_t ns) { return static_cast<double>(ns) * 1e-3 / static_cast<double>(b.layers); };
  const bool gpu = row.setup.gpu_layers > 0;
  const double computing = us(b.attention_ns + b.route_ns + b.shared_ns);
  const double layer = computing + us(gpu ? b.waiting_ns : b.experts_ns);
  const double parts = computing + us(b.experts_ns) + kHandoverUs;
  const std::string copied =
      b.copying_ns == 0
          ? ""
          : fmt::format("{:.2f} GB, {:.1f} GB/s",
                        static_cast<double>(b.copied_bytes) / kNanoseconds / static_cast<double>(b.layers),
                        static_cast<double>(b.copied_bytes) / static_cast<double>(b.copying_ns));
  const std::string hits = b.cache_choices == 0
                               ? ""
                               : fmt::format("{:.1f} %", 100.0 * static_cast<double>(b.cache_hits) /
                                                             static_cast<double>(b.cache_choices));
  return fmt::format("| {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} | {} | {:.1f} | {} | {} | {} |\n",
                     row.test.name(), layer, us(b.attention_ns), us(b.route_ns), us(b.shared_ns),
                     gpu ? fmt::format("{:.1f}", us(b.waiting_ns)) : "", us(b.experts_ns),
                     gpu && copied.empty() ? fmt::format("{:.2f}", layer / parts) : "", copied, hits);
}

std::string profile_head() {
  return fmt::format(
      "\nAn MoE layer of a pass, us. With a GPU the first five are its times, of its layers, and layer / "
      "parts "
      "is the layer against its parts one after the other, with {:.0f} us for the hand-over. Experts that "
      "are "
      "streamed are computed while it waits for them; what is copied for a layer has the rate while copies "
      "run "
      "beside it.\n\n"
      "| test | layer | attention | norm, router, hand-over | shared expert | waiting for the experts | "
      "routed experts on the CPU | layer / parts | copied to the GPU | hits of the expert cache |\n"
      "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
      kHandoverUs);
}

std::string extrapolation_head(const LayerScale& scale) {
  return fmt::format(
      "\nExtrapolated, not measured: {} dense and {} MoE layers{}, each as long as the measured ones of its "
      "kind ({} and {}), and the rest once.\n\n"
      "| threads | n_ubatch | attention | test | dense layer, us/token | MoE layer, us/token | rest, "
      "us/token "
      "| extrapolated t/s |\n| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |\n",
      scale.full.dense, scale.full.moe, scale.remark.empty() ? "" : " (" + scale.remark + ")",
      scale.measured.dense, scale.measured.moe);
}

ordered_json json_of(const BenchSubject& subject, const BenchRow& row) {
  const std::vector<double> rates = row.tokens_per_second();
  const std::vector<double> times(row.samples_ns.begin(), row.samples_ns.end());
  const MeanDeviation time = mean_deviation(times);
  const MeanDeviation rate = mean_deviation(rates);
  ordered_json json{{"build_version", SLUICE_VERSION},
                    {"cpu_info", subject.cpu},
                    {"gpu_info", ""},
                    {"backends", backend_name(row.setup)},
                    {"runs", row.runs},
                    {"model_filename", subject.model_file},
                    {"model_type", subject.model_name},
                    {"model_size", subject.model_bytes},
                    {"model_n_params", subject.parameters},
                    {"n_gpu_layers", row.setup.gpu_layers},
                    {"n_cpu_moe", row.setup.cpu_moe_layers},
                    {"n_batch", row.setup.max_batch},
                    {"n_ubatch", row.setup.tile},
                    {"prefill", prefill_name(row.setup.prefill)},
                    {"n_threads", row.setup.threads},
                    {"type_k", cache_type_name(row.setup.cache_type)},
                    {"attention", attention_mode_name(row.setup.attention)},
                    {"tokens", subject.tokens},
                    {"n_prompt", row.test.prompt},
                    {"n_gen", row.test.generated},
                    {"n_depth", row.test.depth},
                    {"test_time", row.time},
                    {"avg_ns", std::llround(time.mean)},
                    {"stddev_ns", std::llround(time.deviation)},
                    {"avg_ts", rate.mean},
                    {"stddev_ts", rate.deviation},
                    {"samples_ns", row.samples_ns},
                    {"samples_ts", rates}};
  if (subject.scale.has_value()) json["extrapolated"] = extrapolation_json(*subject.scale, row);
  return json;
}

std::string dump(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

std::string quoted(const ordered_json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : dump(value);
  std::string field = "\"";
  for (const char character : text) {
    if (character == '"') field += '"';
    field += character;
  }
  return field + '"';
}

// All but the samples, which are lists, and the extrapolation, which is no measurement.
std::string csv_line(const ordered_json& row, bool names) {
  std::string line;
  for (const auto& [name, value] : row.items()) {
    if (value.is_structured() || value.is_null()) continue;
    if (!line.empty()) line += ',';
    line += names ? name : quoted(value);
  }
  return line + '\n';
}

/// Of the columns between threads and n_ubatch.
std::string cells_on_request(const BenchColumns& columns, const BenchSetup& setup) {
  std::string cells;
  if (columns.cpu_moe_layers) cells += fmt::format(" {} |", setup.cpu_moe_layers);
  if (columns.prefill) cells += fmt::format(" {} |", prefill_name(setup.prefill));
  if (columns.max_batch) cells += fmt::format(" {} |", setup.max_batch);
  return cells;
}

std::string markdown_head(const BenchColumns& columns) {
  std::string names;
  std::string rules;
  const auto add = [&](bool wanted, std::string_view name, std::string_view rule) {
    if (!wanted) return;
    names += fmt::format(" {} |", name);
    rules += fmt::format(" {} |", rule);
  };
  add(columns.cpu_moe_layers, "n_cpu_moe", "---:");
  add(columns.prefill, "prefill", "---");
  add(columns.max_batch, "n_batch", "---:");
  return fmt::format(
      "| model | size | params | backend | ngl | threads |{} n_ubatch | type_k | attention | test | t/s |\n"
      "| --- | ---: | ---: | --- | ---: | ---: |{} ---: | --- | --- | ---: | ---: |\n",
      names, rules);
}

std::string markdown_row(const BenchSubject& subject, const BenchRow& row) {
  const MeanDeviation rate = mean_deviation(row.tokens_per_second());
  return fmt::format("| {} | {} | {} | {} | {} | {} |{} {} | {} | {} | {} | {:.2f} ± {:.2f} |\n",
                     cell(subject.model_name), size_text(subject.model_bytes), count_text(subject.parameters),
                     backend_name(row.setup), row.setup.gpu_layers, row.setup.threads,
                     cells_on_request(subject.columns, row.setup), row.setup.tile,
                     cache_type_name(row.setup.cache_type), attention_mode_name(row.setup.attention),
                     row.test.name(), rate.mean, rate.deviation);
}

}  // namespace

std::string BenchTest::name() const {
  std::string text;
  if (prompt > 0) text = fmt::format("pp{}", prompt);
  if (generated > 0) text += fmt::format("{}tg{}", text.empty() ? "" : "+", generated);
  if (depth > 0) text += fmt::format(" @ d{}", depth);
  return text;
}

std::vector<double> BenchRow::tokens_per_second() const {
  std::vector<double> rates(samples_ns.size());
  const double tokens = tokens_of(test);
  std::transform(samples_ns.begin(), samples_ns.end(), rates.begin(),
                 [&](int64_t ns) { return tokens * kNanoseconds / static_cast<double>(ns); });
  return rates;
}

MeanDeviation mean_deviation(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  if (values.size() < 2) return {mean, 0};
  const double squares = std::accumulate(values.begin(), values.end(), 0.0, [&](double sum, double value) {
    return sum + (value - mean) * (value - mean);
  });
  return {mean, std::sqrt(squares / (count - 1))};
}

BenchWriter::BenchWriter(BenchFormat format, BenchSubject subject)
    : format_(format), subject_(std::move(subject)) {}

std::string BenchWriter::head() const {
  switch (format_) {
    case BenchFormat::kMarkdown:
      return markdown_head(subject_.columns);
    case BenchFormat::kCsv:
      return csv_line(json_of(subject_, {.test = {}, .setup = {}, .runs = {}, .time = {}, .samples_ns = {1}}),
                      true);
    case BenchFormat::kJson:
      return "[\n";
  }
  return {};
}

std::string BenchWriter::row(const BenchRow& row) {
  const bool first = std::exchange(first_, false);
  const std::string start = first ? head() : std::string();
  switch (format_) {
    case BenchFormat::kMarkdown:
      if (row.layers.blocks.layers > 0) profiled_ += profile_row(row);
      notice_ = row.notice;
      if (subject_.scale.has_value()) extrapolated_ += extrapolation_row(*subject_.scale, row);
      return start + markdown_row(subject_, row);
    case BenchFormat::kCsv:
      return start + csv_line(json_of(subject_, row), false);
    case BenchFormat::kJson:
      return start + (first ? "  " : ",\n  ") + dump(json_of(subject_, row));
  }
  return {};
}

std::string BenchWriter::tail() const {
  std::string more;
  if (!extrapolated_.empty()) more = extrapolation_head(*subject_.scale) + extrapolated_;
  if (!profiled_.empty()) more += profile_head() + profiled_;
  if (!profiled_.empty() && !notice_.empty()) more += fmt::format("\n{}\n", notice_);
  if (format_ == BenchFormat::kMarkdown) return more;
  if (format_ != BenchFormat::kJson) return {};
  return first_ ? "[]\n" : "\n]\n";
}

}  // namespace sluice::cli
