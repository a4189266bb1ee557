#include "tests/numa/placement.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>

#include "quant/base/error.h"

namespace sluice::testing {
namespace {

constexpr const char* kNodesFolder = "/sys/devices/system/node";

/// "0-1,4" -> {0, 1, 4}, the format of the lists in /sys; an empty file is an empty list.
std::vector<int64_t> read_list(const std::string& path) {
  std::ifstream file(path);
  if (!file) {
    throw Error(path, "a readable file", "none");
  }
  std::vector<int64_t> numbers;
  int64_t first = 0;
  while (file >> first) {
    int64_t last = first;
    if (file.peek() == '-') {
      file.ignore();
      file >> last;
    }
    for (int64_t number = first; number <= last; ++number) {
      numbers.push_back(number);
    }
    if (file.peek() == ',') {
      file.ignore();
    }
  }
  return numbers;
}

void count(std::span<const int> statuses, PagePlaces& places) {
  for (const int status : statuses) {
    if (status == -ENOENT || status == -EFAULT) {  // never written; EFAULT: its page is the zero page
      ++places.absent;
    } else if (status >= 0 && static_cast<size_t>(status) < places.on_node.size()) {
      ++places.on_node[static_cast<size_t>(status)];
    } else {
      throw Error("move_pages", fmt::format("a node below {}", places.on_node.size()),
                  fmt::format("{}", status));
    }
  }
}

}  // namespace

PagePlaces page_places(std::span<const std::byte> bytes, int64_t nodes) {
  constexpr size_t kBatch = 1024;
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  PagePlaces places{.on_node = std::vector<int64_t>(static_cast<size_t>(nodes))};
  std::vector<const void*> pages;
  std::vector<int> statuses;
  const size_t before = reinterpret_cast<uintptr_t>(bytes.data()) % page_bytes;
  const std::byte* first = bytes.data() - before;
  const size_t n_pages = bytes.empty() ? 0 : (before + bytes.size() + page_bytes - 1) / page_bytes;
  for (size_t begin = 0; begin < n_pages; begin += kBatch) {
    const size_t end = std::min(begin + kBatch, n_pages);
    pages.clear();
    for (size_t page = begin; page < end; ++page) {
      pages.push_back(first + page * page_bytes);
    }
    statuses.assign(pages.size(), 0);
    if (syscall(SYS_move_pages, 0, pages.size(), pages.data(), nullptr, statuses.data(), 0) != 0) {
      throw Error("move_pages", "the places of the pages", system_error_text(errno));
    }
    count(statuses, places);
  }
  return places;
}

std::string describe(const PagePlaces& places) {
  std::string text;
  for (size_t node = 0; node < places.on_node.size(); ++node) {
    if (places.on_node[node] != 0) {
      text += fmt::format("{}{} pages on node {}", text.empty() ? "" : ", ", places.on_node[node], node);
    }
  }
  if (places.absent != 0) {
    text += fmt::format("{}{} absent", text.empty() ? "" : ", ", places.absent);
  }
  return text.empty() ? "no pages" : text;
}

bool all_on_node(const PagePlaces& places, int64_t node) {
  if (places.absent != 0 || places.on_node.at(static_cast<size_t>(node)) == 0) {
    return false;
  }
  return std::count(places.on_node.begin(), places.on_node.end(), 0) ==
         static_cast<int64_t>(places.on_node.size()) - 1;
}

std::vector<int64_t> node_of_cpus() {
  std::vector<int64_t> nodes;
  for (const int64_t node : read_list(fmt::format("{}/online", kNodesFolder))) {
    for (const int64_t cpu : read_list(fmt::format("{}/node{}/cpulist", kNodesFolder, node))) {
      nodes.resize(std::max(nodes.size(), static_cast<size_t>(cpu) + 1), -1);
      nodes[static_cast<size_t>(cpu)] = node;
    }
  }
  return nodes;
}

}  // namespace sluice::testing
