// Random weights in the storage formats of published checkpoints.
#include "support/tiny_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <span>

#include "quant/base/number.h"
#include "support/tiny_tokenizer.h"

namespace sluice::testing {
namespace {

using Json = nlohmann::json;

template <typename T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t extent : shape) {
    n *= extent;
  }
  return n;
}

/// Makes the tensors one by one and keeps both their stored and their plain form.
class Builder {
 public:
  Builder(TinyFormat format, Random& random) : format_(format), random_(random) {}

  /// `deviation` about `mean`, never quantized.
  void plain(const std::string& name, std::vector<int64_t> shape, float mean, float deviation) {
    std::vector<float> values = random_.normal(count_of(shape), deviation);
    for (float& value : values) {
      value += mean;
    }
    add_float(name, std::move(shape), std::move(values), format_ != TinyFormat::kF32);
  }
  void plain_f32(const std::string& name, std::vector<int64_t> shape, float deviation) {
    std::vector<float> values = random_.normal(count_of(shape), deviation);
    add_float(name, std::move(shape), std::move(values), false);
  }
  /// A linear map that FP8 checkpoints quantize, and NVFP4 ones when `in_nvfp4`.
  void linear(const std::string& name, int64_t rows, int64_t cols, bool in_nvfp4) {
    if (format_ == TinyFormat::kFp8Blocks) {
      fp8(name, rows, cols);
    } else if (format_ == TinyFormat::kModelOptNvfp4 && in_nvfp4) {
      nvfp4(name, rows, cols);
    } else {
      plain(name, {rows, cols}, 0.0F, 1.0F / std::sqrt(static_cast<float>(cols)));
    }
  }

  StoredTensors stored;
  TinyTensors meant;

 private:
  void add_float(const std::string& name, std::vector<int64_t> shape, std::vector<float> data, bool as_bf16) {
    if (as_bf16) {
      for (float& value : data) {
        value = bf16_to_f32(f32_to_bf16(value));
      }
    }
    stored[name] = as_bf16 ? store_bf16(shape, data) : store_f32(shape, data);
    meant[name] = {std::move(shape), std::move(data)};
  }

  void fp8(const std::string& name, int64_t rows, int64_t cols);
  void nvfp4(const std::string& name, int64_t rows, int64_t cols);

  TinyFormat format_;
  Random& random_;
};

void Builder::fp8(const std::string& name, int64_t rows, int64_t cols) {
  constexpr int64_t kBlock = 128;
  const int64_t block_rows = (rows + kBlock - 1) / kBlock;
  const int64_t block_cols = (cols + kBlock - 1) / kBlock;
  const std::vector<float> wanted = random_.normal(rows * cols, 1.0F / std::sqrt(static_cast<float>(cols)));
  std::vector<float> scales(static_cast<size_t>(block_rows * block_cols));
  for (float& scale : scales) {
    scale = random_.uniform(0.5F, 1.0F) / 256.0F;
  }
  std::vector<uint8_t> codes(wanted.size());
  std::vector<float> numbers(wanted.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      const auto i = static_cast<size_t>(r * cols + c);
      const float scale = scales[static_cast<size_t>(r / kBlock * block_cols + c / kBlock)];
      codes[i] = f32_to_e4m3(wanted[i] / scale);
      numbers[i] = e4m3_to_f32(codes[i]) * scale;
    }
  }
  stored[name] = {"F8_E4M3", {rows, cols}, bytes_of(codes)};
  stored[name + "_scale_inv"] = store_f32({block_rows, block_cols}, scales);
  meant[name] = {{rows, cols}, std::move(numbers)};
}

