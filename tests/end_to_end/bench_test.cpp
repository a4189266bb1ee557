// `sluice bench`: which rows there are, what they hold, and what is refused. Never how fast it was.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/run_program.h"
#include "support/temporary_directory.h"
#include "support/tiny_chat_model.h"

namespace sluice::testing {
namespace {

ProgramResult bench(const Arguments& more) {
  Arguments arguments{"bench", "-m", tiny_chat_model().string()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_sluice(arguments);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

void expect_refused(const Arguments& arguments, int exit_code, const std::string& part) {
  const ProgramResult result = bench(arguments);
  EXPECT_EQ(result.exit_code, exit_code) << result.err;
  EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_EQ(result.out, "");
}

TEST(BenchCommand, MeasuresEveryCombination) {
  const ProgramResult result = bench({"-p", "4,6", "-n", "0-3+3", "-pg", "2,1", "-d", "0,5", "-t", "1-2",
                                      "-ub", "2", "--attention", "sparse,dense", "-r", "3", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(result.out);
  std::set<std::string> seen;
  for (const auto& row : rows) {
    seen.insert(row.at("n_threads").dump() + row.at("attention").dump() + row.at("n_prompt").dump() + "/" +
                row.at("n_gen").dump() + "/" + row.at("n_depth").dump());
    EXPECT_EQ(row.at("n_ubatch"), 2);
    EXPECT_EQ(row.at("n_gpu_layers") != 0, row.at("backends") == "CUDA");
    EXPECT_EQ(row.at("samples_ns").size(), 3U);
    EXPECT_NE(row.at("runs").get<std::string>().find(row.at("attention").get<std::string>()),
              std::string::npos);
  }
  // Tests: pp4, pp6, tg3 (a count of 0 is none), pp2+tg1.
  EXPECT_EQ(seen.size(), 2U * 2U * 2U * 4U);
  EXPECT_EQ(rows.size(), seen.size());
}

TEST(BenchCommand, LoadsTheExpertsOnce) {
  const ProgramResult result = bench({"-p", "4", "-n", "0", "-t", "1-2", "-ub", "2,4", "--attention",
                                      "sparse,dense", "-r", "1", "--log-level", "info"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(lines_of(result.out).size(), 2U + 8U);
  const std::string loading = "loading the experts";
  const size_t first = result.err.find(loading);
  ASSERT_NE(first, std::string::npos) << result.err;
  EXPECT_EQ(result.err.find(loading, first + 1), std::string::npos) << result.err;
}

// Without a GPU nothing depends on it, and -ngl 0 is without a GPU anywhere.
TEST(BenchCommand, MeasuresSeveralPlacements) {
  const Arguments placements{"-p", "4", "-n", "0", "-r", "1", "-ngl", "0", "-ncmoe", "0,2-3", "-ub", "2,4"};
  Arguments json = placements;
  json.insert(json.end(), {"-o", "json"});
  const ProgramResult result = bench(json);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  std::vector<std::pair<int64_t, int64_t>> seen;
  for (const auto& row : nlohmann::json::parse(result.out)) {
    seen.emplace_back(row.at("n_cpu_moe"), row.at("n_ubatch"));
  }
  const std::vector<std::pair<int64_t, int64_t>> all{{0, 2}, {0, 4}, {2, 2}, {2, 4}, {3, 2}, {3, 4}};
  EXPECT_EQ(seen, all);
  const std::vector<std::string> rows = lines_of(bench(placements).out);
  ASSERT_EQ(rows.size(), 2U + 6U);
  EXPECT_NE(rows[0].find("| n_cpu_moe |"), std::string::npos) << rows[0];
  for (const std::string& row : rows) {
    EXPECT_EQ(std::count(row.begin(), row.end(), '|'), std::count(rows[0].begin(), rows[0].end(), '|'))
        << row;
  }
}

// On the CPU a pass is computed as a whole, and nothing is streamed.
TEST(BenchCommand, TellsOfPassesAndOfWhoComputesExperts) {
  const Arguments passes{"-p", "6",   "-n", "0",  "-r",  "1",         "-ngl",
                         "0",  "-ub", "2",  "-b", "0,3", "--prefill", "auto,cpu"};
  Arguments json = passes;
  json.insert(json.end(), {"-o", "json"});
  const ProgramResult result = bench(json);
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(result.out);
  ASSERT_EQ(rows.size(), 4U);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows.at(i).at("prefill"), "cpu");
    EXPECT_EQ(rows.at(i).at("n_batch"), i % 2 == 0 ? 2 : 3);
    EXPECT_EQ(rows.at(i).at("n_ubatch"), rows.at(i).at("n_batch"));
  }
  const std::vector<std::string> lines = lines_of(bench(passes).out);
  ASSERT_EQ(lines.size(), 2U + 4U);
  EXPECT_NE(lines[0].find("| prefill | n_batch | n_ubatch |"), std::string::npos) << lines[0];
  EXPECT_NE(lines[3].find("| cpu | 3 | 3 |"), std::string::npos) << lines[3];
}

TEST(BenchCommand, AveragesAreThoseOfTheSamples) {
  const ProgramResult result = bench({"-p", "8", "-n", "0", "-r", "4", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json row = nlohmann::json::parse(result.out).at(0);
  double sum = 0;
  for (size_t i = 0; i < 4; ++i) {
    const double rate = row.at("samples_ts").at(i);
    EXPECT_NEAR(rate, 8e9 / row.at("samples_ns").at(i).get<double>(), rate * 1e-9);
    sum += rate;
  }
  EXPECT_NEAR(row.at("avg_ts").get<double>(), sum / 4, sum * 1e-9);
  double squares = 0;
  for (const double rate : row.at("samples_ts")) squares += (rate - sum / 4) * (rate - sum / 4);
  EXPECT_NEAR(row.at("stddev_ts").get<double>(), std::sqrt(squares / 3), sum * 1e-9);
}

TEST(BenchCommand, MarkdownAndCsvHoldTheSameRows) {
  const ProgramResult markdown = bench({"-p", "4", "-n", "2", "-d", "0,3", "-r", "1"});
  ASSERT_EQ(markdown.exit_code, 0) << markdown.err;
  const std::vector<std::string> rows = lines_of(markdown.out);
  ASSERT_EQ(rows.size(), 2U + 4U) << markdown.out;
  const auto bars = [](const std::string& line) { return std::count(line.begin(), line.end(), '|'); };
  for (const std::string& row : rows) EXPECT_EQ(bars(row), bars(rows.front())) << row;
  const char* const names[] = {"| pp4 |", "| tg2 |", "| pp4 @ d3 |", "| tg2 @ d3 |"};
  for (size_t i = 0; i < 4; ++i) EXPECT_NE(rows[2 + i].find(names[i]), std::string::npos) << rows[2 + i];

  const ProgramResult csv = bench({"-p", "4", "-n", "2", "-d", "0,3", "-r", "1", "-o", "csv"});
  ASSERT_EQ(csv.exit_code, 0) << csv.err;
  const std::vector<std::string> fields = lines_of(csv.out);
  ASSERT_EQ(fields.size(), 1U + 4U) << csv.out;
  EXPECT_TRUE(fields[0].starts_with("build_version,cpu_info,")) << fields[0];
  EXPECT_TRUE(fields[1].starts_with("\"")) << fields[1];
}

// More threads than a Runtime takes: the second setup fails after the first has printed its row.
TEST(BenchCommand, RowsBeforeAFailureStayAWholeTable) {
  const auto failed = [](const std::string& threads, const std::string& format) {
    ProgramResult result = bench({"-p", "4", "-n", "0", "-r", "1", "-t", threads, "-o", format});
    EXPECT_EQ(result.exit_code, 1) << result.err;
    EXPECT_EQ(result.err, "sluice: error: -t/--threads: expected 1 to 1024, found 5000\n");
    EXPECT_TRUE(result.out.empty() || result.out.ends_with('\n')) << result.out;
    return result.out;
  };
  const nlohmann::json rows = nlohmann::json::parse(failed("1,5000", "json"));
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows.at(0).at("n_threads"), 1);
  EXPECT_EQ(nlohmann::json::parse(failed("5000", "json")), nlohmann::json::array());
  EXPECT_EQ(lines_of(failed("1,5000", "csv")).size(), 1U + 1U);
  EXPECT_EQ(lines_of(failed("1,5000", "md")).size(), 2U + 1U);
}

Arguments synthetic_bench(const std::string& layers, const std::string& format) {
  return {"bench", "-m", "synth:tiny," + layers, "-p", "6", "-n", "2", "-r", "2", "-o", format};
}

TEST(BenchCommand, APartOfAModelIsExtrapolatedByItsLayers) {
  const ProgramResult result = run_sluice(synthetic_bench("dense=1,moe=2,experts=32", "json"));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const nlohmann::json rows = nlohmann::json::parse(result.out);
  ASSERT_EQ(rows.size(), 2U);
  for (const nlohmann::json& row : rows) {
    const nlohmann::json& found = row.at("extrapolated");
    EXPECT_EQ(found.at("method"), "per-layer arithmetic, not measured");
    EXPECT_EQ(found.at("remark"), "of 32 experts instead of 16");
    EXPECT_EQ(found.at("n_layer_dense"), 1);
    EXPECT_EQ(found.at("n_layer_moe"), 3);
    const double dense = found.at("dense_layer_ns");
    const double moe = found.at("moe_layer_ns");
    const double rest = found.at("rest_ns");
    for (const double ns : {dense, moe, rest}) EXPECT_GT(ns, 0);
    // The measured layers and the rest, which has a prompt's last layer, are all of the measured time.
    const int in_rest = row.at("n_prompt") == 0 ? 0 : 1;
    EXPECT_NEAR(rest + dense + (2 - in_rest) * moe, row.at("avg_ns").get<double>(), 5);
    EXPECT_NEAR(rest + dense + (3 - in_rest) * moe, found.at("avg_ns").get<double>(), 5);
    const double tokens = row.at("n_prompt").get<double>() + row.at("n_gen").get<double>();
    EXPECT_NEAR(found.at("avg_ts").get<double>(), tokens * 1e9 / found.at("avg_ns").get<double>(), 0.1);
  }
}

TEST(BenchCommand, ExtrapolationsAreLabelledAndApart) {
  const ProgramResult markdown = run_sluice(synthetic_bench("dense=1,moe=1", "md"));
  ASSERT_EQ(markdown.exit_code, 0) << markdown.err;
  const std::vector<std::string> lines = lines_of(markdown.out);
  ASSERT_EQ(lines.size(), 4U + 3U + 4U) << markdown.out;
  EXPECT_EQ(lines[4], "");
  EXPECT_TRUE(lines[5].starts_with("Extrapolated, not measured: 1 dense and 3 MoE layers, ")) << lines[5];
  EXPECT_NE(lines[7].find("| extrapolated t/s |"), std::string::npos) << lines[7];
  EXPECT_NE(lines[9].find("| pp6 | needs one more layer | | | |"), std::string::npos) << lines[9];
  EXPECT_NE(lines[10].find("| tg2 |"), std::string::npos) << lines[10];
  EXPECT_EQ(lines[10].find("needs"), std::string::npos) << lines[10];
  const ProgramResult json = run_sluice(synthetic_bench("dense=1,moe=1", "json"));
  EXPECT_TRUE(nlohmann::json::parse(json.out).at(0).at("extrapolated").is_null()) << json.out;
  const ProgramResult csv = run_sluice(synthetic_bench("dense=1,moe=1", "csv"));
  EXPECT_EQ(lines_of(csv.out).size(), 3U) << csv.out;
  EXPECT_EQ(csv.out.find("extrapolated"), std::string::npos);
}

TEST(BenchCommand, WholeModelsAreNotExtrapolated) {
  const Arguments whole[] = {synthetic_bench("dense=1,moe=3", "json"),
                             synthetic_bench("dense=0,moe=2", "json"),
                             {"bench", "-m", tiny_chat_model().string(), "-p", "4", "-n", "0", "-o", "json"}};
  for (const Arguments& arguments : whole) {
    const ProgramResult result = run_sluice(arguments);
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_FALSE(nlohmann::json::parse(result.out).at(0).contains("extrapolated")) << arguments[2];
  }
}

TEST(BenchCommand, TakesItsTokensFromAText) {
  const TemporaryDirectory directory;
  const std::string text = (directory / "text.txt").string();
  std::ofstream(text) << "the end of the story";
  const ProgramResult result = bench({"-p", "3", "-n", "1", "-f", text, "-r", "1", "-o", "json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(nlohmann::json::parse(result.out).at(0).at("tokens"), text);
  expect_refused({"-p", "4000", "-n", "0", "-f", text}, 1, "a text of at least 4000 tokens");
}

TEST(BenchCommand, RefusesWhatItCannotMeasure) {
  expect_refused({"-p", "4,,5"}, 1, "-p/--n-prompt");
  expect_refused({"-p", "many"}, 1, "found many");
  expect_refused({"-d", "9-3"}, 1, "upwards");
  expect_refused({"-d", "0-8*2"}, 1, "upwards");
  expect_refused({"-n", "1-5+0"}, 1, "upwards");
  expect_refused({"-n", "99999999999"}, 1, "2^31");
  expect_refused({"-p", "1-100000"}, 1, "1000 values");
  expect_refused({"-pg", "3"}, 1, "-pg");
  expect_refused({"-p", "0", "-n", "0"}, 1, "a number of tokens above 0");
  expect_refused({"-ub", "0"}, 1, "-ub/--ubatch-size");
  expect_refused({"-b", "x"}, 1, "-b/--batch-size");
  expect_refused({"--prefill", "auto,gpu"}, 2, "--prefill");
  expect_refused({"-ngl", "0", "--prefill", "stream"}, 1, "--prefill stream");
  expect_refused({"-p", "300000"}, 1, "300000");
  expect_refused({"-r", "0"}, 2, "--repetitions");
  expect_refused({"-o", "sql"}, 2, "--output");
  expect_refused({"--attention", "sparse,none"}, 2, "--attention");
  expect_refused({"-ncmoe", "3-1"}, 1, "-ncmoe/--n-cpu-moe");
  expect_refused({"--expert-cache", "auto", "-ncmoe", "1"}, 1, "--expert-cache");
  expect_refused({"--expert-cache", "auto", "-ngl", "0"}, 1, "--expert-cache");
  expect_refused({"--expert-cache", "1GB", "-ngl", "0"}, 1, "--expert-cache");
  expect_refused({"--expert-cache", "some"}, 2, "--expert-cache");
  expect_refused({"-ot", "exps"}, 1, "REGEX=CPU");
}

}  // namespace
}  // namespace sluice::testing
