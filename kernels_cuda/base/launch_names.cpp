#include "kernels_cuda/base/launch_names.h"

#include <algorithm>

namespace sluice::cuda {
namespace {

/// Lists may go, and on another thread, while this one still launches.
thread_local std::weak_ptr<std::vector<std::string>> this_threads_list;

}  // namespace

// Another thread may still have the memory that it wrote to.
void LaunchNames::begin() {
  if (names_ == nullptr || thread_ != std::this_thread::get_id()) {
    names_ = std::make_shared<std::vector<std::string>>();
    thread_ = std::this_thread::get_id();
  }
  names_->clear();
  this_threads_list = names_;
}

std::vector<std::string> LaunchNames::names() const {
  return names_ == nullptr ? std::vector<std::string>() : *names_;
}

void note_launch(std::string_view name) {
  const auto list = this_threads_list.lock();
  if (list != nullptr && std::ranges::find(*list, name) == list->end()) {
    list->emplace_back(name);
  }
}

}  // namespace sluice::cuda
