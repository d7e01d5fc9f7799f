#include "formats/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "base/random.h"

namespace mesh::formats {
namespace {

namespace fs = std::filesystem;

class Scratch {
 public:
  Scratch() : path_(fs::temp_directory_path() / fmt::format("mesh-{}-{}", ::getpid(), counter_++)) {
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  const fs::path& path() const { return path_; }

 private:
  static inline int counter_ = 0;
  fs::path path_;
};

std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof(length));
  file += header;
  file.append(data_bytes, '\x01');
  return file;
}

Result<SafetensorsHeader> parse(const std::string& file) {
  return parse_safetensors_header(as_bytes(file), file.size(), "m.safetensors");
}

void expect_refused(const std::string& file, const std::string& message,
                    Code code = Code::kCorrupt) {
  const auto header = parse(file);
  ASSERT_FALSE(header.ok()) << "expected: " << message;
  EXPECT_EQ(header.error().code, code) << header.error().message;
  EXPECT_EQ(header.error().message.substr(0, 15), "m.safetensors: ");
  EXPECT_NE(header.error().message.find(message), std::string::npos) << header.error().message;
}

TEST(SafetensorsHeader, ReadsTableSortedByNameAndMetadata) {
  const std::string text =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
      R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]},)"
      R"("\u0061.e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},)"
      R"("s":{"dtype":"U8","shape":[],"data_offsets":[28,29]}}   )";
  const auto header = parse(file_of(text, 29));
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_EQ(header->metadata, (SafetensorsMetadata{{"format", "pt"}}));
  EXPECT_EQ(header->data_start, 8 + text.size());
  ASSERT_EQ(header->entries.size(), 4u);
  EXPECT_EQ(header->entries[0].info.name, "a");
  EXPECT_EQ(header->entries[0].info.dtype, tensor::DType::kBF16);
  EXPECT_EQ(header->entries[1].info.name, "a.e");
  EXPECT_EQ(header->entries[1].info.bytes(), 0u);
  EXPECT_EQ(header->entries[2].info.shape, (tensor::Shape{2, 3}));
  EXPECT_EQ(header->entries[2].file_offset, header->data_start + 4);
  EXPECT_EQ(header->entries[3].info.shape, tensor::Shape{});
}

TEST(SafetensorsHeader, RefusesLengthsThatLie) {
  expect_refused("", "0 bytes are too short");
  expect_refused("1234567", "7 bytes are too short");
  expect_refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10),
                 "header length 18446744073709551615");
  expect_refused(std::string("\x03\0\0\0\0\0\0\0{}", 10), "header length 3 in a file of 10 bytes");
  expect_refused(file_of("", 0), "does not start with {");
  const std::string whole = file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4);
  ASSERT_TRUE(parse(whole).ok());
  for (std::size_t cut = 0; cut < whole.size(); ++cut)
    EXPECT_FALSE(parse(whole.substr(0, cut)).ok()) << cut;
  expect_refused(whole + "x", "the tensors end at byte 4 of 5");
}

