// What a call refuses with.
#pragma once

#include <string>

#include "quant/base/error.h"

namespace sluice::testing {

/// The line of the Error that `call` throws; "no error" when it returns. Other exceptions pass through.
template <typename Call>
std::string error_text(Call call) {
  try {
    static_cast<void>(call());
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace sluice::testing
