#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/bytes.h"
#include "formats/byte_source.h"
#include "formats/hub_cache.h"
#include "formats/model_files.h"

namespace mesh::formats {
namespace {

namespace fs = std::filesystem;

const std::string kModels = MESH_TEST_DATA "/models/";

class Scratch {
 public:
  Scratch()
      : path_(fs::temp_directory_path() / fmt::format("mesh-files-{}-{}", ::getpid(), counter_++)) {
    fs::create_directories(path_);
  }
  ~Scratch() { fs::remove_all(path_); }
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  static inline int counter_ = 0;
  fs::path path_;
};

void write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::string text_of(const std::string& path) {
  return std::move(read_text_file(path, 1 << 30)).value();
}

void expect_refused(const std::string& spec, const HubEnvironment& environment, Code code,
                    const std::string& message) {
  const auto files = open_model(spec, environment);
  ASSERT_FALSE(files.ok()) << spec;
  EXPECT_EQ(files.error().code, code) << files.error().message;
  EXPECT_NE(files.error().message.find(message), std::string::npos) << files.error().message;
}

TEST(ByteSource, FilesAndMemoryReadAlikeAndCheckBounds) {
  const Scratch scratch;
  write(scratch / "f", "0123456789");
  const auto file = open_file((scratch / "f").string());
  ASSERT_TRUE(file.ok());
  const std::unique_ptr<ByteSource> memory = borrow_memory(as_bytes("0123456789"), "memory");
  for (const ByteSource* source : {file->get(), memory.get()}) {
    EXPECT_EQ(source->size(), 10u);
    std::string out(4, ' ');
    const std::span<std::byte> span(reinterpret_cast<std::byte*>(out.data()), 4);
    ASSERT_TRUE(source->read(6, span).ok());
    EXPECT_EQ(out, "6789");
    EXPECT_TRUE(source->read(10, {}).ok());
    EXPECT_EQ(source->read(7, span).error().code, Code::kInvalidArgument);
    EXPECT_EQ(source->read(~std::uint64_t{0}, span).error().code, Code::kInvalidArgument);
  }
  EXPECT_EQ(open_file((scratch / "none").string()).error().code, Code::kNotFound);
  EXPECT_EQ(open_file((scratch / "").string()).error().code, Code::kInvalidArgument);
  EXPECT_EQ(read_text_file((scratch / "f").string(), 9).error().code, Code::kResourceExhausted);
}

TEST(ModelFiles, OpensEveryFixture) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(kModels)) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().string());
    const auto files = open_model(entry.path().string(), {});
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_EQ(files->name, entry.path().filename().string());
    EXPECT_EQ(files->origin, entry.path().string());
    EXPECT_FALSE(files->config_json.empty());
    EXPECT_FALSE(files->generation_config_json.empty());
    EXPECT_GE(files->tensors->tensors().size(), 38u);
    EXPECT_EQ(files->tensors->bytes_read(), 0u);
    ++count;
  }
  EXPECT_GE(count, 10);
}

TEST(ModelFiles, TakesFilesOfADirectory) {
  for (const char* spec :
       {"llama/config.json", "llama/model.safetensors", "qwen3-sharded/config.json",
        "qwen3-sharded/model.safetensors.index.json",
        "qwen3-sharded/model-00001-of-00003.safetensors"}) {
    const auto files = open_model(kModels + spec, {});
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_EQ(files->name, fs::path(spec).parent_path().string());
  }
  const auto shard = open_model(kModels + "qwen3-sharded/model-00001-of-00003.safetensors", {});
  EXPECT_EQ(shard->tensors->tensors().size(), 47u);
  const auto tokenizer = open_model(kModels + "llama", {});
  EXPECT_FALSE(tokenizer->tokenizer_json.empty());
  EXPECT_FALSE(tokenizer->chat_template.empty());
  EXPECT_TRUE(open_model(kModels + "qwen2", {})->tokenizer_json.empty());
}

TEST(ModelFiles, SaysWhatIsMissing) {
  const Scratch scratch;
  fs::create_directories(scratch / "empty");
  expect_refused((scratch / "empty").string(), {}, Code::kNotFound,
                 "has no config.json; is it a model directory?");
  write(scratch / "bare/config.json", "{}");
  expect_refused((scratch / "bare").string(), {}, Code::kNotFound, "has no model.safetensors");
  write(scratch / "bare/pytorch_model.bin", "");
  expect_refused((scratch / "bare").string(), {}, Code::kUnsupported, "it holds pytorch_model.bin");
  write(scratch / "a.pth", "");
  expect_refused((scratch / "a.pth").string(), {}, Code::kUnsupported, "is not a model directory");
  expect_refused("nonsense", {}, Code::kNotFound, "no model \"nonsense\"");
  expect_refused("a/../../b", {}, Code::kNotFound, "no model");
}

TEST(ChatTemplate, ComesFromTokenizerConfigWhenThereIsNoFile) {
  EXPECT_EQ(*template_of_tokenizer_config(R"({"chat_template":"T"})"), "T");
  EXPECT_EQ(
      *template_of_tokenizer_config(
          R"({"chat_template":[{"name":"tool_use","template":"U"},{"name":"default","template":"D"}]})"),
      "D");
  EXPECT_EQ(*template_of_tokenizer_config(R"({"chat_template":null})"), "");
  EXPECT_EQ(*template_of_tokenizer_config("{}"), "");
  EXPECT_EQ(template_of_tokenizer_config("{").error().code, Code::kCorrupt);
  const Scratch scratch;
  for (const char* name : {"config.json", "model.safetensors"}) {
    fs::create_directories(scratch / "m");
    fs::copy_file(kModels + "qwen2/" + name, scratch / "m" / name);
  }
  write(scratch / "m/tokenizer_config.json", R"({"chat_template":"from config"})");
  EXPECT_EQ(open_model((scratch / "m").string(), {})->chat_template, "from config");
  write(scratch / "m/chat_template.jinja", "from file");
  EXPECT_EQ(open_model((scratch / "m").string(), {})->chat_template, "from file");
}

