#include "text/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "base/limits.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/detokenizer.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_spec.h"
#include "text/utf8.h"

namespace mesh::text {
namespace {

constexpr std::size_t kCachedPieceBytes = 64;
constexpr std::size_t kCachedPieces = 8192;

// Ids of pieces that one text repeats.
class PieceCache {
 public:
  explicit PieceCache(const Bpe& bpe) : bpe_(bpe) {}
  void encode(std::string&& piece, std::vector<TokenId>& ids) {
    if (piece.size() > kCachedPieceBytes) return bpe_.encode(piece, ids);
    const auto it = known_.find(piece);
    if (it != known_.end()) {
      ids.insert(ids.end(), it->second.begin(), it->second.end());
      return;
    }
    const std::size_t begin = ids.size();
    bpe_.encode(piece, ids);
    if (known_.size() < kCachedPieces) {
      known_.emplace(
          std::move(piece),
          std::vector<TokenId>(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end()));
    }
  }

 private:
  const Bpe& bpe_;
  std::unordered_map<std::string, std::vector<TokenId>> known_;
};

MarkedText valid_utf8(const MarkedText& text) {
  if (is_utf8(text.bytes())) return text;
  MarkedText out;
  const std::string_view bytes = text.bytes();
  for (std::size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes.substr(at));
    if (step.kind == Utf8Step::Kind::kValid) {
      // A border inside a character gives the whole character to the caller.
      out.append(bytes.substr(at, step.bytes), text.origin_of(at, at + step.bytes));
    } else {
      out.append(kReplacement, text.origin_of(at, at + step.bytes));
    }
    at += step.bytes;
  }
  return out;
}

// Whether no run ends inside a character.
bool runs_are_whole(const MarkedText& text) {
  return std::all_of(text.runs().begin(), text.runs().end(), [&](const MarkedText::Run& run) {
    return run.end == text.size() ||
           (static_cast<unsigned char>(text.bytes()[run.end]) & 0xC0) != 0x80;
  });
}

}  // namespace

struct Tokenizer::State {
  std::unique_ptr<Bpe> bpe;
  std::unique_ptr<Normalizer> normalizer;
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  AddedTokenMatcher raw_tokens;         // searched before normalisation
  AddedTokenMatcher normalized_tokens;  // searched behind it
  std::unordered_map<std::string, TokenId> added_by_content;
  std::vector<std::string> bytes;  // by id, what the token decodes to
  std::vector<bool> special;       // by id
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
  std::string strip;
  std::size_t strip_count = 0;
  std::string bos_token;
  std::string eos_token;

  void set_bytes(TokenId id, std::string value) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= bytes.size()) bytes.resize(index + 1);
    bytes[index] = std::move(value);
  }

  Result<void> encode_ordinary(const MarkedText& text, PieceCache& cache,
                               std::vector<TokenId>& ids) const {
    MESH_ASSIGN_OR_RETURN(std::vector<std::string> cut, pre_tokenizer->split(text.bytes()));
    for (std::string& piece : cut) cache.encode(std::move(piece), ids);
    return {};
  }

  Result<std::vector<TokenId>> encode(MarkedText text, bool skip_special) const {
    if (text.size() > limits::kPromptBytes) {
      return Error(Code::kResourceExhausted,
                   fmt::format("a prompt of {} bytes, at most {} are allowed", text.size(),
                               limits::kPromptBytes));
    }
    if (!runs_are_whole(text) || !is_utf8(text.bytes())) text = valid_utf8(text);
    std::vector<TokenId> ids;
    PieceCache cache(*bpe);
    for (const auto& part : raw_tokens.split(text, skip_special)) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      MESH_ASSIGN_OR_RETURN(const MarkedText normal,
                            normalizer->apply(text.slice(part.begin, part.end)));
      for (const auto& inner : normalized_tokens.split(normal, skip_special)) {
        if (inner.id >= 0) {
          ids.push_back(inner.id);
        } else {
          MESH_RETURN_IF_ERROR(encode_ordinary(normal.slice(inner.begin, inner.end), cache, ids));
        }
      }
    }
    return ids;
  }
};

