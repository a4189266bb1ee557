// JSON of unknown origin: parsing with limits, and typed access with errors that name the file and the place
// in it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

using Json = nlohmann::json;

/// Throws Error naming `source` on a syntax error (with its byte), on more than 32 levels, and on a key that
/// stands twice in one object.
Json parse_json(std::string_view text, const std::string& source);

/// A value and how to say where it stands: "tokenizer.json: model.vocab".
class JsonPlace {
 public:
  JsonPlace(const Json& value, const std::string& source) : value_(&value), subject_(source + ":") {}

  [[nodiscard]] const Json& value() const { return *value_; }
  [[nodiscard]] const std::string& subject() const { return subject_; }
  /// Error(subject, expected, what stands here).
  [[noreturn]] void fail(std::string_view expected) const;

  /// A member, or nothing when it is absent or null. Throws Error when this is no object.
  [[nodiscard]] std::optional<JsonPlace> find(std::string_view key) const;
  /// A member that must be there.
  [[nodiscard]] JsonPlace at(std::string_view key) const;
  [[nodiscard]] JsonPlace element(size_t index) const;
  /// A member that is at hand, from iteration.
  [[nodiscard]] JsonPlace member(std::string_view key, const Json& value) const {
    return {value, subject_, key};
  }

  [[nodiscard]] const Json& object() const;
  [[nodiscard]] const Json& array() const;
  [[nodiscard]] const std::string& string() const;
  [[nodiscard]] bool boolean() const;
  /// An integer from 0 to 2^31 - 1.
  [[nodiscard]] int32_t id() const;

 private:
  JsonPlace(const Json& value, const std::string& subject, std::string_view step);

  const Json* value_;
  std::string subject_;
};

}  // namespace sluice
