// A measurement that is plausible, and a memory that is never trusted too far.
#include "offload/bandwidth.h"

#include <gtest/gtest.h>
#include <stdlib.h>  // setenv

#include <fstream>
#include <functional>
#include <iterator>

#include "support/temporary_directory.h"

namespace sluice::offload {
namespace {

std::filesystem::path only_file(const std::filesystem::path& directory) {
  std::filesystem::path found;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    found = entry.path();
    ++files;
  }
  EXPECT_EQ(files, 1);
  return found;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void expect_plausible(const Machine& machine, const Bandwidth& bandwidth) {
  ASSERT_EQ(bandwidth.node_gb_per_s.size(), machine.nodes.size());
  EXPECT_GT(bandwidth.total_gb_per_s, 0);
  for (size_t n = 0; n < machine.nodes.size(); ++n) {
    EXPECT_EQ(bandwidth.node_gb_per_s[n] > 0, !machine.nodes[n].cores.empty());
  }
}

TEST(Bandwidth, MeasuredIsPlausible) {
  const Machine machine = probe_machine();
  expect_plausible(machine, measure_bandwidth(machine));
}

Machine small_machine() {
  return machine_from_synthetic("numa:1(memory=1073741824) core:1 pu:1");
}

// Measures in no time, another figure each time.
struct Measurements {
  int made = 0;

  std::function<Bandwidth(const Machine&)> measure() {
    return [this](const Machine& machine) {
      ++made;
      return Bandwidth{.node_gb_per_s = std::vector<double>(machine.nodes.size(), 10.25 + made),
                       .total_gb_per_s = 20.5 + made};
    };
  }
};

TEST(Bandwidth, MeasuredOnceThenRemembered) {
  const testing::TemporaryDirectory temporary;
  const std::filesystem::path directory = temporary / "not/yet/there";
  Measurements measurements;

  const KnownBandwidth measured = known_bandwidth(small_machine(), directory, measurements.measure());
  EXPECT_FALSE(measured.from_cache);
  EXPECT_EQ(measured.not_saved, "");
  EXPECT_EQ(measured.bandwidth.total_gb_per_s, 21.5);

  const KnownBandwidth remembered = known_bandwidth(small_machine(), directory, measurements.measure());
  EXPECT_TRUE(remembered.from_cache);
  EXPECT_EQ(remembered.bandwidth.node_gb_per_s, measured.bandwidth.node_gb_per_s);
  EXPECT_EQ(remembered.bandwidth.total_gb_per_s, measured.bandwidth.total_gb_per_s);
  EXPECT_EQ(measurements.made, 1);
}

TEST(Bandwidth, NonsenseInTheFileIsMeasuredAnew) {
  const testing::TemporaryDirectory directory;
  Measurements measurements;
  const auto known = [&] {
    return known_bandwidth(small_machine(), directory.path(), measurements.measure());
  };
  EXPECT_FALSE(known().from_cache);
  const std::filesystem::path file = only_file(directory.path());
  const std::string right = text_of(file);
  const std::string name =
      right.substr(right.find("\"machine\""), right.find("\"node_gb") - right.find("\"machine\""));
  int made = measurements.made;
  for (const std::string& bad :
       {right.substr(0, right.size() / 2),
        std::string("{" + name + "\"node_gb_per_s\": [1, 2], \"total_gb_per_s\": 3}"),
        std::string("{" + name + "\"node_gb_per_s\": [-1], \"total_gb_per_s\": 3}"),
        std::string("{" + name + "\"node_gb_per_s\": [1], \"total_gb_per_s\": \"much\"}"),
        std::string("{\"machine\": \"another\", \"node_gb_per_s\": [1], \"total_gb_per_s\": 3}"),
        std::string("[]")}) {
    std::ofstream(file) << bad;
    EXPECT_FALSE(known().from_cache) << bad;
    EXPECT_EQ(measurements.made, ++made) << bad;
    EXPECT_TRUE(known().from_cache) << "after " << bad;
  }
  std::ofstream(file) << "{" + name + "\"node_gb_per_s\": [1], \"total_gb_per_s\": 3}";
  EXPECT_TRUE(known().from_cache);
  EXPECT_EQ(known().bandwidth.total_gb_per_s, 3);
}

TEST(Bandwidth, ADirectoryThatCannotBeMadeIsNoError) {
  const testing::TemporaryDirectory temporary;
  std::ofstream(temporary / "file") << "in the way";
  Measurements measurements;
  const KnownBandwidth known =
      known_bandwidth(small_machine(), temporary / "file" / "cache", measurements.measure());
  EXPECT_GT(known.bandwidth.total_gb_per_s, 0);
  EXPECT_NE(known.not_saved, "");
  EXPECT_NE(known_bandwidth(small_machine(), {}, measurements.measure()).not_saved, "");
}

TEST(Bandwidth, CacheDirectory) {
  const char* const home = getenv("HOME");
  const std::string old_home = home == nullptr ? "" : home;
  setenv("XDG_CACHE_HOME", "/x/cache", 1);
  EXPECT_EQ(cache_directory(), "/x/cache/sluice");
  setenv("XDG_CACHE_HOME", "relative", 1);  // the specification says: ignore it
  setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(cache_directory(), "/home/somebody/.cache/sluice");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  EXPECT_TRUE(cache_directory().empty());
  if (home != nullptr) setenv("HOME", old_home.c_str(), 1);
}

}  // namespace
}  // namespace sluice::offload
