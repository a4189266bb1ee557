// Encodes a text of the command line, a file or standard input; decodes a list of ids.
#include "engine/cli/tokenize.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/cli/common_options.h"
#include "engine/cli/input_data.h"
#include "engine/cli/model_loading.h"
#include "engine/cli/terminal.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

using nlohmann::ordered_json;

struct TokenizeOptions {
  ModelOptions model;
  std::string text;
  std::string file;
  std::string ids;
  CLI::Option* text_option = nullptr;  // owned by the command; an empty text is a text too
  CLI::Option* ids_option = nullptr;
  bool json = false;
  bool bos = false;
  bool no_bos = true;  // says what is the default anyway
  bool plain = false;
};

void write_line(const std::string& text) {
  write_all(STDOUT_FILENO, text + '\n');
}

/// A token's text, or its bytes as numbers when they are no whole UTF-8 characters.
ordered_json piece_json(const std::string& bytes) {
  if (!find_invalid_utf8(bytes).has_value()) {
    return bytes;
  }
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  const bool from_argument = options.text_option->count() > 0;
  const std::string text = from_argument ? options.text : read_all(options.file.empty() ? "-" : options.file);
  std::vector<int32_t> ids =
      tokenizer.encode(text, options.plain ? SpecialTokens::kAsText : SpecialTokens::kParse);
  if (options.bos) {
    if (!tokenizer.data().bos.has_value()) {
      throw Error("--bos", "a tokenizer with a BOS token", "none");
    }
    ids.insert(ids.begin(), *tokenizer.data().bos);
  }
  return ids;
}

void print_ids(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool json) {
  if (!json) {
    write_line(fmt::format("{}", fmt::join(ids, " ")));
    return;
  }
  ordered_json result{{"ids", ids}, {"pieces", ordered_json::array()}};
  for (const int32_t id : ids) {
    result["pieces"].push_back(piece_json(tokenizer.token_bytes(id)));
  }
  write_line(result.dump());
}

void decode(const Tokenizer& tokenizer, const TokenizeOptions& options) {
  const bool from_stdin = options.ids == "-";
  const std::vector<int32_t> ids = parse_ids(from_stdin ? read_all("-") : options.ids, tokenizer.size(),
                                             from_stdin ? "standard input" : "--decode");
  const std::string text = tokenizer.decode(ids);
  if (options.json) {
    write_line(ordered_json{{"ids", ids}, {"text", piece_json(text)}}.dump());
    return;
  }
  // Byte for byte what was encoded; only a terminal gets a line break that is not of the text.
  write_all(STDOUT_FILENO, is_terminal(STDOUT_FILENO) ? text + '\n' : text);
}

void tokenize(const TokenizeOptions& options) {
  const Model model = load_model(options.model);
  const Tokenizer& tokenizer = model.tokenizer();
  if (options.ids_option->count() > 0) {
    decode(tokenizer, options);
  } else {
    print_ids(tokenizer, encode(tokenizer, options), options.json);
  }
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  const auto options = std::make_shared<TokenizeOptions>();  // shared because CLI11 copies callbacks
  options->model.add_to(*command);
  options->text_option =
      command->add_option("TEXT", options->text, "The text; without it, -f or standard input is read");
  CLI::Option* file =
      command->add_option("-f,--file", options->file, "Read a file, byte for byte; - is standard input");
  options->ids_option = command->add_option("--decode", options->ids,
                                            "Ids (1,2,3 or \"1 2 3\"; - reads standard input) to text");
  file->excludes(options->text_option);
  options->ids_option->excludes(options->text_option)->excludes(file);
  CLI::Option* bos = command->add_flag("--bos", options->bos, "Put the BOS token first");
  command->add_flag("--no-bos", options->no_bos, "Do not put it there (default)")->excludes(bos);
  command->add_flag("--no-parse-special", options->plain, "Names of control tokens are text like any other");
  command->add_flag("--json", options->json,
                    "JSON with each token's text (or bytes, of part of a character)");
  command->footer(
      "Example: sluice tokenize \"Once upon a time\"\n         sluice tokenize --decode \"12 99 340\"");
  command->callback([options] { tokenize(*options); });
}

}  // namespace sluice::cli
