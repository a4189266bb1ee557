// Every byte of every expert is where it belongs, and nothing is loaded that does not fit.
#include "offload/expert_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>

#include "offload/mapped_experts.h"
#include "support/error_text.h"
#include "support/non_finite.h"
#include "support/random_experts.h"

namespace sluice::offload {
namespace {

using quant::DType;
using testing::RandomExperts;

constexpr ExpertPart kParts[] = {ExpertPart::kGate, ExpertPart::kUp, ExpertPart::kDown};

ExpertStoreOptions options_for(const std::vector<double>& rates) {
  ExpertStoreOptions options;
  options.homes.clear();
  for (const double rate : rates) options.homes.push_back({.node_os_index = 0, .gb_per_s = rate});
  options.huge_pages = HugePages::kOff;
  return options;
}

class ExpertStoreTest : public ::testing::Test {
 protected:
  std::vector<double> random_rates() {
    std::vector<double> rates;
    for (int64_t n = random_.integer(1, 5); n > 0; --n) {
      rates.push_back(static_cast<double>(random_.uniform(1, 300)));
    }
    return rates;
  }

  // What the file has of a node's share of one matrix, rows one after the other.
  static std::vector<std::byte> expected(const RandomExperts& source, int64_t layer, ExpertPart part,
                                         int64_t expert, const RowRange& share) {
    const ExpertPartShape shape = source.shape(layer, part);
    const int64_t row = quant::row_bytes(shape.dtype, shape.cols);
    const auto all = source.bytes(layer, part, expert);
    std::vector<std::byte> bytes;
    const bool down = part == ExpertPart::kDown;
    const int64_t first = down ? quant::row_bytes(shape.dtype, share.begin) : 0;
    const int64_t last = down ? quant::row_bytes(shape.dtype, share.end) : row;
    for (int64_t r = down ? 0 : share.begin; r < (down ? shape.rows : share.end); ++r) {
      bytes.insert(bytes.end(), all.begin() + r * row + first, all.begin() + r * row + last);
    }
    return bytes;
  }

  static std::vector<std::byte> unpacked(const quant::PanelView& view) {
    const int64_t row = quant::row_bytes(view.layout.dtype, view.layout.cols);
    std::vector<std::byte> bytes(static_cast<size_t>(view.rows * row));
    for (int64_t p = 0; p < view.panels(); ++p) {
      const int64_t count = std::min(quant::kPanelRows, view.rows - p * quant::kPanelRows);
      quant::unpack_panel(view.layout, {view.panel(p), static_cast<size_t>(view.layout.panel_bytes)}, count,
                          std::span(bytes).subspan(static_cast<size_t>(p * quant::kPanelRows * row),
                                                   static_cast<size_t>(count * row)));
    }
    return bytes;
  }

  // Panel by panel through the interface, as exact computation reads them.
  static std::vector<std::byte> by_rows(const ExpertWeights& weights, int64_t layer, ExpertPart part,
                                        int64_t expert, int64_t node) {
    const ExpertShare& share = weights.share(layer, node);
    std::vector<std::byte> scratch(static_cast<size_t>(share.largest_panel()));
    std::vector<std::byte> bytes;
    const int64_t panels = share.panels(part);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const quant::WeightView rows = weights.rows({layer, part, expert, node, panel}, scratch);
      for (int64_t r = 0; r < rows.rows; ++r) {
        bytes.insert(bytes.end(), rows.row(r), rows.row(r) + quant::row_bytes(rows.dtype, rows.cols));
      }
    }
    return bytes;
  }

