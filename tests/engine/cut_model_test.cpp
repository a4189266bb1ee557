// A model file that is cut after it was opened and before its experts are read.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "engine/engine.h"
#include "support/error_text.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

TEST(CutModel, LoadingNamesTheTensorAndEndsItsThreads) {
  const testing::TemporaryDirectory directory;
  const fs::path path = directory / "model.gguf";
  for (const int64_t threads : {1, 3}) {
    fs::copy_file(testing::tiny_chat_model(), path, fs::copy_options::overwrite_existing);
    const Model model = Model::load(path);
    fs::resize_file(path, fs::file_size(path) / 4);
    const std::string text =
        testing::error_text([&] { return Runtime(model, {.threads = threads}).options().threads; });
    EXPECT_TRUE(text.starts_with(path.string() + ": tensor blk.")) << text;
    EXPECT_NE(text.find("_exps.weight: expected "), std::string::npos) << text;
    EXPECT_NE(text.find("bytes at byte "), std::string::npos) << text;
    EXPECT_NE(text.find("the end of the file before"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace sluice
