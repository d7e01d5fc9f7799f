#include <fmt/format.h>
#include <simdjson.h>

#include <array>
#include <unordered_map>

#include "base/limits.h"
#include "text/tokenizer_spec.h"
#include "text/utf8.h"

namespace mesh::text {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

constexpr int kSequenceDepth = 8;

Error corrupt(std::string_view what) {
  return Error(Code::kCorrupt, fmt::format("tokenizer.json: {}", what));
}
Error unsupported_type(std::string_view part, std::string_view type) {
  return Error(Code::kUnsupported,
               fmt::format("tokenizer.json: {} type '{}' is not supported", part, type));
}

std::optional<element> member(const object& o, std::string_view key) {
  element value;
  if (o.at_key(key).get(value) != simdjson::SUCCESS || value.is_null()) return std::nullopt;
  return value;
}

Result<std::string> get_string(const object& o, std::string_view key, std::string_view part) {
  const auto value = member(o, key);
  std::string_view text;
  if (!value || value->get(text) != simdjson::SUCCESS)
    return corrupt(fmt::format("{}: '{}' is not a string", part, key));
  return std::string(text);
}

Result<bool> get_bool(const object& o, std::string_view key, bool fallback, std::string_view part) {
  const auto value = member(o, key);
  if (!value) return fallback;
  bool flag = false;
  if (value->get(flag) != simdjson::SUCCESS)
    return corrupt(fmt::format("{}: '{}' is not a boolean", part, key));
  return flag;
}

Result<object> as_object(const element& e, std::string_view part) {
  object o;
  if (e.get(o) != simdjson::SUCCESS) return corrupt(fmt::format("{} is not an object", part));
  return o;
}

Result<array> get_array(const object& o, std::string_view key, std::string_view part) {
  const auto value = member(o, key);
  array a;
  if (!value || value->get(a) != simdjson::SUCCESS)
    return corrupt(fmt::format("{}: '{}' is not a list", part, key));
  return a;
}

Result<TokenId> as_id(const element& e, std::string_view part) {
  std::int64_t id = 0;
  if (e.get(id) != simdjson::SUCCESS || id < 0 ||
      id >= static_cast<std::int64_t>(limits::kVocabulary))
    return corrupt(fmt::format("{}: an id is not in 0..{}", part, limits::kVocabulary - 1));
  return static_cast<TokenId>(id);
}

struct Pattern {
  std::string text;
  bool regex = false;
};

Result<Pattern> get_pattern(const object& o, std::string_view part) {
  const auto value = member(o, "pattern");
  if (!value) return corrupt(fmt::format("{}: 'pattern' is missing", part));
  MESH_ASSIGN_OR_RETURN(const object p, as_object(*value, fmt::format("{}: 'pattern'", part)));
  const bool regex = member(p, "Regex").has_value();
  MESH_ASSIGN_OR_RETURN(std::string text, get_string(p, regex ? "Regex" : "String", part));
  return Pattern{std::move(text), regex};
}

class Parser {
 public:
  Result<TokenizerSpec> parse(const element& root) {
    MESH_ASSIGN_OR_RETURN(const object top, as_object(root, "the file"));
    if (const auto e = member(top, "normalizer")) MESH_RETURN_IF_ERROR(normalizer(*e, 0));
    if (const auto e = member(top, "pre_tokenizer")) MESH_RETURN_IF_ERROR(pre_tokenizer(*e, 0));
    const auto decoder_element = member(top, "decoder");
    if (!decoder_element) return Error(Code::kUnsupported, "tokenizer.json: 'decoder' is missing");
    MESH_RETURN_IF_ERROR(decoder(*decoder_element, 0));
    if (spec_.byte_level != decode_byte_level_) {
      return Error(Code::kUnsupported,
                   "tokenizer.json: only one of pre_tokenizer and decoder is ByteLevel");
    }
    const auto model_element = member(top, "model");
    if (!model_element) return corrupt("'model' is missing");
    MESH_RETURN_IF_ERROR(model(*model_element));
    if (member(top, "added_tokens")) MESH_RETURN_IF_ERROR(added_tokens(top));
    if (const auto e = member(top, "post_processor")) MESH_RETURN_IF_ERROR(post_processor(*e, 0));
    return std::move(spec_);
  }

