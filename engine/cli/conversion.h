// What `convert` and `quantize` share: type flags, progress, Ctrl-C and the report.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/convert/convert.h"

namespace sluice::cli {

/// The names that `convert` can write, for help texts: "f32|f16|...".
std::string type_names();

/// Accepts the name of a type that a GGUF file can hold; else the usage is wrong.
CLI::Validator type_validator();

/// --tensor-type REGEX=TYPE, any number of times.
struct TypeRuleOptions {
  std::vector<std::string> texts;

  void add_to(CLI::App& app);
  [[nodiscard]] std::vector<TypeRule> rules() const;
};

/// Runs a conversion to `output` with progress and the report on standard error. An interrupt removes the
/// partial file.
using Conversion = std::function<ConvertReport(const ConvertOptions& options)>;
void run_conversion(const std::filesystem::path& output, ConvertOptions options,
                    const Conversion& conversion);

}  // namespace sluice::cli
