#pragma once
// The GGUF container, version 2 and 3, little-endian: metadata, tensor table, aligned tensor bytes;
// one file or split in several.
// Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "formats/byte_source.h"
#include "formats/tensor_source.h"
#include "tensor/tensor.h"

namespace mesh::formats {

// Integers of every width are widened to 64 bits, floats to double (exactly). Arrays are of one of
// the four kinds; arrays of arrays are refused.
using GgufValue = std::variant<std::uint64_t, std::int64_t, double, bool, std::string,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>,
                               std::vector<double>, std::vector<bool>, std::vector<std::string>>;

// Keys of one file. Typed reads name the key in their errors: not_found, corrupt (type, range).
class GgufMetadata {
 public:
  std::map<std::string, GgufValue, std::less<>> values;

  const GgufValue* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  // Any integer kind that fits.
  Result<std::uint64_t> whole(std::string_view key) const;
  Result<double> number(std::string_view key) const;  // floats and integers
  Result<bool> flag(std::string_view key) const;
  Result<std::string> text(std::string_view key) const;
  Result<std::vector<std::string>> texts(std::string_view key) const;
  Result<std::vector<std::int64_t>> wholes(std::string_view key) const;
};

struct GgufTensor {
  tensor::TensorInfo info;        // shape row-major, [out, in]: the file's extents reversed
  std::uint64_t file_offset = 0;  // of the first byte, from the start of the file
};

struct GgufHeader {
  std::uint32_t version = 3;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // ascending by name, without repeats
  std::uint64_t data_start = 0;
  std::uint64_t alignment = 32;
};

// Reads header and tables, no tensor. The tensors must lie one after the other with nothing but
// padding between them; bytes behind the last one are left alone. Errors: corrupt or unsupported
// (version, big-endian, element type, arrays of arrays) naming file, key or tensor, and reason;
// those of reading the file.
Result<GgufHeader> read_gguf_header(const ByteSource& file);

// A model of one or several files: the first file's metadata and the tensors of all, by their names
// in the file.
struct GgufModel {
  GgufMetadata metadata;
  std::shared_ptr<TensorSource> tensors;
  // general.name if it is there, short and printable, else the file's name without suffix.
  std::string name;
  std::string origin;  // path of the first file
};

// Opens NAME.gguf; of split files (NAME-0000i-of-0000N.gguf) any part names the whole, all of which
// must lie in one directory. Errors: those of the header, not_found (a missing part), corrupt
// (parts that disagree about split.count, tensors counted differently from split.tensors.count).
Result<GgufModel> open_gguf(const std::string& path);

// Writes version 3, for tests and generated models, the tensors in the order given. Numbers become
// 32 bits wide where they fit without loss, else 64. Errors: invalid_argument (repeated or
// impossible names, types that GGUF lacks, bytes that are not those of the shape, rows that are not
// whole blocks), unavailable (disk).
Result<void> write_gguf(const std::string& path, const GgufMetadata& metadata,
                        std::vector<tensor::HostTensor> tensors, std::uint64_t alignment = 32);

}  // namespace mesh::formats
