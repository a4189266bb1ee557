// Checks while parsing run in nlohmann's parser callback, so that hostile text is refused before it is built.
#include "engine/text/json_access.h"

#include <fmt/format.h>

#include <limits>
#include <unordered_set>
#include <vector>

#include "engine/text/in_quotes.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

constexpr int kDeepest = 32;

}  // namespace

Json parse_json(std::string_view text, const std::string& source) {
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kDeepest) throw Error(source, fmt::format("at most {} levels of JSON", kDeepest), "more");
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys.back().insert(key).second) throw Error(source, "keys that differ", in_quotes(key) + " twice");
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::parse_error& error) {
    throw Error(source, "JSON", fmt::format("a syntax error at byte {}", error.byte));
  } catch (const Json::exception& error) {
    throw Error(source, "JSON", error.what());
  }
}

JsonPlace::JsonPlace(const Json& value, const std::string& subject, std::string_view step)
    : value_(&value), subject_(subject) {
  subject_ += subject.ends_with(':') ? " " : ".";
  subject_ += step;
}

void JsonPlace::fail(std::string_view expected) const {
  std::string found = value_->type_name();
  if (value_->is_string()) found = in_quotes(value_->get_ref<const std::string&>());
  if (value_->is_number() || value_->is_boolean()) found = value_->dump();
  throw Error(subject_, expected, found);
}

std::optional<JsonPlace> JsonPlace::find(std::string_view key) const {
  const auto member = object().find(std::string(key));
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return JsonPlace(*member, subject_, key);
}

JsonPlace JsonPlace::at(std::string_view key) const {
  const std::optional<JsonPlace> member = find(key);
  if (!member) throw Error(subject_, fmt::format("the key {}", in_quotes(key)), "none");
  return *member;
}

JsonPlace JsonPlace::element(size_t index) const {
  return {array()[index], subject_, fmt::format("[{}]", index)};
}

const Json& JsonPlace::object() const {
  if (!value_->is_object()) fail("an object");
  return *value_;
}

const Json& JsonPlace::array() const {
  if (!value_->is_array()) fail("an array");
  return *value_;
}

const std::string& JsonPlace::string() const {
  if (!value_->is_string()) fail("a string");
  return value_->get_ref<const std::string&>();
}

bool JsonPlace::boolean() const {
  if (!value_->is_boolean()) fail("true or false");
  return value_->get<bool>();
}

int32_t JsonPlace::id() const {
  // Unsigned numbers beyond 2^63 read as negative ones would, so the check is on the unsigned value.
  const bool fits =
      value_->is_number_unsigned() && value_->get<uint64_t>() <= std::numeric_limits<int32_t>::max();
  if (!fits) fail("an id, an integer from 0 to 2147483647");
  return value_->get<int32_t>();
}

}  // namespace sluice
