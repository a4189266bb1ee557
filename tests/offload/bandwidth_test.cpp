// A measurement that is plausible, and a memory that is never trusted too far.
#include "offload/bandwidth.h"

#include <gtest/gtest.h>
#include <stdlib.h>  // setenv

#include <fstream>
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

// One test, because each measurement takes about a second.
TEST(Bandwidth, MeasuredOnceThenRememberedUnlessDamaged) {
  const testing::TemporaryDirectory temporary;
  const std::filesystem::path directory = temporary / "not/yet/there";
  const Machine machine = probe_machine();

  const KnownBandwidth measured = known_bandwidth(machine, directory);
  EXPECT_FALSE(measured.from_cache);
  EXPECT_EQ(measured.not_saved, "");
  expect_plausible(machine, measured.bandwidth);

  const KnownBandwidth remembered = known_bandwidth(machine, directory);
  EXPECT_TRUE(remembered.from_cache);
  EXPECT_EQ(remembered.bandwidth.node_gb_per_s, measured.bandwidth.node_gb_per_s);
  EXPECT_EQ(remembered.bandwidth.total_gb_per_s, measured.bandwidth.total_gb_per_s);

  const std::filesystem::path file = only_file(directory);
  const std::string whole = text_of(file);
  std::ofstream(file) << whole.substr(0, whole.size() / 2);
  EXPECT_FALSE(known_bandwidth(machine, directory).from_cache);
  EXPECT_TRUE(known_bandwidth(machine, directory).from_cache);
}

// A made-up machine that measures quickly: one core, so one buffer.
Machine small_machine() {
  Machine machine = machine_from_synthetic("numa:1(memory=1073741824) core:1 pu:1");
  machine.nodes[0].cores[0].cpus = {-1};  // wherever
  return machine;
}

TEST(Bandwidth, NonsenseInTheFileIsMeasuredAnew) {
  const testing::TemporaryDirectory directory;
  const Machine machine = small_machine();
  EXPECT_FALSE(known_bandwidth(machine, directory.path()).from_cache);
  const std::filesystem::path file = only_file(directory.path());
  const std::string right = text_of(file);
  const std::string name =
      right.substr(right.find("\"machine\""), right.find("\"node_gb") - right.find("\"machine\""));
  for (const std::string& bad :
       {std::string("{" + name + "\"node_gb_per_s\": [1, 2], \"total_gb_per_s\": 3}"),
        std::string("{" + name + "\"node_gb_per_s\": [-1], \"total_gb_per_s\": 3}"),
        std::string("{" + name + "\"node_gb_per_s\": [1], \"total_gb_per_s\": \"much\"}"),
        std::string("{\"machine\": \"another\", \"node_gb_per_s\": [1], \"total_gb_per_s\": 3}"),
        std::string("[]")}) {
    std::ofstream(file) << bad;
    EXPECT_FALSE(known_bandwidth(machine, directory.path()).from_cache) << bad;
  }
  std::ofstream(file) << "{" + name + "\"node_gb_per_s\": [1], \"total_gb_per_s\": 3}";
  EXPECT_TRUE(known_bandwidth(machine, directory.path()).from_cache);
}

TEST(Bandwidth, ADirectoryThatCannotBeMadeIsNoError) {
  const testing::TemporaryDirectory temporary;
  std::ofstream(temporary / "file") << "in the way";
  const KnownBandwidth known = known_bandwidth(small_machine(), temporary / "file" / "cache");
  EXPECT_GT(known.bandwidth.total_gb_per_s, 0);
  EXPECT_NE(known.not_saved, "");
  EXPECT_NE(known_bandwidth(small_machine(), {}).not_saved, "");
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
