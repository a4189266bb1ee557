// Fills an ExpertStore: pieces of the source's matrices are read, or made, cut by rows or columns, and packed
// where they belong by all workers.
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>

#include "offload/expert_store.h"
#include "offload/read_ahead.h"
#include "quant/finite.h"

namespace sluice::offload {
namespace {

using Clock = std::chrono::steady_clock;

// One read: large enough for a disk's full speed, small enough that few of them fit the buffers of many
// threads.
constexpr int64_t kPieceBytes = 4 << 20;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Counts bytes of several threads and tells of them now and then.
class Meter {
 public:
  Meter(int64_t total, const std::function<void(const LoadProgress&)>& progress)
      : total_(total), progress_(progress) {}

  void add(int64_t bytes) {
    const int64_t done = done_.fetch_add(bytes) + bytes;
    if (!progress_) {
      return;
    }
    const bool last = done == total_;
    std::unique_lock lock(mutex_, std::defer_lock);
    if (last) {
      lock.lock();  // the end is told in any case
    } else if (!lock.try_lock()) {
      return;
    }
    constexpr double kSecondsBetween = 0.1;
    if (last || seconds_since(told_) >= kSecondsBetween) {
      told_ = Clock::now();
      progress_({.bytes_done = done, .bytes_total = total_, .gb_per_s = gb_per_s()});
    }
  }

  [[nodiscard]] double seconds() const { return seconds_since(begin_); }
  [[nodiscard]] double gb_per_s() const {
    return static_cast<double>(done_.load()) / 1e9 / std::max(seconds(), 1e-9);
  }

 private:
  const int64_t total_;
  const std::function<void(const LoadProgress&)>& progress_;
  const Clock::time_point begin_ = Clock::now();
  std::atomic<int64_t> done_ = 0;
  std::mutex mutex_;
  Clock::time_point told_ = begin_;
};

}  // namespace

/// One loading.
class ExpertLoad {
 public:
  ExpertLoad(const ExpertSource& source, const ExpertStoreOptions& options, Workers& workers)
      : source_(source), options_(options), workers_(workers) {}

  std::optional<ExpertStore> run() {
    store_.layers_ = ExpertStore::lay_out(source_, options_.homes);
    allocate();
    list_pieces();
    Meter meter(total_bytes_, options_.progress);
    if (source_.reads_at_once() > 0) {
      pack_what_is_read(meter);
    } else {
      make_and_pack(meter);
    }
    if (options_.stop.stop_requested()) {
      return std::nullopt;
    }
    store_.facts_.seconds = meter.seconds();
    store_.facts_.gb_per_s = meter.gb_per_s();
    return std::move(store_);
  }

 private:
  void allocate() {
    std::vector<int64_t> bytes(options_.homes.size());
    for (const ExpertStore::Layer& layer : store_.layers_) {
      for (size_t node = 0; node < bytes.size(); ++node) {
        bytes[node] += layer.experts * layer.nodes[node].share.piece_bytes();
      }
    }
    for (const int64_t b : bytes) {
      store_.facts_.bytes += b;
    }
    check_memory(store_.facts_.bytes, "the routed experts");
    ArenaOptions options{.purpose = "the routed experts",
                         .policy = options_.policy,
                         .node_os_index = 0,
                         .huge_pages = options_.huge_pages};
    for (size_t node = 0; node < bytes.size(); ++node) {
      options.node_os_index = options_.homes[node].node_os_index;
      const Arena& arena = store_.arenas_.emplace_back(bytes[node], options);
      // One answer for all arenas.
      options.huge_pages = arena.huge_pages() ? HugePages::kOn : HugePages::kOff;
      store_.facts_.huge_pages = arena.huge_pages();
      if (!arena.not_bound().empty()) {
        store_.facts_.not_bound = arena.not_bound();
      }
    }
    for (ExpertStore::Layer& layer : store_.layers_) {
      for (size_t node = 0; node < bytes.size(); ++node) {
        ExpertStore::NodeLayer& held = layer.nodes[node];
        held.data = store_.arenas_[node].allocate(layer.experts * held.share.piece_bytes()).data();
      }
    }
  }