TEST(SafetensorsHeader, RefusesBrokenJson) {
  expect_refused(file_of("[]", 0), "does not start with {");
  expect_refused(file_of("{", 0), "header: ");
  expect_refused(file_of("{\"\xff\":1}", 0), "UTF-8");
  expect_refused(file_of("{}{}", 0), "header: ");
  expect_refused(file_of(R"({"a":7})", 0), "tensor a: not an object");
  expect_refused(file_of(R"({"a":{}})", 0), "is missing");
  expect_refused(file_of(R"({"__metadata__":[]})", 0), "__metadata__ is not an object");
  expect_refused(file_of(R"({"__metadata__":{"k":1}})", 0), "__metadata__ entry k");
  expect_refused(file_of(R"({"__metadata__":{},"__metadata__":{}})", 0),
                 "__metadata__ is repeated");
  std::string deep = R"({"a":{"dtype":"U8","shape":)";
  deep.append(100'000, '[');
  expect_refused(file_of(deep, 0), "header: ");
}

std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return fmt::format(R"({{"a":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape,
                     offsets);
}

TEST(SafetensorsHeader, RefusesTensorsThatLie) {
  const std::string u8 = R"("U8")";
  expect_refused(file_of(one(R"("F128")", "[4]", "[0,4]"), 4), "element type F128",
                 Code::kUnsupported);
  expect_refused(file_of(one("7", "[4]", "[0,4]"), 4), "dtype is repeated or no string");
  expect_refused(file_of(one(u8, "4", "[0,4]"), 4), "shape is not a list");
  expect_refused(file_of(one(u8, "[-4]", "[0,4]"), 4), "shape is not a list");
  expect_refused(file_of(one(u8, "[4.0]", "[0,4]"), 4), "shape is not a list");
  expect_refused(file_of(one(u8, "[1,1,1,1,1,1,1,1,4]", "[0,4]"), 4), "at most 8 extents");
  expect_refused(file_of(one(u8, "[4]", "[0]"), 4), "not a pair");
  expect_refused(file_of(one(u8, "[4]", "[0,2,4]"), 4), "not a pair");
  expect_refused(file_of(one(u8, "[4]", "[4,0]"), 4), "data_offsets [4, 0] in 4 bytes");
  expect_refused(file_of(one(u8, "[5]", "[0,5]"), 4), "data_offsets [0, 5] in 4 bytes");
  expect_refused(file_of(one(u8, "[3]", "[0,4]"), 4),
                 "U8 of [3] needs 3 bytes, data_offsets span 4");
  // Products that wrap around 2^64 to the right number.
  expect_refused(file_of(one(u8, "[4611686018427387904,4]", "[0,0]"), 0),
                 "needs 2^63 or more bytes");
  expect_refused(file_of(one(R"("F32")", "[4611686018427387905]", "[0,4]"), 4),
                 "needs 2^63 or more bytes");
  expect_refused(file_of(one(u8, "[9223372036854775808]", "[0,4]"), 4), "shape is not a list");
  expect_refused(file_of(one(u8, "[4]", "[0,18446744073709551620]"), 4), "");
}

TEST(SafetensorsHeader, RefusesOverlapsHolesAndRepeats) {
  const auto two = [](int b0, int b1, int c0, int c1, const char* second = "c") {
    return fmt::format(R"({{"b":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}},)"
                       R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{}]}}}})",
                       b1 - b0, b0, b1, second, c1 - c0, c0, c1);
  };
  ASSERT_TRUE(parse(file_of(two(4, 8, 0, 4), 8)).ok());
  expect_refused(file_of(two(0, 4, 3, 8), 8), "tensor c: overlaps the one before it by 1");
  expect_refused(file_of(two(0, 4, 0, 8), 8), "overlaps");
  expect_refused(file_of(two(0, 4, 6, 8), 8), "tensor c: 2 bytes before it belong to no tensor");
  expect_refused(file_of(two(1, 4, 4, 8), 8), "tensor b: 1 bytes before it");
  expect_refused(file_of(two(0, 4, 4, 8, "b"), 8), "tensor b: appears twice");
  expect_refused(
      file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
      "repeated");
}

// Flips and cuts of a good file never do more than fail.
TEST(SafetensorsHeader, SurvivesMutations) {
  const std::string good =
      file_of(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
              R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}})",
              14);
  constexpr std::uint64_t kSeed = 11;
  SCOPED_TRACE(fmt::format("seed {}", kSeed));
  Prng random(kSeed);
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string file = good;
    for (std::uint64_t flips = random.below(4); flips > 0; --flips)
      file[random.below(file.size())] = static_cast<char>(random.next());
    if (random.below(4) == 0) file.resize(random.below(file.size() + 1));
    const auto header = parse(file);
    if (!header.ok()) continue;
    ++accepted;
    for (const SafetensorsEntry& entry : header->entries)
      ASSERT_LE(entry.file_offset + entry.info.bytes(), file.size());
  }
  EXPECT_GT(accepted, 0);
}

