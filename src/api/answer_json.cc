#include "api/answer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "api/json_text.h"
#include "base/bytes.h"
#include "base/random.h"
#include "text/utf8.h"

namespace mesh::api {
namespace {

// JSON has no infinity; other servers write this number for it.
constexpr float kLogprobLeast = -9999.0f;

void append_number(std::string& out, float value) {
  fmt::format_to(std::back_inserter(out), "{}", value >= kLogprobLeast ? value : kLogprobLeast);
}

void append_bytes(std::string& out, std::string_view bytes) {
  out += '[';
  for (std::size_t i = 0; i < bytes.size(); ++i)
    fmt::format_to(std::back_inserter(out), "{}{}", i > 0 ? "," : "",
                   static_cast<unsigned char>(bytes[i]));
  out += ']';
}

// Legacy objects have no exact bytes beside a token, so its text has to name them.
std::string legacy_text(std::string_view bytes) {
  if (text::is_utf8(bytes)) return std::string(bytes);
  std::string out = "bytes:";
  for (char c : bytes)
    fmt::format_to(std::back_inserter(out), "\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

bool continues_character(char c) {
  return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u;
}

double thousandths(double value) {
  return std::round(value * 1e3) / 1e3;
}

Duration prefill_of(const node::Timings& timings) {
  return std::max(timings.prompt - timings.queue, Duration{});
}

std::string timings_json(const AnswerTimings& t) {
  const double generation_s = to_seconds(t.timings.generation);
  // The first token belongs to the prompt's time.
  const double per_s = generation_s > 0 && t.usage.completion_tokens > 1
                           ? (t.usage.completion_tokens - 1) / generation_s
                           : 0.0;
  return fmt::format(
      "{{\"queue_ms\":{},\"prompt_n\":{},\"cache_n\":{},\"prompt_ms\":{},\"predicted_n\":{},"
      "\"predicted_ms\":{},\"predicted_per_second\":{}}}",
      thousandths(to_milliseconds(t.timings.queue)), t.usage.prompt_tokens, t.usage.cached_tokens,
      thousandths(to_milliseconds(t.timings.prompt)), t.usage.completion_tokens,
      thousandths(to_milliseconds(t.timings.generation)), thousandths(per_s));
}

std::string_view reason_json(node::FinishReason reason) {
  return reason == node::FinishReason::kLength ? "\"length\"" : "\"stop\"";
}

std::string head_of(const AnswerIdentity& identity, std::string_view object) {
  std::string out = "{\"id\":";
  append_json_string(out, identity.id);
  out += ",\"object\":";
  append_json_string(out, object);
  out += ",\"created\":" + std::to_string(identity.created) + ",\"model\":";
  append_json_string(out, identity.model);
  out += ",\"system_fingerprint\":";
  append_json_string(out, identity.fingerprint);
  out += ",\"choices\":[";
  return out;
}

}  // namespace

std::string system_fingerprint(const node::MeshStatus& status) {
  return "fp_" + to_hex(splitmix64(fnv1a64(status.numeric_class) ^ status.fingerprint));
}

void ScoreText::add(const node::TokenText& token) {
  if (kind_ == AnswerKind::kChat)
    add_chat(token);
  else
    add_legacy(token);
  ++count_;
}

void ScoreText::add_chat(const node::TokenText& token) {
  const auto entry = [this](std::string_view bytes, float logprob) {
    content_ += "{\"token\":";
    append_json_string(content_, bytes);
    content_ += ",\"logprob\":";
    append_number(content_, logprob);
    content_ += ",\"bytes\":";
    append_bytes(content_, bytes);
  };
  if (count_ > 0) content_ += ',';
  entry(token.bytes, token.logprob.value_or(kLogprobLeast));
  content_ += ",\"top_logprobs\":[";
  for (std::size_t i = 0; i < token.top.size() && i < top_; ++i) {
    if (i > 0) content_ += ',';
    entry(token.top[i].bytes, token.top[i].logprob);
    content_ += '}';
  }
  content_ += "]}";
}

void ScoreText::add_legacy(const node::TokenText& token) {
  if (count_ > 0)
    for (std::string* list : {&tokens_, &scores_, &tops_, &offsets_}) *list += ',';
  const std::string text = legacy_text(token.bytes);
  append_json_string(tokens_, text);
  const bool continues = !token.bytes.empty() && continues_character(token.bytes.front());
  offsets_ += std::to_string(characters_ - (continues && characters_ > 0 ? 1 : 0));
  characters_ += static_cast<std::size_t>(std::count_if(
      token.bytes.begin(), token.bytes.end(), [](char c) { return !continues_character(c); }));
  if (!token.logprob) {
    scores_ += "null";
    tops_ += "null";
    return;
  }
  append_number(scores_, *token.logprob);
  std::set<std::string> named;  // two tokens may have the same text: the likelier stays
  tops_ += '{';
  const auto alternative = [&](std::string name, float logprob) {
    if (!named.insert(name).second) return;
    if (named.size() > 1) tops_ += ',';
    append_json_string(tops_, name);
    tops_ += ':';
    append_number(tops_, logprob);
  };
  for (std::size_t i = 0; i < token.top.size() && i < top_; ++i)
    alternative(legacy_text(token.top[i].bytes), token.top[i].logprob);
  alternative(text, *token.logprob);
  tops_ += '}';
}

std::string ScoreText::take() {
  std::string out;
  if (kind_ == AnswerKind::kChat) {
    out = "{\"content\":[" + content_ + "],\"refusal\":null}";
  } else {
    out = "{\"tokens\":[" + tokens_ + "],\"token_logprobs\":[" + scores_ + "],\"top_logprobs\":[" +
          tops_ + "],\"text_offset\":[" + offsets_ + "]}";
  }
  for (std::string* list : {&content_, &tokens_, &scores_, &tops_, &offsets_}) list->clear();
  count_ = 0;
  return out;
}

AnswerWriter::AnswerWriter(const AnswerIdentity& identity)
    : kind_(identity.kind),
      chunk_head_("data: " + head_of(identity, identity.kind == AnswerKind::kChat
                                                   ? "chat.completion.chunk"
                                                   : "text_completion")),
      whole_head_(head_of(
          identity, identity.kind == AnswerKind::kChat ? "chat.completion" : "text_completion")) {}

std::string AnswerWriter::begin(std::uint32_t choice, std::size_t more) const {
  constexpr std::size_t kFixedParts = 112;
  std::string out;
  out.reserve(chunk_head_.size() + more + kFixedParts);
  out += chunk_head_;
  out += "{\"index\":";
  out += std::to_string(choice);
  return out;
}

void AnswerWriter::end(std::string& out, std::string_view usage) const {
  out += ']';
  if (!usage.empty()) {
    out += ",\"usage\":";
    out += usage;
  }
  out += "}\n\n";
}

std::string AnswerWriter::role_event(std::uint32_t choice, std::string_view usage) const {
  std::string out = begin(choice, usage.size());
  out +=
      ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
      "\"finish_reason\":null}";
  end(out, usage);
  return out;
}

std::string AnswerWriter::text_event(std::uint32_t choice, std::string_view text,
                                     std::string_view logprobs, std::string_view usage) const {
  std::string out = begin(choice, text.size() + logprobs.size() + usage.size());
  out += kind_ == AnswerKind::kChat ? ",\"delta\":{\"content\":" : ",\"text\":";
  append_json_string(out, text);
  out += kind_ == AnswerKind::kChat ? "},\"logprobs\":" : ",\"logprobs\":";
  out += logprobs;
  out += ",\"finish_reason\":null}";
  end(out, usage);
  return out;
}

std::string AnswerWriter::finish_event(std::uint32_t choice, const ChoiceText& last,
                                       std::string_view usage,
                                       const std::optional<AnswerTimings>& timings) const {
  std::string out = begin(choice, last.stop_reason.size() + usage.size());
  out += kind_ == AnswerKind::kChat ? ",\"delta\":{}" : ",\"text\":\"\"";
  out += ",\"logprobs\":null,\"finish_reason\":";
  out += reason_json(last.reason);
  out += ",\"stop_reason\":" + last.stop_reason + "}]";
  if (timings) out += ",\"timings\":" + timings_json(*timings);
  if (!usage.empty()) {
    out += ",\"usage\":";
    out += usage;
  }
  out += "}\n\n";
  return out;
}

std::string AnswerWriter::usage_event(const node::Usage& usage) const {
  std::string out = chunk_head_;
  end(out, usage_json(usage));
  return out;
}

std::string AnswerWriter::whole(const std::vector<ChoiceText>& choices,
                                const AnswerTimings& timings) const {
  std::string out = whole_head_;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const ChoiceText& choice = choices[i];
    out += fmt::format("{}{{\"index\":{},", i > 0 ? "," : "", i);
    if (kind_ == AnswerKind::kChat) {
      out += "\"message\":{\"role\":\"assistant\",\"content\":";
      append_json_string(out, choice.text);
      out += ",\"refusal\":null}";
    } else {
      out += "\"text\":";
      append_json_string(out, choice.text);
    }
    out += ",\"logprobs\":" + choice.logprobs + ",\"finish_reason\":";
    out += reason_json(choice.reason);
    out += ",\"stop_reason\":" + choice.stop_reason + "}";
  }
  out += "],\"usage\":" + usage_json(timings.usage) + ",\"timings\":" + timings_json(timings) + "}";
  return out;
}

std::string usage_json(const node::Usage& usage) {
  return fmt::format(
      "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},"
      "\"prompt_tokens_details\":{{\"cached_tokens\":{}}}}}",
      usage.prompt_tokens, usage.completion_tokens,
      std::uint64_t{usage.prompt_tokens} + usage.completion_tokens, usage.cached_tokens);
}

std::string stop_reason_json(std::string_view stop, const std::vector<std::string>& stop_strings) {
  if (stop.empty()) return "null";
  const bool text = std::find(stop_strings.begin(), stop_strings.end(), stop) != stop_strings.end();
  // As a JSON number: digits alone, no zero in front.
  const bool digits =
      stop.size() <= 10 && (stop.size() == 1 || stop.front() != '0') &&
      std::all_of(stop.begin(), stop.end(), [](char c) { return c >= '0' && c <= '9'; });
  if (!text && digits) return std::string(stop);
  std::string out;
  append_json_string(out, stop);
  return out;
}

std::string server_timing(const node::Timings& timings) {
  return fmt::format("queue;dur={}, prefill;dur={}, decode;dur={}",
                     thousandths(to_milliseconds(timings.queue)),
                     thousandths(to_milliseconds(prefill_of(timings))),
                     thousandths(to_milliseconds(timings.generation)));
}

}  // namespace mesh::api
