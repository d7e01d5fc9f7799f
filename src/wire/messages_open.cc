// What an entry agrees with the stages about one sequence: OPEN, OPEN_REPLY, EXTEND, CREDIT,
// PROMPT.
#include <algorithm>
#include <cmath>

#include "base/limits.h"
#include "wire/codec.h"
#include "wire/mesh.pb.h"
#include "wire/messages.h"

namespace mesh::wire {
namespace {

constexpr auto kControl = env::Priority::kControl;
constexpr std::size_t kBiasBytes = sizeof(TokenId) + sizeof(float);
static_assert(limits::kPageKeys * limits::kPageKeyBytes + limits::kLogitBiases * kBiasBytes +
                  2 * limits::kContext * sizeof(TokenId) <=
              limits::kFramePayloadBytes);

// Stages that are contiguous from layer 0, none empty, no node twice.
void get_route(const proto::Open& in, std::vector<StageAssignment>& out, Fields& fields) {
  fields.require(
      in.stages_size() >= 1 && static_cast<std::size_t>(in.stages_size()) <= limits::kRouteStages,
      fmt::format("{} stages, 1 to {} are possible", in.stages_size(), limits::kRouteStages));
  if (!fields.ok()) return;
  std::map<PeerId, bool> used;
  std::uint32_t next = 0;
  for (const proto::Stage& from : in.stages()) {
    const StageAssignment stage{fields.peer(from.node(), "a stage's node"),
                                {from.begin(), from.end()}};
    fields.require(
        from.begin() == next && from.begin() < from.end() && from.end() <= limits::kLayers,
        fmt::format("stage {}:{} does not continue layer {}", from.begin(), from.end(), next));
    fields.require(used.emplace(stage.node, true).second, "a node stands twice in the route");
    if (!fields.ok()) return;
    next = from.end();
    out.push_back(stage);
  }
}

void put(const SamplingParams& params, proto::Sampling& out) {
  out.set_temperature(params.temperature);
  out.set_top_k(params.top_k);
  out.set_top_p(params.top_p);
  out.set_min_p(params.min_p);
  out.set_repetition_penalty(params.repetition_penalty);
  out.set_presence_penalty(params.presence_penalty);
  out.set_frequency_penalty(params.frequency_penalty);
  out.set_seed(params.seed);
  out.set_choice(params.choice);
  out.set_min_tokens(params.min_tokens);
  for (TokenId token : params.stop_ids) out.add_stop_ids(static_cast<std::uint32_t>(token));
  out.set_logprobs(params.logprobs);
  out.set_prompt_logprobs(params.prompt_logprobs);
}

// Comparisons with NaN are false, so no range admits it.
void check(const proto::Sampling& in, Fields& fields) {
  const auto within = [](float value, float low, float high) {
    return value >= low && value <= high;
  };
  fields.require(std::isfinite(in.temperature()) && in.temperature() >= 0,
                 "the temperature is no number of at least 0");
  fields.require(in.top_p() > 0 && in.top_p() <= 1, "top_p is not in (0, 1]");
  fields.require(within(in.min_p(), 0, 1), "min_p is not in [0, 1]");
  fields.require(std::isfinite(in.repetition_penalty()) && in.repetition_penalty() > 0,
                 "the repetition penalty is no number above 0");
  fields.require(within(in.presence_penalty(), -2, 2), "the presence penalty is not in [-2, 2]");
  fields.require(within(in.frequency_penalty(), -2, 2), "the frequency penalty is not in [-2, 2]");
  fields.require(
      in.min_tokens() <= limits::kContext,
      fmt::format("at least {} new tokens in a context of {}", in.min_tokens(), limits::kContext));
  fields.require(static_cast<std::size_t>(in.stop_ids_size()) <= limits::kStopIds,
                 fmt::format("{} stop ids, the limit is {}", in.stop_ids_size(), limits::kStopIds));
  fields.require(
      in.logprobs() >= -1 && in.logprobs() <= static_cast<std::int32_t>(limits::kTopLogprobs),
      fmt::format("{} log-probabilities, -1 to {} are possible", in.logprobs(),
                  limits::kTopLogprobs));
}

// All but logit_bias, which is payload.
SamplingParams get(const proto::Sampling& in, Fields& fields) {
  SamplingParams params;
  check(in, fields);
  if (!fields.ok()) return params;
  params.temperature = in.temperature();
  params.top_k = in.top_k();
  params.top_p = in.top_p();
  params.min_p = in.min_p();
  params.repetition_penalty = in.repetition_penalty();
  params.presence_penalty = in.presence_penalty();
  params.frequency_penalty = in.frequency_penalty();
  params.seed = in.seed();
  params.choice = in.choice();
  params.min_tokens = in.min_tokens();
  for (std::uint32_t token : in.stop_ids()) {
    fields.require(token < limits::kVocabulary, fmt::format("stop id {} is no token", token));
    params.stop_ids.push_back(static_cast<TokenId>(token));
  }
  params.logprobs = in.logprobs();
  params.prompt_logprobs = in.prompt_logprobs();
  return params;
}

// The numbers of OPEN that bound what its payload may hold.
void check_counts(const proto::Open& in, std::size_t payload_bytes, Fields& fields) {
  const std::uint64_t prompt = in.prompt_tokens(), rows = prompt + in.replayed();
  fields.require(in.epoch() >= 1 && in.epoch() <= limits::kEpoch,
                 fmt::format("epoch {}, 1 to {} are possible", in.epoch(), limits::kEpoch));
  fields.require(prompt >= 1, "an empty prompt");
  fields.require(
      in.positions_max() >= rows && in.positions_max() <= limits::kContext,
      fmt::format("{} positions for {} + {} tokens", in.positions_max(), prompt, in.replayed()));
  fields.require(
      in.new_tokens_max() >= 1 && in.new_tokens_max() <= limits::kContext,
      fmt::format("{} new tokens, 1 to {} are possible", in.new_tokens_max(), limits::kContext));
  fields.require(in.replayed() < in.new_tokens_max(),
                 fmt::format("{} of {} new tokens replayed", in.replayed(), in.new_tokens_max()));
  // One row is always computed.
  fields.require(in.page_keys() <= limits::kPageKeys &&
                     std::uint64_t{in.page_keys()} * limits::kKeyedPageTokens < rows,
                 fmt::format("{} page keys for {} tokens", in.page_keys(), rows));
  fields.require(
      in.logit_biases() <= limits::kLogitBiases,
      fmt::format("{} logit biases, the limit is {}", in.logit_biases(), limits::kLogitBiases));
  fields.require(in.prompt_ids() <= prompt,
                 fmt::format("{} ids of a prompt of {}", in.prompt_ids(), prompt));
  fields.require(in.replayed_ids() == 0 || in.replayed_ids() == in.replayed(),
                 fmt::format("{} ids of {} replayed tokens", in.replayed_ids(), in.replayed()));
  if (!fields.ok()) return;
  const std::size_t wanted = in.page_keys() * limits::kPageKeyBytes +
                             in.logit_biases() * kBiasBytes +
                             (std::size_t{in.prompt_ids()} + in.replayed_ids()) * sizeof(TokenId);
  fields.require(payload_bytes == wanted,
                 fmt::format("{} payload bytes where the counts say {}", payload_bytes, wanted));
}

Result<std::vector<TokenId>> read_ids(ByteReader& reader, std::size_t count) {
  MESH_ASSIGN_OR_RETURN(const auto bytes, reader.take(count * sizeof(TokenId)));
  std::vector<TokenId> ids(count);
  if (count > 0) std::memcpy(ids.data(), bytes.data(), bytes.size());
  for (TokenId id : ids)
    if (!is_token(id)) return corrupt("OPEN", fmt::format("token {}", id));
  return ids;
}

Result<void> read_payload(ByteReader reader, const proto::Open& in, Open& message) {
  message.page_keys.reserve(in.page_keys());
  for (std::uint32_t i = 0; i < in.page_keys(); ++i) {
    MESH_ASSIGN_OR_RETURN(const auto key, reader.take(limits::kPageKeyBytes));
    message.page_keys.emplace_back(reinterpret_cast<const char*>(key.data()), key.size());
  }
  auto& biases = message.sampling.logit_bias;
  biases.reserve(in.logit_biases());
  for (std::uint32_t i = 0; i < in.logit_biases(); ++i) {
    MESH_ASSIGN_OR_RETURN(const TokenId token, reader.read<TokenId>());
    MESH_ASSIGN_OR_RETURN(const float bias, reader.read<float>());
    if (!is_token(token) || !std::isfinite(bias) ||
        (!biases.empty() && biases.back().first >= token))
      return corrupt("OPEN", fmt::format("a logit bias of {} for token {}", bias, token));
    biases.emplace_back(token, bias);
  }
  MESH_ASSIGN_OR_RETURN(message.prompt_ids, read_ids(reader, in.prompt_ids()));
  MESH_ASSIGN_OR_RETURN(message.replayed_ids, read_ids(reader, in.replayed_ids()));
  return {};
}

}  // namespace

env::Frame encode(const Open& message) {
  proto::Open out;
  out.set_sequence(message.sequence.value);
  out.set_entry(raw(message.entry));
  out.set_epoch(message.epoch.value);
  out.set_fingerprint(message.fingerprint);
  out.set_numeric_class(clean_text(message.numeric_class, limits::kNameBytes));
  for (const StageAssignment& stage : message.stages) {
    proto::Stage& to = *out.add_stages();
    to.set_node(raw(stage.node));
    to.set_begin(stage.layers.begin);
    to.set_end(stage.layers.end);
  }
  out.set_prompt_tokens(message.prompt_tokens);
  out.set_replayed(message.replayed);
  out.set_positions_max(message.positions_max);
  out.set_new_tokens_max(message.new_tokens_max);
  put(message.sampling, *out.mutable_sampling());
  const auto& biases = message.sampling.logit_bias;
  out.set_page_keys(static_cast<std::uint32_t>(message.page_keys.size()));
  out.set_logit_biases(static_cast<std::uint32_t>(biases.size()));
  out.set_prompt_ids(static_cast<std::uint32_t>(message.prompt_ids.size()));
  out.set_replayed_ids(static_cast<std::uint32_t>(message.replayed_ids.size()));
  env::Frame frame =
      pack(FrameType::kOpen, kControl, out,
           message.page_keys.size() * limits::kPageKeyBytes + biases.size() * kBiasBytes +
               (message.prompt_ids.size() + message.replayed_ids.size()) * sizeof(TokenId));
  ByteWriter payload(frame.payload.span());
  for (const std::string& key : message.page_keys) {
    MESH_CHECK(key.size() == limits::kPageKeyBytes, "a page key of {} bytes", key.size());
    payload.put(as_bytes(key));
  }
  for (const auto& [token, bias] : biases) {
    payload.write(token);
    payload.write(bias);
  }
  payload.put(std::as_bytes(std::span(message.prompt_ids)));
  payload.put(std::as_bytes(std::span(message.replayed_ids)));
  return frame;
}

Result<Open> decode_open(const env::Frame& frame) {
  proto::Open in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kOpen, in, true));
  Fields fields("OPEN");
  Open message;
  message.sequence = SequenceId{in.sequence()};
  message.entry = fields.peer(in.entry(), "the entry");
  message.epoch = Epoch{in.epoch()};
  message.fingerprint = in.fingerprint();
  message.numeric_class = fields.text(in.numeric_class(), limits::kNameBytes, "the numeric class");
  get_route(in, message.stages, fields);
  message.prompt_tokens = in.prompt_tokens();
  message.replayed = in.replayed();
  message.positions_max = in.positions_max();
  message.new_tokens_max = in.new_tokens_max();
  check_counts(in, frame.payload.size(), fields);
  message.sampling = get(in.sampling(), fields);
  if (!fields.ok()) return fields.error();
  MESH_RETURN_IF_ERROR(read_payload(ByteReader(frame.payload.span()), in, message));
  return message;
}

