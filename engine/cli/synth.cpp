// Flags of `synth`.
#include "engine/cli/synth.h"

#include <fmt/format.h>

#include <memory>
#include <string>

#include "engine/cli/conversion.h"
#include "engine/synth/model_spec.h"
#include "engine/synth/write_gguf.h"

namespace sluice::cli {
namespace {

struct SynthCommandOptions {
  std::string output;
  std::string preset{synth::preset_name(synth::Preset::kDeepSeekV32)};
  std::string type = "q8_0";
  std::string dense_type = "q8_0";
  synth::ModelSpec spec;  // the numbers
  int64_t threads = 0;
};

CLI::Validator preset_validator() {
  return CLI::Validator(
      [](const std::string& name) {
        return synth::preset_from_name(name)
                   ? std::string()
                   : fmt::format("{} is none of {}", name, fmt::join(synth::preset_names(), ", "));
      },
      "");
}

CLI::Validator generated_type_validator() {
  return CLI::Validator(
      [](const std::string& name) {
        const auto dtype = quant::dtype_from_name(name);
        return dtype && synth::can_generate(*dtype)
                   ? std::string()
                   : fmt::format("{} is none of {}", name, synth::generated_type_names());
      },
      "");
}

void synthesise(const SynthCommandOptions& command) {
  synth::ModelSpec spec = command.spec;
  // All three were checked when they were read.
  spec.preset = synth::preset_from_name(command.preset).value();
  spec.type = quant::dtype_from_name(command.type).value();
  spec.dense_type = quant::dtype_from_name(command.dense_type).value();
  run_conversion(command.output, {}, [&](const ConvertOptions& with_progress) {
    return synth::write_gguf(spec, command.output,
                             {.threads = command.threads, .progress = with_progress.progress});
  });
}

void add_type_option(CLI::App& command, const std::string& flag, std::string& value,
                     const std::string& what) {
  command
      .add_option(flag, value,
                  fmt::format("Type of {}, of {} (default q8_0)", what, synth::generated_type_names()))
      ->type_name("TYPE")
      ->check(generated_type_validator());
}

}  // namespace

void add_synth_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("synth", "Write a model of real shapes with random weights");
  const auto options = std::make_shared<SynthCommandOptions>();  // shared because CLI11 copies callbacks
  synth::ModelSpec& spec = options->spec;
  command->add_option("OUT", options->output, "GGUF file to write; it appears when it is complete")
      ->required();
  command
      ->add_option("--preset", options->preset,
                   fmt::format("Dimensions, of {} (default {})", fmt::join(synth::preset_names(), ", "),
                               options->preset))
      ->type_name("NAME")
      ->check(preset_validator());
  command
      ->add_option("--dense-layers", spec.dense_layers,
                   fmt::format("Layers with a dense FFN (default {})", spec.dense_layers))
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--moe-layers", spec.moe_layers,
                   fmt::format("Layers with routed experts, after these (default {})", spec.moe_layers))
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  add_type_option(*command, "--type", options->type, "the routed experts");
  add_type_option(*command, "--dense-type", options->dense_type, "all other large matrices");
  command->add_option("--seed", spec.seed, fmt::format("Seed of the weights (default {})", spec.seed))
      ->type_name("N");
  command->add_option("--experts", spec.experts, "Routed experts of a layer (default: the preset's)")
      ->type_name("N")
      ->check(CLI::PositiveNumber);
  command->add_option("-t,--threads", options->threads, "Threads; 0 = all physical cores (default 0)")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""));
  command->footer(
      "Example: sluice synth v32-3.gguf --dense-layers 1 --moe-layers 2 --type nvfp4\n"
      "The same without a file: sluice bench -m synth:deepseek-v3.2,dense=1,moe=2,type=nvfp4");
  command->callback([options] { synthesise(*options); });
}

}  // namespace sluice::cli
