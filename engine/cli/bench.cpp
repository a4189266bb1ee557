// The grid of values, and the clock around prefill and generation.
#include "engine/cli/bench.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <exception>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/cli/bench_report.h"
#include "engine/cli/choices.h"
#include "engine/cli/common_options.h"
#include "engine/cli/input_data.h"
#include "engine/cli/interrupted.h"
#include "engine/cli/model_loading.h"
#include "engine/cli/terminal.h"
#include "engine/cli/value_list.h"
#include "engine/cli/whole_number.h"
#include "engine/gpu_placement.h"
#include "offload/machine.h"
#include "quant/base/error.h"

namespace sluice::cli {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchOptions {
  ModelOptions model;
  std::string prompt = "512";
  std::string generated = "128";
  std::string both;  // pp,tg pairs
  std::string depth = "0";
  std::string threads = "0";
  std::string max_batch;  // empty = chosen
  std::string tile = "512";
  std::vector<Prefill> prefill{Prefill::kAuto};
  std::vector<AttentionMode> attention{AttentionMode::kSparse};
  std::vector<CacheType> cache_types{CacheType::kBF16};
  ExpertOptions experts;
  std::string cpu_moe_layers;  // of `placement`, a list; empty = not said
  PlacementOptions placement;
  ExpertCacheOption expert_cache;
  int64_t repetitions = 5;
  std::string file;
  BenchFormat format = BenchFormat::kMarkdown;
  bool no_warmup = false;
  bool profile = false;
};

std::vector<BenchTest> tests_of(const BenchOptions& options) {
  std::vector<BenchTest> tests;
  const auto add = [&](int64_t depth, int64_t prompt, int64_t generated) {
    if (prompt + generated > 0) tests.push_back({prompt, generated, depth});
  };
  const std::vector<int64_t> both =
      options.both.empty() ? std::vector<int64_t>() : parse_value_list("-pg", options.both);
  if (both.size() % 2 != 0) throw Error("-pg", "pairs of prompt and generated tokens", options.both);
  for (const int64_t depth : parse_value_list("-d/--n-depth", options.depth)) {
    for (const int64_t prompt : parse_value_list("-p/--n-prompt", options.prompt)) add(depth, prompt, 0);
    for (const int64_t count : parse_value_list("-n/--n-gen", options.generated)) add(depth, 0, count);
    for (size_t i = 0; i < both.size(); i += 2) add(depth, both[i], both[i + 1]);
  }
  if (tests.empty()) throw Error("-p, -n, -pg", "a number of tokens above 0", "0 everywhere");
  return tests;
}

// Every setup with every value of one more flag: values change fastest in the flag that is added last.
template <typename T>
std::vector<BenchSetup> with_each(const std::vector<BenchSetup>& setups, const std::vector<T>& values,
                                  T BenchSetup::*flag) {
  std::vector<BenchSetup> all;
  for (const BenchSetup& setup : setups) {
    for (const T& value : values) {
      all.push_back(setup);
      all.back().*flag = value;
    }
  }
  return all;
}

std::vector<int64_t> values_of(const std::string& flag, const std::string& text, int64_t otherwise) {
  return text.empty() ? std::vector<int64_t>{otherwise} : parse_value_list(flag, text);
}

std::vector<BenchSetup> setups_of(const BenchOptions& options, int64_t layers) {
  const std::vector<int64_t> tiles = parse_value_list("-ub/--ubatch-size", options.tile);
  if (std::ranges::count(tiles, 0) > 0) throw Error("-ub/--ubatch-size", "at least 1", "0");
  std::vector<BenchSetup> setups(1);
  // The outermost: for each of its values weights are loaded.
  setups = with_each(setups, values_of("-ncmoe/--n-cpu-moe", options.cpu_moe_layers, layers),
                     &BenchSetup::cpu_moe_layers);
  setups = with_each(setups, parse_value_list("-t/--threads", options.threads), &BenchSetup::threads);
  setups = with_each(setups, options.prefill, &BenchSetup::prefill);
  setups = with_each(setups, values_of("-b/--batch-size", options.max_batch, 0), &BenchSetup::max_batch);
  setups = with_each(setups, tiles, &BenchSetup::tile);
  setups = with_each(setups, options.cache_types, &BenchSetup::cache_type);
  return with_each(setups, options.attention, &BenchSetup::attention);
}

int64_t longest(const std::vector<BenchTest>& tests) {
  int64_t most = 0;
  for (const BenchTest& test : tests) most = std::max(most, test.depth + test.prompt + test.generated);
  return most;
}

// The tokens that every test begins with: of a text, because routing depends on what is said, or random ones.
std::vector<int32_t> tokens_of(const Model& model, const BenchOptions& options, int64_t count) {
  std::vector<int32_t> ids;
  if (!options.file.empty()) {
    ids = model.tokenizer().encode(read_all(options.file), SpecialTokens::kAsText);
    if (static_cast<int64_t>(ids.size()) < count) {
      throw Error(options.file, fmt::format("a text of at least {} tokens", count),
                  fmt::format("{} tokens", ids.size()));
    }
    ids.resize(static_cast<size_t>(count));
    return ids;
  }
  std::mt19937 random(1);  // the same tokens in every run
  std::uniform_int_distribution<int32_t> any(0, static_cast<int32_t>(model.config().vocab_size - 1));
  ids.resize(static_cast<size_t>(count));
  for (int32_t& id : ids) id = any(random);
  return ids;
}

BenchSubject subject_of(const Model& model, const BenchOptions& options) {
  return {.model_file = model.path().string(),
          .model_name = fmt::format("{} {}", model.config().name, model.type_name()),
          .model_bytes = model.tensor_bytes(),
          .parameters = model.parameters(),
          .cpu = offload::probe_machine().cpu_name,
          .tokens = options.file.empty() ? "random" : options.file,
          .scale = layer_scale(model),
          .columns = {.cpu_moe_layers = !options.cpu_moe_layers.empty(),
                      .max_batch = !options.max_batch.empty(),
                      .prefill = options.prefill != std::vector{Prefill::kAuto}}};
}

struct Sample {
  int64_t ns = 0;
  LayerTimes layers;
};

// One repetition; nothing when it was stopped.
std::optional<Sample> measure(Session& session, const std::vector<int32_t>& tokens, const BenchTest& test,
                              const std::stop_token& stop) {
  const std::span<const int32_t> ids(tokens);
  if (test.depth > 0) {
    if (!session.prefill(ids.first(static_cast<size_t>(test.depth)), {}, stop).completed) return {};
  } else {
    session.truncate(0);
  }
  const LayerTimes before = session.runtime().layer_times();
  const Clock::time_point start = Clock::now();
  const int64_t prompted = test.depth + test.prompt;
  if (test.prompt > 0 && !session.prefill(ids.first(static_cast<size_t>(prompted)), {}, stop).completed) {
    return {};
  }
  for (int64_t i = 0; i < test.generated; ++i) {
    if (stop.stop_requested()) return {};
    session.append(ids[static_cast<size_t>(prompted + i)]);
  }
  const std::chrono::nanoseconds taken = Clock::now() - start;
  return Sample{.ns = taken.count(), .layers = session.runtime().layer_times() - before};
}

/// As -ngl counts them: the head is one.
int64_t gpu_layers(int64_t layers, const RuntimeOptions& options) {
  return options.device == Device::kGpu ? layers + 1 - options.first_gpu_layer : 0;
}

class Bench {
 public:
  Bench(const Model& model, const BenchOptions& options)
      : options_(options),
        model_(model),
        tests_(tests_of(options)),
        setups_(setups_of(options, model.config().layers)) {
    context_ = longest(tests_);
    tokens_ = tokens_of(model, options, context_);
  }