 private:
  // Calls `each` for the members of a Sequence.
  template <typename Each>
  Result<void> sequence(const object& o, std::string_view key, std::string_view part, int depth,
                        Each each) {
    if (depth >= kSequenceDepth) return corrupt(fmt::format("{}: sequences too deep", part));
    MESH_ASSIGN_OR_RETURN(const array items, get_array(o, key, part));
    for (const element e : items) MESH_RETURN_IF_ERROR(each(e, depth + 1));
    return {};
  }

  Result<void> normalizer(const element& e, int depth) {
    constexpr std::string_view kPart = "normalizer";
    using Kind = NormalizerStep::Kind;
    MESH_ASSIGN_OR_RETURN(const object o, as_object(e, kPart));
    MESH_ASSIGN_OR_RETURN(const std::string type, get_string(o, "type", kPart));
    NormalizerStep step;
    if (type == "Sequence") {
      return sequence(o, "normalizers", kPart, depth,
                      [this](const element& item, int d) { return normalizer(item, d); });
    }
    if (type == "NFC") {
      step.kind = Kind::kNfc;
    } else if (type == "NFD") {
      step.kind = Kind::kNfd;
    } else if (type == "NFKC") {
      step.kind = Kind::kNfkc;
    } else if (type == "NFKD") {
      step.kind = Kind::kNfkd;
    } else if (type == "Lowercase") {
      step.kind = Kind::kLowercase;
    } else if (type == "Strip") {
      step.kind = Kind::kStrip;
      MESH_ASSIGN_OR_RETURN(step.left, get_bool(o, "strip_left", true, kPart));
      MESH_ASSIGN_OR_RETURN(step.right, get_bool(o, "strip_right", true, kPart));
    } else if (type == "Prepend") {
      step.kind = Kind::kPrepend;
      MESH_ASSIGN_OR_RETURN(step.text, get_string(o, "prepend", kPart));
    } else if (type == "Replace") {
      step.kind = Kind::kReplace;
      MESH_ASSIGN_OR_RETURN(Pattern pattern, get_pattern(o, kPart));
      step.text = std::move(pattern.text);
      step.regex = pattern.regex;
      MESH_ASSIGN_OR_RETURN(step.content, get_string(o, "content", kPart));
    } else {
      return unsupported_type(kPart, type);
    }
    spec_.normalizers.push_back(std::move(step));
    return {};
  }

  Result<SplitBehavior> behavior(const object& o) {
    if (!member(o, "behavior")) return SplitBehavior::kIsolated;
    MESH_ASSIGN_OR_RETURN(const std::string name, get_string(o, "behavior", "pre_tokenizer"));
    if (name == "Removed") return SplitBehavior::kRemoved;
    if (name == "Isolated") return SplitBehavior::kIsolated;
    if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
    if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
    if (name == "Contiguous") return SplitBehavior::kContiguous;
    return Error(Code::kUnsupported,
                 fmt::format("tokenizer.json: pre_tokenizer behavior '{}' is not supported", name));
  }

  Result<void> pre_tokenizer(const element& e, int depth) {
    constexpr std::string_view kPart = "pre_tokenizer";
    MESH_ASSIGN_OR_RETURN(const object o, as_object(e, kPart));
    MESH_ASSIGN_OR_RETURN(const std::string type, get_string(o, "type", kPart));
    SplitStep step;
    if (type == "Sequence") {
      return sequence(o, "pretokenizers", kPart, depth,
                      [this](const element& item, int d) { return pre_tokenizer(item, d); });
    }
    if (spec_.byte_level)
      return Error(Code::kUnsupported,
                   "tokenizer.json: pre_tokenizer ByteLevel is not the last one");
    if (type == "Split") {
      MESH_ASSIGN_OR_RETURN(Pattern pattern, get_pattern(o, kPart));
      step.pattern = std::move(pattern.text);
      step.literal = !pattern.regex;
      MESH_ASSIGN_OR_RETURN(step.behavior, behavior(o));
      MESH_ASSIGN_OR_RETURN(step.invert, get_bool(o, "invert", false, kPart));
    } else if (type == "ByteLevel") {
      MESH_ASSIGN_OR_RETURN(step.prefix_space, get_bool(o, "add_prefix_space", true, kPart));
      MESH_ASSIGN_OR_RETURN(step.split, get_bool(o, "use_regex", true, kPart));
      step.pattern =
          R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
      spec_.byte_level = true;
    } else if (type == "Digits") {
      step.pattern = R"(\p{N})";
      MESH_ASSIGN_OR_RETURN(const bool single, get_bool(o, "individual_digits", false, kPart));
      step.behavior = single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous;
    } else if (type == "Punctuation") {
      step.pattern = R"([!-\/:-@\[-`{-~\p{P}])";
      MESH_ASSIGN_OR_RETURN(step.behavior, behavior(o));
    } else if (type == "Whitespace") {
      step.pattern = R"(\w+|[^\w\s]+)";
      step.invert = true;
      step.behavior = SplitBehavior::kRemoved;
    } else if (type == "WhitespaceSplit") {
      step.pattern = R"(\s)";
      step.behavior = SplitBehavior::kRemoved;
    } else {
      return unsupported_type(kPart, type);
    }
    spec_.splits.push_back(std::move(step));
    return {};
  }

