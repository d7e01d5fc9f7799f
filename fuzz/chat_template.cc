// Input: a Jinja template, NUL, the messages as JSON (absent: a short chat with a tool call).

#include "text/chat_template.h"

#include "base/limits.h"
#include "target.h"

namespace {

constexpr const char* kMessages = R"([
  {"role": "system", "content": "Be brief."},
  {"role": "user", "content": [{"type": "text", "text": "2+2? <b>"}]},
  {"role": "assistant", "content": null, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2.5}}}]},
  {"role": "tool", "content": "4", "tool_call_id": "c1"},
  {"role": "user", "content": " Thanks\n"}])";
constexpr const char* kTools =
    R"([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}])";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto [source, messages] = mesh::fuzz::two_parts(mesh::fuzz::text_of(data, size));
  const auto chat = mesh::text::ChatTemplate::parse(source);
  if (!chat.ok()) return 0;
  mesh::text::ChatInputs inputs;
  inputs.messages_json = messages.empty() ? kMessages : std::string(messages);
  inputs.tools_json = kTools;
  inputs.add_generation_prompt = true;
  inputs.extra_json = R"({"enable_thinking": false})";
  inputs.bos_token = "<s>";
  inputs.eos_token = "</s>";
  inputs.unix_seconds = 1'767'225'600;
  const auto prompt = (*chat)->render(inputs);
  if (!prompt.ok()) return 0;
  std::string text = mesh::text::concatenate(*prompt);
  if (mesh::fuzz::planted(prompt->size() > 2 && text.size() > 600))
    text.resize(mesh::limits::kTemplateOutputBytes + 1);
  MESH_CHECK(text.size() <= mesh::limits::kTemplateOutputBytes, "{} bytes", text.size());
  return 0;
}
