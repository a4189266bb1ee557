// The three patterns on PCRE2. Each is applied to the pieces that the one before left, matched and unmatched
// alike, and sees no further than its piece.
#include "engine/text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <limits>
#include <new>
#include <string>

#include "quant/base/error.h"

namespace sluice {
namespace {

// Unicode's White_Space property. PCRE2's own \s has U+180E besides, which was white space until Unicode 6.3.
constexpr std::string_view kWhiteSpace =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataDeleter>;
using MatchContext = std::unique_ptr<pcre2_match_context, MatchContextDeleter>;

std::string pcre2_message(int code) {
  std::string message(256, '\0');
  const int length =
      pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(message.data()), message.size());
  message.resize(length > 0 ? static_cast<size_t>(length) : 0);
  return message;
}

std::string with_our_white_space(std::string_view pattern) {
  std::string result;
  while (!pattern.empty()) {
    const std::string_view head = pattern.substr(0, 2);
    if (head == "\\s" || head == "\\S") {
      result += head == "\\s" ? "[" : "[^";
      result += kWhiteSpace;
      result += "]";
      pattern.remove_prefix(2);
    } else {
      const size_t length = pattern[0] == '\\' ? head.size() : 1;
      result += pattern.substr(0, length);
      pattern.remove_prefix(length);
    }
  }
  return result;
}

Code compile(std::string_view pattern) {
  const std::string text = with_our_white_space(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP,
                          &error, &offset, nullptr));
  if (code == nullptr) {
    throw Error("pre-tokenizer", "a PCRE2 library with Unicode support", pcre2_message(error));
  }
  // Without a JIT compiler the interpreter runs the same pattern, only slower.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// What a match works in; one per call of split.
class Matcher {
 public:
  Matcher() : data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
    if (data_ == nullptr || context_ == nullptr) throw std::bad_alloc();
    // The limit is there for patterns whose backtracking explodes. Ours goes back over a run of white space
    // at most once, but that run may be longer than the library's limit of ten million steps.
    pcre2_set_match_limit(context_.get(), std::numeric_limits<uint32_t>::max());
  }

  void split(const pcre2_code* code, std::string_view piece, std::vector<std::string_view>& pieces) {
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data_.get());
    size_t done = 0;
    while (done < piece.size()) {
      const int matched = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(piece.data()), piece.size(), done,
                                      PCRE2_NO_UTF_CHECK, data_.get(), context_.get());
      if (matched == PCRE2_ERROR_NOMATCH) break;
      if (matched < 0) throw Error("text", "a text that can be split into words", pcre2_message(matched));
      if (range[0] > done) pieces.push_back(piece.substr(done, range[0] - done));
      pieces.push_back(piece.substr(range[0], range[1] - range[0]));
      done = range[1];
    }
    if (done < piece.size()) pieces.push_back(piece.substr(done));
  }

 private:
  MatchData data_;
  MatchContext context_;
};

}  // namespace

struct PreTokenizer::Patterns {
  std::vector<Code> codes;
};

PreTokenizer::PreTokenizer() : patterns_(std::make_unique<Patterns>()) {
  for (const std::string_view pattern : kDeepSeekV3Patterns) patterns_->codes.push_back(compile(pattern));
}

PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  Matcher matcher;
  std::vector<std::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const Code& code : patterns_->codes) {
    std::vector<std::string_view> finer;
    finer.reserve(pieces.size());
    for (const std::string_view piece : pieces) matcher.split(code.get(), piece, finer);
    pieces = std::move(finer);
  }
  return pieces;
}

}  // namespace sluice
