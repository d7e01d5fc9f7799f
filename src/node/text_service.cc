#include "node/text_service.h"

#include <utility>

namespace mesh::node {

Result<std::shared_ptr<const TextService>> TextService::create(const formats::ModelFiles& files) {
  if (files.tokenizer_json.empty())
    return Error(Code::kNotFound,
                 fmt::format("model {} has no tokenizer.json; chats need one", files.name));
  if (files.chat_template.empty())
    return Error(
        Code::kNotFound,
        fmt::format("model {} has no chat template (chat_template.jinja, or chat_template in "
                    "tokenizer_config.json)",
                    files.name));
  std::shared_ptr<TextService> service(new TextService());
  MESH_ASSIGN_OR_RETURN(service->tokenizer_,
                        text::Tokenizer::parse(files.tokenizer_json, files.tokenizer_config_json));
  MESH_ASSIGN_OR_RETURN(service->template_, text::ChatTemplate::parse(files.chat_template));
  service->bos_ = service->tokenizer_->bos_token();
  service->eos_ = service->tokenizer_->eos_token();
  return std::shared_ptr<const TextService>(std::move(service));
}

Result<std::vector<TokenId>> TextService::encode_chat(const ChatPrompt& request,
                                                      std::int64_t unix_seconds) const {
  text::ChatInputs inputs;
  inputs.messages_json = request.messages_json;
  inputs.tools_json = request.tools_json;
  inputs.extra_json = request.template_json;
  inputs.add_generation_prompt = true;
  inputs.bos_token = bos_;
  inputs.eos_token = eos_;
  inputs.unix_seconds = unix_seconds;
  const Result<text::SpanText> rendered = template_->render(inputs);
  if (!rendered.ok())
    return Error(rendered.error().code,
                 fmt::format("the model's chat template does not take these messages: {}",
                             rendered.error().message));
  return tokenizer_->encode(*rendered);
}

}  // namespace mesh::node
