#include "engine/routed_experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>

#include "engine/backends/panel_weights.h"
#include "engine/load_stopped.h"
#include "engine/memory_need.h"
#include "engine/model_part.h"
#include "offload/bandwidth.h"
#include "offload/file_expert_source.h"
#include "quant/base/error.h"

namespace sluice {
namespace {

using offload::ExpertHome;
using offload::FileExpertLayer;
using offload::FileExpertMatrix;

std::vector<offload::ExpertLayer> expert_layers(const ModelWeights& weights) {
  std::vector<offload::ExpertLayer> layers;
  layers.reserve(weights.layers.size());
  for (const LayerWeights& layer : weights.layers) {
    layers.push_back(layer.experts);
  }
  return layers;
}

/// From views into mapped shards back to files and offsets.
class Places {
 public:
  explicit Places(const quant::GgufFile& file) : shards_(file.shards()) {
    for (const quant::Tensor& tensor : file.tensors()) {
      names_.emplace(tensor.bytes.data(), tensor.name);
    }
  }

  [[nodiscard]] FileExpertMatrix matrix(const offload::ExpertMatrix& m) const {
    for (size_t file = 0; file < shards_.size(); ++file) {
      const std::span<const std::byte> bytes = shards_[file].bytes();
      if (m.all.data >= bytes.data() && m.all.data < bytes.data() + bytes.size()) {
        return {.name = names_.at(m.all.data),
                .file = file,
                .offset = m.all.data - bytes.data(),
                .stride_rows = m.stride_rows,
                .first_row = m.first_row,
                .shape = {.dtype = m.all.dtype, .rows = m.rows, .cols = m.all.cols, .scales = m.scales}};
      }
    }
    throw Error("routed experts", "a tensor in one of the model's files", "one that is elsewhere");
  }

 private:
  std::span<const quant::MappedFile> shards_;
  std::map<const std::byte*, std::string> names_;
};

std::unique_ptr<offload::FileExpertSource> file_source(const Model& model) {
  const Places places(model.file());
  std::vector<offload::FileToRead> files;
  for (const quant::MappedFile& shard : model.file().shards()) {
    files.push_back({.path = shard.path(), .descriptor = shard.descriptor()});
  }
  std::vector<FileExpertLayer> layers;
  for (const LayerWeights& layer : model.weights().layers) {
    FileExpertLayer& added = layers.emplace_back();
    if (layer.experts.experts > 0) {
      added = {.experts = layer.experts.experts,
               .gate = places.matrix(layer.experts.gate),
               .up = places.matrix(layer.experts.up),
               .down = places.matrix(layer.experts.down)};
    }
  }
  return std::make_unique<offload::FileExpertSource>(files, std::move(layers));
}

/// A source without the experts of some layers: a GPU has them.
class RemainingExperts final : public offload::ExpertSource {
 public:
  RemainingExperts(const offload::ExpertSource& all, const std::vector<int64_t>& without)
      : all_(all), without_(without) {}

  [[nodiscard]] int64_t layers() const override { return all_.layers(); }
  [[nodiscard]] int64_t experts(int64_t layer) const override {
    return std::ranges::binary_search(without_, layer) ? 0 : all_.experts(layer);
  }
  [[nodiscard]] offload::ExpertPartShape shape(int64_t layer, offload::ExpertPart part) const override {
    return all_.shape(layer, part);
  }
  [[nodiscard]] offload::ExpertOrigin origin(int64_t layer, offload::ExpertPart part) const override {
    return all_.origin(layer, part);
  }
  [[nodiscard]] int64_t reads_at_once() const override { return all_.reads_at_once(); }
  void read(const offload::ExpertRows& what, std::span<std::byte> bytes) const override {
    all_.read(what, bytes);
  }
  [[nodiscard]] std::span<const std::byte> read_into(const offload::ExpertRows& what,
                                                     offload::ReadBuffer& buffer) const override {
    return all_.read_into(what, buffer);
  }

