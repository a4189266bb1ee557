// Values of a flag that takes several: 1,2,4 and ranges as llama-bench writes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::cli {

/// "512", "0,8192", "1-4" (step 1), "0-8192+2048", "1-16*2", and any of these joined by commas; in the order
/// written. Throws Error naming `flag` when the text is none of these, a value is negative, a range runs
/// backwards or never ends, or it all comes to more than 1000 values.
std::vector<int64_t> parse_value_list(const std::string& flag, const std::string& text);

}  // namespace sluice::cli
