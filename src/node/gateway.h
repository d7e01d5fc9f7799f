#pragma once
// All that the API may ask of the mesh. Thread-safe: calls come from the I/O thread, answers are
// delivered on the control loop, so a sink must hand them over and return at once.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"

namespace mesh::node {

// A chat to be continued. Texts are JSON exactly as the client sent them (messages array, tools
// array or empty).
struct ChatPrompt {
  std::string messages_json;
  std::string tools_json;
  std::string template_json;    // chat_template_kwargs, "" or an object
  bool continue_final = false;  // the last message, the assistant's, is the answer's beginning
};
// A chat, a plain text, or token ids as they are.
using PromptInput = std::variant<ChatPrompt, std::string, std::vector<TokenId>>;

// What a client says of sampling; absent: the model's generation_config, else neutral
// (temperature 1).
struct SamplingRequest {
  std::optional<float> temperature, top_p, min_p;
  std::optional<std::uint32_t> top_k;  // 0: off
  std::optional<float> repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<std::uint64_t> seed;  // absent: drawn
  std::vector<std::pair<TokenId, float>> logit_bias;
};

// Choices are numbered prompt · n + j. Ranges are checked by the API; ids against the vocabulary
// by the mesh.
struct GenerateRequest {
  std::string request_id;
  std::vector<PromptInput> prompts;         // at least one
  std::optional<std::uint32_t> max_tokens;  // of each choice; absent: the rest of the context
  std::uint32_t min_tokens = 0;
  SamplingRequest sampling;
  std::uint32_t n = 1;  // choices of each prompt
  std::uint32_t best_of =
      0;  // > n: so many are made, those with the best mean log-probability stay
  // Found wherever tokens are cut; of several the one that is complete first ends the answer. Text
  // of the first min_tokens tokens is not searched.
  std::vector<std::string> stop;
  std::vector<TokenId> stop_token_ids;    // besides the model's own
  bool ignore_eos = false;                // the model's own end tokens do not end the answer
  bool include_stop = false;              // the stop string belongs to the answer
  std::optional<std::uint32_t> logprobs;  // 0: of the chosen tokens only
  bool echo = false;                      // the prompt comes first, with its log-probabilities;
                                          // with max_tokens 0 nothing follows
};

struct Usage {
  std::uint32_t prompt_tokens = 0;  // every prompt counted once
  // Of all choices that are shown. Stop tokens do not count; of a stop string the tokens up to and
  // including the one that completes it do, what the mesh computed beyond does not.
  std::uint32_t completion_tokens = 0;
  std::uint32_t cached_tokens = 0;  // of the prompts, found in the prefix cache
};

struct Timings {
  Duration queue{};       // submit → pages reserved
  Duration prompt{};      // submit → first token
  Duration generation{};  // first → last token
};

enum class FinishReason { kStop, kLength };

// A token as clients that ask for log-probabilities see it.
struct TokenText {
  TokenId token = 0;
  std::string bytes;             // what it decodes to, perhaps no whole characters
  std::optional<float> logprob;  // none: the first token of an echoed prompt
  struct Alternative {
    TokenId token = 0;
    std::string bytes;
    float logprob = 0;
  };
  std::vector<Alternative> top;  // likeliest first
};

struct Piece {
  std::string text;               // whole UTF-8 characters, perhaps none
  std::vector<TokenText> tokens;  // with logprobs only: those whose text ends in this piece
};

// Receives one request's answer: pieces of each choice, an end of each choice, then exactly one end
// or error of the whole. An error may come at any time and is the last.
class GenerateSink {
 public:
  virtual ~GenerateSink() = default;
  // All choices are admitted, or the first piece is there.
  virtual void on_start(const Usage& prompt) = 0;
  virtual void on_piece(std::uint32_t choice, Piece piece) = 0;
  // `stop`: the stop string or the id of the stop token that ended it, "" for the model's own.
  virtual void on_choice_end(std::uint32_t choice, FinishReason reason, std::string stop) = 0;
  virtual void on_end(const Usage& usage, const Timings& timings) = 0;
  virtual void on_error(const Error& error) = 0;
};

struct TokenizeRequest {
  PromptInput prompt;
  bool add_special = true;  // BOS and the like, for plain text
};

struct NodeStatus {
  PeerId id;
  std::string name;
  bool self = false;
  std::string state;       // "joining", "waiting", "loading", "ready", "failed", "lost"
  std::string problem;     // one sentence when failed
  std::string http, peer;  // host:port
  std::string device;
  LayerRange layers;  // loaded
  std::uint64_t bytes_loaded = 0, rows_computed = 0;
  std::uint64_t bytes_expected = 0;  // what these layers weigh in the model's files; 0: unknown
  std::uint32_t pages_total = 0, pages_used = 0;
  double tokens_per_s = 0;
  double rtt_ms = 0;  // from the answering node; 0 for itself
};

struct MeshStatus {
  std::string version, numeric_class;
  std::uint64_t self_test = 0;
  std::string cluster;  // short id
  std::string model;    // "" until known
  std::uint64_t fingerprint = 0;
  std::uint32_t layers = 0, context = 0;
  std::string kv_dtype;  // what the KV cache is kept in
  Epoch epoch;
  bool ready = false;
  std::vector<LayerRange> missing;  // uncovered layers
  std::string waiting_for;          // one sentence when not ready
  std::vector<NodeStatus> nodes;    // ordered by first layer, then id
  std::uint32_t requests_running = 0, requests_waiting = 0;
  std::uint32_t retry_after_s = 1;  // when a place in the waiting room is likely to be free
  double tokens_per_s = 0;
};

class Gateway {
 public:
  virtual ~Gateway() = default;
  // Never blocks. The sink is called later, on the control loop, and kept until its end.
  virtual void generate(GenerateRequest request, std::shared_ptr<GenerateSink> sink) = 0;
  // The client has gone; nothing more is delivered. Unknown ids are ignored.
  virtual void cancel(const std::string& request_id) = 0;
  // Whether the client keeps up. While it does not, its sequences are parked after the tokens that
  // are under way, and give up their pages when that lasts.
  virtual void set_reading(const std::string& request_id, bool reading) = 0;
  // `done` is called on the control loop or a thread of the blocking pool. Errors:
  // invalid_argument, unavailable (no model yet).
  virtual void tokenize(TokenizeRequest request,
                        std::function<void(Result<std::vector<TokenText>>)> done) = 0;
  virtual void detokenize(std::vector<TokenId> tokens,
                          std::function<void(Result<std::string>)> done) = 0;
  // Prometheus text of this node's counters.
  virtual void metrics(std::function<void(std::string)> done) = 0;
  // A snapshot, at most one loop turn old.
  virtual MeshStatus status() const = 0;
};

}  // namespace mesh::node
