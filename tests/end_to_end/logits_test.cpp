// `sluice logits` as a user runs it: the numbers against the engine's own, the dump against the logits,
// refusals.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "support/model_files.h"
#include "support/run_program.h"

namespace sluice {
namespace {

using testing::Arguments;
using testing::ModelFiles;
using testing::ProgramResult;
using testing::Random;
using testing::run_sluice;

/// A version 1.0 .npy file, read without the program's own code.
template <typename T>
struct Npy {
  std::string header;
  std::vector<T> values;

  explicit Npy(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8)) << path;
    uint16_t length = 0;
    std::memcpy(&length, bytes.data() + 8, 2);
    EXPECT_EQ((10U + length) % 64, 0U);
    header = bytes.substr(10, length);
    EXPECT_EQ(header.back(), '\n');
    values.resize((bytes.size() - 10 - length) / sizeof(T));
    std::memcpy(values.data(), bytes.data() + 10 + length, values.size() * sizeof(T));
  }
  [[nodiscard]] bool has_shape(const std::string& shape) const {
    return header.find("'shape': " + shape) != std::string::npos;
  }
};

class LogitsCommand : public ::testing::Test {
 protected:
  std::string id_list(int64_t n) {
    std::string list;
    for (int64_t i = 0; i < n; ++i) {
      ids_.push_back(static_cast<int32_t>(random_.integer(0, 319)));
      list += fmt::format("{}{}", i == 0 ? "" : ",", ids_.back());
    }
    return list;
  }
  ProgramResult run(const Arguments& extra) const {
    Arguments arguments{"logits", "-m",    files_.model(),        "-ctk", "f32", "-t",
                        "1",      "--out", files_.path("out.npy")};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    return run_sluice(arguments);
  }

  Random random_;
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, random_.describe()};
  ModelFiles files_{ModelFiles::Text::kWithoutTokenizer, random_};
  std::vector<int32_t> ids_;
};

TEST_F(LogitsCommand, AreTheEnginesInEveryBatchSize) {
  const std::string list = id_list(23);
  const Model model = Model::load(files_.model());
  Runtime runtime(model, {.threads = 1});
  CpuCache cache(model.config(), 23, CacheType::kF32);
  ForwardRequest request;
  request.ids = ids_;
  request.logits = Logits::kAll;
  const Runtime::Result expected = runtime.forward(request, cache);
  for (const char* const batch : {"512", "7", "1"}) {
    ASSERT_EQ(run({"--ids", list, "--last", "5", "-ub", batch}).exit_code, 0);
    const Npy<float> written(files_.path("out.npy"));
    EXPECT_TRUE(written.has_shape("(5, 320)")) << written.header;
    EXPECT_NE(written.header.find("'descr': '<f4'"), std::string::npos);
    ASSERT_EQ(written.values.size(), 5U * 320U);
    for (int64_t row = 0; row < 5; ++row) {
      for (int64_t i = 0; i < 320; ++i) {
        ASSERT_NEAR(written.values[static_cast<size_t>(row * 320 + i)],
                    expected.logits.row(18 + row)[static_cast<size_t>(i)], 1e-4)
            << "batch " << batch << " row " << row << " id " << i;
      }
    }
  }
}

TEST_F(LogitsCommand, IdFilesMayBeTextOrNpy) {
  ASSERT_EQ(run({"--ids", "5,6,319"}).exit_code, 0);
  const std::vector<float> expected = Npy<float>(files_.path("out.npy")).values;
  ASSERT_EQ(expected.size(), 320U);
  std::string header = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }";
  header.resize(117, ' ');
  const int32_t ids[] = {5, 6, 319};
  const std::string npy = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" +
                          std::string(reinterpret_cast<const char*>(ids), sizeof(ids));
  for (const std::string& content : {npy, std::string("[5, 6, 319]\n"), std::string(" 5\n6\n319 ")}) {
    const ProgramResult result = run({"--ids-file", files_.write("ids", content)});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(Npy<float>(files_.path("out.npy")).values, expected);
  }
  for (const std::string& content :
       {npy.substr(0, 9), npy.substr(0, 60), npy.substr(0, npy.size() - 1), npy + "x",
        std::string("\x93NUMPY\x02\x00\x76\x00", 10), std::string("")}) {
    const ProgramResult result = run({"--ids-file", files_.write("ids", content)});
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_NE(result.err.find("ids"), std::string::npos) << result.err;
  }
}

