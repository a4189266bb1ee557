// Which kernels a thread launched since a list was begun. CUDA tells that a kernel failed to whatever call
// comes later and names none; these are those that it can have been.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace sluice::cuda {

class LaunchNames {
 public:
  /// Empties the list and has this thread's launches noted in it, until another list begins or this one is
  /// gone.
  void begin();
  /// Each name once, in the order of the first launches.
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  std::shared_ptr<std::vector<std::string>> names_;
  std::thread::id thread_;  // that notes launches there
};

/// Notes a launch in this thread's list, if there is one. Cheap: a list has few names.
void note_launch(std::string_view name);

}  // namespace sluice::cuda
