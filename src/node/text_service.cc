#include "node/text_service.h"

#include <algorithm>
#include <utility>

namespace mesh::node {
namespace {

Result<void> check_ids(std::span<const TokenId> ids, std::size_t vocabulary) {
  for (const TokenId id : ids)
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary)
      return Error(
          Code::kInvalidArgument,
          fmt::format("token {} is not in the model's vocabulary of {} tokens", id, vocabulary));
  return {};
}

}  // namespace

Result<std::shared_ptr<const TextService>> TextService::create(const formats::ModelFiles& files) {
  if (files.tokenizer_json.empty())
    return Error(Code::kNotFound,
                 fmt::format("model {} has no tokenizer.json; texts need one", files.name));
  std::shared_ptr<TextService> service(new TextService());
  service->name_ = files.name;
  MESH_ASSIGN_OR_RETURN(service->tokenizer_,
                        text::Tokenizer::parse(files.tokenizer_json, files.tokenizer_config_json));
  if (!files.chat_template.empty()) {
    MESH_ASSIGN_OR_RETURN(service->template_, text::ChatTemplate::parse(files.chat_template));
  }
  return std::shared_ptr<const TextService>(std::move(service));
}

Result<std::vector<TokenId>> TextService::encode(const PromptInput& prompt,
                                                 std::uint32_t vocabulary,
                                                 std::int64_t unix_seconds,
                                                 bool add_special) const {
  if (const auto* chat = std::get_if<ChatPrompt>(&prompt)) return encode_chat(*chat, unix_seconds);
  if (const auto* plain = std::get_if<std::string>(&prompt)) {
    text::Tokenizer::EncodeOptions options;
    options.add_bos = add_special;
    return tokenizer_->encode(*plain, options);
  }
  const auto& ids = std::get<std::vector<TokenId>>(prompt);
  MESH_RETURN_IF_ERROR(check_ids(ids, vocabulary));
  return ids;
}

Result<std::vector<TokenId>> TextService::encode_chat(const ChatPrompt& chat,
                                                      std::int64_t unix_seconds) const {
  if (!template_)
    return Error(Code::kInvalidArgument,
                 fmt::format("model {} has no chat template (chat_template.jinja, or chat_template "
                             "in tokenizer_config.json); it continues texts only",
                             name_));
  text::ChatInputs inputs;
  inputs.messages_json = chat.messages_json;
  inputs.tools_json = chat.tools_json;
  inputs.extra_json = chat.template_json;
  inputs.add_generation_prompt = !chat.continue_final;
  inputs.continue_final = chat.continue_final;
  inputs.bos_token = tokenizer_->bos_token();
  inputs.eos_token = tokenizer_->eos_token();
  inputs.unix_seconds = unix_seconds;
  const Result<text::SpanText> rendered = template_->render(inputs);
  if (!rendered.ok())
    return Error(rendered.error().code,
                 fmt::format("the model's chat template does not take these messages: {}",
                             rendered.error().message));
  return tokenizer_->encode(*rendered);
}

std::string TextService::shown_prompt(const PromptInput& prompt,
                                      std::span<const TokenId> ids) const {
  if (const auto* plain = std::get_if<std::string>(&prompt)) return *plain;
  return tokenizer_->decode(ids, /*skip_special=*/true);
}

std::vector<TokenText> TextService::token_texts(std::span<const TokenId> ids) const {
  std::vector<TokenText> out;
  out.reserve(ids.size());
  for (const TokenId id : ids) {
    TokenText token;
    token.token = id;
    token.bytes = std::string(tokenizer_->token_bytes(id));
    out.push_back(std::move(token));
  }
  return out;
}

Result<std::string> TextService::decode(std::span<const TokenId> ids) const {
  MESH_RETURN_IF_ERROR(check_ids(ids, tokenizer_->vocab_size()));
  return tokenizer_->decode(ids, /*skip_special=*/false);
}

}  // namespace mesh::node