  // In the order of the files: a tensor holds one part of all experts.
  void list_pieces() {
    for (int64_t layer = 0; layer < store_.layers(); ++layer) {
      for (const ExpertPart part : {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown}) {
        if (store_.experts(layer) == 0) {
          continue;
        }
        const ExpertPartShape shape = source_.shape(layer, part);
        const int64_t row_bytes = quant::row_bytes(shape.dtype, shape.cols);
        const int64_t panels = std::max<int64_t>(kPieceBytes / (row_bytes * quant::kPanelRows), 1);
        const int64_t step = panels * quant::kPanelRows;
        for (int64_t expert = 0; expert < store_.experts(layer); ++expert) {
          for (int64_t row = 0; row < shape.rows; row += step) {
            pieces_.push_back({layer, part, expert, row, std::min(step, shape.rows - row)});
            total_bytes_ += pieces_.back().rows * row_bytes;
          }
        }
      }
    }
  }

  // Threads of their own wait for the disk, the workers pack what has come.
  void pack_what_is_read(Meter& meter) {
    const int64_t readers = source_.reads_at_once();
    ReadAhead ahead(n_pieces(), readers, readers + 2 * workers_.threads(),
                    [&](int64_t i, ReadBuffer& buffer) { return source_.read_into(piece(i), buffer); });
    workers_.for_ranges(n_pieces(), 1, [&](int64_t, int64_t, int64_t) {
      if (options_.stop.stop_requested()) {
        ahead.stop();
        return;
      }
      if (std::optional<ReadAhead::Filled> filled = ahead.take()) {
        pack(piece(filled->piece), filled->bytes, meter);
        ahead.give_back(*std::move(filled));
      }
    });
  }

  void make_and_pack(Meter& meter) {
    std::vector<ReadBuffer> buffers(static_cast<size_t>(workers_.threads()));
    workers_.for_ranges(n_pieces(), 1, [&](int64_t i, int64_t, int64_t worker) {
      if (!options_.stop.stop_requested()) {
        pack(piece(i), source_.read_into(piece(i), buffers[static_cast<size_t>(worker)]), meter);
      }
    });
  }

  [[nodiscard]] int64_t n_pieces() const { return static_cast<int64_t>(pieces_.size()); }
  [[nodiscard]] const ExpertRows& piece(int64_t i) const { return pieces_[static_cast<size_t>(i)]; }

  void pack(const ExpertRows& piece, std::span<const std::byte> bytes, Meter& meter) {
    const ExpertPartShape shape = source_.shape(piece.layer, piece.part);
    if (options_.check_finite) {
      const ExpertOrigin origin = source_.origin(piece.layer, piece.part);
      quant::require_finite(origin.tensor, shape.dtype, shape.cols, bytes,
                            {.row = origin.first_row + piece.first_row, .slice = piece.expert});
    }
    const quant::WeightView rows{.dtype = shape.dtype,
                                 .data = bytes.data(),
                                 .rows = piece.rows,
                                 .cols = shape.cols,
                                 .row_bytes = quant::row_bytes(shape.dtype, shape.cols)};
    for (int64_t first = 0; first < piece.rows; first += quant::kPanelRows) {
      const auto sixteen = rows.rows_from(first, std::min(quant::kPanelRows, piece.rows - first));
      for (int64_t node = 0; node < store_.nodes(); ++node) {
        pack_panel(piece, piece.first_row + first, sixteen, node);
      }
    }
    meter.add(static_cast<int64_t>(bytes.size()));
  }

  // Sixteen rows from `row` on: what of them the node holds.
  void pack_panel(const ExpertRows& piece, int64_t row, quant::WeightView rows, int64_t node) {
    const ExpertShare& share = store_.share(piece.layer, node);
    ExpertPanel where{.layer = piece.layer, .part = piece.part, .expert = piece.expert, .node = node};
    if (piece.part == ExpertPart::kDown) {
      where.panel = row / quant::kPanelRows;
      rows.data += quant::row_bytes(rows.dtype, share.rows.begin);
      rows.cols = share.rows.size();
    } else if (row >= share.rows.begin && row < share.rows.end) {  // shares begin at multiples of 32
      where.panel = (row - share.rows.begin) / quant::kPanelRows;
    } else {
      return;
    }
    if (share.rows.size() > 0) {
      const quant::PanelLayout& layout = share.layout(piece.part);
      quant::pack_panel(layout, rows, {store_.panel_at(where), static_cast<size_t>(layout.panel_bytes)});
    }
  }

  const ExpertSource& source_;
  const ExpertStoreOptions& options_;
  Workers& workers_;
  ExpertStore store_;
  std::vector<ExpertRows> pieces_;
  int64_t total_bytes_ = 0;
};

std::optional<ExpertStore> ExpertStore::load(const ExpertSource& source, const ExpertStoreOptions& options,
                                             Workers& workers) {
  return ExpertLoad(source, options, workers).run();
}

}  // namespace sluice::offload
