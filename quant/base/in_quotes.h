// Foreign text in an error message.
#pragma once

#include <string>
#include <string_view>

namespace sluice {

/// In double quotes, cut after some 60 bytes: a hostile file may hold names of megabytes.
std::string in_quotes(std::string_view text);

}  // namespace sluice
