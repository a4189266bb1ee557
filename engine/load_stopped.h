// How the loading of a model ends that was asked to stop.
#pragma once

#include <exception>
#include <stop_token>

namespace sluice {

/// No failure: whoever asked for it knows what to do.
class LoadStopped : public std::exception {
 public:
  [[nodiscard]] const char* what() const noexcept override { return "the loading was stopped"; }
};

inline void throw_if_stopped(const std::stop_token& stop) {
  if (stop.stop_requested()) throw LoadStopped();
}

}  // namespace sluice