env::Frame encode(const OpenReply& message) {
  proto::OpenReply out;
  out.set_sequence(message.sequence.value);
  if (message.refused) put_failure(*message.refused, *out.mutable_refused());
  out.set_cached(message.cached);
  out.set_positions_max(message.positions_max);
  return pack(FrameType::kOpenReply, kControl, out);
}

Result<OpenReply> decode_open_reply(const env::Frame& frame) {
  proto::OpenReply in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kOpenReply, in));
  Fields fields("OPEN_REPLY");
  OpenReply message;
  message.sequence = SequenceId{in.sequence()};
  if (in.has_refused()) message.refused = get_failure(in.refused(), fields);
  fields.require(in.cached() <= limits::kContext && in.cached() % limits::kKeyedPageTokens == 0,
                 fmt::format("{} cached positions are no whole pages of {}", in.cached(),
                             limits::kKeyedPageTokens));
  fields.require(
      in.positions_max() <= limits::kContext,
      fmt::format("{} positions, the limit is {}", in.positions_max(), limits::kContext));
  if (!fields.ok()) return fields.error();
  message.cached = in.cached();
  message.positions_max = in.positions_max();
  return message;
}

env::Frame encode(const Extend& message) {
  proto::Extend out;
  out.set_sequence(message.sequence.value);
  out.set_positions_max(message.positions_max);
  return pack(FrameType::kExtend, kControl, out);
}