  Result<void> decoder(const element& e, int depth) {
    constexpr std::string_view kPart = "decoder";
    MESH_ASSIGN_OR_RETURN(const object o, as_object(e, kPart));
    MESH_ASSIGN_OR_RETURN(const std::string type, get_string(o, "type", kPart));
    if (type == "Sequence") {
      return sequence(o, "decoders", kPart, depth,
                      [this](const element& item, int d) { return decoder(item, d); });
    }
    if (type == "ByteLevel") {
      decode_byte_level_ = true;
    } else if (type == "ByteFallback" || type == "Fuse") {
      return {};  // tokens decode to bytes and are joined in any case
    } else if (type == "Replace") {
      MESH_ASSIGN_OR_RETURN(Pattern pattern, get_pattern(o, kPart));
      if (pattern.regex || pattern.text.empty())
        return Error(Code::kUnsupported,
                     "tokenizer.json: decoder Replace: a regular expression is not supported");
      MESH_ASSIGN_OR_RETURN(std::string content, get_string(o, "content", kPart));
      spec_.decode_replace.emplace_back(std::move(pattern.text), std::move(content));
    } else if (type == "Strip") {
      MESH_ASSIGN_OR_RETURN(spec_.decode_strip, get_string(o, "content", kPart));
      std::uint64_t start = 0;
      std::uint64_t stop = 0;
      const auto start_element = member(o, "start");
      const auto stop_element = member(o, "stop");
      if ((start_element && start_element->get(start) != simdjson::SUCCESS) ||
          (stop_element && stop_element->get(stop) != simdjson::SUCCESS) ||
          spec_.decode_strip.empty())
        return corrupt(
            "decoder Strip: 'content' must not be empty, 'start' and 'stop' must be integers of at "
            "least 0");
      if (stop != 0)
        return Error(Code::kUnsupported,
                     "tokenizer.json: decoder Strip: a stop other than 0 is not supported");
      spec_.decode_strip_count = start;
    } else {
      return unsupported_type(kPart, type);
    }
    return {};
  }

  std::string spelled(std::string_view text, bool& mapped) const {
    mapped = true;
    return spec_.byte_level ? byte_level_bytes(text, mapped) : std::string(text);
  }

  Result<void> refuse_model_options(const object& o) {
    if (const auto type = member(o, "type")) {
      MESH_ASSIGN_OR_RETURN(const std::string name, get_string(o, "type", "model"));
      if (name != "BPE") return unsupported_type("model", name);
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      std::string_view text;
      if (const auto e = member(o, key); e && (e->get(text) != simdjson::SUCCESS || !text.empty()))
        return Error(Code::kUnsupported,
                     fmt::format("tokenizer.json: model: {} is not supported", key));
    }
    double dropout = 0;
    if (const auto e = member(o, "dropout");
        e && (e->get(dropout) != simdjson::SUCCESS || dropout > 0))
      return Error(Code::kUnsupported, "tokenizer.json: model: a dropout is not supported");
    return {};
  }

  Result<void> model(const element& e) {
    constexpr std::string_view kPart = "model";
    MESH_ASSIGN_OR_RETURN(const object o, as_object(e, kPart));
    MESH_RETURN_IF_ERROR(refuse_model_options(o));
    BpeSpec& bpe = spec_.bpe;
    MESH_ASSIGN_OR_RETURN(bpe.ignore_merges, get_bool(o, "ignore_merges", false, kPart));
    MESH_ASSIGN_OR_RETURN(bpe.byte_fallback, get_bool(o, "byte_fallback", false, kPart));
    MESH_ASSIGN_OR_RETURN(bpe.fuse_unk, get_bool(o, "fuse_unk", false, kPart));
    if (member(o, "unk_token")) {
      MESH_ASSIGN_OR_RETURN(bpe.unk_token, get_string(o, "unk_token", kPart));
    }
    const auto vocab_element = member(o, "vocab");
    if (!vocab_element) return corrupt("model: 'vocab' is missing");
    MESH_ASSIGN_OR_RETURN(const object vocab, as_object(*vocab_element, "model: 'vocab'"));
    bool mapped = false;
    for (const auto field : vocab) {
      MESH_ASSIGN_OR_RETURN(const TokenId id, as_id(field.value, "model: vocab"));
      if (bpe.vocab.size() >= limits::kVocabulary)
        return corrupt(fmt::format("model: vocab has more than {} tokens", limits::kVocabulary));
      bpe.vocab.emplace_back(spelled(field.key, mapped), id);
    }
    MESH_ASSIGN_OR_RETURN(const array merges, get_array(o, "merges", kPart));
    for (const element item : merges) MESH_RETURN_IF_ERROR(merge(item));
    return {};
  }

