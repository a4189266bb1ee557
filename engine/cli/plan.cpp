#include "engine/cli/plan.h"

#include <unistd.h>

#include <memory>

#include "engine/cli/machine_choice.h"
#include "engine/cli/ncmoe_table.h"
#include "engine/cli/planning.h"
#include "engine/cli/terminal.h"

namespace sluice::cli {
namespace {

struct PlanCommandOptions {
  PlannedModelOptions model;
  MachineOptions machine;
  PlanningOptions planning;
  bool json = false;
  bool compare = false;
};

void show_plan(const PlanCommandOptions& options) {
  const offload::MachineProfile machine = options.machine.read();
  const PlannedModel model = describe_model(options.model);
  const PlanReport report = make_report(model, machine, options.planning);
  write_all(STDOUT_FILENO, options.json ? to_json(report) : to_text(report));
  if (options.compare) {
    write_all(STDOUT_FILENO, "\n" + ncmoe_table(model, machine, options.planning, report));
  }
  require_fit(report);
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* const command =
      app.add_subcommand("plan", "Show where a model would lie, what it takes and how fast it would be");
  const auto options = std::make_shared<PlanCommandOptions>();  // shared because CLI11 copies callbacks
  options->model.add_to(*command);
  options->machine.add_to(*command);
  options->planning.add_to(*command);
  CLI::Option* const json = command->add_flag("--json", options->json, "One JSON object for programs");
  command
      ->add_flag("--compare", options->compare,
                 "A table of other values of -ncmoe, too: GPU memory and predicted tokens per second")
      ->excludes(json);
  let_last_value_win(*command);
  command->footer(
      "Nothing is loaded. A plan that does not fit is shown, and ends with exit code 1 and what would help.\n"
      "Example: sluice plan --model-preset deepseek-v3.2 --type nvfp4 --machine rtx4090-768gb-ddr5-12ch -c "
      "32768");
  command->callback([options] { show_plan(*options); });
}

}  // namespace sluice::cli
