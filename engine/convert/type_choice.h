// Which type a tensor gets: the general type, the user's rules, and what is taken where a row does not divide
// into blocks.
#pragma once

#include <cstdint>
#include <regex>
#include <string>
#include <string_view>
#include <vector>

#include "engine/convert/convert.h"

namespace sluice::convert {

/// Value of `general.file_type` for a file mostly of this type; can_quantize(dtype) must hold.
uint32_t file_type_of(quant::DType dtype);

class TypeChoice {
 public:
  /// Throws Error naming --type or --tensor-type when a type cannot be encoded or a pattern is no regular
  /// expression.
  explicit TypeChoice(const ConvertOptions& options);

  /// Type of tensor `name` of `n_dims` dimensions with rows of `cols` elements. A change of type that the row
  /// length forces is noted in `fallbacks`.
  quant::DType choose(std::string_view name, int n_dims, int64_t cols, std::vector<std::string>& fallbacks);

  /// Throws Error naming the first rule that no tensor matched: a slip of the pen would otherwise pass
  /// unseen.
  void check_rules_used() const;

 private:
  struct Rule {
    std::string pattern;
    std::regex regex;
    quant::DType dtype;
    bool used = false;
  };

  quant::DType dtype_;
  std::vector<Rule> rules_;
};

}  // namespace sluice::convert
