// Saved sessions that are damaged, cut or not there: refused by name, and the session stays what it was.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/synth/open_model.h"
#include "support/compare.h"
#include "support/error_text.h"
#include "support/random_tensors.h"
#include "support/temporary_directory.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

class SessionFile : public ::testing::Test {
 protected:
  SessionFile() {
    saved_.prefill(std::vector<int32_t>{1, 2, 3, 4, 5});
    saved_.save(path_);
    std::ifstream file(path_, std::ios::binary);
    content_ = {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    session_.prefill(std::vector<int32_t>{7, 8});
    before_.assign(session_.logits().begin(), session_.logits().end());
  }

  void write(const std::string& content) const { std::ofstream(path_, std::ios::binary) << content; }

  /// Loading it fails with a line about the file, and changes nothing.
  void expect_refused() {
    const std::string text = testing::error_text([&] { return session_.load(path_), 0; });
    EXPECT_TRUE(text.starts_with(path_.string() + ": expected ")) << text;
    EXPECT_EQ(std::vector<int32_t>(session_.tokens().begin(), session_.tokens().end()),
              (std::vector<int32_t>{7, 8}));
    EXPECT_TRUE(testing::identical(session_.logits(), before_));
  }

  testing::TemporaryDirectory directory_;
  fs::path path_ = directory_ / "session";
  Model model_ = synth::open_model(synth::parse_model_spec("synth:tiny,dense=1,moe=1,type=q8_0"), {});
  Runtime runtime_{model_, {.threads = 1}};
  Session saved_{runtime_, 16, CacheType::kBF16};
  Session session_{runtime_, 16, CacheType::kBF16};
  std::string content_;
  std::vector<float> before_;
};

TEST_F(SessionFile, CutAnywhereItIsRefused) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  const auto size = static_cast<int64_t>(content_.size());
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{39}, int64_t{40}, random.integer(41, size - 9),
                              random.integer(41, size - 9), size - 8, size - 1}) {
    SCOPED_TRACE(bytes);
    write(content_.substr(0, static_cast<size_t>(bytes)));
    expect_refused();
  }
}

TEST_F(SessionFile, OneWrongByteIsNoticed) {
  testing::Random random;
  SCOPED_TRACE(random.describe());
  for (int trial = 0; trial < 20; ++trial) {
    const auto at = static_cast<size_t>(random.integer(0, static_cast<int64_t>(content_.size()) - 1));
    SCOPED_TRACE(at);
    std::string damaged = content_;
    damaged[at] = static_cast<char>(damaged[at] ^ static_cast<char>(random.integer(1, 127)));
    write(damaged);
    expect_refused();
  }
}

TEST_F(SessionFile, WhatIsNoFileIsRefused) {
  fs::remove(path_);
  expect_refused();
  fs::create_directory(path_);
  expect_refused();
}

TEST_F(SessionFile, ASaveThatFailsLeavesTheOldOne) {
  fs::create_directory(path_.string() + ".part-" + std::to_string(getpid()));  // where the new one is written
  EXPECT_NE(testing::error_text([&] { return session_.save(path_), 0; }), "no error");
  session_.load(path_);
  EXPECT_TRUE(testing::identical(session_.logits(), saved_.logits()));
}

}  // namespace
}  // namespace sluice
