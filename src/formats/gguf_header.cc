#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "formats/gguf.h"
#include "formats/gguf_types.h"

namespace mesh::formats {
namespace {

using gguf::ValueType;

static_assert(std::endian::native == std::endian::little, "numbers are read as they lie");

constexpr std::size_t kWindowBytes = 1u << 20;
constexpr std::uint64_t kKeyBytesMin = 8 + 4 + 1;                 // length, type, one byte of value
constexpr std::uint64_t kTensorBytesMin = 8 + 4 + 4 + 8;          // length, rank, type, offset
constexpr std::uint64_t kStringBytesMin = sizeof(std::uint64_t);  // its length

// Reads the header from front to back through a window, since its length stands nowhere. Errors
// name the file and what was being read.
class Reader {
 public:
  explicit Reader(const ByteSource& file)
      : file_(file),
        window_(static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), kWindowBytes))) {}

  std::uint64_t position() const { return start_ + at_; }
  std::uint64_t left() const { return file_.size() - position(); }
  void reading(std::string what) { what_ = std::move(what); }

  Error error(Code code, const std::string& reason) const {
    if (what_.empty()) return Error(code, fmt::format("{}: {}", file_.name(), reason));
    return Error(code, fmt::format("{}: {}: {}", file_.name(), what_, reason));
  }
  Error corrupt(const std::string& reason) const { return error(Code::kCorrupt, reason); }

  Result<void> take(std::span<std::byte> out) {
    if (out.size() > left())
      return corrupt(fmt::format("{} bytes at {} are needed, the file ends at {}", out.size(),
                                 position(), file_.size()));
    if (position() + out.size() > limits::kGgufHeaderBytes)
      return corrupt(fmt::format("the header has more than {} bytes", limits::kGgufHeaderBytes));
    while (!out.empty()) {
      if (at_ == filled_) MESH_RETURN_IF_ERROR(fill());
      const std::size_t count = std::min(out.size(), filled_ - at_);
      std::memcpy(out.data(), std::as_const(window_).span().data() + at_, count);
      at_ += count;
      out = out.subspan(count);
    }
    return {};
  }

  template <typename T>
  Result<T> number() {
    T value{};
    MESH_RETURN_IF_ERROR(take(std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }

  Result<std::string> string(std::size_t bytes_max) {
    MESH_ASSIGN_OR_RETURN(const std::uint64_t length, number<std::uint64_t>());
    if (length > left())
      return corrupt(fmt::format("a string of {} bytes, the file has {} more", length, left()));
    if (length > bytes_max)
      return corrupt(fmt::format("a string of {} bytes, at most {} are read", length, bytes_max));
    std::string text(static_cast<std::size_t>(length), '\0');
    MESH_RETURN_IF_ERROR(take(std::as_writable_bytes(std::span(text))));
    return text;
  }

  // The length of an array whose items have `item_bytes` at least.
  Result<std::size_t> item_count(std::uint64_t item_bytes) {
    MESH_ASSIGN_OR_RETURN(const std::uint64_t count, number<std::uint64_t>());
    if (count > left() / item_bytes)
      return corrupt(
          fmt::format("an array of {} items, the file has {} more bytes", count, left()));
    if (count > limits::kGgufArrayItems - items_)
      return corrupt(fmt::format("an array of {} items, at most {} of all arrays are read", count,
                                 limits::kGgufArrayItems));
    items_ += static_cast<std::size_t>(count);
    return static_cast<std::size_t>(count);
  }

 private:
  Result<void> fill() {
    start_ += filled_;
    at_ = 0;
    filled_ = 0;
    const auto count =
        static_cast<std::size_t>(std::min<std::uint64_t>(file_.size() - start_, kWindowBytes));
    MESH_RETURN_IF_ERROR(file_.read(start_, window_.span().first(count)));
    filled_ = count;
    return {};
  }

  const ByteSource& file_;
  Buffer window_;
  std::uint64_t start_ = 0;  // file offset of the window
  std::size_t at_ = 0;       // in the window
  std::size_t filled_ = 0;
  std::size_t items_ = 0;  // of all arrays so far
  std::string what_;
};

template <typename Stored>
using Wide =
    std::conditional_t<std::is_floating_point_v<Stored>, double,
                       std::conditional_t<std::is_signed_v<Stored>, std::int64_t, std::uint64_t>>;

template <typename Stored>
Result<GgufValue> read_number(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const Stored value, reader.number<Stored>());
  return GgufValue(static_cast<Wide<Stored>>(value));
}

