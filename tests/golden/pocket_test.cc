// The built-in model answers its 111 golden chats with exactly the ids of transformers.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "backends/backends.h"
#include "engine/eval.h"
#include "formats/byte_source.h"

namespace mesh {
namespace {

struct Chat {
  std::vector<TokenId> prompt, answer;
};

// Shortest answers first, so that chats of one batch end at about the same step.
std::vector<Chat> golden_chats() {
  const std::string text = formats::read_text_file(MESH_POCKET "/golden.json", 16u << 20).value();
  std::vector<Chat> chats;
  for (const nlohmann::json& entry : nlohmann::json::parse(text))
    chats.push_back({entry["prompt_ids"], entry["answer_ids"]});
  std::stable_sort(chats.begin(), chats.end(),
                   [](const Chat& a, const Chat& b) { return a.answer.size() < b.answer.size(); });
  return chats;
}

void expect_answers(ops::Backend& backend, const formats::ModelFiles& files,
                    std::span<const Chat> chats) {
  std::vector<std::vector<TokenId>> prompts;
  engine::EvalOptions options;
  options.logits = false;
  for (const Chat& chat : chats) {
    prompts.push_back(chat.prompt);
    options.generate = std::max(options.generate, static_cast<std::uint32_t>(chat.answer.size()));
  }
  const auto result = engine::evaluate(backend, files, prompts, options);
  ASSERT_TRUE(result.ok()) << result.error().message;
  for (std::size_t i = 0; i < chats.size(); ++i) {
    std::vector<TokenId> found = result->sequences[i].generated;
    ASSERT_GE(found.size(), chats[i].answer.size());
    found.resize(chats[i].answer.size());  // what follows the stop id is nobody's business
    EXPECT_EQ(found, chats[i].answer) << "chat " << i << " of this batch";
  }
}

TEST(Pocket, AnswersAllGoldenChatsExactly) {
  const std::vector<Chat> chats = golden_chats();
  ASSERT_EQ(chats.size(), 111u);
  const auto backend = backends::make_backend("cpu", {.threads = 2, .isa = ""}).value();
  const formats::ModelFiles files = formats::open_builtin_model();
  for (std::size_t first = 0; first < chats.size(); first += 16)
    expect_answers(
        *backend, files,
        std::span(chats).subspan(first, std::min<std::size_t>(16, chats.size() - first)));
}

// The same values in f32, so that residual and KV cache are f32 as well.
class WidenedSource final : public formats::TensorSource {
 public:
  explicit WidenedSource(const TensorSource& source) {
    for (const tensor::TensorInfo& info : source.tensors()) {
      const tensor::HostTensor host = source.read(info.name).value();
      std::vector<float>& values = values_[info.name];
      values.resize(host.bytes.size() / 2);
      for (std::size_t i = 0; i < values.size(); ++i) {
        std::uint16_t value = 0;
        std::memcpy(&value, host.bytes.data() + 2 * i, sizeof(value));
        values[i] = tensor::bf16_to_f32(value);
      }
      infos_.push_back(info);
      infos_.back().dtype = tensor::DType::kF32;
    }
  }
  const std::vector<tensor::TensorInfo>& tensors() const override { return infos_; }
  Result<void> read_part(const std::string& name, std::uint64_t offset,
                         std::span<std::byte> out) const override {
    const auto checked = formats::check_part(*this, name, offset, out.size());
    if (!checked.ok()) return checked.error();
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(values_.at(name).data()) + offset,
                out.size());
    return {};
  }
  std::uint64_t bytes_read() const override { return 0; }

 private:
  std::vector<tensor::TensorInfo> infos_;
  std::map<std::string, std::vector<float>> values_;
};

TEST(Pocket, TheReferenceInF32GivesTheSameAnswers) {
  const std::vector<Chat> chats = golden_chats();
  const auto backend = backends::make_backend("ref", {}).value();
  formats::ModelFiles files = formats::open_builtin_model();
  files.tensors = std::make_shared<WidenedSource>(*files.tensors);
  // Four chats of short to medium answers.
  const std::vector<Chat> few{chats[0], chats[20], chats[40], chats[55]};
  expect_answers(*backend, files, few);
}

}  // namespace
}  // namespace mesh
