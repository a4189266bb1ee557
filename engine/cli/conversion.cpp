// Progress, interruption and report of a conversion.
#include "engine/cli/conversion.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <optional>
#include <utility>

#include "engine/cli/interrupted.h"
#include "engine/cli/terminal.h"
#include "quant/base/error.h"
#include "quant/block_codec.h"
#include "quant/dtype.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostListed = 20;  // lines of one kind in the report

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double gigabytes(int64_t bytes) {
  return static_cast<double>(bytes) * 1e-9;
}

void list(const char* title, const std::vector<std::string>& lines) {
  for (size_t i = 0; i < lines.size() && i < kMostListed; ++i) {
    fmt::print(stderr, "{}: {}\n", title, lines[i]);
  }
  if (lines.size() > kMostListed) {
    fmt::print(stderr, "{}: {} more\n", title, lines.size() - kMostListed);
  }
}

void print_report(const std::filesystem::path& output, const ConvertReport& report, double seconds) {
  list("fallback", report.fallbacks);
  list("ignored", report.ignored);
  fmt::print(stderr,
             "{}: {} tensors, {} bytes, {} fallbacks, {} ignored, {} tokenizer; {:.1f} s, {:.2f} GB/s\n",
             output.string(), report.tensors, report.bytes, report.fallbacks.size(), report.ignored.size(),
             report.has_tokenizer ? "with" : "no", seconds, gigabytes(report.bytes) / seconds);
}

}  // namespace

std::string type_names() {
  std::string names;
  for (const quant::DTypeInfo& info : quant::all_dtypes()) {
    if (quant::can_quantize(info.dtype)) {
      names += names.empty() ? "" : ", ";
      names += info.name;
    }
  }
  return names;
}

CLI::Validator type_validator() {
  return CLI::Validator(
      [](const std::string& name) {
        return quant::dtype_from_name(name).has_value() ? std::string()
                                                        : fmt::format("{} is none of {}", name, type_names());
      },
      "");
}

void TypeRuleOptions::add_to(CLI::App& app) {
  const auto refuse = [](const std::string& text) -> std::string {
    const size_t equals = text.rfind('=');
    if (equals == std::string::npos || equals == 0) {
      return fmt::format("{} is not REGEX=TYPE", text);
    }
    return type_validator()(text.substr(equals + 1));
  };
  app.add_option("--tensor-type", texts,
                 "Type of the tensors whose name the expression matches; the first match wins; repeatable")
      ->type_name("REGEX=TYPE")
      ->allow_extra_args(false)
      ->check(CLI::Validator(refuse, ""));
}

std::vector<TypeRule> TypeRuleOptions::rules() const {
  std::vector<TypeRule> rules;
  for (const std::string& text : texts) {
    const size_t equals = text.rfind('=');
    // Both were checked when the flag was read.
    rules.push_back({text.substr(0, equals), quant::dtype_from_name(text.substr(equals + 1)).value()});
  }
  return rules;
}

void run_conversion(const std::filesystem::path& output, ConvertOptions options,
                    const Conversion& conversion) {
  Interrupts interrupts;
  const StoppableWork work(interrupts);
  const Clock::time_point start = Clock::now();
  ProgressLine line;
  options.progress = [&](int64_t done, int64_t total, const std::string& tensor) {
    const double share = total == 0 ? 1.0 : static_cast<double>(done) / static_cast<double>(total);
    line.show(fmt::format("{:3.0f} %  {:.2f} of {:.2f} GB  {:.2f} GB/s  {}", 100 * share, gigabytes(done),
                          gigabytes(total), gigabytes(done) / seconds_since(start), tensor));
    return !work.token().stop_requested();
  };
  std::optional<ConvertReport> report;
  try {
    report = conversion(options);
  } catch (const Error&) {
    line.clear();
    if (work.token().stop_requested()) {
      fmt::print(stderr, "{}: interrupted, nothing written\n", output.string());
      throw Interrupted();
    }
    throw;
  }
  line.clear();
  print_report(output, *report, seconds_since(start));
}

}  // namespace sluice::cli