template <typename Stored>
Result<GgufValue> read_numbers(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::size_t count, reader.item_count(sizeof(Stored)));
  std::vector<Wide<Stored>> values(count);
  Stored piece[1024];
  for (std::size_t done = 0; done < count;) {
    const std::size_t now = std::min(count - done, std::size(piece));
    MESH_RETURN_IF_ERROR(reader.take(std::as_writable_bytes(std::span(piece, now))));
    std::copy_n(piece, now, values.begin() + static_cast<std::ptrdiff_t>(done));
    done += now;
  }
  return GgufValue(std::move(values));
}

Result<bool> read_bool(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::uint8_t value, reader.number<std::uint8_t>());
  if (value > 1) return reader.corrupt(fmt::format("the byte {} is no bool", value));
  return value == 1;
}

Result<GgufValue> read_bools(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::size_t count, reader.item_count(1));
  std::vector<bool> values;
  values.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    MESH_ASSIGN_OR_RETURN(const bool value, read_bool(reader));
    values.push_back(value);
  }
  return GgufValue(std::move(values));
}

Result<GgufValue> read_strings(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::size_t count, reader.item_count(kStringBytesMin));
  std::vector<std::string> values;
  values.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    MESH_ASSIGN_OR_RETURN(std::string value, reader.string(limits::kGgufStringBytes));
    values.push_back(std::move(value));
  }
  return GgufValue(std::move(values));
}

Result<GgufValue> read_array(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::uint32_t type, reader.number<std::uint32_t>());
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
      return read_numbers<std::uint8_t>(reader);
    case ValueType::kI8:
      return read_numbers<std::int8_t>(reader);
    case ValueType::kU16:
      return read_numbers<std::uint16_t>(reader);
    case ValueType::kI16:
      return read_numbers<std::int16_t>(reader);
    case ValueType::kU32:
      return read_numbers<std::uint32_t>(reader);
    case ValueType::kI32:
      return read_numbers<std::int32_t>(reader);
    case ValueType::kF32:
      return read_numbers<float>(reader);
    case ValueType::kU64:
      return read_numbers<std::uint64_t>(reader);
    case ValueType::kI64:
      return read_numbers<std::int64_t>(reader);
    case ValueType::kF64:
      return read_numbers<double>(reader);
    case ValueType::kBool:
      return read_bools(reader);
    case ValueType::kString:
      return read_strings(reader);
    case ValueType::kArray:
      return reader.error(Code::kUnsupported, "arrays of arrays are not read");
  }
  return reader.corrupt(fmt::format("items of the unknown type {}", type));
}

Result<GgufValue> read_value(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::uint32_t type, reader.number<std::uint32_t>());
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
      return read_number<std::uint8_t>(reader);
    case ValueType::kI8:
      return read_number<std::int8_t>(reader);
    case ValueType::kU16:
      return read_number<std::uint16_t>(reader);
    case ValueType::kI16:
      return read_number<std::int16_t>(reader);
    case ValueType::kU32:
      return read_number<std::uint32_t>(reader);
    case ValueType::kI32:
      return read_number<std::int32_t>(reader);
    case ValueType::kF32:
      return read_number<float>(reader);
    case ValueType::kU64:
      return read_number<std::uint64_t>(reader);
    case ValueType::kI64:
      return read_number<std::int64_t>(reader);
    case ValueType::kF64:
      return read_number<double>(reader);
    case ValueType::kBool: {
      MESH_ASSIGN_OR_RETURN(const bool value, read_bool(reader));
      return GgufValue(value);
    }
    case ValueType::kString: {
      MESH_ASSIGN_OR_RETURN(std::string value, reader.string(limits::kGgufStringBytes));
      return GgufValue(std::move(value));
    }
    case ValueType::kArray:
      return read_array(reader);
  }
  return reader.corrupt(fmt::format("a value of the unknown type {}", type));
}

struct Counts {
  std::uint64_t tensors = 0;
  std::uint64_t keys = 0;
};

