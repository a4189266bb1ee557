// JSON of unknown origin: parsing with limits, and errors that name what stands there.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace sluice::quant {

using Json = nlohmann::json;

/// The most bytes of JSON that are read; safetensors' own limit of a header.
inline constexpr uint64_t kLargestJson = 100'000'000;

/// Throws Error naming `subject` on a syntax error (with its byte), on more than `deepest` levels, and on a
/// key that stands twice in one object.
Json parse_json(std::string_view text, const std::string& subject, int deepest);

/// At most 16 levels; throws Error also when the whole is no object.
Json parse_json_object(std::string_view text, const std::string& subject);

/// A member that must be there. Throws Error naming `subject`.
const Json& member(const Json& object, const char* key, const std::string& subject);

/// A value as an error message shows it.
std::string described(const Json& value);

}  // namespace sluice::quant
