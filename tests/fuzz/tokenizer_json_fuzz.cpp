// libFuzzer target: any bytes as a tokenizer.json. It is read, or refused with an Error; what was read
// encodes a text and gives it back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "engine/text/tokenizer.h"
#include "quant/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kText = "Hello  <｜User｜> hello\n12345 abc \xE4\xB8\xAD</think>";
  try {
    const std::string_view json(reinterpret_cast<const char*>(data), size);
    const sluice::Tokenizer tokenizer(sluice::parse_tokenizer_json(json, "fuzz"), "fuzz");
    for (const auto mode :
         {sluice::SpecialTokens::kParse, sluice::SpecialTokens::kAsText, sluice::SpecialTokens::kNone}) {
      if (tokenizer.decode(tokenizer.encode(kText, mode)) != kText) std::abort();
    }
  } catch (const sluice::Error&) {
    // Refused, as it should be.
  }
  return 0;
}
