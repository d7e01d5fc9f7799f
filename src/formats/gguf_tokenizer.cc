#include "formats/gguf_tokenizer.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"

namespace mesh::formats {
namespace {

using Json = nlohmann::json;

// Kinds of tokens, tokenizer.ggml.token_type.
constexpr std::int64_t kControl = 3;
constexpr std::int64_t kUserDefined = 4;
constexpr std::int64_t kUnused = 5;
constexpr std::int64_t kKindMax = 6;

constexpr const char* kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kO200kPattern =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kDigitsPattern = R"(\p{N}{1,3})";
constexpr const char* kHanKanaPattern = "[一-龥぀-ゟ゠-ヿ]+";
constexpr const char* kDeepseekPattern =
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

// What tokenizer.ggml.pre stands for: the patterns of the publisher's tokenizer.json, and what else
// that file says without a key in GGUF.
struct PreTokenizer {
  std::string_view name;
  std::vector<const char*> patterns;
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // where tokenizer.ggml.add_bos_token is missing
};

const std::vector<PreTokenizer>& pre_tokenizers() {
  static const std::vector<PreTokenizer> kList = {
      {.name = "llama-bpe", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
      {.name = "llama3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
      {.name = "llama-v3", .patterns = {kLlama3Pattern}, .ignore_merges = true, .add_bos = true},
      {.name = "qwen2", .patterns = {kQwen2Pattern}, .nfc = true},
      {.name = "deepseek-r1-qwen", .patterns = {kQwen2Pattern}, .nfc = true},
      {.name = "deepseek-v3", .patterns = {kDigitsPattern, kHanKanaPattern, kDeepseekPattern}},
      {.name = "glm4", .patterns = {kLlama3Pattern}},
      {.name = "gpt-4o", .patterns = {kO200kPattern}},
      {.name = "minimax-m2", .patterns = {kO200kPattern}},
  };
  return kList;
}

Result<const PreTokenizer*> find_pre_tokenizer(const GgufMetadata& metadata) {
  constexpr std::string_view kKey = "tokenizer.ggml.pre";
  std::string names;
  for (const PreTokenizer& pre : pre_tokenizers())
    names += fmt::format("{}{}", names.empty() ? "" : ", ", pre.name);
  if (!metadata.has(kKey))
    return Error(
        Code::kUnsupported,
        fmt::format("the file does not name its pre-tokenizer ({}); known are {}", kKey, names));
  MESH_ASSIGN_OR_RETURN(const std::string name, metadata.text(kKey));
  for (const PreTokenizer& pre : pre_tokenizers())
    if (pre.name == name) return &pre;
  return Error(Code::kUnsupported,
               fmt::format("{} \"{}\" is not supported; supported are {}", kKey, name, names));
}

Error not_utf8() {
  return Error(Code::kCorrupt, "tokenizer.ggml: a token or merge is not valid UTF-8");
}

Result<std::string> dump(const Json& json) {
  try {
    return json.dump();
  } catch (const Json::exception&) {  // its answer to bytes that are no UTF-8
    return not_utf8();
  }
}

// As a JSON string; whether it is UTF-8 is the caller's to check.
void append_quoted(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (code < 0x20) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", code);
      continue;
    }
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  out += '"';
}

// Ids of tokens by what they mean; one that is missing, or no token of the list, is none.
Result<std::optional<std::size_t>> token_of(const GgufMetadata& metadata, std::string_view key,
                                            std::size_t tokens) {
  if (!metadata.has(key)) return std::optional<std::size_t>();
  MESH_ASSIGN_OR_RETURN(const std::uint64_t id, metadata.whole(key));
  return id < tokens ? std::optional<std::size_t>(id) : std::nullopt;
}

Result<bool> flag_or(const GgufMetadata& metadata, std::string_view key, bool fallback) {
  if (!metadata.has(key)) return fallback;
  return metadata.flag(key);
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<std::int64_t> kinds;  // as many
};

Result<Tokens> read_tokens(const GgufMetadata& metadata) {
  constexpr std::string_view kKinds = "tokenizer.ggml.token_type";
  Tokens tokens;
  MESH_ASSIGN_OR_RETURN(tokens.texts, metadata.texts("tokenizer.ggml.tokens"));
  if (tokens.texts.empty() || tokens.texts.size() > limits::kVocabulary)
    return Error(Code::kCorrupt, fmt::format("tokenizer.ggml.tokens: {} tokens, it must be 1..{}",
                                             tokens.texts.size(), limits::kVocabulary));
  tokens.kinds.resize(tokens.texts.size());
  if (!metadata.has(kKinds)) return tokens;
  MESH_ASSIGN_OR_RETURN(tokens.kinds, metadata.wholes(kKinds));
  if (tokens.kinds.size() != tokens.texts.size())
    return Error(Code::kCorrupt, fmt::format("{}: {} kinds of {} tokens", kKinds,
                                             tokens.kinds.size(), tokens.texts.size()));
  for (const std::int64_t kind : tokens.kinds)
    if (kind < 0 || kind > kKindMax)
      return Error(Code::kCorrupt, fmt::format("{}: {} is no kind of token", kKinds, kind));
  return tokens;
}

// What ends a turn, a text or a message by its name in the published families: files name one or
// two of them by key, and a model that ends with another would run on.
bool is_known_stop(std::string_view text) {
  constexpr std::string_view kStops[] = {"<|endoftext|>", "<|im_end|>", "<|end_of_text|>",
                                         "<|eot_id|>",    "<|eom_id|>", "<｜end▁of▁sentence｜>"};
  return std::find(std::begin(kStops), std::end(kStops), text) != std::end(kStops);
}

Result<std::vector<std::int64_t>> stop_ids(const GgufMetadata& metadata, const Tokens& tokens) {
  std::vector<std::int64_t> ids;
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    MESH_ASSIGN_OR_RETURN(const auto id, token_of(metadata, key, tokens.texts.size()));
    if (id) ids.push_back(static_cast<std::int64_t>(*id));
  }
  for (std::size_t i = 0; i < tokens.texts.size(); ++i)
    if (tokens.kinds[i] == kControl && is_known_stop(tokens.texts[i]))
      ids.push_back(static_cast<std::int64_t>(i));
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

Json pre_tokenizer_json(const PreTokenizer& pre) {
  Json steps = Json::array();
  for (const char* pattern : pre.patterns)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  steps.push_back({{"type", "ByteLevel"},
                   {"add_prefix_space", false},
                   {"trim_offsets", false},
                   {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

// Puts the token before or behind a text, as `single` wants its items.
void add_special(Json& single, Json& table, const std::string& text, std::size_t id) {
  single.push_back({{"SpecialToken", {{"id", text}, {"type_id", 0}}}});
  table[text] = {{"id", text}, {"ids", Json::array({id})}, {"tokens", Json::array({text})}};
}

Result<Json> post_processor_json(const GgufMetadata& metadata, const PreTokenizer& pre,
                                 const Tokens& tokens, std::optional<std::size_t> bos,
                                 std::optional<std::size_t> eos) {
  constexpr std::string_view kAddBos = "tokenizer.ggml.add_bos_token";
  constexpr std::string_view kAddEos = "tokenizer.ggml.add_eos_token";
  MESH_ASSIGN_OR_RETURN(const bool add_bos, flag_or(metadata, kAddBos, pre.add_bos && bos));
  MESH_ASSIGN_OR_RETURN(const bool add_eos, flag_or(metadata, kAddEos, false));
  if ((add_bos && !bos) || (add_eos && !eos))
    return Error(Code::kNotFound, fmt::format("{} is true, but there is no such token",
                                              add_bos && !bos ? kAddBos : kAddEos));
  Json single = Json::array();
  Json table = Json::object();
  if (add_bos) add_special(single, table, tokens.texts[*bos], *bos);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (add_eos) add_special(single, table, tokens.texts[*eos], *eos);
  return Json{{"type", "TemplateProcessing"},
              {"single", std::move(single)},
              {"pair", Json::array()},
              {"special_tokens", std::move(table)}};
}

Json added_tokens_json(const Tokens& tokens) {
  Json added = Json::array();
  for (std::size_t i = 0; i < tokens.texts.size(); ++i)
    if (tokens.kinds[i] == kControl || tokens.kinds[i] == kUserDefined)
      added.push_back({{"id", i},
                       {"content", tokens.texts[i]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", tokens.kinds[i] == kControl}});
  return added;
}

// Written as text: building a document of 300,000 strings and members is a good part of the time
// that a small model loads. Of tokens with one text the first is the one that texts become.
Result<std::string> model_json(const GgufMetadata& metadata, const PreTokenizer& pre,
                               const Tokens& tokens) {
  MESH_ASSIGN_OR_RETURN(const std::vector<std::string> merges,
                        metadata.texts("tokenizer.ggml.merges"));
  std::string out = fmt::format(
      R"({{"type":"BPE","unk_token":null,"byte_fallback":false,"fuse_unk":false,"ignore_merges":{},"vocab":{{)",
      pre.ignore_merges);
  std::string_view comma;
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    if (tokens.kinds[i] == kControl || tokens.kinds[i] == kUserDefined ||
        tokens.kinds[i] == kUnused)
      continue;
    out += comma;
    append_quoted(out, tokens.texts[i]);
    fmt::format_to(std::back_inserter(out), ":{}", i);
    comma = ",";
  }
  out += R"(},"merges":[)";
  comma = "";
  for (const std::string& merge : merges) {
    out += comma;
    append_quoted(out, merge);
    comma = ",";
  }
  out += "]}";
  if (!simdjson::validate_utf8(out)) return not_utf8();
  return out;
}

Result<GgufTokenizer> translate(const GgufMetadata& metadata) {
  MESH_ASSIGN_OR_RETURN(const PreTokenizer* pre, find_pre_tokenizer(metadata));
  MESH_ASSIGN_OR_RETURN(const Tokens tokens, read_tokens(metadata));
  const std::size_t count = tokens.texts.size();
  MESH_ASSIGN_OR_RETURN(const auto bos, token_of(metadata, "tokenizer.ggml.bos_token_id", count));
  MESH_ASSIGN_OR_RETURN(const auto eos, token_of(metadata, "tokenizer.ggml.eos_token_id", count));
  GgufTokenizer out;
  MESH_ASSIGN_OR_RETURN(out.stop_ids, stop_ids(metadata, tokens));
  Json file = {{"version", "1.0"}, {"decoder", {{"type", "ByteLevel"}}}};
  file["normalizer"] = pre->nfc ? Json{{"type", "NFC"}} : Json();
  file["pre_tokenizer"] = pre_tokenizer_json(*pre);
  file["added_tokens"] = added_tokens_json(tokens);
  MESH_ASSIGN_OR_RETURN(file["post_processor"],
                        post_processor_json(metadata, *pre, tokens, bos, eos));
  MESH_ASSIGN_OR_RETURN(out.tokenizer_json, model_json(metadata, *pre, tokens));
  MESH_ASSIGN_OR_RETURN(const std::string rest, dump(file));
  out.tokenizer_json.insert(0, "{\"model\":").append(",").append(rest, 1);
  Json config = Json::object();
  if (bos) config["bos_token"] = tokens.texts[*bos];
  if (eos) config["eos_token"] = tokens.texts[*eos];
  MESH_ASSIGN_OR_RETURN(out.tokenizer_config_json, dump(config));
  return out;
}

}  // namespace

Result<GgufTokenizer> gguf_tokenizer(const GgufMetadata& metadata) {
  constexpr std::string_view kModel = "tokenizer.ggml.model";
  constexpr std::string_view kTemplate = "tokenizer.chat_template";
  GgufTokenizer out;
  if (metadata.has(kModel)) {
    MESH_ASSIGN_OR_RETURN(const std::string model, metadata.text(kModel));
    if (model != "gpt2" && model != "none")  // "none": the converter was told to leave it out
      return Error(Code::kUnsupported,
                   fmt::format("{} \"{}\" is not supported; supported is gpt2 (byte-level BPE)",
                               kModel, model));
    if (model == "gpt2") {
      MESH_ASSIGN_OR_RETURN(out, translate(metadata));
    }
  }
  if (metadata.has(kTemplate)) {
    MESH_ASSIGN_OR_RETURN(out.chat_template, metadata.text(kTemplate));
  }
  return out;
}

}  // namespace mesh::formats
