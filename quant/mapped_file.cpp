// mmap behind an owner.
#include "quant/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fmt/format.h>

#include <cerrno>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "quant/base/error.h"

namespace sluice::quant {
namespace {

// Closes on every way out of the constructor, unless it was taken.
class Descriptor {
 public:
  // Without O_NONBLOCK, opening a named pipe would wait for a writer before it could be refused.
  explicit Descriptor(const std::filesystem::path& path)
      : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int get() const { return fd_; }
  int take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// The mappings of the process: a fault has nothing but an address.
class Mappings {
 public:
  struct Mapping {
    std::string path;
    int descriptor = -1;
    size_t bytes = 0;
  };

  void add(const std::byte* begin, Mapping mapping) {
    const std::scoped_lock lock(mutex_);
    mappings_.emplace(begin, std::move(mapping));
  }
  void remove(const std::byte* begin) {
    const std::scoped_lock lock(mutex_);
    mappings_.erase(begin);
  }
  [[nodiscard]] std::optional<Error> error_at(const std::byte* address) {
    const std::scoped_lock lock(mutex_);
    const auto after = mappings_.upper_bound(address);
    if (after == mappings_.begin()) {
      return {};
    }
    const auto& [begin, mapping] = *std::prev(after);
    const auto offset = static_cast<size_t>(address - begin);
    if (offset >= mapping.bytes) {
      return {};
    }
    struct stat now {};
    const bool cut = ::fstat(mapping.descriptor, &now) == 0 && static_cast<size_t>(now.st_size) <= offset;
    return Error(mapping.path,
                 fmt::format("{} bytes, as when it was opened, to read byte {} of", mapping.bytes, offset),
                 cut ? fmt::format("{} bytes: it was cut meanwhile", now.st_size)
                     : "a read that failed (the disk, or the network it comes over)");
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, Mapping> mappings_;
};

Mappings& mappings() {
  static Mappings all;
  return all;
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  Descriptor file(path);
  struct stat status {};
  if (file.get() < 0 || ::fstat(file.get(), &status) != 0) {
    throw Error(path.string(), "a readable file", system_error_text(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(path.string(), "a regular file", S_ISDIR(status.st_mode) ? "a directory" : "a special file");
  }
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) {
    descriptor_ = file.take();
    return;  // mmap refuses to map nothing
  }
  void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (mapping == MAP_FAILED) {
    throw Error(path.string(), "a file that can be mapped into memory", system_error_text(errno));
  }
  data_ = static_cast<const std::byte*>(mapping);
  size_ = size;
  descriptor_ = file.take();
  mappings().add(data_, {.path = path.string(), .descriptor = descriptor_, .bytes = size});
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    mappings().remove(data_);
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  MappedFile moved(std::move(other));
  std::swap(path_, moved.path_);
  std::swap(descriptor_, moved.descriptor_);
  std::swap(data_, moved.data_);
  std::swap(size_, moved.size_);
  return *this;
}

std::optional<Error> lost_page_error(const void* address) {
  return mappings().error_at(static_cast<const std::byte*>(address));
}

}  // namespace sluice::quant
