#include "net/secret_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "base/check.h"

namespace mesh::net {
namespace {

Error failed(std::string_view action, const std::string& path, int number) {
  return Error(Code::kUnavailable,
               fmt::format("cannot {} {}: {}", action, path, std::strerror(number)));
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  const int value_;
};

Result<void> check_private(const std::string& path, const struct stat& info) {
  const auto denied = [](std::string message) {
    return Error(Code::kPermissionDenied, std::move(message));
  };
  if (!S_ISREG(info.st_mode)) return denied(path + " is not a regular file; remove it");
  if (info.st_uid != ::geteuid())
    return denied(
        fmt::format("{0} belongs to user id {1}, but this runs as user id {2}; run: "
                    "chown {2} {0}",
                    path, info.st_uid, ::geteuid()));
  if ((info.st_mode & 077) != 0)
    return denied(
        fmt::format("{0} holds a secret that others may read (mode {1:04o}); run: "
                    "chmod 600 {0}",
                    path, info.st_mode & 07777));
  return {};
}

Result<void> write_all(int descriptor, std::string_view contents, const std::string& path) {
  while (!contents.empty()) {
    const ssize_t written = ::write(descriptor, contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return failed("write", path, errno);
    contents.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(descriptor) != 0) return failed("write", path, errno);
  return {};
}

Error exists(const std::string& path) {
  return Error(Code::kInvalidArgument, path + " exists already and is left as it is");
}

// Gives the finished file its name. link() never replaces a file; where a file system has no hard
// links, the gap between the check and rename() is accepted.
Result<void> publish(const std::string& temporary, const std::string& path) {
  if (::link(temporary.c_str(), path.c_str()) == 0) return {};
  if (errno == EEXIST) return exists(path);
  if (errno != EPERM && errno != ENOTSUP && errno != ENOSYS && errno != EMLINK)
    return failed("create", path, errno);
  if (::access(path.c_str(), F_OK) == 0) return exists(path);
  if (::rename(temporary.c_str(), path.c_str()) != 0) return failed("create", path, errno);
  return {};
}

}  // namespace

Result<std::string> read_secret_file(const std::string& path, std::size_t bytes_max) {
  // O_NONBLOCK: a FIFO of that name must not hang the start.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) {
    if (errno == ENOENT) return Error(Code::kNotFound, path + " does not exist");
    if (errno == ELOOP)
      return Error(Code::kPermissionDenied,
                   path + " is a symbolic link; a secret must be a file of its own");
    return failed("read", path, errno);
  }
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return failed("read", path, errno);
  MESH_RETURN_IF_ERROR(check_private(path, info));
  std::string contents(bytes_max + 1, '\0');
  std::size_t size = 0;
  while (size < contents.size()) {
    const ssize_t count = ::read(file.get(), contents.data() + size, contents.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed("read", path, errno);
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  if (size > bytes_max)
    return Error(Code::kCorrupt, fmt::format("{} is larger than {} bytes", path, bytes_max));
  contents.resize(size);
  return contents;
}

Result<void> create_secret_file(const std::string& path, std::string_view contents) {
  std::string temporary = path + ".XXXXXX";
  const Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));  // mode 0600
  if (file.get() < 0) return failed("create", path, errno);
  Result<void> outcome = write_all(file.get(), contents, path);
  if (outcome.ok()) outcome = publish(temporary, path);
  ::unlink(temporary.c_str());
  if (!outcome.ok()) return outcome;
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const Descriptor directory(
      ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory.get() >= 0) ::fsync(directory.get());
  return {};
}

}  // namespace mesh::net
