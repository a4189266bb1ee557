// The program: parses the command line, runs a command, and turns what goes wrong into one line and an exit
// code: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "engine/cli/bench.h"
#include "engine/cli/chat.h"
#include "engine/cli/common_options.h"
#include "engine/cli/convert.h"
#include "engine/cli/inspect.h"
#include "engine/cli/logits.h"
#include "engine/cli/lost_page.h"
#include "engine/cli/perplexity.h"
#include "engine/cli/plan.h"
#include "engine/cli/quantize.h"
#include "engine/cli/run.h"
#include "engine/cli/synth.h"
#include "engine/cli/terminal.h"
#include "engine/cli/tokenize.h"
#include "engine/cli/tune.h"
#include "quant/base/error.h"

namespace {

namespace cli = sluice::cli;

constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;

// Short forms of more than one letter, which CLI11 would take for several flags.
constexpr std::array<std::pair<std::string_view, std::string_view>, 8> kLongForms{{
    {"-ub", "--ubatch-size"},
    {"-ctk", "--cache-type-k"},
    {"-sys", "--system"},
    {"-ngl", "--n-gpu-layers"},
    {"-ncmoe", "--n-cpu-moe"},
    {"-cmoe", "--cpu-moe"},
    {"-ot", "--override-tensor"},
    {"-pg", "--prompt-gen"},
}};

std::string long_form(const std::string& argument) {
  for (const auto& [short_form, long_form] : kLongForms) {
    if (argument == short_form) return std::string(long_form);
  }
  return argument;
}

// In the order that CLI11 parses: last first.
std::vector<std::string> arguments_of(int argc, char** argv) {
  std::vector<std::string> arguments;
  for (int i = argc - 1; i > 0; --i) arguments.push_back(long_form(argv[i]));
  return arguments;
}

void write_error(std::string_view text) {
  fmt::print(stderr, "sluice: error: {}\n", text);
}

void start_log() {
  spdlog::set_default_logger(spdlog::stderr_color_mt("sluice"));
  spdlog::set_pattern("sluice: %^%l%$: %v");
  spdlog::set_level(spdlog::level::warn);
}

void add_commands(CLI::App& app, int& exit_code) {
  cli::add_chat_command(app, exit_code);
  cli::add_run_command(app, exit_code);
  cli::add_perplexity_command(app);
  cli::add_bench_command(app);
  cli::add_plan_command(app);
  cli::add_tune_command(app);
  cli::add_convert_command(app);
  cli::add_quantize_command(app);
  cli::add_synth_command(app);
  cli::add_inspect_command(app);
  cli::add_tokenize_command(app);
  cli::add_logits_command(app);
  for (CLI::App* const command : app.get_subcommands({})) cli::add_log_level(*command);
}

// `first` is the first word of the command line, or empty.
int usage_error(const CLI::App& app, const CLI::ParseError& error, std::string_view first) {
  const auto chosen = app.get_subcommands();
  if (!chosen.empty()) {
    write_error(fmt::format("{} (sluice {} --help says more)", error.what(), chosen.front()->get_name()));
  } else if (first.empty() || first.starts_with('-')) {
    write_error(fmt::format("{} (sluice --help lists them)", error.what()));
  } else {
    write_error(fmt::format("no command is named {} (sluice --help lists them)", first));
  }
  return kWrongUsage;
}

int run_command_line(int argc, char** argv) {
  int exit_code = 0;
  CLI::App app("DeepSeek-V3.2-class mixture-of-experts models on one workstation");
  app.name("sluice");
  app.set_version_flag("--version", "sluice " SLUICE_VERSION);
  app.require_subcommand(1);
  app.footer("Example:\n  sluice chat\nEvery command has a --help of its own.");
  add_commands(app, exit_code);
  try {
    app.parse(arguments_of(argc, argv));
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error, argc > 1 ? argv[1] : "");
  }
  return exit_code;
}

// What commands printed through stdio is written at the latest now; a full disk must not pass for success.
void flush_output() {
  if (std::fflush(stdout) != 0) throw std::system_error(errno, std::generic_category(), "standard output");
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);  // writing to a closed pipe is an error like others
  cli::report_lost_pages();
  try {
    start_log();
    const int exit_code = run_command_line(argc, argv);
    flush_output();
    return exit_code;
  } catch (const cli::OutputClosed&) {
    return kFailed;
  } catch (const std::bad_alloc&) {
    write_error(
        "memory: expected room for what the command needs, found none left; a smaller context (-c) or batch "
        "(-b, -ub) takes less");
  } catch (const std::system_error& error) {
    if (error.code() == std::errc::broken_pipe) return kFailed;
    write_error(
        error.code() == std::errc::resource_unavailable_try_again
            ? fmt::format("threads: expected one more that the system lets start, found {}", error.what())
            : error.what());
  } catch (const std::exception& error) {
    write_error(error.what());
  }
  return kFailed;
}
