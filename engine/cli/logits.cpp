// Computes given tokens in batches and writes the logits of the last ones.
#include "engine/cli/logits.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/cli/common_options.h"
#include "engine/cli/input_data.h"
#include "engine/cli/interrupted.h"
#include "engine/cli/layer_dump.h"
#include "engine/cli/model_loading.h"
#include "engine/cli/npy.h"
#include "engine/cli/runtime_notice.h"
#include "engine/cli/whole_number.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

struct LogitsOptions {
  ModelOptions model;
  ComputeOptions compute;
  std::string ids;
  std::string ids_file;
  std::string text;
  CLI::Option* ids_option = nullptr;  // owned by the command
  CLI::Option* ids_file_option = nullptr;
  int64_t last = 1;
  std::string output;
  std::string dump;
  std::string dump_directory;
};

std::vector<int32_t> encode_prompt(const Model& model, const std::string& text) {
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<int32_t> ids = tokenizer.encode(text, SpecialTokens::kParse);
  if (tokenizer.data().add_bos && tokenizer.data().bos.has_value()) {
    ids.insert(ids.begin(), *tokenizer.data().bos);
  }
  if (ids.empty()) {
    throw Error("-p/--prompt", "at least one token", "an empty text");
  }
  return ids;
}

std::vector<int32_t> input_ids(const Model& model, const LogitsOptions& options) {
  const int64_t vocab_size = model.config().vocab_size;
  if (options.ids_option->count() > 0) {
    return parse_ids(options.ids, vocab_size, "--ids");
  }
  if (options.ids_file_option->count() > 0) {
    return read_ids(options.ids_file, vocab_size);
  }
  return encode_prompt(model, options.text);
}

void check_lengths(const Model& model, int64_t n_tokens, const LogitsOptions& options) {
  const int64_t longest = model.config().context_length;
  if (options.compute.context > longest) {
    throw Error("-c/--ctx-size", fmt::format("at most the model's {} tokens", longest),
                fmt::format("{}", options.compute.context));
  }
  const int64_t context = options.compute.context_for(model);
  if (n_tokens > context) {
    throw Error("token ids", fmt::format("at most the context of {} tokens", context),
                fmt::format("{} tokens", n_tokens));
  }
  if (options.last > n_tokens) {
    throw Error("--last", fmt::format("at most the number of tokens, {}", n_tokens),
                fmt::format("{}", options.last));
  }
}

/// Logits from position `first_wanted` on go to `out`. False when stopped.
bool compute(Runtime& runtime, std::span<const int32_t> ids, int64_t first_wanted, ForwardObserver* observer,
             CacheType cache_type, const std::stop_token& stop, NpyFile<float>& out) {
  const auto n_tokens = static_cast<int64_t>(ids.size());
  const std::unique_ptr<KvCache> cache = runtime.make_cache(n_tokens, cache_type);
  for (int64_t first = 0; first < n_tokens; first += runtime.options().max_batch) {
    const int64_t count = std::min(runtime.options().max_batch, n_tokens - first);
    ForwardRequest request;
    request.ids = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    request.first_position = first;
    request.logits = first + count > first_wanted ? Logits::kAll : Logits::kNone;
    request.observer = observer;
    request.stop = stop;
    const Runtime::Result result = runtime.forward(request, *cache);
    if (!result.completed) {
      return false;
    }
    if (request.logits == Logits::kAll) {
      const int64_t skipped = std::max<int64_t>(0, first_wanted - first);
      out.write(result.logits.rows_from(skipped, count - skipped));
    }
  }
  return true;
}

void logits(const LogitsOptions& options) {
  Interrupts interrupts;
  const Model model = load_model(options.model, interrupts);
  const std::vector<int32_t> ids = input_ids(model, options);
  const auto n_tokens = static_cast<int64_t>(ids.size());
  check_lengths(model, n_tokens, options);
  Runtime runtime = make_runtime(model, options.compute.runtime(model, n_tokens), interrupts);
  spdlog::info("{}", runtime.description());
  RuntimeNotice notice(runtime);
  // Opened before anything is computed: an unwritable place shows at once.
  NpyFile<float> out(options.output, {options.last, model.config().vocab_size});
  std::optional<LayerDump> dump;
  if (!options.dump.empty()) {
    dump.emplace(options.dump_directory, runtime, n_tokens);
  }
  const StoppableWork work(interrupts);
  if (!compute(runtime, ids, n_tokens - options.last, dump.has_value() ? &*dump : nullptr,
               options.compute.cache_type, work.token(), out)) {
    fmt::print(stderr, "{}: interrupted, nothing written\n", options.output);
    throw Interrupted();
  }
  if (dump.has_value()) {
    dump->commit();
  }
  out.commit();
  notice.tell();
}

void add_input_flags(CLI::App& command, LogitsOptions& options) {
  CLI::Option_group* input = command.add_option_group("Tokens", "One of these");
  options.ids_option = input->add_option("--ids", options.ids, "Token ids: 1,2,3");
  options.ids_file_option = input->add_option(
      "--ids-file", options.ids_file, "File of ids: text, or .npy of int32 or int64; - is standard input");
  input->add_option("-p,--prompt", options.text, "A text, with BOS before it when the model wants one");
  input->require_option(1);
}

}  // namespace

void add_logits_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("logits", "Write the logits after given tokens to a .npy file");
  const auto options = std::make_shared<LogitsOptions>();  // shared because CLI11 copies callbacks
  add_input_flags(*command, *options);
  take_whole_number(
      command->add_option("--last", options->last, "Logits of the last K positions (default 1)"), 1)
      ->type_name("K");
  command->add_option("--out", options->output, "File to write: float32 [K, vocabulary]")
      ->required()
      ->type_name("F.npy");
  CLI::Option* dump = command->add_option("--dump", options->dump, "Also write what every layer computed")
                          ->check(CLI::IsMember({"layers"}).description(""))
                          ->type_name("layers");
  CLI::Option* directory =
      command->add_option("--dump-dir", options->dump_directory, "Directory for the dump")->type_name("DIR");
  dump->needs(directory);
  directory->needs(dump);
  options->model.add_to(*command);
  options->compute.add_to(*command);
  command->footer(
      "Example: sluice logits --ids 0,17,4 --last 3 --out logits.npy --dump layers --dump-dir dump");
  command->callback([options] { logits(*options); });
}

}  // namespace sluice::cli
