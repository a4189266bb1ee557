// Flags whose value is one of a few words, and the words that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "engine/engine.h"

namespace sluice::cli {

/// The words and what they mean, in the order that help shows.
template <typename T>
using Choices = std::vector<std::pair<std::string_view, T>>;

/// Of -ctk/--cache-type-k.
const Choices<CacheType>& cache_type_choices();
/// Of --attention.
const Choices<AttentionMode>& attention_choices();
/// Of --prefill.
const Choices<Prefill>& prefill_choices();
/// Of --numa.
const Choices<NumaMode>& numa_choices();

/// "sparse|dense".
template <typename T>
std::string words_of(const Choices<T>& choices) {
  std::string words;
  for (const auto& [word, value] : choices) {
    if (!words.empty()) words += '|';
    words += word;
  }
  return words;
}

/// Makes `option`, which fills a T, take these words and no others.
template <typename T>
CLI::Option* take_words(CLI::Option* option, const Choices<T>& choices) {
  const auto translate = [choices](std::string& text) -> std::string {
    const auto found = std::find_if(choices.begin(), choices.end(),
                                    [&](const auto& choice) { return choice.first == text; });
    if (found == choices.end()) return "expected " + words_of(choices) + ", found " + text;
    // CLI11 reads an enumerator's number.
    text = std::to_string(static_cast<std::underlying_type_t<T>>(found->second));
    return {};
  };
  return option->transform(CLI::Validator(translate, ""))->type_name(words_of(choices));
}

/// The same for a list of words with commas between them.
template <typename T>
CLI::Option* take_word_lists(CLI::Option* option, const Choices<T>& choices) {
  return take_words(option, choices)->delimiter(',')->type_name(words_of(choices) + ",...");
}

}  // namespace sluice::cli
