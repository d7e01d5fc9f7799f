#include "formats/byte_source.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace mesh::formats {
namespace {

constexpr std::size_t kReadBytesMax = std::size_t{1} << 30;  // Linux cuts a single pread at 2 GiB

Error system_error(const std::string& path, int number) {
  const std::string reason = std::generic_category().message(number);
  const Code code = number == ENOENT || number == ENOTDIR ? Code::kNotFound
                    : number == EACCES || number == EPERM ? Code::kPermissionDenied
                                                          : Code::kUnavailable;
  return Error(code, fmt::format("{}: {}", path, reason));
}

Error beyond_end(const std::string& name, std::uint64_t offset, std::uint64_t count,
                 std::uint64_t size) {
  return Error(
      Code::kInvalidArgument,
      fmt::format("{}: {} bytes at {} asked for, the source has {}", name, count, offset, size));
}

class FileSource final : public ByteSource {
 public:
  FileSource(std::string path, int descriptor, std::uint64_t size)
      : path_(std::move(path)), descriptor_(descriptor), size_(size) {}
  ~FileSource() override { ::close(descriptor_); }
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;

  std::uint64_t size() const override { return size_; }
  const std::string& name() const override { return path_; }

  Result<void> read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_ || out.size() > size_ - offset)
      return beyond_end(path_, offset, out.size(), size_);
    while (!out.empty()) {
      const std::size_t wanted = std::min(out.size(), kReadBytesMax);
      const ssize_t got = ::pread(descriptor_, out.data(), wanted, static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return system_error(path_, errno);
      if (got == 0)
        return Error(Code::kCorrupt,
                     fmt::format("{}: the file had {} bytes when opened and now ends at {}", path_,
                                 size_, offset));
      out = out.subspan(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    }
    return {};
  }

 private:
  const std::string path_;
  const int descriptor_;
  const std::uint64_t size_;
};

class MemorySource final : public ByteSource {
 public:
  MemorySource(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}
  std::uint64_t size() const override { return bytes_.size(); }
  const std::string& name() const override { return name_; }
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset)
      return beyond_end(name_, offset, out.size(), bytes_.size());
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    return {};
  }

 private:
  const std::span<const std::byte> bytes_;
  const std::string name_;
};

}  // namespace

Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) {
  const int descriptor =
      ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block us
  if (descriptor < 0) return system_error(path, errno);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    const int number = errno;
    ::close(descriptor);
    return system_error(path, number);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return Error(Code::kInvalidArgument, path + ": not a regular file");
  }
  return std::unique_ptr<ByteSource>(
      std::make_unique<FileSource>(path, descriptor, static_cast<std::uint64_t>(status.st_size)));
}

std::unique_ptr<ByteSource> borrow_memory(std::span<const std::byte> bytes, std::string name) {
  return std::make_unique<MemorySource>(bytes, std::move(name));
}

Result<std::string> read_text_file(const std::string& path, std::uint64_t bytes_max) {
  MESH_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> file, open_file(path));
  if (file->size() > bytes_max)
    return Error(Code::kResourceExhausted,
                 fmt::format("{}: {} bytes, at most {} are read", path, file->size(), bytes_max));
  std::string text(static_cast<std::size_t>(file->size()), '\0');
  MESH_RETURN_IF_ERROR(file->read(0, {reinterpret_cast<std::byte*>(text.data()), text.size()}));
  return text;
}

}  // namespace mesh::formats
