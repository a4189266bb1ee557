// Flags whose value is a whole number. CLI11 by itself takes the largest there is for any that is larger, and
// reads 010 as 8.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

namespace sluice::cli {

/// Of decimal digits, with a minus sign before them when it is negative. Nothing when `text` is anything else
/// or does not fit.
std::optional<int64_t> parse_whole_number(const std::string& text);

/// Makes `option` take whole numbers from `least` to `most` and nothing else.
CLI::Option* take_whole_number(CLI::Option* option, int64_t least,
                               int64_t most = std::numeric_limits<int64_t>::max());

}  // namespace sluice::cli
