#pragma once
// Random access to bytes that a checkpoint is read from: a file, or memory.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace mesh::formats {

// Immutable bytes of known size. read() may be called from several threads at once.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual std::uint64_t size() const = 0;
  // Fills `out` from `offset`; nothing else of the source is touched.
  // Errors: invalid_argument beyond the end, corrupt if a file became shorter, unavailable if the
  // system cannot read.
  virtual Result<void> read(std::uint64_t offset, std::span<std::byte> out) const = 0;
  virtual const std::string& name() const = 0;  // for messages: a path, or "built in"
};

// A regular file, read by pread; the descriptor closes with the source. Pages read stay in the
// system's cache and do not count as memory of the process. Errors: not_found, permission_denied,
// invalid_argument (not a regular file), unavailable.
Result<std::unique_ptr<ByteSource>> open_file(const std::string& path);

// Bytes that outlive the source.
std::unique_ptr<ByteSource> borrow_memory(std::span<const std::byte> bytes, std::string name);

// Whole content of a file as text. Errors: as open_file(), resource_exhausted if it has more than
// `bytes_max`.
Result<std::string> read_text_file(const std::string& path, std::uint64_t bytes_max);

}  // namespace mesh::formats
