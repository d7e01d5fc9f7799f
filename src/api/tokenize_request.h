#pragma once
// POST /tokenize and /detokenize: bodies and answers.

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/api_error.h"
#include "node/gateway.h"

namespace mesh::api {

struct TokenizeCall {
  node::TokenizeRequest request;
  std::string model;  // "": whichever is served
  bool with_pieces = false;
};
struct DetokenizeCall {
  std::vector<TokenId> tokens;
  std::string model;
};

// Never throw on any bytes.
std::variant<TokenizeCall, ApiError> parse_tokenize_request(std::string_view body);
std::variant<DetokenizeCall, ApiError> parse_detokenize_request(std::string_view body);

// {"tokens":[…],"count":…,"max_model_len":…,"token_strs":[…]}, the last only with pieces.
std::string tokenize_json(const std::vector<node::TokenText>& tokens, std::uint32_t context,
                          bool with_pieces);
// {"prompt":text,"content":text}
std::string detokenize_json(std::string_view text);

}  // namespace mesh::api