  static void expect_holds(const ExpertStore& store, const RandomExperts& source) {
    ASSERT_EQ(store.layers(), source.layers());
    for (int64_t layer = 0; layer < source.layers(); ++layer) {
      ASSERT_EQ(store.experts(layer), source.experts(layer));
      for (int64_t expert = 0; expert < source.experts(layer); ++expert) {
        for (int64_t node = 0; node < store.nodes(); ++node) {
          const ExpertStore::Expert held = store.expert(layer, expert, node);
          const RowRange share = store.share(layer, node).rows;
          for (const ExpertPart part : kParts) {
            const quant::PanelView& view = part == ExpertPart::kGate ? held.gate
                                           : part == ExpertPart::kUp ? held.up
                                                                     : held.down;
            const auto bytes = expected(source, layer, part, expert, share);
            ASSERT_EQ(unpacked(view), bytes);
            ASSERT_EQ(by_rows(store, layer, part, expert, node), bytes);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(view.data) % quant::kPanelAlignment, 0);
            const auto scales = source.shape(layer, part).scales;
            ASSERT_EQ(view.scale, scales.empty() ? 1.0F : scales[static_cast<size_t>(expert)]);
          }
        }
      }
    }
  }

  struct Piece {
    int64_t layer = 0;
    int64_t expert = 0;
    int64_t node = 0;
    std::span<const std::byte> bytes;
  };
  static std::vector<Piece> pieces(const ExpertStore& store) {
    std::vector<Piece> all;
    for (int64_t layer = 0; layer < store.layers(); ++layer) {
      for (int64_t node = 0; node < store.nodes(); ++node) {
        for (int64_t expert = 0; expert < store.experts(layer); ++expert) {
          all.push_back({layer, expert, node, store.piece(layer, expert, node)});
        }
      }
    }
    return all;
  }

  // Each is in one arena, none shares a byte with another, and of one expert and the next there is no gap.
  static void expect_apart(const std::vector<Piece>& pieces, std::vector<std::span<const std::byte>> memory) {
    std::vector<std::pair<const std::byte*, const std::byte*>> ranges;
    for (size_t i = 0; i < pieces.size(); ++i) {
      const auto& bytes = pieces[i].bytes;
      if (bytes.empty()) continue;
      ranges.emplace_back(bytes.data(), bytes.data() + bytes.size());
      EXPECT_EQ(reinterpret_cast<uintptr_t>(bytes.data()) % 64, 0);
      EXPECT_EQ(std::ranges::count_if(memory,
                                      [&](std::span<const std::byte> arena) {
                                        return bytes.data() >= arena.data() &&
                                               bytes.data() + bytes.size() <= arena.data() + arena.size();
                                      }),
                1);
      if (pieces[i].expert > 0) {
        EXPECT_EQ(pieces[i - 1].bytes.data() + pieces[i - 1].bytes.size(), bytes.data());
      }
    }
    std::ranges::sort(ranges);
    for (size_t i = 1; i < ranges.size(); ++i) EXPECT_LE(ranges[i - 1].second, ranges[i].first);
    for (const auto& arena : memory) EXPECT_EQ(reinterpret_cast<uintptr_t>(arena.data()) % 4096, 0);
  }

  testing::Random random_;
};

TEST_F(ExpertStoreTest, HoldsEveryByteForEveryTypeAndSplit) {
  SCOPED_TRACE(random_.describe());
  for (const DType gate : testing::weight_types()) {
    for (const DType down : testing::weight_types()) {
      SCOPED_TRACE(std::string(quant::dtype_info(gate).name) + " and " +
                   std::string(quant::dtype_info(down).name));
      RandomExperts source;
      source.add_dense_layer();
      auto shape = testing::random_expert_shape(gate, down, random_);
      shape.scaled = random_.integer(0, 1) != 0;
      source.add_layer(shape, random_);
      source.reads_under_way = random_.integer(0, 3);
      Workers workers(random_.integer(1, 4));
      const auto store = ExpertStore::load(source, options_for(random_rates()), workers);
      ASSERT_TRUE(store.has_value());
      expect_holds(*store, source);
    }
  }
}

TEST_F(ExpertStoreTest, LayersMayDiffer) {
  SCOPED_TRACE(random_.describe());
  RandomExperts source;
  source.add_layer({.experts = 3,
                    .d_model = 256,
                    .d_expert = 512,
                    .gate = DType::kQ4_K,
                    .up = DType::kQ8_0,
                    .down = DType::kQ6_K},
                   random_);
  source.add_dense_layer();
  source.add_layer({.experts = 2,
                    .d_model = 256,
                    .d_expert = 192,
                    .gate = DType::kNVFP4,
                    .up = DType::kNVFP4,
                    .down = DType::kNVFP4,
                    .scaled = true},
                   random_);
  Workers workers(3);
  auto store = ExpertStore::load(source, options_for({200, 100}), workers);
  ASSERT_TRUE(store.has_value());
  expect_holds(*store, source);
  ExpertStore moved = std::move(*store);  // views survive a move
  expect_holds(moved, source);
}

