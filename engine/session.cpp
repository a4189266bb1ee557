#include "engine/session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "quant/base/error.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

int64_t checked_context(const Model& model, int64_t context) {
  const int64_t longest = model.config().context_length;
  if (context == 0) {
    return longest;
  }
  if (context < 1 || context > longest) {
    throw Error("-c/--ctx-size", fmt::format("1 to {} (the model's context length; 0 = all of it)", longest),
                std::to_string(context));
  }
  return context;
}

/// Tokens of the next pass of `rest`: as many passes as there must be, all alike.
int64_t pass_of(int64_t rest, int64_t most) {
  const int64_t passes = (rest + most - 1) / most;
  return (rest + passes - 1) / passes;
}

/// Calls a function when it goes.
template <typename Fn>
class AtEnd {
 public:
  explicit AtEnd(Fn fn) : fn_(std::move(fn)) {}
  ~AtEnd() { fn_(); }
  AtEnd(const AtEnd&) = delete;
  AtEnd& operator=(const AtEnd&) = delete;

 private:
  Fn fn_;
};

}  // namespace

Session::Session(Runtime& runtime, int64_t context, CacheType cache_type)
    : runtime_(runtime), cache_(runtime.make_cache(checked_context(runtime.model(), context), cache_type)) {
  tokens_.reserve(static_cast<size_t>(cache_->capacity()));
}

PrefillReport Session::prefill(std::span<const int32_t> ids, const PrefillProgress& progress,
                               const std::stop_token& stop) {
  const auto start = Clock::now();
  const auto total = static_cast<int64_t>(ids.size());
  if (total < 1) {
    throw Error("prompt", "at least one token", "none");
  }
  if (total > context()) {
    throw Error("prompt", fmt::format("at most {} tokens (-c/--ctx-size)", context()),
                fmt::format("{} tokens", total));
  }
  check_ids(ids);
  const auto differs = std::mismatch(tokens_.begin(), tokens_.end(), ids.begin(), ids.end());
  const bool unchanged = differs.second == ids.end() && tokens_.size() == ids.size() && !logits_.empty();
  if (unchanged) {
    return {.tokens = total, .cached = total, .seconds = seconds_since(start), .completed = true};
  }
  // The last token is computed even when its cache row is there: its logits are not.
  const int64_t cached = std::min<int64_t>(differs.second - ids.begin(), total - 1);
  truncate(cached);
  PrefillReport report{.tokens = total, .cached = cached, .seconds = 0, .completed = true};
  for (int64_t done = cached; done < total && report.completed;) {
    const int64_t n = pass_of(total - done, runtime_.options().max_batch);
    const auto layer_done = [&](int64_t layers) {
      progress(done + n * layers / runtime_.model().config().layers, total);
    };
    report.completed = compute({.ids = ids.subspan(static_cast<size_t>(done), static_cast<size_t>(n)),
                                .first_position = done,
                                .logits = done + n == total ? Logits::kLast : Logits::kNone,
                                .stop = stop,
                                .progress = progress ? layer_done : std::function<void(int64_t)>()});
    done += n;
  }
  report.seconds = seconds_since(start);
  return report;
}

void Session::check_ids(std::span<const int32_t> ids) const {
  const int64_t vocab = runtime_.model().config().vocab_size;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab) {
      throw Error("token id", fmt::format("0 to {}", vocab - 1), std::to_string(id));
    }
  }
}

bool Session::compute_next(int32_t id, const std::stop_token& stop,
                           const std::optional<CandidateRequest>& candidates) {
  return compute({.ids = {&id, 1},
                  .first_position = static_cast<int64_t>(tokens_.size()),
                  .logits = Logits::kLast,
                  .candidates = candidates,
                  .stop = stop});
}

bool Session::compute(const ForwardRequest& request) {
  Runtime::Result result = runtime_.forward(request, *cache_);
  if (!result.completed) {
    return false;
  }
  tokens_.insert(tokens_.end(), request.ids.begin(), request.ids.end());
  logits_.clear();
  candidates_ = std::move(result.candidates);
  if (request.logits == Logits::kLast && !candidates_.has_value()) {
    const std::span<const float> row = result.logits.row(0);
    logits_.assign(row.begin(), row.end());
  }
  return true;
}

void Session::append(int32_t id) {
  if (static_cast<int64_t>(tokens_.size()) >= context()) {
    throw Error("-c/--ctx-size", fmt::format("room for token {}", tokens_.size() + 1),
                fmt::format("a context of {}", context()));
  }
  compute_next(id, {});
}

int32_t Session::sample(Sampler& sampler, std::span<const int32_t> history) {
  if (candidates_.has_value()) {
    if (const std::optional<int32_t> id = sampler.sample(*candidates_); id.has_value()) {
      return *id;
    }
    read_logits();
  }
  return sampler.sample(logits(), history);
}

void Session::read_logits() {
  if (candidates_.has_value()) {
    const std::span<const float> row = runtime_.read_logits();
    logits_.assign(row.begin(), row.end());
    candidates_.reset();
  }
}

GenerateReport Session::generate(Sampler& sampler, const GenerateOptions& options) {
  const auto start = Clock::now();
  const AtEnd forget([this] { candidates_.reset(); });  // an exception: nothing is known of the logits
  const Model& model = runtime_.model();
  GenerateReport report;
  // Includes the token sampled last, which is not computed yet.
  std::vector<int32_t> history(tokens_.begin(), tokens_.end());
  while (true) {
    if (options.max_tokens >= 0 && static_cast<int64_t>(report.ids.size()) >= options.max_tokens) {
      report.reason = StopReason::kMaxTokens;
      break;
    }
    if (options.stop.stop_requested()) {
      report.reason = StopReason::kStopped;
      break;
    }
    const int32_t id = sample(sampler, history);
    if (!options.ignore_eos && model.has_tokenizer() && model.tokenizer().is_end_of_generation(id)) {
      report.reason = StopReason::kEndOfGeneration;
      break;
    }
    report.ids.push_back(id);
    history.push_back(id);
    if (options.on_token && !options.on_token(id)) {
      report.reason = StopReason::kStopped;
      break;
    }
    if (static_cast<int64_t>(tokens_.size()) >= context()) {
      report.reason = StopReason::kContextFull;
      break;
    }
    const bool last =
        options.max_tokens >= 0 && static_cast<int64_t>(report.ids.size()) >= options.max_tokens;
    if (!last && !compute_next(id, options.stop, sampler.request())) {
      report.reason = StopReason::kStopped;
      break;
    }
  }
  read_logits();
  report.seconds = seconds_since(start);
  return report;
}

std::span<const float> Session::logits() const {
  if (logits_.empty()) {
    throw Error("session", "a computed prompt", "none");
  }
  return logits_;
}

void Session::truncate(int64_t count) {
  if (count < static_cast<int64_t>(tokens_.size())) {
    tokens_.resize(static_cast<size_t>(std::max<int64_t>(count, 0)));
    logits_.clear();
  }
}

}  // namespace sluice