tensor::HostTensor tensor_of(const std::string& name, tensor::DType dtype, tensor::Shape shape,
                             int seed) {
  tensor::TensorInfo info{.name = name, .dtype = dtype, .shape = std::move(shape)};
  auto buffer = std::make_shared<Buffer>(info.bytes());
  Prng random(static_cast<std::uint64_t>(seed));
  for (std::byte& byte : buffer->span()) byte = static_cast<std::byte>(random.next());
  const std::span<const std::byte> bytes = std::as_const(*buffer).span();
  return {.info = std::move(info), .bytes = bytes, .owner = buffer};
}

TEST(SafetensorsFile, RoundTripsAndReadsOnlyWhatIsAsked) {
  const Scratch scratch;
  const std::vector<tensor::HostTensor> tensors = {
      tensor_of("x", tensor::DType::kBF16, {3, 5}, 1),
      tensor_of("quote\"ä", tensor::DType::kF32, {7}, 2),
      tensor_of("empty", tensor::DType::kI64, {0}, 3)};
  const std::string path = scratch / "m.safetensors";
  ASSERT_TRUE(write_safetensors(path, tensors, {{"info", "a \"text\""}}).ok());
  auto file = open_file(path);
  ASSERT_TRUE(file.ok());
  const auto source = open_safetensors(std::move(file).value());
  ASSERT_TRUE(source.ok()) << source.error().message;
  const TensorSource& opened = **source;
  EXPECT_EQ(opened.bytes_read(), 0u);
  ASSERT_EQ(opened.tensors().size(), 3u);
  EXPECT_EQ(opened.tensors()[0].name, "empty");
  const auto x = opened.read("x");
  ASSERT_TRUE(x.ok());
  EXPECT_EQ(x->info.shape, (tensor::Shape{3, 5}));
  EXPECT_TRUE(std::equal(x->bytes.begin(), x->bytes.end(), tensors[0].bytes.begin(),
                         tensors[0].bytes.end()));
  EXPECT_EQ(opened.bytes_read(), 30u);
  std::array<std::byte, 4> part{};
  ASSERT_TRUE(opened.read_part("quote\"ä", 8, part).ok());
  EXPECT_EQ(std::memcmp(part.data(), tensors[1].bytes.data() + 8, 4), 0);
  EXPECT_EQ(opened.bytes_read(), 34u);
  EXPECT_EQ(opened.read_part("x", 28, part).error().code, Code::kInvalidArgument);
  EXPECT_EQ(opened.read_part("x", ~std::uint64_t{0}, part).error().code, Code::kInvalidArgument);
  EXPECT_EQ(opened.read("y").error().code, Code::kNotFound);
  EXPECT_EQ(opened.find("y"), nullptr);
}

TEST(SafetensorsFile, ReportsAFileThatShrank) {
  const Scratch scratch;
  const std::string path = scratch / "m.safetensors";
  const std::vector<tensor::HostTensor> tensors = {tensor_of("x", tensor::DType::kU8, {100}, 1)};
  ASSERT_TRUE(write_safetensors(path, tensors).ok());
  const auto source = open_safetensors(std::move(open_file(path)).value());
  ASSERT_TRUE(source.ok());
  fs::resize_file(path, fs::file_size(path) - 1);
  const auto x = (*source)->read("x");
  ASSERT_FALSE(x.ok());
  EXPECT_EQ(x.error().code, Code::kCorrupt);
  EXPECT_NE(x.error().message.find("tensor x"), std::string::npos);
}