// A copy of a piece is all that a device needs.
TEST_F(ExpertStoreTest, CopiesOfPiecesAreTheExperts) {
  SCOPED_TRACE(random_.describe());
  for (int trial = 0; trial < 20; ++trial) {
    RandomExperts source;
    for (int64_t layers = random_.integer(1, 3); layers > 0; --layers) {
      const auto types = testing::weight_types();
      const auto any = [&] {
        return types[static_cast<size_t>(random_.integer(0, static_cast<int64_t>(types.size()) - 1))];
      };
      source.add_layer(testing::random_expert_shape(any(), any(), random_), random_);
      if (random_.integer(0, 1) != 0) source.add_dense_layer();
    }
    Workers workers(2);
    const auto store = ExpertStore::load(source, options_for(random_rates()), workers);
    ASSERT_TRUE(store.has_value());
    const auto all = pieces(*store);
    expect_apart(all, store->memory());
    int64_t bytes = 0;
    for (const Piece& piece : all) {
      bytes += static_cast<int64_t>(piece.bytes.size());
      std::vector<std::byte> copy(piece.bytes.begin(), piece.bytes.end());
      const auto there = store->expert_at(piece.layer, piece.expert, piece.node, copy.data());
      const RowRange share = store->share(piece.layer, piece.node).rows;
      EXPECT_EQ(unpacked(there.gate), expected(source, piece.layer, ExpertPart::kGate, piece.expert, share));
      EXPECT_EQ(unpacked(there.up), expected(source, piece.layer, ExpertPart::kUp, piece.expert, share));
      EXPECT_EQ(unpacked(there.down), expected(source, piece.layer, ExpertPart::kDown, piece.expert, share));
    }
    EXPECT_EQ(bytes, store->facts().bytes);
  }
}