  void run(const std::stop_token& stop) {
    BenchWriter writer(options_.format, subject_of(model_, options_));
    bool completed = false;
    try {
      completed = run_setups(writer, stop);
    } catch (const std::exception&) {
      finish(writer);  // the rows so far stay a whole table
      throw;
    }
    finish(writer);
    if (!completed) {
      write_all(STDERR_FILENO,
                fmt::format("interrupted after {} of {} rows\n", rows_, setups_.size() * tests_.size()));
      throw Interrupted();
    }
  }

 private:
  void finish(const BenchWriter& writer) {
    progress_.clear();
    write_all(STDOUT_FILENO, writer.tail());
  }

  [[nodiscard]] RuntimeOptions runtime_options(const BenchSetup& setup) const {
    RuntimeOptions options;
    options.threads = setup.threads;
    options.max_batch = setup.max_batch;
    options.tile = setup.tile;
    options.prefill = setup.prefill;
    options.attention = setup.attention;
    options.profile = options_.profile;
    PlacementOptions placement = options_.placement;
    if (!options_.cpu_moe_layers.empty()) placement.cpu_moe_layers = setup.cpu_moe_layers;
    placement.apply_to(options, model_);
    options.planned_context = context_;
    options.planned_cache = setup.cache_type;
    options_.experts.apply_to(options);
    options.expert_cache_bytes = options_.expert_cache.bytes;
    if (filling_.has_value() && caches_filling()) {
      options.expert_cache_bytes = filling_->bytes;
    } else if (filling_.has_value()) {
      options.gpu_expert_layers = filling_->layers;
    }
    if (!options.gpu_expert_layers.empty()) options.device = Device::kGpu;
    return options;
  }

