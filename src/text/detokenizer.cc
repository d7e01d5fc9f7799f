#include "text/detokenizer.h"

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace mesh::text {

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special), strips_left_(tokenizer.strip_count()) {}

std::string Detokenizer::stripped(std::string text) {
  const std::string_view strip = tokenizer_.strip_text();
  std::size_t begin = 0;
  while (strips_left_ > 0 && begin < text.size()) {
    if (text.compare(begin, strip.size(), strip) == 0) {
      begin += strip.size();
      --strips_left_;
    } else {
      strips_left_ = 0;
    }
  }
  return begin == 0 ? std::move(text) : text.substr(begin);
}

std::string Detokenizer::push(TokenId id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  const std::string_view bytes = tokenizer_.token_bytes(id);
  if (bytes.empty()) return {};
  if (pending_.empty() && is_ascii(bytes)) return stripped(std::string(bytes));
  pending_ += bytes;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    out += step.kind == Utf8Step::Kind::kValid ? rest.substr(0, step.bytes) : kReplacement;
    rest.remove_prefix(step.bytes);
  }
  pending_ = std::string(rest);
  return stripped(std::move(out));
}

std::string Detokenizer::finish() {
  std::string out = pending_.empty() ? std::string() : stripped(std::string(kReplacement));
  pending_.clear();
  strips_left_ = tokenizer_.strip_count();
  return out;
}

}  // namespace mesh::text