void Builder::nvfp4(const std::string& name, int64_t rows, int64_t cols) {
  constexpr float kE2m1[16] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6, -0.0F, -0.5F, -1, -1.5F, -2, -3, -4, -6};
  constexpr float kTypicalElement = 3.5F;  // root mean square of code times sub-block scale
  const float second = random_.uniform(0.8F, 1.2F) / (kTypicalElement * std::sqrt(static_cast<float>(cols)));
  std::vector<uint8_t> scales(static_cast<size_t>(rows * cols / 16));
  for (uint8_t& scale : scales) {
    scale = static_cast<uint8_t>(random_.integer(0x30, 0x40));  // 0.5 to 2
  }
  std::vector<uint8_t> pairs(static_cast<size_t>(rows * cols / 2));
  std::vector<float> numbers(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < pairs.size(); ++i) {
    pairs[i] = static_cast<uint8_t>(random_.integer(0, 255));
    const float scale = e4m3_to_f32(scales[i / 8]);
    numbers[2 * i] = kE2m1[pairs[i] & 15] * scale * second;  // the first product is exact
    numbers[2 * i + 1] = kE2m1[pairs[i] >> 4] * scale * second;
  }
  stored[name] = {"U8", {rows, cols / 2}, bytes_of(pairs)};
  stored[name + "_scale"] = {"F8_E4M3", {rows, cols / 16}, bytes_of(scales)};
  stored[name + "_scale_2"] = store_f32({}, {second});
  stored[name.substr(0, name.size() - 6) + "input_scale"] = store_f32({}, {1.0F});
  meant[name] = {{rows, cols}, std::move(numbers)};
}

void add_attention(const ModelConfig& c, const std::string& layer, Builder& build) {
  const std::string attention = layer + "self_attn.";
  build.plain(layer + "input_layernorm.weight", {c.d_model}, 1.0F, 0.1F);
  build.plain(layer + "post_attention_layernorm.weight", {c.d_model}, 1.0F, 0.1F);
  build.linear(attention + "q_a_proj.weight", c.q_rank, c.d_model, false);
  build.plain(attention + "q_a_layernorm.weight", {c.q_rank}, 1.0F, 0.1F);
  build.linear(attention + "q_b_proj.weight", c.heads * (c.d_nope + c.d_rope), c.q_rank, false);
  build.linear(attention + "kv_a_proj_with_mqa.weight", c.d_latent + c.d_rope, c.d_model, false);
  build.plain(attention + "kv_a_layernorm.weight", {c.d_latent}, 1.0F, 0.1F);
  build.linear(attention + "kv_b_proj.weight", c.heads * (c.d_nope + c.d_value), c.d_latent, false);
  build.linear(attention + "o_proj.weight", c.d_model, c.heads * c.d_value, true);
  build.linear(attention + "indexer.wq_b.weight", c.index_heads * c.d_index, c.q_rank, false);
  build.linear(attention + "indexer.wk.weight", c.d_index, c.d_model, false);
  build.plain(attention + "indexer.k_norm.weight", {c.d_index}, 1.0F, 0.1F);
  build.plain(attention + "indexer.k_norm.bias", {c.d_index}, 0.0F, 0.1F);
  build.plain_f32(attention + "indexer.weights_proj.weight", {c.index_heads, c.d_model},
                  1.0F / std::sqrt(static_cast<float>(c.d_model)));
}

void add_mlp(const std::string& prefix, int64_t width, int64_t d_model, bool in_nvfp4, Builder& build) {
  build.linear(prefix + "gate_proj.weight", width, d_model, in_nvfp4);
  build.linear(prefix + "up_proj.weight", width, d_model, in_nvfp4);
  build.linear(prefix + "down_proj.weight", d_model, width, in_nvfp4);
}

void add_ffn(const ModelConfig& c, int64_t index, const std::string& layer, Builder& build) {
  const std::string mlp = layer + "mlp.";
  const bool in_nvfp4 = index < c.layers;  // exporters leave the MTP layer alone
  if (index < c.dense_layers) {
    add_mlp(mlp, c.d_ffn, c.d_model, in_nvfp4, build);
    return;
  }
  build.plain(mlp + "gate.weight", {c.router.experts, c.d_model}, 0.0F,
              1.0F / std::sqrt(static_cast<float>(c.d_model)));
  build.plain_f32(mlp + "gate.e_score_correction_bias", {c.router.experts}, 0.1F);
  for (int64_t expert = 0; expert < c.router.experts; ++expert) {
    add_mlp(fmt::format("{}experts.{}.", mlp, expert), c.d_expert, c.d_model, in_nvfp4, build);
  }
  add_mlp(mlp + "shared_experts.", c.d_expert * c.shared_experts, c.d_model, in_nvfp4, build);
}

