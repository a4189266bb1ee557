// Flags of `quantize`.
#include "engine/cli/quantize.h"

#include <memory>
#include <string>

#include "engine/cli/conversion.h"
#include "engine/convert/convert.h"
#include "quant/dtype.h"

namespace sluice::cli {
namespace {

struct QuantizeCommandOptions {
  std::string input;
  std::string output;
  std::string type;
  TypeRuleOptions rules;
};

void quantize(const QuantizeCommandOptions& command) {
  ConvertOptions options;
  options.dtype = quant::dtype_from_name(command.type).value();  // checked when it was read
  options.rules = command.rules.rules();
  run_conversion(command.output, options, [&](const ConvertOptions& with_progress) {
    return quantize_gguf(command.input, command.output, with_progress);
  });
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("quantize", "Change the tensor types of a GGUF file");
  const auto options = std::make_shared<QuantizeCommandOptions>();  // shared because CLI11 copies callbacks
  command->add_option("IN", options->input, "GGUF file, or the first of its shards")->required();
  command->add_option("OUT", options->output, "GGUF file to write; it appears when it is complete")
      ->required();
  command->add_option("TYPE", options->type, "Type of all large matrices, of " + type_names())
      ->required()
      ->type_name("TYPE")
      ->check(type_validator());
  options->rules.add_to(*command);
  command->footer("Example: sluice quantize v32-bf16.gguf v32-q4.gguf q4_k --tensor-type 'token_embd=q8_0'");
  command->callback([options] { quantize(*options); });
}

}  // namespace sluice::cli
