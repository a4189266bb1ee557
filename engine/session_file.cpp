// Saved sessions: Session::save and Session::load. All numbers little endian:
//   char[8] "SLUICEKV" | u32 version 1 | u32 cache type | u64 model fingerprint | i64 tokens | i64 logits |
//   i32 ids[tokens] | f32 logits[] | per layer: latent rows of all tokens, then index-key rows | u64 FNV-1a
//   of all before
#include <fmt/format.h>

#include <cstring>
#include <string>

#include "engine/session.h"
#include "quant/base/error.h"
#include "quant/base/output_file.h"
#include "quant/mapped_file.h"

namespace sluice {
namespace {

constexpr char kMagic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'K', 'V'};
constexpr CachePart kParts[] = {CachePart::kLatent, CachePart::kIndexKeys};

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t cache_type;
  uint64_t fingerprint;
  int64_t tokens;
  int64_t logits;
};
static_assert(sizeof(Header) == 40);

class Checksum {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) {
      hash_ = (hash_ ^ static_cast<uint64_t>(b)) * 0x100000001B3ULL;
    }
  }
  [[nodiscard]] uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325ULL;
};

class Writer {
 public:
  // Tokens are a conversation: they are nobody else's to read.
  explicit Writer(const std::filesystem::path& path) : file_(path, OutputFile::Readers::kOwner) {}
  void write(std::span<const std::byte> bytes) {
    checksum_.add(bytes);
    file_.write(bytes);
  }
  void finish() {
    const uint64_t sum = checksum_.value();
    file_.write(std::as_bytes(std::span(&sum, 1)));
    file_.commit();
  }

 private:
  OutputFile file_;
  Checksum checksum_;
};

void copy_out(std::span<const std::byte>& rest, std::span<std::byte> out) {
  if (!out.empty()) {
    std::memcpy(out.data(), rest.data(), out.size());
  }
  rest = rest.subspan(out.size());
}

}  // namespace

void Session::save(const std::filesystem::path& path) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = 1;
  header.cache_type = static_cast<uint32_t>(cache_->type());
  header.fingerprint = runtime_.model().fingerprint();
  header.tokens = static_cast<int64_t>(tokens_.size());
  header.logits = static_cast<int64_t>(logits_.size());
  Writer writer(path);
  writer.write(std::as_bytes(std::span(&header, 1)));
  writer.write(std::as_bytes(std::span(tokens_)));
  writer.write(std::as_bytes(std::span(logits_)));
  std::vector<std::byte> rows;
  const LayerRange layers = cache_->layers();
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    for (const CachePart part : kParts) {
      rows.resize(static_cast<size_t>(header.tokens * cache_->row_bytes(part)));
      cache_->copy_out(part, layer, rows);
      writer.write(rows);
    }
  }
  writer.finish();
}

void Session::load(const std::filesystem::path& path) {
  const quant::MappedFile file(path);
  std::span<const std::byte> rest = file.bytes();
  const std::string subject = path.string();
  Header header{};
  if (rest.size() < sizeof header + sizeof(uint64_t)) {
    throw Error(subject, "a saved session", fmt::format("{} bytes", rest.size()));
  }
  copy_out(rest, std::as_writable_bytes(std::span(&header, 1)));
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0 || header.version != 1) {
    throw Error(subject, "a saved session of version 1", "other content");
  }
  if (header.fingerprint != runtime_.model().fingerprint()) {
    throw Error(subject, "a session of this model", "one of another model");
  }
  if (header.cache_type != static_cast<uint32_t>(cache_->type())) {
    throw Error(subject, fmt::format("cache type {} (-ctk)", cache_type_name(cache_->type())),
                "another cache type");
  }
  if (header.tokens < 0 || header.tokens > context()) {
    throw Error(subject, fmt::format("at most {} tokens (-c/--ctx-size)", context()),
                std::to_string(header.tokens));
  }
  const int64_t vocab = runtime_.model().config().vocab_size;
  int64_t row_bytes = 0;  // of a token in all layers
  for (const CachePart part : kParts) row_bytes += cache_->layers().count() * cache_->row_bytes(part);
  const size_t body =
      static_cast<size_t>(header.tokens * (4 + row_bytes)) + static_cast<size_t>(header.logits) * 4;
  if ((header.logits != 0 && header.logits != vocab) || rest.size() != body + sizeof(uint64_t)) {
    throw Error(subject, fmt::format("{} bytes", sizeof header + body + sizeof(uint64_t)),
                fmt::format("{} bytes", file.bytes().size()));
  }
  Checksum checksum;
  checksum.add(file.bytes().first(file.bytes().size() - sizeof(uint64_t)));
  uint64_t stored = 0;
  std::memcpy(&stored, rest.data() + body, sizeof stored);
  if (stored != checksum.value()) {
    throw Error(subject, "an undamaged session", "a wrong checksum");
  }
  // Everything is checked: only now does the session change.
  std::vector<int32_t> tokens(static_cast<size_t>(header.tokens));
  std::vector<float> logits(static_cast<size_t>(header.logits));
  copy_out(rest, std::as_writable_bytes(std::span(tokens)));
  copy_out(rest, std::as_writable_bytes(std::span(logits)));
  check_ids(tokens);
  const LayerRange layers = cache_->layers();
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    for (const CachePart part : kParts) {
      const auto bytes = static_cast<size_t>(header.tokens * cache_->row_bytes(part));
      cache_->copy_in(part, layer, rest.first(bytes));
      rest = rest.subspan(bytes);
    }
  }
  tokens_ = std::move(tokens);
  logits_ = std::move(logits);
}

}  // namespace sluice
