#include "formats/gguf.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "base/limits.h"
#include "base/random.h"

namespace mesh::formats {
namespace {

namespace fs = std::filesystem;
using tensor::DType;

class Scratch {
 public:
  Scratch()
      : path_(fs::temp_directory_path() / fmt::format("mesh-gguf-{}-{}", ::getpid(), counter_++)) {
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const fs::path& path() const { return path_; }

 private:
  static inline int counter_ = 0;
  fs::path path_;
};

std::string fixture(const std::string& name) {
  return std::string(MESH_TEST_DATA) + "/gguf/" + name;
}

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void put_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string u32(std::uint32_t value) {
  return raw(value);
}
std::string u64(std::uint64_t value) {
  return raw(value);
}
std::string str(const std::string& text) {
  return u64(text.size()) + text;
}
std::string key(const std::string& name, std::uint32_t type, const std::string& value) {
  return str(name) + u32(type) + value;
}
std::string array(std::uint32_t type, std::uint64_t count, const std::string& items) {
  return u32(type) + u64(count) + items;
}
// A row of the tensor table, extents as in the file: innermost first.
std::string row(const std::string& name, const std::vector<std::uint64_t>& extents,
                std::uint32_t type, std::uint64_t offset) {
  std::string text = str(name) + u32(static_cast<std::uint32_t>(extents.size()));
  for (const std::uint64_t extent : extents) text += u64(extent);
  return text + u32(type) + u64(offset);
}

// A file spelt by hand, independent of the writer.
std::string file_of(const std::vector<std::string>& keys, const std::vector<std::string>& rows = {},
                    std::size_t data_bytes = 0, std::size_t alignment = 32,
                    std::uint32_t version = 3) {
  std::string file = "GGUF" + u32(version) + u64(rows.size()) + u64(keys.size());
  for (const std::string& text : keys) file += text;
  for (const std::string& text : rows) file += text;
  if (!rows.empty()) file.resize((file.size() + alignment - 1) / alignment * alignment, '\0');
  file.append(data_bytes, '\x01');
  return file;
}

Result<GgufHeader> parse(const std::string& file) {
  return read_gguf_header(*borrow_memory(as_bytes(file), "m.gguf"));
}

void expect_error(const Error& error, const std::string& message, Code code) {
  EXPECT_EQ(error.code, code) << error.message;
  EXPECT_EQ(error.message.substr(0, 8), "m.gguf: ") << error.message;
  EXPECT_NE(error.message.find(message), std::string::npos)
      << error.message << "\nexpected: " << message;
}

void expect_refused(const std::string& file, const std::string& message,
                    Code code = Code::kCorrupt) {
  const auto header = parse(file);
  ASSERT_FALSE(header.ok()) << "expected: " << message;
  expect_error(header.error(), message, code);
}

// A prefix followed by zeros up to any size, for lengths that only a huge file can hold.
class Padded final : public ByteSource {
 public:
  Padded(std::string prefix, std::uint64_t size) : prefix_(std::move(prefix)), size_(size) {}
  std::uint64_t size() const override { return size_; }
  const std::string& name() const override { return name_; }
  Result<void> read(std::uint64_t offset, std::span<std::byte> out) const override {
    EXPECT_LE(offset + out.size(), size_);
    std::fill(out.begin(), out.end(), std::byte{0});
    if (offset < prefix_.size())
      std::memcpy(out.data(), prefix_.data() + offset,
                  std::min<std::size_t>(out.size(), prefix_.size() - offset));
    return {};
  }