  [[nodiscard]] bool places_experts() const {
    return options_.placement.places_experts() || !options_.cpu_moe_layers.empty();
  }
  [[nodiscard]] bool caches_filling() const {
    return options_.expert_cache.size == ExpertCacheOption::Size::kAuto;
  }

  /// What has room in every setup: weights are loaded once for all of them. None where flags place experts or
  /// give a cache its size, and without a GPU.
  [[nodiscard]] std::optional<GpuFilling> filling_of_all() const {
    std::optional<GpuFilling> fewest;
    if (places_experts() || options_.expert_cache.size == ExpertCacheOption::Size::kBytes) return fewest;
    for (const BenchSetup& setup : setups_) {
      RuntimeOptions options = runtime_options(setup);
      options.threads = 1;  // does not matter here, and a wrong number is told where it is used
      const std::optional<GpuFilling> filling = gpu_filling_now(model_, options);
      if (!filling.has_value()) return {};
      if (!fewest.has_value() || filling->layers.size() < fewest->layers.size()) fewest = filling;
    }
    return fewest;
  }

  bool run_setups(BenchWriter& writer, const std::stop_token& stop) {
    require_unplaced(options_.expert_cache, places_experts());
    filling_ = filling_of_all();
    if (caches_filling()) require_gpu(options_.expert_cache, filling_.has_value());
    if (filling_.has_value()) {
      write_all(STDERR_FILENO, (caches_filling() ? cache_text(*filling_) : filling_text(*filling_)) + "\n");
    }
    for (size_t next = 0; next < setups_.size();) {
      RuntimeOptions first = runtime_options(setups_[next]);
      static_cast<void>(checked_options(model_, first));  // what is wrong is told before a long load
      // Memory is made ready to be copied from if any of the setups copies.
      first.prefill = options_.prefill == std::vector{Prefill::kCpu} ? Prefill::kCpu : Prefill::kAuto;
      const LoadedWeights weights = load_weights(model_, first, stop);
      for (; next < setups_.size() && weights.suit(runtime_options(setups_[next])); ++next) {
        if (!run_setup(setups_[next], weights, writer, stop)) return false;
      }
    }
    return true;
  }

  bool run_setup(BenchSetup setup, const LoadedWeights& weights, BenchWriter& writer,
                 const std::stop_token& stop) {
    Runtime runtime(weights, runtime_options(setup));
    setup.threads = runtime.options().threads;
    setup.max_batch = runtime.options().max_batch;
    setup.tile = runtime.options().tile;
    setup.prefill = runtime.options().prefill;
    setup.gpu_layers = gpu_layers(model_.config().layers, runtime.options());
    if (filling_.has_value() && !filling_->layers.empty() && !caches_filling()) {
      setup.cpu_moe_layers = filling_->layers.front();
    }
    Session session(runtime, context_, setup.cache_type);
    for (const BenchTest& test : tests_) {
      const std::optional<BenchRow> row = run_test(session, test, setup, stop);
      if (!row.has_value()) return false;
      progress_.clear();
      tell(row->notice);
      write_all(STDOUT_FILENO, writer.row(*row));
      ++rows_;
    }
    return true;
  }

  /// On standard error, unless it is what was told last.
  void tell(const std::string& notice) {
    if (!notice.empty() && notice != told_) write_all(STDERR_FILENO, notice + "\n");
    told_ = notice;
  }