Result<Extend> decode_extend(const env::Frame& frame) {
  proto::Extend in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kExtend, in));
  if (in.positions_max() < 1 || in.positions_max() > limits::kContext)
    return corrupt("EXTEND", fmt::format("{} positions, 1 to {} are possible", in.positions_max(),
                                         limits::kContext));
  return Extend{SequenceId{in.sequence()}, in.positions_max()};
}

// No position is beyond kContext, so a larger credit says the same as that.
env::Frame encode(const Credit& message) {
  proto::Credit out;
  out.set_sequence(message.sequence.value);
  out.set_positions(std::min(message.positions, limits::kContext));
  return pack(FrameType::kCredit, kControl, out);
}

Result<Credit> decode_credit(const env::Frame& frame) {
  proto::Credit in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kCredit, in));
  if (in.positions() < 1 || in.positions() > limits::kContext)
    return corrupt("CREDIT", fmt::format("{} positions, 1 to {} are possible", in.positions(),
                                         limits::kContext));
  return Credit{SequenceId{in.sequence()}, in.positions()};
}

env::Frame encode(const Prompt& message) {
  proto::Prompt out;
  out.set_sequence(message.sequence.value);
  out.set_tokens(static_cast<std::uint32_t>(message.tokens.size()));
  out.set_first_position(message.first_position);
  env::Frame frame = pack(FrameType::kPrompt, env::Priority::kPrefill, out,
                          message.tokens.size() * sizeof(TokenId));
  ByteWriter(frame.payload.span()).put(std::as_bytes(std::span(message.tokens)));
  return frame;
}

Result<Prompt> decode_prompt(const env::Frame& frame) {
  proto::Prompt in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kPrompt, in, true));
  const std::size_t count = in.tokens();
  if (count < 1 || count > limits::kContext || frame.payload.size() != count * sizeof(TokenId))
    return corrupt("PROMPT", fmt::format("{} tokens in {} bytes", count, frame.payload.size()));
  if (in.first_position() > limits::kContext - count ||
      in.first_position() % limits::kKeyedPageTokens != 0)
    return corrupt("PROMPT", fmt::format("{} tokens from position {}, which begins no page of {}",
                                         count, in.first_position(), limits::kKeyedPageTokens));
  Prompt message{SequenceId{in.sequence()}, std::vector<TokenId>(count), in.first_position()};
  std::memcpy(message.tokens.data(), frame.payload.data(), frame.payload.size());
  for (TokenId token : message.tokens)
    if (!is_token(token)) return corrupt("PROMPT", fmt::format("token {}", token));
  return message;
}

}  // namespace mesh::wire