namespace {

// What a character-level token decodes to: a byte for <0xNN>, else its text with the decoder's
// replacements.
std::string decoded_characters(const TokenizerSpec& spec, const std::string& text) {
  if (spec.bpe.byte_fallback && text.size() == 6 && text.compare(0, 3, "<0x") == 0 &&
      text[5] == '>') {
    const auto digit = [](char c) {
      if (c >= '0' && c <= '9') return c - '0';
      return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    };
    const int high = digit(text[3]);
    const int low = digit(text[4]);
    if (high >= 0 && low >= 0) return std::string(1, static_cast<char>(high * 16 + low));
  }
  std::string out = text;
  for (const auto& [from, to] : spec.decode_replace) {
    std::vector<ByteRange> matches;
    append_literal_matches(out, from, matches);
    std::string replaced;
    std::size_t at = 0;
    for (const ByteRange& match : matches) {
      replaced += out.substr(at, match.begin - at);
      replaced += to;
      at = match.end;
    }
    out = replaced + out.substr(at);
  }
  return out;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::parse(std::string_view tokenizer_json,
                                                    std::string_view tokenizer_config_json) {
  MESH_ASSIGN_OR_RETURN(TokenizerSpec spec,
                        parse_tokenizer_spec(tokenizer_json, tokenizer_config_json));
  auto state = std::make_unique<State>();
  MESH_ASSIGN_OR_RETURN(state->normalizer, Normalizer::build(spec.normalizers));
  MESH_ASSIGN_OR_RETURN(state->pre_tokenizer, PreTokenizer::build(spec.splits));
  for (const auto& [bytes, id] : spec.bpe.vocab)
    state->set_bytes(id, spec.byte_level ? bytes : decoded_characters(spec, bytes));
  std::unordered_set<TokenId> special;
  for (const AddedToken& token : spec.added) {
    bool mapped = false;
    state->set_bytes(token.id, spec.byte_level ? byte_level_bytes(token.content, mapped)
                                               : decoded_characters(spec, token.content));
    if (token.special) special.insert(token.id);
    state->added_by_content[token.content] = token.id;
    if (token.normalized) {
      MESH_ASSIGN_OR_RETURN(const MarkedText spelling,
                            state->normalizer->apply(MarkedText(token.content, Origin::kTemplate)));
      state->normalized_tokens.add(token, spelling.bytes());
    } else {
      state->raw_tokens.add(token, token.content);
    }
  }
  for (const std::vector<TokenId>* ids : {&spec.prefix, &spec.suffix}) {
    for (const TokenId id : *ids) {
      if (static_cast<std::size_t>(id) >= state->bytes.size())
        return Error(Code::kCorrupt, fmt::format("tokenizer.json: post_processor adds id {}", id));
    }
  }
  state->special.resize(state->bytes.size());
  for (const TokenId id : special) state->special[static_cast<std::size_t>(id)] = true;
  MESH_ASSIGN_OR_RETURN(state->bpe, Bpe::build(std::move(spec.bpe), spec.byte_level, special));
  state->prefix = std::move(spec.prefix);
  state->suffix = std::move(spec.suffix);
  state->strip = std::move(spec.decode_strip);
  state->strip_count = spec.decode_strip_count;
  state->bos_token = spec.bos_token.value_or("");
  state->eos_token = spec.eos_token.value_or("");
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(state)));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  const Origin origin =
      options.added == EncodeOptions::Added::kNone ? Origin::kCaller : Origin::kTemplate;
  MESH_ASSIGN_OR_RETURN(
      std::vector<TokenId> ids,
      state_->encode(MarkedText(std::string(text), origin),
                     /*skip_special=*/options.added == EncodeOptions::Added::kNotSpecial));
  if (options.add_bos) {
    ids.insert(ids.begin(), state_->prefix.begin(), state_->prefix.end());
    ids.insert(ids.end(), state_->suffix.begin(), state_->suffix.end());
  }
  return ids;
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text) const {
  return encode(text, EncodeOptions{});
}

Result<std::vector<TokenId>> Tokenizer::encode(const SpanText& spans) const {
  return state_->encode(MarkedText::from_spans(spans), /*skip_special=*/false);
}

Result<std::vector<std::string>> Tokenizer::pieces(std::string_view text) const {
  MESH_ASSIGN_OR_RETURN(const MarkedText normal, state_->normalizer->apply(MarkedText(
                                                     to_valid_utf8(text), Origin::kCaller)));
  return state_->pre_tokenizer->split(normal.bytes());
}

std::size_t Tokenizer::vocab_size() const {
  return state_->bytes.size();
}

std::string_view Tokenizer::token_bytes(TokenId id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= state_->bytes.size()) return {};
  return state_->bytes[static_cast<std::size_t>(id)];
}

bool Tokenizer::is_special(TokenId id) const {
  return id >= 0 && static_cast<std::size_t>(id) < state_->special.size() &&
         state_->special[static_cast<std::size_t>(id)];
}

std::optional<TokenId> Tokenizer::token_id(std::string_view content) const {
  const auto it = state_->added_by_content.find(std::string(content));
  if (it != state_->added_by_content.end()) return it->second;
  const TokenId id = state_->bpe->find(content);
  if (id < 0) return std::nullopt;
  return id;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  Detokenizer detokenizer(*this, skip_special);
  std::string out;
  for (const TokenId id : ids) out += detokenizer.push(id);
  out += detokenizer.finish();
  return out;
}

std::string_view Tokenizer::strip_text() const {
  return state_->strip;
}
std::size_t Tokenizer::strip_count() const {
  return state_->strip_count;
}
std::optional<TokenId> Tokenizer::bos() const {
  return state_->bos_token.empty() ? std::nullopt : token_id(state_->bos_token);
}
std::optional<TokenId> Tokenizer::eos() const {
  return state_->eos_token.empty() ? std::nullopt : token_id(state_->eos_token);
}
const std::string& Tokenizer::bos_token() const {
  return state_->bos_token;
}
const std::string& Tokenizer::eos_token() const {
  return state_->eos_token;
}

}  // namespace mesh::text