// Sixteen rows of 280 kB are more than a piece wants to be, a thousand of 160 bytes less.
TEST_F(ExpertStoreTest, LongRowsAreReadInPieces) {
  SCOPED_TRACE(random_.describe());
  RandomExperts source;
  source.add_layer({.experts = 1, .d_model = 70'000, .d_expert = 40}, random_);
  Workers workers(2);
  const auto store = ExpertStore::load(source, options_for({1, 1}), workers);
  ASSERT_TRUE(store.has_value());
  expect_holds(*store, source);
}

TEST_F(ExpertStoreTest, PagesAreOnTheNodesTheyShouldBeOn) {
  RandomExperts source;
  source.add_layer({.experts = 8,
                    .d_model = 512,
                    .d_expert = 512,
                    .gate = DType::kQ8_0,
                    .up = DType::kQ8_0,
                    .down = DType::kQ8_0},
                   random_);
  ExpertStoreOptions options = options_for({});
  for (const NumaNode& node : probe_machine().nodes) {
    if (!node.cores.empty()) options.homes.push_back({.node_os_index = node.os_index, .gb_per_s = 1});
  }
  options.policy = MemoryPolicy::kNode;
  Workers workers(2);
  const auto store = ExpertStore::load(source, options, workers);
  ASSERT_TRUE(store.has_value());
  if (!store->facts().not_bound.empty()) GTEST_SKIP() << store->facts().not_bound;
  ASSERT_EQ(store->arenas().size(), options.homes.size());
  for (size_t node = 0; node < options.homes.size(); ++node) {
    const Arena& arena = store->arenas()[node];
    const auto pages = arena.pages_per_node();
    ASSERT_EQ(pages.size(), 1);
    EXPECT_EQ(pages[0].node_os_index, options.homes[node].node_os_index);
    EXPECT_EQ(pages[0].pages, (static_cast<int64_t>(arena.bytes().size()) + 4095) / 4096);
  }
}

TEST_F(ExpertStoreTest, TellsOfProgressUpToTheEnd) {
  RandomExperts source;
  source.add_layer({.experts = 20, .d_model = 64, .d_expert = 64}, random_);
  ExpertStoreOptions options = options_for({1});
  std::vector<LoadProgress> told;
  options.progress = [&](const LoadProgress& progress) { told.push_back(progress); };
  Workers workers(3);
  const auto store = ExpertStore::load(source, options, workers);
  ASSERT_FALSE(told.empty());
  EXPECT_TRUE(std::ranges::is_sorted(told, {}, &LoadProgress::bytes_done));
  EXPECT_EQ(told.back().bytes_done, 20 * 3 * 64 * 64 * 4);
  EXPECT_EQ(told.back().bytes_total, told.back().bytes_done);
  EXPECT_EQ(store->facts().bytes, ExpertStore::bytes_needed(source, options.homes));
}

/// A source that something happens to at a certain read.
class Eventful final : public ExpertSource {
 public:
  Eventful(const RandomExperts& source, int at, std::function<void()> event)
      : source_(source), at_(at), event_(std::move(event)) {}
  [[nodiscard]] int64_t layers() const override { return source_.layers(); }
  [[nodiscard]] int64_t experts(int64_t layer) const override { return source_.experts(layer); }
  [[nodiscard]] ExpertPartShape shape(int64_t layer, ExpertPart part) const override {
    return source_.shape(layer, part);
  }
  [[nodiscard]] ExpertOrigin origin(int64_t layer, ExpertPart part) const override {
    return source_.origin(layer, part);
  }
  [[nodiscard]] int64_t reads_at_once() const override { return source_.reads_at_once(); }
  void read(const ExpertRows& what, std::span<std::byte> bytes) const override {
    if (++reads == at_) event_();
    source_.read(what, bytes);
  }
  mutable std::atomic<int> reads = 0;

 private:
  const RandomExperts& source_;
  int at_;
  std::function<void()> event_;
};

TEST_F(ExpertStoreTest, StopsWhenAsked) {
  RandomExperts source;
  source.add_layer({.experts = 50, .d_model = 64, .d_expert = 64}, random_);
  for (const int64_t under_way : {0, 1, 3}) {
    source.reads_under_way = under_way;
    std::stop_source stop;
    const Eventful eventful(source, 10, [&] { stop.request_stop(); });
    ExpertStoreOptions options = options_for({1});
    options.stop = stop.get_token();
    Workers workers(2);
    EXPECT_FALSE(ExpertStore::load(eventful, options, workers).has_value());
    EXPECT_LT(eventful.reads, 30);
  }
}

TEST_F(ExpertStoreTest, ErrorsOfTheSourceReachTheCaller) {
  RandomExperts source;
  source.add_layer({.experts = 50, .d_model = 64, .d_expert = 64}, random_);
  constexpr int kReads = 3 * 50;
  for (const int64_t under_way : {0, 1, 3}) {
    source.reads_under_way = under_way;
    for (const int at : {1, 10, kReads}) {
      const Eventful eventful(source, at, [] { throw Error("disk", "bytes", "smoke"); });
      Workers workers(2);
      EXPECT_EQ(testing::error_text([&] { return ExpertStore::load(eventful, options_for({1}), workers); }),
                "disk: expected bytes, found smoke");
    }
  }
}

TEST_F(ExpertStoreTest, InfinityAndNaNAreFoundWhereTheyAre) {
  SCOPED_TRACE(random_.describe());
  Workers workers(2);
  for (const DType dtype : testing::weight_types()) {
    SCOPED_TRACE(quant::dtype_info(dtype).name);
    RandomExperts source;
    source.add_dense_layer();
    auto shape = testing::random_expert_shape(dtype, dtype, random_);
    source.add_layer(shape, random_);
    source.reads_under_way = random_.integer(0, 3);
    ExpertStoreOptions options = options_for(random_rates());
    options.check_finite = true;
    EXPECT_TRUE(ExpertStore::load(source, options, workers).has_value());
    const ExpertPart part = kParts[random_.integer(0, 2)];
    const int64_t expert = random_.integer(0, shape.experts - 1);
    const ExpertPartShape matrix = source.shape(1, part);
    const int64_t at = random_.integer(0, matrix.rows * matrix.cols - 1);
    testing::plant_non_finite(dtype, source.bytes_of(1, part, expert), at, random_);
    const int64_t block = quant::dtype_info(dtype).elements_per_block;
    EXPECT_EQ(testing::error_text([&] { return ExpertStore::load(source, options, workers); }),
              source.origin(1, part).tensor + ": expected finite weights, found infinity or NaN " +
                  (block > 1 ? "in the block at {" : "at {") +
                  std::to_string(at % matrix.cols / block * block) + ", " + std::to_string(at / matrix.cols) +
                  ", " + std::to_string(expert) + "}");
    options.check_finite = false;
    EXPECT_TRUE(ExpertStore::load(source, options, workers).has_value());
  }
}

/// Experts of a size that no machine has.
class Enormous final : public ExpertSource {
 public:
  [[nodiscard]] int64_t layers() const override { return 60; }
  [[nodiscard]] int64_t experts(int64_t /*layer*/) const override { return 1 << 20; }
  [[nodiscard]] ExpertPartShape shape(int64_t /*layer*/, ExpertPart part) const override {
    return {.dtype = DType::kF32,
            .rows = part == ExpertPart::kDown ? 7168 : 2048,
            .cols = part == ExpertPart::kDown ? 2048 : 7168,
            .scales = {}};
  }
  [[nodiscard]] ExpertOrigin origin(int64_t /*layer*/, ExpertPart /*part*/) const override {
    return {.tensor = "enormous", .first_row = 0};
  }
  void read(const ExpertRows& /*what*/, std::span<std::byte> /*bytes*/) const override { ADD_FAILURE(); }
};

TEST_F(ExpertStoreTest, WhatDoesNotFitIsRefusedBeforeAnythingIsRead) {
  Workers workers(2);
  const std::string text = testing::error_text([&] {
    return ExpertStore::load(Enormous(), options_for({1, 1}), workers);
  });
  const int64_t bytes = int64_t{60} * (1 << 20) * 3 * 7168 * 2048 * 4;
  EXPECT_EQ(text.find("memory for the routed experts: expected " + std::to_string(bytes) + " bytes"), 0)
      << text;
}

TEST_F(ExpertStoreTest, MappedExpertsGiveTheSamePanels) {
  SCOPED_TRACE(random_.describe());
  for (const DType dtype : testing::weight_types()) {
    RandomExperts source;
    auto shape = testing::random_expert_shape(dtype, dtype, random_);
    shape.scaled = dtype == DType::kNVFP4;
    source.add_layer(shape, random_);
    Workers workers(1);
    const auto store = ExpertStore::load(source, options_for({1}), workers);
    ASSERT_TRUE(store.has_value());
    const auto layers = source.mapped();
    const MappedExperts mapped(layers);
    const ExpertShare& share = mapped.share(0, 0);
    Arena scratch(2 * share.largest_panel(), {.huge_pages = HugePages::kOff});
    const auto mine = scratch.allocate(share.largest_panel());
    for (int64_t expert = 0; expert < shape.experts; ++expert) {
      for (const ExpertPart part : kParts) {
        EXPECT_EQ(mapped.share(0, 0).layout(part), store->share(0, 0).layout(part));
        EXPECT_EQ(mapped.scale(0, part, expert), store->scale(0, part, expert));
        EXPECT_TRUE(mapped.piece(0, expert, 0).empty());  // there is nothing to copy from
        EXPECT_EQ(by_rows(mapped, 0, part, expert, 0), by_rows(*store, 0, part, expert, 0));
        const int64_t panels = share.panels(part);
        for (int64_t p = 0; p < panels; ++p) {
          const ExpertPanel which{0, part, expert, 0, p};
          const auto size = static_cast<size_t>(share.layout(part).panel_bytes);
          const std::byte* const a = mapped.panel(which, mine);
          const std::byte* const b = store->panel(which, {});
          ASSERT_TRUE(std::equal(a, a + size, b));
        }
      }
    }
  }
}

}  // namespace
}  // namespace sluice::offload
