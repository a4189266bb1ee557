// Pieces read by threads of their own, ahead of those who use them: a disk wants several reads under way at
// all times, and who waits for one cannot compute.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "offload/read_buffer.h"

namespace sluice::offload {

class ReadAhead {
 public:
  /// Reads a piece into the buffer and returns where in it the piece is. Called by several threads at once.
  using Read = std::function<std::span<const std::byte>(int64_t piece, ReadBuffer& buffer)>;

  /// A piece that was read. Its bytes are valid until it is given back.
  struct Filled {
    int64_t piece = 0;
    std::span<const std::byte> bytes;
    ReadBuffer buffer;
  };

  /// Begins to read pieces 0 .. n_pieces - 1, in this order, with so many `readers` (at least 1) and buffers
  /// (at least as many).
  ReadAhead(int64_t n_pieces, int64_t readers, int64_t buffers, Read read);
  /// Reads no further, and waits for the reads under way.
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  /// Waits for the next piece, in the order in which reads end; each goes to one caller. To be called once
  /// per piece at most. Empty after stop(). Throws what a read threw.
  [[nodiscard]] std::optional<Filled> take();
  void give_back(Filled filled);

  /// Nothing more is read; who waits in take() returns.
  void stop();

 private:
  void read_pieces();
  // A piece and a buffer for it; empty when there is nothing more to read.
  std::optional<Filled> next();
  void put(Filled filled);
  void fail(std::exception_ptr error);

  const int64_t n_pieces_;
  const Read read_;
  std::mutex mutex_;  // of what follows
  std::condition_variable free_;
  std::condition_variable full_;
  std::vector<ReadBuffer> unused_;
  std::deque<Filled> filled_;
  int64_t next_ = 0;
  bool stopped_ = false;
  std::exception_ptr error_;
  std::vector<std::thread> readers_;  // last: they use the others
};

}  // namespace sluice::offload