TEST_F(LogitsCommand, DumpHoldsEveryLayer) {
  const int64_t n = 20;
  const std::string dump = files_.path("dump");
  const ProgramResult result =
      run({"--ids", id_list(n), "--last", "20", "-ub", "6", "--dump", "layers", "--dump-dir", dump});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const std::string name : {"embed", "norm", "layer0", "layer1", "layer2", "attn0", "attn1", "attn2"}) {
    const Npy<float> file(dump + "/" + name + ".npy");
    EXPECT_TRUE(file.has_shape("(20, 192)")) << name << file.header;
    EXPECT_EQ(file.values.size(), 20U * 192U) << name;
  }
  EXPECT_FALSE(std::filesystem::exists(dump + "/experts0.npy"));  // a dense layer
  const Npy<int32_t> experts(dump + "/experts2.npy");
  EXPECT_TRUE(experts.has_shape("(20, 2)")) << experts.header;
  EXPECT_TRUE(
      std::all_of(experts.values.begin(), experts.values.end(), [](int32_t e) { return e >= 0 && e < 8; }));
  EXPECT_EQ(Npy<float>(dump + "/expert_weights1.npy").values.size(), 40U);
  EXPECT_TRUE(Npy<float>(dump + "/index_scores1.npy").has_shape("(20,)"));
}

TEST_F(LogitsCommand, DumpedSelectionsAreTheHighestScores) {
  const std::string dump = files_.path("dump");
  ASSERT_EQ(run({"--ids", id_list(20), "-ub", "6", "--dump", "layers", "--dump-dir", dump}).exit_code, 0);
  for (const std::string layer : {"0", "1", "2"}) {
    const Npy<int32_t> selected(dump + "/selected" + layer + ".npy");
    ASSERT_TRUE(selected.has_shape("(20, 8)")) << selected.header;
    const auto row = [&](int64_t token) {
      return std::vector<int32_t>(selected.values.begin() + token * 8,
                                  selected.values.begin() + token * 8 + 8);
    };
    EXPECT_EQ(row(2), (std::vector<int32_t>{0, 1, 2, -1, -1, -1, -1, -1}));
    EXPECT_EQ(row(7), (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
    const std::vector<float> scores = Npy<float>(dump + "/index_scores" + layer + ".npy").values;
    std::vector<float> sorted = scores;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (const int32_t position : row(19)) {
      ASSERT_GE(position, 0);
      EXPECT_GE(scores[static_cast<size_t>(position)], sorted[7]);
    }
  }
}

TEST_F(LogitsCommand, RefusalsAreOneLineAndLeaveNothing) {
  const std::string before = files_.listing();
  const std::string long_list = id_list(257);
  const struct {
    Arguments arguments;
    std::string part;
  } cases[] = {
      {{"--ids", "1,320"}, "320"},
      {{"--ids", "1,-1"}, "-1"},
      {{"--ids", "1,two"}, "two"},
      {{"--ids", long_list}, "257"},
      {{"--ids", "1,2", "--last", "3"}, "--last"},
      {{"--ids", "1,2", "-c", "100000"}, "100000"},
      {{"--ids-file", files_.path("none")}, "none"},
      {{"-p", "text"}, "tokenizer"},
      {{"--ids", "1", "--out", files_.path("missing/out.npy")}, "missing/out.npy"},
      {{"--ids", "1", "--dump", "layers", "--dump-dir", files_.model() + "/dump"}, "model.gguf/dump"},
  };
  for (const auto& [arguments, part] : cases) {
    Arguments all{"logits", "-m", files_.model()};
    all.insert(all.end(), arguments.begin(), arguments.end());
    if (std::find(arguments.begin(), arguments.end(), "--out") == arguments.end()) {
      all.insert(all.end(), {"--out", files_.path("out.npy")});
    }
    const ProgramResult result = run_sluice(all);
    EXPECT_EQ(result.exit_code, 1) << part;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_EQ(files_.listing(), before) << part;
  }
}

TEST_F(LogitsCommand, WrongUsageIsExitCode2) {
  for (const Arguments& arguments : {Arguments{},
                                     {"--ids", "1", "-p", "x"},
                                     {"--ids", "1", "--dump", "layers"},
                                     {"--ids", "1", "--last", "0"}}) {
    EXPECT_EQ(run(arguments).exit_code, 2);
  }
  EXPECT_EQ(run_sluice({"logits", "-m", files_.model(), "--ids", "1"}).exit_code, 2);
}

}  // namespace
}  // namespace sluice
