#include "offload/read_ahead.h"

#include <cassert>
#include <string>
#include <system_error>
#include <utility>

#include "quant/base/error.h"

namespace sluice::offload {
namespace {

void join(std::vector<std::thread>& threads) {
  for (std::thread& thread : threads) {
    thread.join();
  }
}

}  // namespace

ReadAhead::ReadAhead(int64_t n_pieces, int64_t readers, int64_t buffers, Read read)
    : n_pieces_(n_pieces), read_(std::move(read)), unused_(static_cast<size_t>(buffers)) {
  assert(readers >= 1 && buffers >= readers);
  try {
    for (int64_t i = 0; i < readers; ++i) {
      readers_.emplace_back([this] { read_pieces(); });
    }
  } catch (const std::system_error& error) {
    stop();
    join(readers_);
    throw Error("reading ahead", std::to_string(readers) + " threads that the system lets start",
                std::to_string(readers_.size()) + ", then " + error.code().message());
  }
}

ReadAhead::~ReadAhead() {
  stop();
  join(readers_);
}

void ReadAhead::read_pieces() {
  try {
    while (std::optional<Filled> filled = next()) {
      filled->bytes = read_(filled->piece, filled->buffer);
      put(*std::move(filled));
    }
  } catch (...) {  // the top of a thread: whoever takes the next piece gets it
    fail(std::current_exception());
  }
}

std::optional<ReadAhead::Filled> ReadAhead::next() {
  std::unique_lock lock(mutex_);
  free_.wait(lock, [&] { return stopped_ || next_ == n_pieces_ || !unused_.empty(); });
  if (stopped_ || next_ == n_pieces_) {
    return {};
  }
  Filled filled{.piece = next_++, .bytes = {}, .buffer = std::move(unused_.back())};
  unused_.pop_back();
  if (next_ == n_pieces_) {
    free_.notify_all();  // the other readers are done
  }
  return filled;
}

void ReadAhead::put(Filled filled) {
  {
    const std::lock_guard lock(mutex_);
    filled_.push_back(std::move(filled));
  }
  full_.notify_one();
}

void ReadAhead::fail(std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
  }
  stop();
}

std::optional<ReadAhead::Filled> ReadAhead::take() {
  std::unique_lock lock(mutex_);
  full_.wait(lock, [&] { return stopped_ || !filled_.empty(); });
  if (error_ != nullptr) {
    std::rethrow_exception(error_);
  }
  if (stopped_) {
    return {};
  }
  Filled filled = std::move(filled_.front());
  filled_.pop_front();
  return filled;
}

void ReadAhead::give_back(Filled filled) {
  {
    const std::lock_guard lock(mutex_);
    unused_.push_back(std::move(filled.buffer));
  }
  free_.notify_one();
}

void ReadAhead::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  free_.notify_all();
  full_.notify_all();
}

}  // namespace sluice::offload