TEST(SafetensorsWriter, LeavesNothingBehindUnlessFinished) {
  const Scratch scratch;
  const std::string path = scratch / "m.safetensors";
  {
    auto writer = SafetensorsWriter::create(path, {{"a", tensor::DType::kU8, {4}}}, {});
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE((*writer)->append("a", as_bytes("123")).ok());
    EXPECT_EQ((*writer)->append("a", as_bytes("45")).error().code, Code::kInvalidArgument);
    EXPECT_EQ((*writer)->append("b", as_bytes("4")).error().code, Code::kNotFound);
    EXPECT_EQ((*writer)->finish().error().code, Code::kInvalidArgument);
  }
  EXPECT_TRUE(fs::is_empty(scratch.path()));
  EXPECT_FALSE(SafetensorsWriter::create(
                   path, {{"a", tensor::DType::kU8, {4}}, {"a", tensor::DType::kU8, {4}}}, {})
                   .ok());
  EXPECT_FALSE(SafetensorsWriter::create(path, {{"\xff", tensor::DType::kU8, {4}}}, {}).ok());
  EXPECT_FALSE(SafetensorsWriter::create(path, {{"a", tensor::DType::kU8, {-4}}}, {}).ok());
  EXPECT_TRUE(fs::is_empty(scratch.path()));
}

struct Sharded {
  Scratch scratch;
  std::string index = scratch / "model.safetensors.index.json";
  Sharded() {
    const std::vector<tensor::HostTensor> first = {tensor_of("a", tensor::DType::kU8, {4}, 1)};
    const std::vector<tensor::HostTensor> second = {tensor_of("b", tensor::DType::kU8, {5}, 2)};
    EXPECT_TRUE(write_safetensors(scratch / "one.safetensors", first).ok());
    EXPECT_TRUE(write_safetensors(scratch / "two.safetensors", second).ok());
  }
  Result<std::shared_ptr<TensorSource>> open(const std::string& text) const {
    std::ofstream(index) << text;
    return open_safetensors_index(index);
  }
  void expect_refused(const std::string& text, Code code, const std::string& message) const {
    const auto source = open(text);
    ASSERT_FALSE(source.ok()) << text;
    EXPECT_EQ(source.error().code, code) << source.error().message;
    EXPECT_NE(source.error().message.find(message), std::string::npos) << source.error().message;
    EXPECT_NE(source.error().message.find("model.safetensors.index.json"), std::string::npos);
  }
};

TEST(SafetensorsIndex, JoinsShards) {
  const Sharded model;
  const auto source =
      model.open(R"({"metadata":{},"weight_map":{"b":"two.safetensors","a":"one.safetensors"}})");
  ASSERT_TRUE(source.ok()) << source.error().message;
  ASSERT_EQ((*source)->tensors().size(), 2u);
  EXPECT_EQ((*source)->tensors()[0].name, "a");
  const auto b = (*source)->read("b");
  ASSERT_TRUE(b.ok());
  EXPECT_EQ(b->bytes.size(), 5u);
  EXPECT_EQ((*source)->bytes_read(), 5u);
}

TEST(SafetensorsIndex, RefusesWhatDoesNotFit) {
  const Sharded model;
  model.expect_refused("{", Code::kCorrupt, "");
  model.expect_refused("{}", Code::kCorrupt, "no object weight_map");
  model.expect_refused(R"({"weight_map":{"a":3}})", Code::kCorrupt, "tensor a has no file name");
  model.expect_refused(R"({"weight_map":{"a":"../one.safetensors"}})", Code::kCorrupt,
                       "tensor a names the file");
  model.expect_refused(R"({"weight_map":{"a":"/etc/passwd"}})", Code::kCorrupt,
                       "tensor a names the file");
  model.expect_refused(R"({"weight_map":{"a":"one.safetensors","a":"one.safetensors"}})",
                       Code::kCorrupt, "twice");
  model.expect_refused(R"({"weight_map":{"a":"three.safetensors"}})", Code::kNotFound,
                       "shard three.safetensors");
  model.expect_refused(R"({"weight_map":{"c":"one.safetensors"}})", Code::kCorrupt,
                       "tensor c is said to be in one");
}

}  // namespace
}  // namespace mesh::formats