  Result<void> merge(const element& item) {
    std::string_view left;
    std::string_view right;
    std::string_view line;
    array pair;
    if (item.get(line) == simdjson::SUCCESS) {
      const std::size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
        return corrupt(fmt::format("model: merge '{}' is not two parts", line));
      left = line.substr(0, space);
      right = line.substr(space + 1);
    } else if (item.get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
               pair.at(0).get(left) != simdjson::SUCCESS ||
               pair.at(1).get(right) != simdjson::SUCCESS) {
      return corrupt("model: a merge is neither a string nor a pair of strings");
    }
    bool mapped = false;
    spec_.bpe.merges.emplace_back(spelled(left, mapped), spelled(right, mapped));
    return {};
  }

  Result<void> added_tokens(const object& top) {
    constexpr std::string_view kPart = "added_tokens";
    MESH_ASSIGN_OR_RETURN(const array items, get_array(top, kPart, "the file"));
    for (const element e : items) {
      MESH_ASSIGN_OR_RETURN(const object o, as_object(e, kPart));
      AddedToken token;
      const auto id = member(o, "id");
      if (!id) return corrupt("added_tokens: 'id' is missing");
      MESH_ASSIGN_OR_RETURN(token.id, as_id(*id, kPart));
      MESH_ASSIGN_OR_RETURN(token.content, get_string(o, "content", kPart));
      MESH_ASSIGN_OR_RETURN(token.special, get_bool(o, "special", false, kPart));
      MESH_ASSIGN_OR_RETURN(token.lstrip, get_bool(o, "lstrip", false, kPart));
      MESH_ASSIGN_OR_RETURN(token.rstrip, get_bool(o, "rstrip", false, kPart));
      MESH_ASSIGN_OR_RETURN(token.single_word, get_bool(o, "single_word", false, kPart));
      MESH_ASSIGN_OR_RETURN(token.normalized, get_bool(o, "normalized", !token.special, kPart));
      if (token.content.empty()) continue;  // Hugging Face drops them too
      if (spec_.added.size() >= limits::kVocabulary)
        return corrupt(fmt::format("added_tokens: more than {} tokens", limits::kVocabulary));
      spec_.added.push_back(std::move(token));
    }
    return {};
  }

  Result<void> post_processor(const element& e, int depth) {
    constexpr std::string_view kPart = "post_processor";
    MESH_ASSIGN_OR_RETURN(const object o, as_object(e, kPart));
    MESH_ASSIGN_OR_RETURN(const std::string type, get_string(o, "type", kPart));
    if (type == "Sequence") {
      return sequence(o, "processors", kPart, depth,
                      [this](const element& item, int d) { return post_processor(item, d); });
    }
    if (type == "ByteLevel") return {};  // changes offsets only
    if (type == "TemplateProcessing") return template_processing(o);
    return unsupported_type(kPart, type);
  }

  Result<void> template_processing(const object& o) {
    constexpr std::string_view kPart = "post_processor";
    MESH_ASSIGN_OR_RETURN(const array single, get_array(o, "single", kPart));
    std::vector<TokenId> before;
    std::vector<TokenId> behind;
    bool seen = false;
    for (const element e : single) {
      MESH_ASSIGN_OR_RETURN(const object item, as_object(e, "post_processor: 'single' item"));
      if (member(item, "Sequence")) {
        if (seen)
          return Error(Code::kUnsupported, "tokenizer.json: post_processor repeats the text");
        seen = true;
        continue;
      }
      const auto special = member(item, "SpecialToken");
      if (!special) return corrupt("post_processor: 'single' item is neither token nor sequence");
      MESH_ASSIGN_OR_RETURN(const object token, as_object(*special, "post_processor: token"));
      MESH_ASSIGN_OR_RETURN(const std::string name, get_string(token, "id", kPart));
      MESH_RETURN_IF_ERROR(append_special_ids(o, name, seen ? behind : before));
    }
    if (!seen) return Error(Code::kUnsupported, "tokenizer.json: post_processor drops the text");
    spec_.prefix.insert(spec_.prefix.begin(), before.begin(), before.end());
    spec_.suffix.insert(spec_.suffix.end(), behind.begin(), behind.end());
    return {};
  }