Result<Counts> read_front(Reader& reader, GgufHeader& header) {
  if (reader.left() < sizeof(std::uint32_t) * 2 + sizeof(std::uint64_t) * 2)
    return reader.corrupt(fmt::format("{} bytes are too short for a GGUF file", reader.left()));
  MESH_ASSIGN_OR_RETURN(const std::uint32_t magic, reader.number<std::uint32_t>());
  if (magic != gguf::kMagic) return reader.corrupt("the file does not start with GGUF");
  MESH_ASSIGN_OR_RETURN(header.version, reader.number<std::uint32_t>());
  // A small number in the other byte order.
  if (header.version != 0 && (header.version & 0xFFFFu) == 0)
    return reader.error(Code::kUnsupported, "the file is big-endian, which is not supported");
  if (header.version < 2 || header.version > gguf::kVersion)
    return reader.error(Code::kUnsupported,
                        fmt::format("GGUF version {}, versions 2 and 3 are read", header.version));
  Counts counts;
  MESH_ASSIGN_OR_RETURN(counts.tensors, reader.number<std::uint64_t>());
  MESH_ASSIGN_OR_RETURN(counts.keys, reader.number<std::uint64_t>());
  if (counts.keys > limits::kGgufMetadataKeys)
    return reader.corrupt(fmt::format("{} metadata keys, at most {} are read", counts.keys,
                                      limits::kGgufMetadataKeys));
  if (counts.tensors > limits::kTensorsPerModel)
    return reader.corrupt(
        fmt::format("{} tensors, at most {} are read", counts.tensors, limits::kTensorsPerModel));
  if (counts.keys * kKeyBytesMin + counts.tensors * kTensorBytesMin > reader.left())
    return reader.corrupt(fmt::format("{} metadata keys and {} tensors in a file of {} bytes",
                                      counts.keys, counts.tensors,
                                      reader.position() + reader.left()));
  return counts;
}

Result<void> read_metadata(Reader& reader, std::uint64_t count, GgufMetadata& metadata) {
  for (std::uint64_t i = 0; i < count; ++i) {
    reader.reading(fmt::format("metadata key number {}", i));
    MESH_ASSIGN_OR_RETURN(std::string key, reader.string(limits::kGgufNameBytes));
    if (const auto fault = gguf::name_fault(key); !fault.empty())
      return reader.corrupt(fmt::format("its name {}", fault));
    reader.reading(fmt::format("metadata key {}", gguf::printable(key)));
    if (metadata.has(key)) return reader.corrupt("appears twice");
    MESH_ASSIGN_OR_RETURN(GgufValue value, read_value(reader));
    metadata.values.emplace(std::move(key), std::move(value));
  }
  reader.reading({});
  return {};
}

Result<std::uint64_t> read_alignment(const Reader& reader, const GgufMetadata& metadata) {
  if (!metadata.has(gguf::kAlignmentKey)) return gguf::kAlignment;
  const auto alignment = metadata.whole(gguf::kAlignmentKey);
  if (!alignment.ok()) return reader.corrupt(alignment.error().message);
  if (!std::has_single_bit(*alignment) || *alignment > limits::kGgufAlignment)
    return reader.corrupt(fmt::format("{} {} is no power of two up to {}", gguf::kAlignmentKey,
                                      *alignment, limits::kGgufAlignment));
  return *alignment;
}

