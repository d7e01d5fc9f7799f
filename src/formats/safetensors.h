#pragma once
// The safetensors format: u64 header length, JSON header, tensor bytes without holes.
// Source: https://github.com/huggingface/safetensors (README, "Format"); as strict as the reference
// implementation.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/byte_source.h"
#include "formats/tensor_source.h"
#include "tensor/tensor.h"

namespace mesh::formats {

using SafetensorsMetadata = std::map<std::string, std::string>;

struct SafetensorsEntry {
  tensor::TensorInfo info;
  std::uint64_t file_offset = 0;  // of the first byte, from the start of the file
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // ascending by name
  SafetensorsMetadata metadata;           // "__metadata__"
  std::uint64_t data_start = 0;           // file offset where the tensors begin
};

// Parses the first bytes of a file (8 + header length at least) of `file_size` bytes called `name`
// in messages. Accepts only a file whose tensors cover the data exactly: no overlap, no hole,
// nothing behind. Errors: corrupt or unsupported (element type), naming file, tensor and reason.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> prefix,
                                                   std::uint64_t file_size,
                                                   const std::string& name);

// A single file. Errors: those of the header, and of reading it.
Result<std::shared_ptr<TensorSource>> open_safetensors(std::unique_ptr<ByteSource> file);

// The shards that `model.safetensors.index.json` names, from the directory of the index. The index
// decides which tensors exist; every shard must be there and hold what the index says of it.
// Errors: not_found (a shard), corrupt (index, header, or a tensor that its shard lacks).
Result<std::shared_ptr<TensorSource>> open_safetensors_index(const std::string& index_path);

// Writes a file tensor by tensor, so that a model need not fit in memory. The file appears under
// its name at finish(); without it nothing remains. One thread.
class SafetensorsWriter {
 public:
  // Errors: invalid_argument (repeated names, absurd shapes), those of creating a file.
  static Result<std::unique_ptr<SafetensorsWriter>> create(const std::string& path,
                                                           std::vector<tensor::TensorInfo> tensors,
                                                           const SafetensorsMetadata& metadata);
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Bytes of a tensor in ascending parts, tensors in any order. Errors: not_found, invalid_argument
  // (more bytes than the tensor has), unavailable (disk).
  Result<void> append(const std::string& tensor, std::span<const std::byte> bytes);
  // Errors: invalid_argument if a tensor is incomplete, unavailable (disk).
  Result<void> finish();

 private:
  struct Slot {
    std::uint64_t next = 0;  // file offset of the next part
    std::uint64_t end = 0;
  };
  SafetensorsWriter(std::string path, std::string scratch, int descriptor);
  Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  const std::string path_;
  const std::string scratch_;
  const int descriptor_;
  bool finished_ = false;
  std::map<std::string, Slot> slots_;
};

// All tensors at once. Errors: as SafetensorsWriter, invalid_argument if bytes and shape of a
// tensor disagree.
Result<void> write_safetensors(const std::string& path, std::span<const tensor::HostTensor> tensors,
                               const SafetensorsMetadata& metadata = {});

}  // namespace mesh::formats