  Result<void> append_special_ids(const object& o, const std::string& name,
                                  std::vector<TokenId>& ids) {
    constexpr std::string_view kPart = "post_processor";
    const auto table_element = member(o, "special_tokens");
    if (!table_element) return corrupt("post_processor: 'special_tokens' is missing");
    MESH_ASSIGN_OR_RETURN(const object table, as_object(*table_element, kPart));
    const auto entry_element = member(table, name);
    if (!entry_element) return corrupt(fmt::format("post_processor: no special token '{}'", name));
    MESH_ASSIGN_OR_RETURN(const object entry, as_object(*entry_element, kPart));
    MESH_ASSIGN_OR_RETURN(const array values, get_array(entry, "ids", kPart));
    for (const element e : values) {
      MESH_ASSIGN_OR_RETURN(const TokenId id, as_id(e, kPart));
      ids.push_back(id);
    }
    return {};
  }

  TokenizerSpec spec_;
  bool decode_byte_level_ = false;
};

// A token of tokenizer_config.json: a string, or an object with its content.
std::optional<std::string> config_token(const object& config, std::string_view key) {
  const auto value = member(config, key);
  if (!value) return std::nullopt;
  std::string_view text;
  object o;
  if (value->get(text) == simdjson::SUCCESS) return std::string(text);
  if (value->get(o) == simdjson::SUCCESS) {
    const auto content = member(o, "content");
    if (content && content->get(text) == simdjson::SUCCESS) return std::string(text);
  }
  return std::nullopt;
}

Result<element> load(simdjson::dom::parser& parser, std::string_view json, std::string_view name) {
  if (json.size() > limits::kJsonFileBytes)
    return Error(Code::kResourceExhausted, fmt::format("{} has {} bytes, at most {} are read", name,
                                                       json.size(), limits::kJsonFileBytes));
  element root;
  const auto error = parser.parse(json.data(), json.size()).get(root);
  if (error != simdjson::SUCCESS)
    return Error(Code::kCorrupt, fmt::format("{}: {}", name, simdjson::error_message(error)));
  return root;
}

}  // namespace

std::string byte_level_bytes(std::string_view spelling, bool& mapped) {
  // Printable bytes stand for themselves, the other 68 for U+0100 upwards in their order (GPT-2,
  // encoder.py).
  static const auto kBytes = [] {
    std::array<std::int16_t, 0x144> table{};
    table.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      table[printable ? static_cast<char32_t>(b) : next++] = static_cast<std::int16_t>(b);
    }
    return table;
  }();
  std::string out;
  for (std::string_view rest = spelling; !rest.empty();) {
    const Utf8Step step = utf8_step(rest);
    const bool known = step.kind == Utf8Step::Kind::kValid && step.code_point < kBytes.size() &&
                       kBytes[step.code_point] >= 0;
    if (!known) {
      mapped = false;
      return std::string(spelling);
    }
    out += static_cast<char>(kBytes[step.code_point]);
    rest.remove_prefix(step.bytes);
  }
  mapped = true;
  return out;
}

Result<TokenizerSpec> parse_tokenizer_spec(std::string_view tokenizer_json,
                                           std::string_view config_json) {
  simdjson::dom::parser parser;
  MESH_ASSIGN_OR_RETURN(const element root, load(parser, tokenizer_json, "tokenizer.json"));
  MESH_ASSIGN_OR_RETURN(TokenizerSpec spec, Parser().parse(root));
  if (!config_json.empty()) {
    simdjson::dom::parser config_parser;
    MESH_ASSIGN_OR_RETURN(const element config_root,
                          load(config_parser, config_json, "tokenizer_config.json"));
    object config;
    if (config_root.get(config) != simdjson::SUCCESS)
      return Error(Code::kCorrupt, "tokenizer_config.json is not an object");
    spec.bos_token = config_token(config, "bos_token");
    spec.eos_token = config_token(config, "eos_token");
  }
  return spec;
}

}  // namespace mesh::text
