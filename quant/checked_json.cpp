// Checks while parsing run in nlohmann's parser callback, so that hostile text is refused before it is built.
#include "quant/checked_json.h"

#include <fmt/format.h>

#include <unordered_set>
#include <vector>

#include "quant/base/error.h"
#include "quant/base/in_quotes.h"

namespace sluice::quant {
namespace {

constexpr int kDeepestObject = 16;  // a safetensors header needs 3

}  // namespace

// nlohmann keeps the last of two equal keys without a word and nests without a limit; both are refused.
Json parse_json(std::string_view text, const std::string& subject, int deepest) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > deepest) throw Error(subject, fmt::format("at most {} levels of JSON", deepest), "more");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second)
        throw Error(subject, "keys that differ", in_quotes(key) + " twice");
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::parse_error& error) {
    throw Error(subject, "JSON", fmt::format("a syntax error at byte {}", error.byte));
  } catch (const Json::exception& error) {
    throw Error(subject, "JSON", error.what());
  }
}

Json parse_json_object(std::string_view text, const std::string& subject) {
  Json json = parse_json(text, subject, kDeepestObject);
  if (!json.is_object()) throw Error(subject, "a JSON object", described(json));
  return json;
}

const Json& member(const Json& object, const char* key, const std::string& subject) {
  const auto found = object.find(key);
  if (found == object.end()) throw Error(subject, fmt::format("the key \"{}\"", key), "none");
  return *found;
}

std::string described(const Json& value) {
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  return value.is_structured() ? std::string("an ") + value.type_name() : value.dump();
}

}  // namespace sluice::quant