TEST(HubCache, PlacesItselfAsTheToolsDo) {
  EXPECT_EQ(hub_cache_directory({"/c", "/h", "/x", "/u"}), "/c");
  EXPECT_EQ(hub_cache_directory({"", "/h", "/x", "/u"}), "/h/hub");
  EXPECT_EQ(hub_cache_directory({"", "", "/x", "/u"}), "/x/huggingface/hub");
  EXPECT_EQ(hub_cache_directory({"", "", "", "/u"}), "/u/.cache/huggingface/hub");
  EXPECT_EQ(hub_cache_directory({}), "");
}

TEST(HubCache, ParsesIds) {
  EXPECT_EQ(*parse_hub_id("Qwen/Qwen3-0.6B"), (HubId{"Qwen/Qwen3-0.6B", "main"}));
  EXPECT_EQ(*parse_hub_id("a/b@refs/pr/1"), (HubId{"a/b", "refs/pr/1"}));
  EXPECT_EQ(*parse_hub_id("a/b:Q4_K_M/c-00001-of-00002.gguf"),
            (HubId{"a/b", "main", "Q4_K_M/c-00001-of-00002.gguf"}));
  EXPECT_EQ(*parse_hub_id("a/b@v1:c.gguf"), (HubId{"a/b", "v1", "c.gguf"}));
  for (const char* bad : {"a", "a/", "/b", "a/b/c", "a/b@", "a/..", "a/b@../x", "a b/c",
                          "a/b@x/../y", "a/b@/x", "a/b:", "a/b:../x", "a/b:/x", "a/b:c:d"})
    EXPECT_FALSE(parse_hub_id(bad).ok()) << bad;
}

TEST(HubCache, OpensSnapshotsByRevision) {
  const Scratch scratch;
  const std::string commit = "0123456789abcdef0123456789abcdef01234567";
  const fs::path root = scratch / "hub/models--org--tiny";
  fs::create_directories(root / "snapshots" / commit);
  fs::create_directories(root / "blobs");
  for (const auto& entry : fs::directory_iterator(kModels + "llama")) {
    const std::string name = entry.path().filename().string();
    fs::copy_file(entry.path(), root / "blobs" / name);
    fs::create_symlink("../../blobs/" + name, root / "snapshots" / commit / name);
  }
  write(root / "refs/main", commit);
  write(root / "refs/refs/pr/1", commit + "\n");
  write(root / "refs/evil", "../../../..");
  HubEnvironment environment;
  environment.hf_home = (scratch / "").string();
  for (const std::string& revision :
       {std::string(), std::string("@main"), std::string("@refs/pr/1"), "@" + commit}) {
    const auto files = open_model("org/tiny" + revision, environment);
    ASSERT_TRUE(files.ok()) << files.error().message;
    EXPECT_EQ(files->name, "org/tiny");
    EXPECT_EQ(files->config_json, text_of(kModels + "llama/config.json"));
  }
  expect_refused("org/tiny@v2", environment, Code::kNotFound, "revision v2 of org/tiny");
  expect_refused("org/tiny@evil", environment, Code::kNotFound, "revision evil");
  expect_refused("org/other", environment, Code::kNotFound,
                 "models--org--other); fetch it with: hf download org/other");
  expect_refused("org/other", {}, Code::kNotFound, "HF_HUB_CACHE");
}

TEST(BuiltinModel, EqualsTheFilesOfThePocketModel) {
  const std::string pocket = MESH_TEST_DATA "/../../models/pocket/";
  for (const char* spec : {"", "pocket"}) {
    const auto files = open_model(spec, {});
    ASSERT_TRUE(files.ok());
    EXPECT_EQ(files->name, "pocket");
    EXPECT_EQ(files->origin, "built in");
    EXPECT_EQ(files->config_json, text_of(pocket + "config.json"));
    EXPECT_EQ(files->generation_config_json, text_of(pocket + "generation_config.json"));
    EXPECT_EQ(files->tokenizer_json, text_of(pocket + "tokenizer.json"));
    EXPECT_EQ(files->tokenizer_config_json, text_of(pocket + "tokenizer_config.json"));
    EXPECT_EQ(files->chat_template, text_of(pocket + "chat_template.jinja"));
    const auto disk = open_model(pocket, {});
    ASSERT_TRUE(disk.ok()) << disk.error().message;
    ASSERT_EQ(files->tensors->tensors().size(), disk->tensors->tensors().size());
    for (const tensor::TensorInfo& info : disk->tensors->tensors()) {
      const auto a = files->tensors->read(info.name);
      const auto b = disk->tensors->read(info.name);
      ASSERT_TRUE(a.ok() && b.ok());
      EXPECT_EQ(a->info.shape, b->info.shape);
      EXPECT_TRUE(std::equal(a->bytes.begin(), a->bytes.end(), b->bytes.begin(), b->bytes.end()))
          << info.name;
    }
  }
}

}  // namespace
}  // namespace mesh::formats
