// Flags of `convert`.
#include "engine/cli/convert.h"

#include <memory>
#include <string>

#include "engine/cli/conversion.h"
#include "engine/convert/convert.h"
#include "quant/dtype.h"

namespace sluice::cli {
namespace {

struct ConvertCommandOptions {
  std::string directory;
  std::string output;
  std::string type = "q8_0";
  std::string name;
  TypeRuleOptions rules;
};

void convert(const ConvertCommandOptions& command) {
  ConvertOptions options;
  options.dtype = quant::dtype_from_name(command.type).value();  // checked when it was read
  options.rules = command.rules.rules();
  options.name = command.name;
  run_conversion(command.output, options, [&](const ConvertOptions& with_progress) {
    return convert_checkpoint(command.directory, command.output, with_progress);
  });
}

}  // namespace

void add_convert_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("convert", "Make a GGUF file from a Hugging Face checkpoint");
  const auto options = std::make_shared<ConvertCommandOptions>();  // shared because CLI11 copies callbacks
  command->add_option("DIR", options->directory, "Directory with config.json and *.safetensors")->required();
  command->add_option("OUT", options->output, "GGUF file to write; it appears when it is complete")
      ->required();
  command
      ->add_option("--type", options->type,
                   "Type of all large matrices, of " + type_names() + " (default q8_0)")
      ->type_name("TYPE")
      ->check(type_validator());
  options->rules.add_to(*command);
  command->add_option("--name", options->name, "Name of the model (default: the directory's)");
  command->footer("Example: sluice convert DeepSeek-V3.2 v32.gguf --type nvfp4 --tensor-type 'attn_.*=q8_0'");
  command->callback([options] { convert(*options); });
}

}  // namespace sluice::cli
