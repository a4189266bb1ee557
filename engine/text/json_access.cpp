// Each step into a value makes the subject longer, so that an error names the whole path.
#include "engine/text/json_access.h"

#include <fmt/format.h>

#include <limits>

#include "quant/base/error.h"
#include "quant/base/in_quotes.h"
#include "quant/checked_json.h"

namespace sluice {
namespace {

constexpr int kDeepest = 32;

}  // namespace

Json parse_json(std::string_view text, const std::string& source) {
  return quant::parse_json(text, source, kDeepest);
}

JsonPlace::JsonPlace(const Json& value, const std::string& subject, std::string_view step)
    : value_(&value), subject_(subject) {
  subject_ += subject.ends_with(':') ? " " : ".";
  subject_ += step;
}

void JsonPlace::fail(std::string_view expected) const {
  throw Error(subject_, expected, quant::described(*value_));
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