 private:
  const offload::ExpertSource& all_;
  const std::vector<int64_t>& without_;
};

// Nodes that have both memory and processors, by their index in Machine::nodes.
std::vector<size_t> computing_nodes(const offload::Machine& machine) {
  std::vector<size_t> nodes;
  for (size_t n = 0; n < machine.nodes.size(); ++n) {
    if (!machine.nodes[n].cores.empty() && machine.nodes[n].memory_bytes > 0) {
      nodes.push_back(n);
    }
  }
  return nodes;
}

offload::ExpertStoreOptions store_options(const RuntimeOptions& options, const offload::Machine& machine) {
  offload::ExpertStoreOptions store;
  store.progress = options.load_progress;
  store.stop = options.load_stop;
  store.check_finite = options.check_tensors;
  const std::vector<size_t> nodes = computing_nodes(machine);
  if (options.numa == NumaMode::kInterleave) {
    store.policy = offload::MemoryPolicy::kInterleave;
  } else if (options.numa == NumaMode::kAuto && nodes.size() > 1) {
    const offload::Bandwidth bandwidth =
        offload::known_bandwidth(machine, offload::cache_directory()).bandwidth;
    store.policy = offload::MemoryPolicy::kNode;
    store.homes.clear();
    for (const size_t n : nodes) {
      store.homes.push_back(
          {.node_os_index = machine.nodes[n].os_index, .gb_per_s = bandwidth.node_gb_per_s[n]});
    }
  }
  return store;
}

std::string describe(const offload::ExpertStore& store) {
  const offload::ExpertStoreFacts& facts = store.facts();
  if (facts.bytes == 0) {
    return "no experts";
  }
  const auto bytes = static_cast<double>(facts.bytes);
  std::string text = bytes < 1e9 ? fmt::format("{:.1f} MB of experts", bytes / 1e6)
                                 : fmt::format("{:.1f} GB of experts", bytes / 1e9);
  if (store.nodes() > 1) {
    text += fmt::format(" on {} NUMA nodes", store.nodes());
  }
  text += facts.huge_pages ? " in huge pages" : " in 4 KiB pages";
  return facts.not_bound.empty() ? text : fmt::format("{} (not bound: {})", text, facts.not_bound);
}

offload::ExpertStore load_store(const Model& model, const RuntimeOptions& options,
                                const offload::Machine& machine, offload::Workers& workers) {
  const auto from_file = model.expert_source() == nullptr ? file_source(model) : nullptr;
  const RemainingExperts source(from_file ? *from_file : *model.expert_source(), options.gpu_expert_layers);
  const offload::ExpertStoreOptions how = store_options(options, machine);
  const ModelPart on_cpu = parts_of(model.config(), options).cpu;
  const bool makes_panels = options.activations == Activations::kInt8;
  require_memory(model,
                 {.experts = offload::ExpertStore::bytes_needed(source, how.homes),
                  .panels = makes_panels ? PanelWeights::bytes_needed(model.weights(), on_cpu) : 0},
                 offload::available_memory_bytes());
  std::optional<offload::ExpertStore> store = offload::ExpertStore::load(source, how, workers);
  if (!store.has_value()) {
    throw LoadStopped();
  }
  return std::move(*store);
}

}  // namespace

RoutedExperts::RoutedExperts(const Model& model, const RuntimeOptions& options,
                             const offload::Machine& machine, offload::Workers& workers) {
  const bool mapped = options.expert_memory == ExpertMemory::kMapped;
  if (mapped && model.expert_source() != nullptr) {
    throw Error("--mmap", "a model file to leave the experts in", model.path().string());
  }
  // What is made in memory and has no generator is in memory already.
  if (!mapped && (model.expert_source() != nullptr || !model.file().shards().empty())) {
    store_ = load_store(model, options, machine, workers);
    description_ = describe(*store_);
  } else {
    mapped_.emplace(expert_layers(model.weights()));
    description_ = "experts mapped";
  }
}

const offload::ExpertWeights& RoutedExperts::weights() const {
  if (store_.has_value()) {
    return *store_;
  }
  return *mapped_;
}

std::vector<offload::ThreadPlace> runtime_places(const offload::Machine& machine, int64_t threads) {
  std::vector<offload::ThreadPlace> places = offload::place_threads(machine, threads);
  const std::vector<size_t> nodes = computing_nodes(machine);
  for (offload::ThreadPlace& place : places) {
    const auto home = std::ranges::find(nodes, static_cast<size_t>(place.node));
    place.node = home == nodes.end() ? 0 : static_cast<int32_t>(home - nodes.begin());
    place.cpu = threads == 1 ? -1 : place.cpu;
  }
  return places;
}

}  // namespace sluice