 private:
  const std::string prefix_;
  const std::uint64_t size_;
  const std::string name_ = "m.gguf";
};

TEST(GgufHeader, ReadsEveryKindOfValue) {
  const std::string nul("a\0b", 3);
  const auto header = parse(file_of({
      key("u8", 0, "\xff"),
      key("i8", 1, "\xff"),
      key("u16", 2, "\xff\xff"),
      key("i16", 3, "\xfe\xff"),
      key("u32", 4, u32(4'000'000'000)),
      key("i32", 5, raw(std::int32_t{-5})),
      key("f32", 6, raw(0.1f)),
      key("yes", 7, std::string(1, '\1')),
      key("no", 7, std::string(1, '\0')),
      key("text", 8, str(nul)),
      key("empty", 8, str("")),
      key("u64", 10, u64(~0ull)),
      key("i64", 11, raw(INT64_MIN)),
      key("f64", 12, raw(0.1)),
      key("a.u8", 9, array(0, 3, "\x01\x02\xff")),
      key("a.i8", 9, array(1, 2, "\x01\xff")),
      key("a.u16", 9, array(2, 1, "\x01\x02")),
      key("a.i16", 9, array(3, 1, "\xff\xff")),
      key("a.u32", 9, array(4, 1, u32(7))),
      key("a.i32", 9, array(5, 2, raw(std::int32_t{-7}) + raw(std::int32_t{8}))),
      key("a.f32", 9, array(6, 1, raw(-2.5f))),
      key("a.bool", 9, array(7, 3, std::string("\1\0\1", 3))),
      key("a.text", 9, array(8, 3, str("x") + str("") + str(nul))),
      key("a.u64", 9, array(10, 1, u64(~0ull))),
      key("a.i64", 9, array(11, 1, raw(INT64_MIN))),
      key("a.f64", 9, array(12, 1, raw(1e300))),
      key("a.none", 9, array(8, 0, "")),
  }));
  ASSERT_TRUE(header.ok()) << header.error().message;
  const GgufMetadata& m = header->metadata;
  EXPECT_EQ(m.values.size(), 27u);
  using Wholes = std::vector<std::uint64_t>;
  using Integers = std::vector<std::int64_t>;
  using Floats = std::vector<double>;
  const std::map<std::string, GgufValue> expected = {
      {"u8", std::uint64_t{255}},
      {"i8", std::int64_t{-1}},
      {"u16", std::uint64_t{65535}},
      {"i16", std::int64_t{-2}},
      {"u32", std::uint64_t{4'000'000'000}},
      {"i32", std::int64_t{-5}},
      {"f32", double{0.1f}},
      {"yes", true},
      {"no", false},
      {"text", nul},
      {"empty", std::string()},
      {"u64", ~std::uint64_t{0}},
      {"i64", std::int64_t{INT64_MIN}},
      {"f64", 0.1},
      {"a.u8", Wholes{1, 2, 255}},
      {"a.i8", Integers{1, -1}},
      {"a.u16", Wholes{513}},
      {"a.i16", Integers{-1}},
      {"a.u32", Wholes{7}},
      {"a.i32", Integers{-7, 8}},
      {"a.f32", Floats{-2.5}},
      {"a.bool", std::vector<bool>{true, false, true}},
      {"a.text", std::vector<std::string>{"x", "", nul}},
      {"a.u64", Wholes{~std::uint64_t{0}}},
      {"a.i64", Integers{INT64_MIN}},
      {"a.f64", Floats{1e300}},
      {"a.none", std::vector<std::string>{}},
  };
  for (const auto& [name, value] : expected) {
    ASSERT_NE(m.find(name), nullptr) << name;
    EXPECT_EQ(*m.find(name), value) << name;
  }
}

TEST(GgufMetadata, TypedReadsNameTheKey) {
  GgufMetadata m;
  m.values = {{"u", std::uint64_t{5}},
              {"i", std::int64_t{6}},
              {"n", std::int64_t{-6}},
              {"f", 1.5},
              {"b", true},
              {"s", std::string("t")},
              {"us", std::vector<std::uint64_t>{1, 2}},
              {"big", std::vector<std::uint64_t>{~std::uint64_t{0}}},
              {"is", std::vector<std::int64_t>{-1}},
              {"ss", std::vector<std::string>{"x"}}};
  EXPECT_EQ(*m.whole("u"), 5u);
  EXPECT_EQ(*m.whole("i"), 6u);
  EXPECT_EQ(*m.number("u"), 5.0);
  EXPECT_EQ(*m.number("n"), -6.0);
  EXPECT_EQ(*m.number("f"), 1.5);
  EXPECT_EQ(*m.flag("b"), true);
  EXPECT_EQ(*m.text("s"), "t");
  EXPECT_EQ(*m.texts("ss"), (std::vector<std::string>{"x"}));
  EXPECT_EQ(*m.wholes("us"), (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(*m.wholes("is"), (std::vector<std::int64_t>{-1}));
  EXPECT_TRUE(m.has("u"));
  EXPECT_FALSE(m.has("x"));
  const auto expect = [](const auto& result, const std::string& message,
                         Code code = Code::kCorrupt) {
    ASSERT_FALSE(result.ok()) << message;
    EXPECT_EQ(result.error().message, message);
    EXPECT_EQ(result.error().code, code);
  };
  expect(m.whole("x"), "no metadata key x", Code::kNotFound);
  expect(m.texts("x"), "no metadata key x", Code::kNotFound);
  expect(m.whole("n"), "metadata key n is -6, below zero");
  expect(m.whole("f"), "metadata key f is a float, not an integer");
  expect(m.number("s"), "metadata key s is a string, not a number");
  expect(m.flag("u"), "metadata key u is a whole number, not a bool");
  expect(m.text("b"), "metadata key b is a bool, not a string");
  expect(m.texts("us"), "metadata key us is an array of whole numbers, not an array of strings");
  expect(m.wholes("i"), "metadata key i is an integer, not an array of integers");
  expect(m.wholes("big"), "metadata key big has the item 18446744073709551615");
}

TEST(GgufHeader, ReadsTableInBothVersions) {
  const std::vector<std::string> rows = {row("b", {32, 3}, 8, 64), row("a", {2, 3, 5, 1}, 0, 192),
                                         row("zero", {7, 0}, 1, 64), row("scalar", {}, 28, 0)};
  for (const std::uint32_t version : {2u, 3u}) {
    const auto header =
        parse(file_of({key("general.alignment", 4, u32(64))}, rows, 192 + 120 + 5, 64, version));
    ASSERT_TRUE(header.ok()) << header.error().message;
    EXPECT_EQ(header->version, version);
    EXPECT_EQ(header->alignment, 64u);
    EXPECT_EQ(header->data_start % 64, 0u);
    const auto& t = header->tensors;
    ASSERT_EQ(t.size(), 4u);
    EXPECT_EQ(t[0].info.name, "a");
    EXPECT_EQ(t[0].info.shape, (tensor::Shape{1, 5, 3, 2}));
    EXPECT_EQ(t[0].info.dtype, DType::kF32);
    EXPECT_EQ(t[0].file_offset, header->data_start + 192);
    EXPECT_EQ(t[1].info.name, "b");
    EXPECT_EQ(t[1].info.shape, (tensor::Shape{3, 32}));
    EXPECT_EQ(t[1].info.dtype, DType::kQ8_0);
    EXPECT_EQ(t[1].info.bytes(), 102u);
    EXPECT_EQ(t[2].info.shape, tensor::Shape{});
    EXPECT_EQ(t[2].info.dtype, DType::kF64);
    EXPECT_EQ(t[3].info.bytes(), 0u);
  }
}

TEST(GgufHeader, ReadsEveryElementType) {
  const std::pair<std::uint32_t, DType> types[] = {
      {0, DType::kF32},     {1, DType::kF16},     {2, DType::kQ4_0},  {3, DType::kQ4_1},
      {6, DType::kQ5_0},    {7, DType::kQ5_1},    {8, DType::kQ8_0},  {10, DType::kQ2_K},
      {11, DType::kQ3_K},   {12, DType::kQ4_K},   {13, DType::kQ5_K}, {14, DType::kQ6_K},
      {20, DType::kIQ4_NL}, {23, DType::kIQ4_XS}, {24, DType::kI8},   {25, DType::kI16},
      {26, DType::kI32},    {27, DType::kI64},    {28, DType::kF64},  {30, DType::kBF16},
      {39, DType::kMXFP4}};
  for (const auto& [number, dtype] : types) {
    const auto header = parse(file_of({}, {row("w", {256}, number, 0)}, 2048));
    ASSERT_TRUE(header.ok()) << header.error().message;
    EXPECT_EQ(header->tensors[0].info.dtype, dtype) << number;
  }
  for (std::uint32_t number = 0; number < 64; ++number) {
    const bool known = std::any_of(std::begin(types), std::end(types),
                                   [&](const auto& type) { return type.first == number; });
    EXPECT_EQ(parse(file_of({}, {row("w", {256}, number, 0)}, 2048)).ok(), known) << number;
  }
}

TEST(GgufHeader, FilesWithoutTensorsMayEndAtTheTable) {
  const auto header = parse(file_of({key("k", 0, "\1")}));
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_EQ(header->alignment, 32u);
  EXPECT_EQ(header->data_start, 64u);
  EXPECT_TRUE(parse(file_of({})).ok());
}

// Strings and arrays cross the edges of the window that the header is read through.
TEST(GgufHeader, ReadsBeyondTheWindow) {
  GgufMetadata metadata;
  std::vector<std::string> tokens;
  std::vector<std::int64_t> types;
  std::vector<bool> flags;
  for (int i = 0; i < 256'000; ++i) {
    tokens.push_back(fmt::format("token {}", i * 7));
    types.push_back(i % 6 - 1);
    flags.push_back(i % 3 == 0);
  }
  metadata.values = {
      {"a", std::string(3'000'001, 'x')}, {"flags", flags}, {"tokens", tokens}, {"types", types}};
  Scratch scratch;
  ASSERT_TRUE(write_gguf(scratch / "m.gguf", metadata, {}).ok());
  const auto model = open_gguf(scratch / "m.gguf");
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_TRUE(model->metadata.values == metadata.values);
}

TEST(GgufHeader, RefusesFrontsThatLie) {
  expect_refused("", "0 bytes are too short for a GGUF file");
  expect_refused(file_of({}).substr(0, 23), "23 bytes are too short");
  std::string file = file_of({});
  file[0] = 'X';
  expect_refused(file, "the file does not start with GGUF");
  const auto version = [](std::uint32_t number) { return file_of({}, {}, 0, 32, number); };
  expect_refused(version(0x03000000), "the file is big-endian, which is not supported",
                 Code::kUnsupported);
  expect_refused(version(1), "GGUF version 1, versions 2 and 3 are read", Code::kUnsupported);
  expect_refused(version(0), "GGUF version 0", Code::kUnsupported);
  expect_refused(version(4), "GGUF version 4", Code::kUnsupported);
  const auto counts = [](std::uint64_t tensors, std::uint64_t keys) {
    return "GGUF" + u32(3) + u64(tensors) + u64(keys) + std::string(40, '\0');
  };
  expect_refused(counts(0, 65537), "65537 metadata keys, at most 65536 are read");
  expect_refused(counts(0, ~0ull), "18446744073709551615 metadata keys");
  expect_refused(counts(1'048'577, 0), "1048577 tensors, at most 1048576 are read");
  expect_refused(counts(~0ull, 0), "18446744073709551615 tensors");
  expect_refused(counts(1, 2), "2 metadata keys and 1 tensors in a file of 64 bytes");
}

TEST(GgufHeader, RefusesMetadataThatLies) {
  const std::string pad = key("z", 8, str(std::string(60, 'z')));
  const auto refused = [&](const std::string& first, const std::string& message,
                           Code code = Code::kCorrupt) {
    expect_refused(file_of({first, pad}), message, code);
  };
  refused(key("", 0, "\1"), "metadata key number 0: its name is empty");
  refused(key("a\nb", 0, "\1"), "metadata key number 0: its name has control characters");
  refused(key(std::string("a\0b", 3), 0, "\1"), "its name has control characters");
  refused(key(std::string(65536, 'k'), 0, "\1"),
          "metadata key number 0: a string of 65536 bytes, at most 65535 are read");
  EXPECT_TRUE(parse(file_of({key(std::string(65535, 'k'), 0, "\1")})).ok());
  refused(u64(~0ull) + "a", "metadata key number 0: a string of 18446744073709551615 bytes");
  refused(pad, "metadata key z: appears twice");
  refused(key("k", 13, "\1"), "metadata key k: a value of the unknown type 13");
  refused(key("k", 7, "\2"), "metadata key k: the byte 2 is no bool");
  refused(key("k", 8, u64(1000)), "metadata key k: a string of 1000 bytes, the file has 81 more");
  refused(key("k", 9, array(13, 1, "\1")), "metadata key k: items of the unknown type 13");
  refused(key("k", 9, array(9, 1, array(0, 1, "\1"))),
          "metadata key k: arrays of arrays are not read", Code::kUnsupported);
  refused(key("k", 9, array(7, 2, "\1\xff")), "metadata key k: the byte 255 is no bool");
  refused(key("k", 9, array(0, 82, "")),
          "metadata key k: an array of 82 items, the file has 81 more bytes");
  refused(key("k", 9, array(10, 1ull << 61, "")), "an array of 2305843009213693952 items");
  refused(key("k", 9, array(8, 11, "")), "an array of 11 items, the file has 81 more bytes");
  refused(key("k", 9, array(8, 1, u64(900))), "metadata key k: a string of 900 bytes");
  expect_refused("GGUF" + u32(3) + u64(0) + u64(1) + key("keyname", 12, "1234567"),
                 "metadata key keyname: 8 bytes at 43 are needed, the file ends at 50");
  const std::string odd = "\xff" + std::string(200, 'k');
  refused(key(odd, 13, ""), "metadata key ?" + std::string(99, 'k') + "…: a value of the unknown");
}

TEST(GgufHeader, RefusesAlignmentsThatAreNoPowerOfTwo) {
  const auto with = [](std::uint32_t type, const std::string& value) {
    return file_of({key("general.alignment", type, value)}, {row("w", {1}, 0, 0)}, 4, 1);
  };
  EXPECT_TRUE(parse(with(4, u32(1))).ok());
  expect_refused(with(4, u32(0)), "general.alignment 0 is no power of two up to 1048576");
  expect_refused(with(4, u32(48)), "general.alignment 48 is no power of two");
  expect_refused(with(10, u64(1ull << 63)), "general.alignment 9223372036854775808 is no power");
  expect_refused(with(5, raw(std::int32_t{-32})), "metadata key general.alignment is -32");
  expect_refused(with(8, str("32")), "metadata key general.alignment is a string, not an integer");
}

TEST(GgufHeader, RefusesWhatOnlyHugeFilesCanHold) {
  const auto refused = [](const std::string& keys, std::uint64_t count,
                          const std::string& message) {
    const Padded file("GGUF" + u32(3) + u64(0) + u64(count) + keys, 1ull << 40);
    const auto header = read_gguf_header(file);
    ASSERT_FALSE(header.ok()) << message;
    expect_error(header.error(), message, Code::kCorrupt);
  };
  refused(key("k", 8, u64(limits::kGgufStringBytes + 1)), 1,
          "metadata key k: a string of 16777217 bytes, at most 16777216 are read");
  refused(key("k", 9, array(0, limits::kGgufArrayItems + 1, "")), 1,
          "metadata key k: an array of 16777217 items, at most 16777216 of all arrays are read");
  refused(key("k", 9, array(0, 2, "\1\1")) + key("l", 9, array(0, limits::kGgufArrayItems - 1, "")),
          2, "metadata key l: an array of 16777215 items, at most");
  // One array of the items allowed fills the header to its bound, and the next value is beyond it.
  refused(key("k", 9, array(10, limits::kGgufArrayItems, "")), 2,
          fmt::format("the header has more than {} bytes", limits::kGgufHeaderBytes));
}

TEST(GgufHeader, RefusesTensorsThatLie) {
  const auto refused = [](const std::string& table_row, const std::string& message,
                          Code code = Code::kCorrupt) {
    expect_refused(file_of({}, {table_row}, 256), message, code);
  };
  refused(row("", {4}, 0, 0), "tensor number 0: its name is empty");
  refused(row("a\tb", {4}, 0, 0), "tensor number 0: its name has control characters");
  refused(row(std::string(65536, 'n'), {4}, 0, 0), "a string of 65536 bytes, at most 65535");
  refused(row("w", {1, 1, 1, 1, 4}, 0, 0), "tensor w: 5 dimensions, at most 4 are read");
  refused(row("w", {1ull << 63}, 24, 0), "tensor w: an extent of 9223372036854775808");
  refused(row("w", {256}, 16, 0), "tensor w: element type 16 (IQ2_XXS) is not supported",
          Code::kUnsupported);
  refused(row("w", {256}, 40, 0), "tensor w: element type 40 (NVFP4) is not supported",
          Code::kUnsupported);
  refused(row("w", {256}, 1000, 0), "tensor w: element type 1000 is not known", Code::kUnsupported);
  refused(row("w", {33, 2}, 8, 0),
          "tensor w: the rows of [2, 33] are not whole blocks of Q8_0 (32 elements)");
  refused(row("w", {}, 12, 0), "tensor w: the rows of [] are not whole blocks of Q4_K (256");
  // Products that wrap around 2^64 to the right number.
  refused(row("w", {1ull << 62, 4}, 24, 0), "needs 2^63 bytes or more");
  refused(row("w", {(1ull << 62) + 1}, 0, 0), "needs 2^63 bytes or more");
  refused(row("w", {1ull << 62, 0, 4}, 0, 0), "needs 2^63 bytes or more");
  refused(row("w", {4}, 0, 16), "tensor w: its offset 16 is no multiple of 32");
  refused(row("w", {65}, 0, 0), "tensor w: 260 bytes at offset 0 in 256 bytes of data");
  refused(row("w", {1}, 0, 256), "tensor w: 4 bytes at offset 256 in 256 bytes of data");
  refused(row("w", {1}, 0, ~0ull - 31), "tensor w: 4 bytes at offset 18446744073709551584");
  refused(row("w", {1}, 0, 32), "tensor w: 32 bytes before it belong to no tensor");
  const std::string table = file_of({}, {row("w", {0}, 0, 0)});
  expect_refused(table.substr(0, table.size() - 1), "the tensors begin at byte");
}

TEST(GgufHeader, RefusesOverlapsHolesAndRepeats) {
  const auto two = [](const std::string& a, const std::string& b) {
    return file_of({}, {a, b}, 256);
  };
  ASSERT_TRUE(parse(two(row("b", {9}, 0, 32), row("a", {8}, 0, 0))).ok());
  expect_refused(two(row("b", {9}, 0, 32), row("a", {9}, 0, 0)),
                 "tensor b: overlaps the one before it by 4 bytes");
  expect_refused(two(row("b", {9}, 0, 0), row("a", {9}, 0, 0)), "overlaps the one before it by 36");
  expect_refused(two(row("b", {8}, 0, 64), row("a", {8}, 0, 0)),
                 "tensor b: 32 bytes before it belong to no tensor");
  expect_refused(two(row("a", {8}, 0, 0), row("a", {8}, 0, 0)), "tensor a appears twice");
}

// What must hold of every header that is accepted.
void expect_sound(const GgufHeader& header, std::uint64_t file_size) {
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    const GgufTensor& t = header.tensors[i];
    ASSERT_TRUE(checked_bytes(t.info.shape, t.info.dtype).has_value());
    ASSERT_LE(t.file_offset, file_size);
    ASSERT_LE(t.info.bytes(), file_size - t.file_offset);
    ASSERT_EQ(t.file_offset % header.alignment, 0u);
    if (i > 0) {
      ASSERT_LT(header.tensors[i - 1].info.name, t.info.name);
    }
  }
}

TEST(GgufHeader, DamagedFilesAreRefusedOrSound) {
  const std::string good =
      file_of({key("general.alignment", 4, u32(32)), key("t", 8, str("text")),
               key("a", 9, array(8, 2, str("x") + str("yz"))), key("b", 9, array(7, 2, "\1\1"))},
              {row("v", {32, 2}, 2, 0), row("w", {8, 1}, 0, 64)}, 96);
  ASSERT_TRUE(parse(good).ok());
  for (std::size_t cut = 0; cut < good.size(); ++cut)
    EXPECT_FALSE(parse(good.substr(0, cut)).ok()) << cut;
  int accepted = 0;
  for (std::size_t at = 0; at < good.size(); ++at)
    for (const int value : {0, 1, 2, 9, 0x7f, 0x80, 0xff}) {
      std::string damaged = good;
      damaged[at] = static_cast<char>(value);
      const auto header = parse(damaged);
      if (!header.ok()) continue;
      ++accepted;
      expect_sound(*header, damaged.size());
    }
  EXPECT_GT(accepted, 0);
}

tensor::HostTensor make_tensor(std::string name, DType dtype, tensor::Shape shape,
                               std::uint8_t first = 0) {
  tensor::HostTensor made;
  made.info = {std::move(name), dtype, std::move(shape)};
  auto buffer = std::make_shared<Buffer>(static_cast<std::size_t>(made.info.bytes()));
  for (std::size_t i = 0; i < buffer->size(); ++i)
    buffer->data()[i] = static_cast<std::byte>((first + i * 31) & 0xFF);
  made.bytes = std::as_const(*buffer).span();
  made.owner = std::move(buffer);
  return made;
}

void expect_same(const TensorSource& source, const tensor::HostTensor& expected) {
  SCOPED_TRACE(expected.info.name);
  const auto got = source.read(expected.info.name);
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->info.dtype, expected.info.dtype);
  EXPECT_EQ(got->info.shape, expected.info.shape);
  ASSERT_EQ(got->bytes.size(), expected.bytes.size());
  EXPECT_TRUE(std::equal(got->bytes.begin(), got->bytes.end(), expected.bytes.begin()));
}

TEST(GgufSource, ReadsPartsAndCountsThem) {
  Scratch scratch;
  ASSERT_TRUE(
      write_gguf(scratch / "tiny.gguf", {},
                 {make_tensor("b", DType::kQ4_0, {2, 32}, 7), make_tensor("a", DType::kF32, {3})})
          .ok());
  const auto model = open_gguf(scratch / "tiny.gguf");
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(model->name, "tiny");
  EXPECT_EQ(model->origin, scratch / "tiny.gguf");
  const TensorSource& source = *model->tensors;
  ASSERT_EQ(source.tensors().size(), 2u);
  EXPECT_EQ(source.tensors()[0].name, "a");
  EXPECT_EQ(source.bytes_read(), 0u);
  std::byte part[5];
  ASSERT_TRUE(source.read_part("b", 18, part).ok());
  EXPECT_EQ(part[0], static_cast<std::byte>((7 + 18 * 31) & 0xFF));
  EXPECT_EQ(source.bytes_read(), 5u);
  ASSERT_TRUE(source.read_part("b", 31, part).ok());
  EXPECT_EQ(source.read_part("b", 32, part).error().message,
            "tensor b: 5 bytes at 32 asked for, it has 36");
  EXPECT_EQ(source.read_part("c", 0, part).error().code, Code::kNotFound);
  EXPECT_EQ(open_gguf(scratch / "none.gguf").error().code, Code::kNotFound);
}

TEST(GgufSource, TheNameIsGeneralNameIfItCanServe) {
  Scratch scratch;
  const auto name_with = [&](const GgufValue& value) {
    GgufMetadata metadata;
    metadata.values = {{"general.name", value}};
    write_gguf(scratch / "file.gguf", metadata, {}).value();
    return open_gguf(scratch / "file.gguf")->name;
  };
  EXPECT_EQ(name_with(std::string("Tiny 1B")), "Tiny 1B");
  EXPECT_EQ(name_with(std::string()), "file");
  EXPECT_EQ(name_with(std::string("a\nb")), "file");
  EXPECT_EQ(name_with(std::string(limits::kNameBytes + 1, 'x')), "file");
  EXPECT_EQ(name_with(true), "file");
}

TEST(GgufWriter, RefusesWhatCannotBeWritten) {
  Scratch scratch;
  const std::string path = scratch / "m.gguf";
  const auto refused = [&](std::vector<tensor::HostTensor> tensors, const std::string& message,
                           const GgufMetadata& metadata = {}, std::uint64_t alignment = 32) {
    const auto status = write_gguf(path, metadata, std::move(tensors), alignment);
    ASSERT_FALSE(status.ok()) << message;
    EXPECT_EQ(status.error().code, Code::kInvalidArgument);
    EXPECT_EQ(status.error().message, path + ": " + message);
    EXPECT_TRUE(fs::is_empty(scratch.path()));
  };
  refused({make_tensor("a", DType::kF32, {1}), make_tensor("a", DType::kF32, {2})},
          "tensor a appears twice");
  refused({make_tensor("", DType::kF32, {1})}, "tensor : its name is empty");
  refused({make_tensor("a", DType::kF32, {1, 1, 1, 1, 1})},
          "tensor a: 5 dimensions, GGUF has at most 4");
  refused({make_tensor("a", DType::kU8, {1})}, "tensor a: GGUF has no element type U8");
  tensor::HostTensor ragged = make_tensor("a", DType::kQ8_0, {64});
  ragged.info.shape = {2, 33};
  refused({ragged},
          "tensor a: Q8_0 of [2, 33] needs whole blocks and below 2^63 bytes, 68 are given");
  ragged.info.shape = {32};
  refused({ragged}, "tensor a: Q8_0 of [32] needs 34 bytes, 68 are given");
  refused({}, "alignment 24 is no power of two up to 1048576", {}, 24);
  GgufMetadata metadata;
  metadata.values = {{"general.alignment", std::uint64_t{64}}};
  refused({}, "metadata key general.alignment is not the alignment 32", metadata);
  metadata.values = {{"a\n", true}};
  refused({}, "metadata key a?: its name has control characters", metadata);
  EXPECT_EQ(write_gguf(scratch / "no/m.gguf", {}, {}).error().code, Code::kUnavailable);
}

// Other programs expect the specified width of these keys.
TEST(GgufWriter, WritesTheWidthsThatOthersExpect) {
  Scratch scratch;
  GgufMetadata metadata;
  metadata.values = {{"a", std::uint64_t{7}}, {"f", 0.5}, {"split.count", std::uint64_t{1}}};
  ASSERT_TRUE(write_gguf(scratch / "m.gguf", metadata, {}).ok());
  const std::string expected =
      file_of({key("a", 4, u32(7)), key("f", 6, raw(0.5f)), key("split.count", 2, raw<short>(1))});
  EXPECT_EQ(content_of(scratch / "m.gguf").substr(0, expected.size()), expected);
}

// --- random files

std::string random_text(Prng& random) {
  std::string text(random.below(20), '\0');
  for (char& c : text) c = static_cast<char>(random.below(256));
  return text;
}
std::uint64_t random_bits(Prng& random) {
  return random.next() >> random.below(64);
}
double random_float(Prng& random) {
  switch (random.below(5)) {
    case 0:
      return random.range(-1e300, 1e300);
    case 1:
      return INFINITY;
    case 2:
      return -0.0;
    default:
      return double{static_cast<float>(random.range(-10, 10))};
  }
}
template <typename T, typename Make>
std::vector<T> random_items(Prng& random, Make make) {
  std::vector<T> items(random.below(9));
  for (auto&& item : items) item = make(random);
  return items;
}
bool random_bool(Prng& random) {
  return random.below(2) == 1;
}
std::int64_t random_integer(Prng& random) {
  const auto magnitude = static_cast<std::int64_t>(random_bits(random) >> 1);
  return random_bool(random) ? magnitude : -magnitude;
}

GgufValue random_value(Prng& random) {
  switch (random.below(10)) {
    case 0:
      return random_bits(random);
    case 1:
      return random_integer(random);
    case 2:
      return random_float(random);
    case 3:
      return random_bool(random);
    case 4:
      return random_text(random);
    case 5:
      return random_items<std::uint64_t>(random, random_bits);
    case 6:
      return random_items<std::int64_t>(random, random_integer);
    case 7:
      return random_items<double>(random, random_float);
    case 8:
      return random_items<bool>(random, random_bool);
    default:
      return random_items<std::string>(random, random_text);
  }
}

TEST(GgufProperty, WhatIsWrittenIsRead) {
  Scratch scratch;
  const DType types[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kF64,   DType::kI8,
                         DType::kI16,  DType::kI32,  DType::kI64,  DType::kQ4_0,  DType::kQ4_1,
                         DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,  DType::kQ3_K,
                         DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kMXFP4, DType::kIQ4_NL};
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Prng random(seed);
    GgufMetadata metadata;
    for (std::uint64_t i = random.below(12); i > 0; --i)
      metadata.values[fmt::format("key.{}", random.below(1000))] = random_value(random);
    std::map<std::string, tensor::HostTensor> expected;
    for (std::uint64_t i = random.below(12); i > 0; --i) {
      const DType dtype = types[random.below(std::size(types))];
      tensor::Shape shape(random.below(4));
      for (auto& extent : shape) extent = static_cast<std::int64_t>(random.below(5));
      const auto block = static_cast<std::int64_t>(tensor::block_elements(dtype));
      if (block > 1 || !shape.empty())
        shape.push_back(block * static_cast<std::int64_t>(random.below(4)));
      const std::string name = fmt::format("blk.{}.w", random.below(1000));
      expected[name] = make_tensor(name, dtype, shape, static_cast<std::uint8_t>(random.next()));
    }
    std::vector<tensor::HostTensor> tensors;
    for (const auto& [name, made] : expected)
      tensors.insert(
          tensors.begin() + static_cast<std::ptrdiff_t>(random.below(tensors.size() + 1)), made);
    const std::uint64_t alignment = std::uint64_t{1} << random.below(9);
    const std::string path = scratch / "random.gguf";
    const auto status = write_gguf(path, metadata, tensors, alignment);
    ASSERT_TRUE(status.ok()) << status.error().message;
    const auto model = open_gguf(path);
    ASSERT_TRUE(model.ok()) << model.error().message;
    if (alignment != 32) metadata.values["general.alignment"] = alignment;
    EXPECT_TRUE(model->metadata.values == metadata.values);
    ASSERT_EQ(model->tensors->tensors().size(), expected.size());
    for (const auto& [name, made] : expected) expect_same(*model->tensors, made);
  }
}

// --- split files

class GgufSplit : public testing::Test {
 protected:
  // Part i of n with one tensor, named as its place says.
  void write_part(std::uint64_t i, std::uint64_t n, const std::string& tensor, std::int64_t total,
                  std::uint64_t said_number, std::uint64_t said_count) {
    GgufMetadata metadata;
    if (i == 1) metadata.values["general.architecture"] = std::string("llama");
    metadata.values["split.no"] = said_number;
    metadata.values["split.count"] = said_count;
    metadata.values["split.tensors.count"] = total;
    write_gguf(path(i, n), metadata,
               {make_tensor(tensor, DType::kF32, {3}, static_cast<std::uint8_t>(i))})
        .value();
  }
  void write_parts(const std::vector<std::string>& tensors, std::int64_t total) {
    for (std::size_t i = 1; i <= tensors.size(); ++i)
      write_part(i, tensors.size(), tensors[i - 1], total, i - 1, tensors.size());
  }
  std::string path(std::uint64_t i, std::uint64_t n) const {
    return scratch_ / fmt::format("m-{:05}-of-{:05}.gguf", i, n);
  }
  void expect_refused_from(const std::string& file, const std::string& message,
                           Code code = Code::kCorrupt) {
    const auto model = open_gguf(file);
    ASSERT_FALSE(model.ok()) << message;
    EXPECT_EQ(model.error().code, code);
    EXPECT_NE(model.error().message.find(message), std::string::npos) << model.error().message;
  }
  Scratch scratch_;
};

TEST_F(GgufSplit, AnyPartNamesTheWhole) {
  write_parts({"c", "a", "b"}, 3);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const auto model = open_gguf(path(i, 3));
    ASSERT_TRUE(model.ok()) << model.error().message;
    EXPECT_EQ(model->name, "m");
    EXPECT_EQ(model->origin, path(1, 3));
    EXPECT_EQ(*model->metadata.text("general.architecture"), "llama");
    ASSERT_EQ(model->tensors->tensors().size(), 3u);
    EXPECT_EQ(model->tensors->tensors()[0].name, "a");
    expect_same(*model->tensors, make_tensor("c", DType::kF32, {3}, 1));
    expect_same(*model->tensors, make_tensor("a", DType::kF32, {3}, 2));
    expect_same(*model->tensors, make_tensor("b", DType::kF32, {3}, 3));
    EXPECT_EQ(model->tensors->bytes_read(), 36u);
  }
}

TEST_F(GgufSplit, OnePartMayBeTheWhole) {
  write_parts({"a"}, 1);
  EXPECT_EQ(open_gguf(path(1, 1))->name, "m");
  fs::rename(path(1, 1), scratch_ / "whole.gguf");
  EXPECT_EQ(open_gguf(scratch_ / "whole.gguf")->name, "whole");
}

TEST_F(GgufSplit, RefusesPartsThatLackOrDisagree) {
  write_parts({"a", "b", "c"}, 3);
  fs::remove(path(2, 3));
  expect_refused_from(path(1, 3), "part 2 of 3 is missing: " + path(2, 3), Code::kNotFound);
  expect_refused_from(path(3, 3), "part 2 of 3 is missing: " + path(2, 3), Code::kNotFound);
  write_part(2, 3, "b", 3, 2, 3);
  expect_refused_from(path(1, 3), path(2, 3) + ": split.no is 2, counted from 0, its name says 2");
  write_part(2, 3, "b", 3, 1, 4);
  expect_refused_from(path(1, 3), path(2, 3) + ": split.count is 4, its name says 3");
  write_part(2, 3, "a", 3, 1, 3);
  expect_refused_from(path(1, 3), "tensor a is also in " + path(1, 3));
  write_part(2, 3, "b", 4, 1, 3);
  expect_refused_from(path(1, 3), path(2, 3) + ": split.tensors.count is 4, the parts have 3");
  put_file(path(2, 3), "GGUF");
  expect_refused_from(path(1, 3), path(2, 3) + ": 4 bytes are too short");
  fs::copy(path(1, 3), scratch_ / "m.gguf");
  expect_refused_from(scratch_ / "m.gguf",
                      "a part of 3 files, its name does not end in -00001-of-00003.gguf");
  write_gguf(path(1, 3), {}, {}).value();
  expect_refused_from(path(1, 3), "split.count is 1, its name says 3");
  write_part(1, 20'000, "a", 1, 0, 20'000);
  expect_refused_from(path(1, 20'000), "20000 parts, at most 10000 are read");
}

// --- files made by others

TEST(GgufFixtures, EveryFileOpensAndNamesItsTensors) {
  int files = 0;
  for (const auto& entry : fs::directory_iterator(fixture(""))) {
    if (entry.path().extension() != ".gguf") continue;
    ++files;
    const auto model = open_gguf(entry.path().string());
    ASSERT_TRUE(model.ok()) << model.error().message;
    const auto architecture = model->metadata.text("general.architecture");
    ASSERT_TRUE(architecture.ok()) << architecture.error().message;
    EXPECT_TRUE(model->metadata.whole(*architecture + ".block_count").ok());
    EXPECT_EQ(model->metadata.texts("tokenizer.ggml.tokens")->size(), 320u);
    ASSERT_NE(model->tensors->find("token_embd.weight"), nullptr);
    EXPECT_EQ(model->tensors->find("token_embd.weight")->shape[0], 320);
  }
  EXPECT_GE(files, 17);
}

TEST(GgufFixtures, SplitPartsGiveTheTensorsOfTheWhole) {
  const auto whole = open_gguf(fixture("llama-q8_0.gguf"));
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  EXPECT_EQ(whole->name, "llama-q8_0");
  for (const char* part :
       {"llama-q8_0-split-00001-of-00002.gguf", "llama-q8_0-split-00002-of-00002.gguf"}) {
    const auto split = open_gguf(fixture(part));
    ASSERT_TRUE(split.ok()) << split.error().message;
    ASSERT_EQ(split->tensors->tensors().size(), whole->tensors->tensors().size());
    for (const auto& info : whole->tensors->tensors())
      expect_same(*split->tensors, *whole->tensors->read(info.name));
    GgufMetadata keys = split->metadata;
    for (const char* name : {"split.no", "split.count", "split.tensors.count"})
      EXPECT_EQ(keys.values.erase(name), 1u) << name;
    EXPECT_TRUE(keys.values == whole->metadata.values);
  }
}

// Keys, tensors and size survive reading and writing.
TEST(GgufFixtures, WrittenAgainTheyAreTheSame) {
  Scratch scratch;
  for (const char* name : {"qwen3-q4_0.gguf", "qwen3-q4_k_m.gguf", "gpt-oss-mxfp4.gguf"}) {
    const auto model = open_gguf(fixture(name));
    ASSERT_TRUE(model.ok()) << model.error().message;
    std::vector<tensor::HostTensor> tensors;
    for (const auto& info : model->tensors->tensors())
      tensors.push_back(*model->tensors->read(info.name));
    ASSERT_TRUE(write_gguf(scratch / name, model->metadata, tensors).ok());
    const auto again = open_gguf(scratch / name);
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_TRUE(again->metadata.values == model->metadata.values);
    for (const auto& made : tensors) expect_same(*again->tensors, made);
    EXPECT_EQ(fs::file_size(scratch / name), fs::file_size(fixture(name)));
  }
}

}  // namespace
}  // namespace mesh::formats