Result<tensor::Shape> read_shape(Reader& reader) {
  MESH_ASSIGN_OR_RETURN(const std::uint32_t rank, reader.number<std::uint32_t>());
  if (rank > limits::kGgufTensorRank)
    return reader.corrupt(
        fmt::format("{} dimensions, at most {} are read", rank, limits::kGgufTensorRank));
  tensor::Shape shape(rank);
  for (std::size_t i = 0; i < rank; ++i) {
    MESH_ASSIGN_OR_RETURN(const std::uint64_t extent, reader.number<std::uint64_t>());
    if (extent > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return reader.corrupt(fmt::format("an extent of {}", extent));
    shape[rank - 1 - i] = static_cast<std::int64_t>(extent);
  }
  return shape;
}

// The table's entry; its file_offset still counts from the start of the data.
Result<GgufTensor> read_tensor(Reader& reader, std::uint64_t index, std::uint64_t alignment) {
  reader.reading(fmt::format("tensor number {}", index));
  GgufTensor tensor;
  tensor::TensorInfo& info = tensor.info;
  MESH_ASSIGN_OR_RETURN(info.name, reader.string(limits::kGgufNameBytes));
  if (const auto fault = gguf::name_fault(info.name); !fault.empty())
    return reader.corrupt(fmt::format("its name {}", fault));
  reader.reading(fmt::format("tensor {}", gguf::printable(info.name)));
  MESH_ASSIGN_OR_RETURN(info.shape, read_shape(reader));
  MESH_ASSIGN_OR_RETURN(const std::uint32_t type, reader.number<std::uint32_t>());
  const auto dtype = gguf::element_type(type);
  if (!dtype) {
    const std::string_view name = gguf::element_type_name(type);
    return reader.error(Code::kUnsupported,
                        name.empty()
                            ? fmt::format("element type {} is not known", type)
                            : fmt::format("element type {} ({}) is not supported", type, name));
  }
  info.dtype = *dtype;
  if (!checked_bytes(info.shape, info.dtype)) {
    const auto block = static_cast<std::int64_t>(tensor::block_elements(info.dtype));
    const bool whole = block == 1 || (!info.shape.empty() && info.shape.back() % block == 0);
    return reader.corrupt(
        whole ? fmt::format("{} of {} needs 2^63 bytes or more", tensor::dtype_name(info.dtype),
                            tensor::shape_text(info.shape))
              : fmt::format("the rows of {} are not whole blocks of {} ({} elements)",
                            tensor::shape_text(info.shape), tensor::dtype_name(info.dtype), block));
  }
  MESH_ASSIGN_OR_RETURN(tensor.file_offset, reader.number<std::uint64_t>());
  if (tensor.file_offset % alignment != 0)
    return reader.corrupt(
        fmt::format("its offset {} is no multiple of {}", tensor.file_offset, alignment));
  return tensor;
}

// The tensors must lie within the data, one after the other with nothing but padding between them,
// as ggml demands. Bytes behind the last one are left alone.
Result<void> check_places(Reader& reader, const std::vector<GgufTensor>& tensors,
                          std::uint64_t data_bytes, std::uint64_t alignment) {
  std::vector<const GgufTensor*> by_place;
  for (const GgufTensor& tensor : tensors) by_place.push_back(&tensor);
  std::sort(by_place.begin(), by_place.end(), [](const GgufTensor* a, const GgufTensor* b) {
    return std::pair(a->file_offset, a->info.bytes()) < std::pair(b->file_offset, b->info.bytes());
  });
  std::uint64_t end = 0;
  for (const GgufTensor* const placed : by_place) {
    const GgufTensor& tensor = *placed;
    reader.reading(fmt::format("tensor {}", gguf::printable(tensor.info.name)));
    const std::uint64_t bytes = tensor.info.bytes();
    if (tensor.file_offset > data_bytes || bytes > data_bytes - tensor.file_offset)
      return reader.corrupt(fmt::format("{} bytes at offset {} in {} bytes of data", bytes,
                                        tensor.file_offset, data_bytes));
    if (tensor.file_offset < end)
      return reader.corrupt(
          fmt::format("overlaps the one before it by {} bytes", end - tensor.file_offset));
    if (tensor.file_offset - end >= alignment)
      return reader.corrupt(
          fmt::format("{} bytes before it belong to no tensor", tensor.file_offset - end));
    end = tensor.file_offset + bytes;
  }
  reader.reading({});
  return {};
}

std::string_view kind_of(const GgufValue& value) {
  constexpr std::string_view kKinds[] = {"a whole number",
                                         "an integer",
                                         "a float",
                                         "a bool",
                                         "a string",
                                         "an array of whole numbers",
                                         "an array of integers",
                                         "an array of floats",
                                         "an array of bools",
                                         "an array of strings"};
  static_assert(std::size(kKinds) == std::variant_size_v<GgufValue>);
  return kKinds[value.index()];
}

Error wrong_kind(std::string_view key, const GgufValue& value, std::string_view wanted) {
  return Error(Code::kCorrupt,
               fmt::format("metadata key {} is {}, not {}", key, kind_of(value), wanted));
}

Result<const GgufValue*> need(const GgufMetadata& metadata, std::string_view key) {
  const GgufValue* value = metadata.find(key);
  if (value == nullptr) return Error(Code::kNotFound, fmt::format("no metadata key {}", key));
  return value;
}

}  // namespace

