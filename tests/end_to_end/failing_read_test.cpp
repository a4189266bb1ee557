// Files that cannot be read, or no longer: one line that names the file, and nothing left behind.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "support/model_files.h"
#include "support/run_program.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"
#include "support/tiny_checkpoint.h"

namespace sluice::testing {
namespace {

namespace fs = std::filesystem;

constexpr uintmax_t kKept = 65536;  // of a file that is cut: its header

/// Cuts `files` once `when` holds, and leaves the program alone.
ProgramOptions cutting(const std::vector<fs::path>& files,
                       std::function<bool(const ProgramResult& so_far)> when) {
  ProgramOptions options;
  options.interrupt_when = [files, when = std::move(when),
                            done = false](const ProgramResult& so_far) mutable {
    if (!done && when(so_far)) {
      for (const fs::path& file : files) fs::resize_file(file, kKept);
      done = true;
    }
    return false;
  };
  return options;
}

/// That it failed because one of `files` was cut.
void expect_cut(const ProgramResult& result, const std::vector<fs::path>& files) {
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(result.exit_code, 1) << result.err;
  const size_t last_line = result.err.rfind("sluice: error: ");
  ASSERT_NE(last_line, std::string::npos) << result.err;
  const std::string line = result.err.substr(last_line);
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
  EXPECT_TRUE(std::ranges::any_of(files, [&](const fs::path& file) {
    return line.starts_with("sluice: error: " + file.string() + ": expected ");
  })) << line;
  EXPECT_NE(line.find("to read byte "), std::string::npos) << line;
  EXPECT_NE(line.find("found 65536 bytes: it was cut meanwhile"), std::string::npos) << line;
}

/// Whether a conversion to out.gguf has begun.
bool converts_in(const fs::path& directory) {
  const fs::directory_iterator entries(directory);
  return std::any_of(begin(entries), end(entries), [](const fs::directory_entry& entry) {
    return entry.path().filename().string().starts_with("out.gguf.part");
  });
}

/// A checkpoint that takes a while to convert: 10 M weights in the experts. Returns its shards.
std::vector<fs::path> write_larger_checkpoint(const fs::path& directory) {
  TinyCheckpointOptions options;
  options.config.layers = 8;
  options.config.d_expert = 256;
  Random random(1);
  fs::create_directories(directory);
  write_tiny_checkpoint(directory, options, random);
  std::vector<fs::path> shards;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") shards.push_back(entry.path());
  }
  return shards;
}

TEST(FailingRead, MappedExpertsOfAFileThatIsCut) {
  const TemporaryDirectory directory;
  const fs::path model = directory / "model.gguf";
  fs::copy_file(tiny_chat_model(), model);
  const ProgramResult result =
      run_sluice({"run", "-m", model.string(), "--mmap", "--temp", "0", "-p", "the"},
                 cutting({model}, [](const ProgramResult& so_far) { return so_far.out.size() > 20; }));
  expect_cut(result, {model});
}

/// Cuts `files`, which `restore` makes, as soon as the conversion to out.gguf has begun. It may be done by
/// then: so several times if need be.
void expect_cut_conversion(const TemporaryDirectory& directory, const Arguments& command,
                           const std::function<std::vector<fs::path>()>& restore) {
  constexpr int kTries = 20;
  std::vector<fs::path> files;
  ProgramResult result;
  for (int i = 0; i < kTries && result.exit_code <= 0; ++i) {
    fs::remove(directory / "out.gguf");
    files = restore();
    result = run_sluice(command, cutting(files, [&](const ProgramResult& /*so_far*/) {
                          return converts_in(directory.path());
                        }));
  }
  expect_cut(result, files);
}

TEST(FailingRead, AConversionWhoseSourceIsCutLeavesNothing) {
  const TemporaryDirectory directory;
  const std::string out = (directory / "out.gguf").string();
  const std::string model = (directory / "model.gguf").string();
  const std::string checkpoint = (directory / "checkpoint").string();
  const std::string whole = (directory / "whole.gguf").string();
  write_larger_checkpoint(checkpoint);
  ASSERT_EQ(run_sluice({"convert", checkpoint, whole, "--type", "bf16"}).exit_code, 0);
  fs::copy_file(whole, model);
  const std::string before = directory.listing();
  expect_cut_conversion(directory, {"convert", checkpoint, out, "--type", "nvfp4"},
                        [&] { return write_larger_checkpoint(checkpoint); });
  expect_cut_conversion(directory, {"quantize", model, out, "nvfp4"}, [&] {
    fs::copy_file(whole, model, fs::copy_options::overwrite_existing);
    return std::vector<fs::path>{model};
  });
  EXPECT_EQ(directory.listing(), before);
}

TEST(FailingRead, WhatIsNoModelIsNamed) {
  const TemporaryDirectory directory;
  const fs::path half = directory / "half.gguf";
  fs::copy_file(tiny_chat_model(), half);
  fs::resize_file(half, fs::file_size(half) / 2);
  const fs::path locked = directory / "locked.gguf";
  fs::copy_file(tiny_chat_model(), locked);
  fs::permissions(locked, fs::perms::none);
  std::vector<std::pair<fs::path, std::string>> cases{{directory.path(), "found a directory"},
                                                      {directory / "none.gguf", "found No such file"},
                                                      {"/dev/zero", "found a special file"},
                                                      {half, ": tensor "}};
  if (access(locked.c_str(), R_OK) != 0)
    cases.emplace_back(locked, "found Permission denied");  // not for root
  const std::string before = directory.listing();
  for (const auto& [file, part] : cases) {
    for (const Arguments& command :
         {Arguments{"run", "-p", "a", "-m", file.string()},
          {"bench", "-m", file.string()},
          {"quantize", file.string(), (directory / "out.gguf").string(), "q8_0"}}) {
      const ProgramResult result = run_sluice(command);
      EXPECT_EQ(result.exit_code, 1) << result.err;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
      EXPECT_TRUE(result.err.starts_with("sluice: error: " + file.string())) << result.err;
      EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    }
  }
  EXPECT_EQ(directory.listing(), before);
}

}  // namespace
}  // namespace sluice::testing