  // A first run that is not counted reads the weights from the disk and wakes the threads.
  std::optional<BenchRow> run_test(Session& session, const BenchTest& test, const BenchSetup& setup,
                                   const std::stop_token& stop) {
    BenchRow row{test,
                 setup,
                 session.runtime().description(),
                 fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr))),
                 {}};
    for (int64_t i = options_.no_warmup ? 0 : -1; i < options_.repetitions; ++i) {
      progress_.show(i < 0 ? fmt::format("{}: warming up", test.name())
                           : fmt::format("{}: {} of {}", test.name(), i + 1, options_.repetitions));
      const std::optional<Sample> sample = measure(session, tokens_, test, stop);
      if (!sample.has_value()) return {};
      if (i >= 0) {
        row.samples_ns.push_back(sample->ns);
        row.layers = row.layers + sample->layers;
      }
    }
    row.notice = session.runtime().notice();
    return row;
  }

  const BenchOptions& options_;
  const Model& model_;
  std::vector<BenchTest> tests_;
  std::vector<BenchSetup> setups_;
  std::optional<GpuFilling> filling_;  // of the GPU's free memory, with experts that no flag places
  int64_t context_ = 0;
  int64_t rows_ = 0;  // written
  std::vector<int32_t> tokens_;
  std::string told_;
  ProgressLine progress_;
};

void bench(const BenchOptions& options) {
  Interrupts interrupts;
  const Model model = load_model(options.model, interrupts);
  Bench bench(model, options);
  const StoppableWork work(interrupts);
  bench.run(work.token());
}

void add_grid_flags(CLI::App& command, BenchOptions& options) {
  command.add_option("-p,--n-prompt", options.prompt, "Prompt tokens; 0 = no such test (default 512)")
      ->type_name("LIST");
  command.add_option("-n,--n-gen", options.generated, "Generated tokens; 0 = no such test (default 128)")
      ->type_name("LIST");
  command.add_option("--prompt-gen", options.both, "Also -pg. Pairs: a prompt, then generated tokens")
      ->type_name("PP,TG,...");
  command.add_option("-d,--n-depth", options.depth, "Tokens in the cache before each test (default 0)")
      ->type_name("LIST");
  command.add_option("-t,--threads", options.threads, "Threads; 0 = all physical cores (default 0)")
      ->type_name("LIST");
  command
      .add_option("-b,--batch-size", options.max_batch,
                  "Tokens per forward pass; 0 = what a GPU has room for, else -ub (default 0)")
      ->type_name("LIST");
  command
      .add_option("--ubatch-size", options.tile,
                  "Also -ub. Tokens of a pass that are computed at a time (default 512)")
      ->type_name("LIST");
  take_word_lists(command.add_option("--prefill", options.prefill,
                                     "Who computes experts in memory for many tokens (default auto)"),
                  prefill_choices());
  take_word_lists(
      command.add_option("--cache-type-k", options.cache_types, "Also -ctk. Cache types (default bf16)"),
      cache_type_choices());
  take_word_lists(command.add_option("--attention", options.attention, "Attention modes (default sparse)"),
                  attention_choices());
  options.experts.add_to(command);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* const command = app.add_subcommand("bench", "Measure tokens per second");
  const auto options = std::make_shared<BenchOptions>();  // shared because CLI11 copies callbacks
  options->model.add_to(*command);
  add_grid_flags(*command, *options);
  take_whole_number(
      command->add_option("-r,--repetitions", options->repetitions, "Runs of each test (default 5)"), 1);
  command->add_option("-f,--file", options->file, "Take the tokens from this text; without it, random ones");
  const Choices<BenchFormat> formats{
      {"md", BenchFormat::kMarkdown}, {"csv", BenchFormat::kCsv}, {"json", BenchFormat::kJson}};
  take_words(command->add_option("-o,--output", options->format, "Form of the table (default md)"), formats);
  command->add_flag("--no-warmup", options->no_warmup, "Count the first run of each test, too");
  command->add_flag("--profile", options->profile,
                    "Tell where the time of MoE layers goes, in a table of its own (md)");
  options->placement.add_most_to(*command);
  options->expert_cache.add_to(*command);
  command
      ->add_option(
          "--n-cpu-moe", options->cpu_moe_layers,
          "Also -ncmoe. Routed experts of the first N layers stay in memory, those of the other "
          "layers go to the GPU; weights are loaded for each value (default: as many layers there as "
          "have room)")
      ->type_name("LIST")
      ->group("Placement");
  command->footer(
      "A LIST is 512,1024 or a range: 1-4, 0-8192+2048, 1-16*2. Every combination is measured.\n"
      "Example: sluice bench -p 512 -n 128 -d 0,2048 --attention sparse,dense");
  command->callback([options] { bench(*options); });
}

}  // namespace sluice::cli