const GgufValue* GgufMetadata::find(std::string_view key) const {
  const auto at = values.find(key);
  return at == values.end() ? nullptr : &at->second;
}

Result<std::uint64_t> GgufMetadata::whole(std::string_view key) const {
  MESH_ASSIGN_OR_RETURN(const GgufValue* value, need(*this, key));
  if (const auto* number = std::get_if<std::uint64_t>(value)) return *number;
  const auto* number = std::get_if<std::int64_t>(value);
  if (number == nullptr) return wrong_kind(key, *value, "an integer");
  if (*number < 0)
    return Error(Code::kCorrupt, fmt::format("metadata key {} is {}, below zero", key, *number));
  return static_cast<std::uint64_t>(*number);
}

Result<double> GgufMetadata::number(std::string_view key) const {
  MESH_ASSIGN_OR_RETURN(const GgufValue* value, need(*this, key));
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::int64_t>(value)) return static_cast<double>(*number);
  return wrong_kind(key, *value, "a number");
}

Result<bool> GgufMetadata::flag(std::string_view key) const {
  MESH_ASSIGN_OR_RETURN(const GgufValue* value, need(*this, key));
  if (const auto* flag = std::get_if<bool>(value)) return *flag;
  return wrong_kind(key, *value, "a bool");
}

Result<std::string> GgufMetadata::text(std::string_view key) const {
  MESH_ASSIGN_OR_RETURN(const GgufValue* value, need(*this, key));
  if (const auto* text = std::get_if<std::string>(value)) return *text;
  return wrong_kind(key, *value, "a string");
}

Result<std::vector<std::string>> GgufMetadata::texts(std::string_view key) const {
  MESH_ASSIGN_OR_RETURN(const GgufValue* value, need(*this, key));
  if (const auto* texts = std::get_if<std::vector<std::string>>(value)) return *texts;
  return wrong_kind(key, *value, "an array of strings");
}

Result<std::vector<std::int64_t>> GgufMetadata::wholes(std::string_view key) const {
  MESH_ASSIGN_OR_RETURN(const GgufValue* value, need(*this, key));
  if (const auto* numbers = std::get_if<std::vector<std::int64_t>>(value)) return *numbers;
  const auto* unsigned_numbers = std::get_if<std::vector<std::uint64_t>>(value);
  if (unsigned_numbers == nullptr) return wrong_kind(key, *value, "an array of integers");
  std::vector<std::int64_t> numbers;
  numbers.reserve(unsigned_numbers->size());
  for (const std::uint64_t number : *unsigned_numbers) {
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
      return Error(Code::kCorrupt, fmt::format("metadata key {} has the item {}", key, number));
    numbers.push_back(static_cast<std::int64_t>(number));
  }
  return numbers;
}

Result<GgufHeader> read_gguf_header(const ByteSource& file) {
  Reader reader(file);
  GgufHeader header;
  MESH_ASSIGN_OR_RETURN(const Counts counts, read_front(reader, header));
  MESH_RETURN_IF_ERROR(read_metadata(reader, counts.keys, header.metadata));
  MESH_ASSIGN_OR_RETURN(header.alignment, read_alignment(reader, header.metadata));
  for (std::uint64_t i = 0; i < counts.tensors; ++i) {
    MESH_ASSIGN_OR_RETURN(GgufTensor tensor, read_tensor(reader, i, header.alignment));
    header.tensors.push_back(std::move(tensor));
  }
  reader.reading({});
  header.data_start = gguf::aligned(reader.position(), header.alignment);
  // A file without tensors may end where the table does.
  if (header.data_start > file.size()) {
    if (header.tensors.empty()) return header;
    return reader.corrupt(fmt::format("the tensors begin at byte {}, the file ends at {}",
                                      header.data_start, file.size()));
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const GgufTensor& a, const GgufTensor& b) { return a.info.name < b.info.name; });
  for (std::size_t i = 1; i < header.tensors.size(); ++i)
    if (header.tensors[i - 1].info.name == header.tensors[i].info.name)
      return reader.corrupt(
          fmt::format("tensor {} appears twice", gguf::printable(header.tensors[i].info.name)));
  MESH_RETURN_IF_ERROR(
      check_places(reader, header.tensors, file.size() - header.data_start, header.alignment));
  for (GgufTensor& tensor : header.tensors) tensor.file_offset += header.data_start;
  return header;
}

}  // namespace mesh::formats