void add_mtp(const ModelConfig& c, const std::string& layer, Builder& build) {
  build.plain(layer + "enorm.weight", {c.d_model}, 1.0F, 0.1F);
  build.plain(layer + "hnorm.weight", {c.d_model}, 1.0F, 0.1F);
  build.plain(layer + "eh_proj.weight", {c.d_model, 2 * c.d_model}, 0.0F, 0.05F);
  build.plain(layer + "shared_head.norm.weight", {c.d_model}, 1.0F, 0.1F);
  build.plain(layer + "embed_tokens.weight", {c.vocab_size, c.d_model}, 0.0F, 0.5F);
  build.plain(layer + "shared_head.head.weight", {c.vocab_size, c.d_model}, 0.0F, 0.1F);
}

void write_text(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

void write_shards(const std::filesystem::path& directory, const StoredTensors& tensors, int shards) {
  if (shards == 1) {
    write_safetensors(directory / "model.safetensors", tensors);
    return;
  }
  std::vector<StoredTensors> split(static_cast<size_t>(shards));
  Json weight_map = Json::object();
  size_t next = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t shard = next++ % split.size();
    split[shard][name] = tensor;
    weight_map[name] = fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
  }
  for (size_t shard = 0; shard < split.size(); ++shard) {
    write_safetensors(directory / fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards),
                      split[shard]);
  }
  write_text(directory / "model.safetensors.index.json",
             Json{{"metadata", Json::object()}, {"weight_map", std::move(weight_map)}}.dump());
}

}  // namespace

StoredTensor store_f32(std::vector<int64_t> shape, const std::vector<float>& values) {
  return {"F32", std::move(shape), bytes_of(values)};
}

StoredTensor store_bf16(std::vector<int64_t> shape, const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), f32_to_bf16);
  return {"BF16", std::move(shape), bytes_of(halves)};
}

TinyTensors write_tiny_checkpoint(const std::filesystem::path& directory,
                                  const TinyCheckpointOptions& options, Random& random) {
  const ModelConfig& c = options.config;
  Builder build(options.format, random);
  build.plain("model.embed_tokens.weight", {c.vocab_size, c.d_model}, 0.0F, 0.5F);
  build.plain("model.norm.weight", {c.d_model}, 1.0F, 0.1F);
  build.plain("lm_head.weight", {c.vocab_size, c.d_model}, 0.0F, 0.1F);
  for (int64_t index = 0; index < c.layers + c.mtp_layers; ++index) {
    const std::string layer = fmt::format("model.layers.{}.", index);
    add_attention(c, layer, build);
    add_ffn(c, index, layer, build);
    if (index >= c.layers) {
      add_mtp(c, layer, build);
    }
  }
  Json config = tiny_config_json(c, options.rope_parameters);
  if (options.edit_config) {
    options.edit_config(config);
  }
  write_text(directory / "config.json", config.dump(2));
  if (options.edit_tensors) {
    options.edit_tensors(build.stored);
  }
  write_shards(directory, build.stored, options.shards);
  if (options.tokenizer) {
    write_tiny_tokenizer(directory);
  }
  return std::move(build.meant);
}

void write_safetensors(const std::filesystem::path& path, const StoredTensors& tensors) {
  Json header = Json::object();
  size_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::ofstream file(path, std::ios::binary);
  const auto length = static_cast<uint64_t>(text.size());
  char prefix[sizeof(length)];
  std::memcpy(prefix, &length, sizeof(length));
  file.write(prefix, sizeof(prefix));
  file << text;
  for (const auto& [name, tensor] : tensors) {
    file.write(reinterpret_cast<const char*>(tensor.bytes.data()),
               static_cast<std::streamsize>(tensor.bytes.size()));
  }
}

}  // namespace sluice::testing
