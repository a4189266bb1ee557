// Flags whose value is a number of bytes: 24GB, 23.5GiB, 800MB.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

namespace sluice::cli {

/// A number, a decimal point allowed, and a unit: kB, MB, GB, TB of 1000s, KiB, MiB, GiB, TiB of 1024s, or
/// none for bytes. Nothing when `text` is anything else, is not above 0 or does not fit.
std::optional<int64_t> parse_byte_size(const std::string& text);

/// Makes `option`, which fills an int64_t, take such sizes and nothing else.
CLI::Option* take_byte_size(CLI::Option* option);

}  // namespace sluice::cli
