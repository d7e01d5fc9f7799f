// Input: tokenizer.json, NUL, a text that is encoded, decoded at once and decoded token by token.

#include "text/tokenizer.h"

#include "target.h"
#include "text/detokenizer.h"

namespace {

using mesh::text::Tokenizer;

void round_trip(const Tokenizer& tokenizer, std::string_view text,
                Tokenizer::EncodeOptions options) {
  const auto ids = tokenizer.encode(text, options);
  if (!ids.ok()) return;
  for (const bool skip_special : {false, true}) {
    mesh::text::Detokenizer pieces(tokenizer, skip_special);
    std::string joined;
    for (const mesh::TokenId id : *ids) {
      MESH_CHECK(id >= 0 && static_cast<std::size_t>(id) < tokenizer.vocab_size(), "token {}", id);
      joined += pieces.push(id);
    }
    joined += pieces.finish();
    if (mesh::fuzz::planted(skip_special && ids->size() == 37)) joined += '?';
    MESH_CHECK(joined == tokenizer.decode(*ids, skip_special), "pieces differ from the whole text");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto [json, text] = mesh::fuzz::two_parts(mesh::fuzz::text_of(data, size));
  const auto tokenizer = Tokenizer::parse(json, R"({"bos_token": "<s>", "eos_token": "</s>"})");
  if (!tokenizer.ok()) return 0;
  using Added = Tokenizer::EncodeOptions::Added;
  round_trip(**tokenizer, text, {.add_bos = true, .added = Added::kAll});
  round_trip(**tokenizer, "Hello world, it's 12345\n  <s>\xE4\xBD\xA0\xCC\x88 \xFF!", {});
  using mesh::text::Origin;
  (void)(*tokenizer)
      ->encode(mesh::text::SpanText{{"<s>", Origin::kTemplate}, {std::string(text), {}}})
      .ok();
  return 0;
}
