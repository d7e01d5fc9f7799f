#include <cmath>

#include "base/error_table.h"
#include "base/limits.h"
#include "wire/codec.h"
#include "wire/mesh.pb.h"
#include "wire/messages.h"

namespace mesh::wire {
namespace {

constexpr auto kControl = env::Priority::kControl;
constexpr std::size_t kStepRowBytes = 16;
constexpr std::size_t kTokenRowBytes = 20;

bool is_token(TokenId token) {
  return token >= 0 && static_cast<std::uint32_t>(token) < limits::kVocabulary;
}

void put(const Error& error, proto::Failure& out) {
  out.set_code(wire_code(error.code));
  out.set_message(clean_text(error.message, limits::kSentenceBytes));
  out.set_retryable(error.retryable);
}

Error get(const proto::Failure& in, Fields& fields) {
  return Error(code_from_wire(in.code()),
               fields.text(in.message(), limits::kSentenceBytes, "the reason"), in.retryable());
}

// Prefill when a sequence has more than one row in the step.
env::Priority priority_of(const std::vector<StepRow>& rows) {
  for (std::size_t i = 1; i < rows.size(); ++i)
    if (rows[i].sequence == rows[i - 1].sequence) return env::Priority::kPrefill;
  return env::Priority::kDecode;
}

env::Frame encode_sequences(FrameType type, const std::vector<SequenceId>& sequences,
                            const Error* why) {
  proto::Sequences out;
  for (SequenceId sequence : sequences) out.add_sequences(sequence.value);
  if (why != nullptr) put(*why, *out.mutable_why());
  return pack(type, kControl, out);
}

Result<std::vector<SequenceId>> get_sequences(const proto::Sequences& in, Fields& fields) {
  fields.require(in.sequences_size() >= 1 &&
                     static_cast<std::size_t>(in.sequences_size()) <= limits::kSequencesPerStage,
                 fmt::format("{} sequences", in.sequences_size()));
  if (!fields.ok()) return fields.error();
  std::vector<SequenceId> sequences;
  for (std::uint64_t value : in.sequences()) sequences.push_back(SequenceId{value});
  return sequences;
}

// Stages that are contiguous from layer 0, none empty, no node twice.
void get_route(const proto::Open& in, std::vector<StageAssignment>& out, Fields& fields) {
  fields.require(
      in.stages_size() >= 1 && static_cast<std::size_t>(in.stages_size()) <= limits::kRouteStages,
      fmt::format("{} stages", in.stages_size()));
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
  out.set_positions_max(message.positions_max);
  out.set_new_tokens_max(message.new_tokens_max);
  for (TokenId token : message.sampling.stop_ids)
    out.add_stop_ids(static_cast<std::uint32_t>(token));
  out.set_temperature(message.sampling.temperature);
  out.set_seed(message.sampling.seed);
  return pack(FrameType::kOpen, kControl, out);
}

Result<Open> decode_open(const env::Frame& frame) {
  proto::Open in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kOpen, in));
  Fields fields("OPEN");
  Open message;
  message.sequence = SequenceId{in.sequence()};
  message.entry = fields.peer(in.entry(), "the entry");
  message.epoch = Epoch{in.epoch()};
  message.fingerprint = in.fingerprint();
  message.numeric_class = fields.text(in.numeric_class(), limits::kNameBytes, "the numeric class");
  get_route(in, message.stages, fields);
  message.prompt_tokens = in.prompt_tokens();
  message.positions_max = in.positions_max();
  message.new_tokens_max = in.new_tokens_max();
  fields.require(in.epoch() >= 1 && in.epoch() <= limits::kEpoch, "the epoch is out of range");
  fields.require(in.prompt_tokens() >= 1, "an empty prompt");
  fields.require(
      in.positions_max() >= in.prompt_tokens() && in.positions_max() <= limits::kContext,
      fmt::format("{} positions for a prompt of {}", in.positions_max(), in.prompt_tokens()));
  fields.require(in.new_tokens_max() >= 1 && in.new_tokens_max() <= limits::kContext,
                 fmt::format("{} new tokens", in.new_tokens_max()));
  fields.require(static_cast<std::size_t>(in.stop_ids_size()) <= limits::kStopIds,
                 "too many stop ids");
  fields.require(std::isfinite(in.temperature()) && in.temperature() >= 0,
                 "the temperature is no number of at least 0");
  if (!fields.ok()) return fields.error();
  for (std::uint32_t token : in.stop_ids()) {
    fields.require(token < limits::kVocabulary, "a stop id is out of range");
    message.sampling.stop_ids.push_back(static_cast<TokenId>(token));
  }
  message.sampling.temperature = in.temperature();
  message.sampling.seed = in.seed();
  if (!fields.ok()) return fields.error();
  return message;
}

env::Frame encode(const OpenReply& message) {
  proto::OpenReply out;
  out.set_sequence(message.sequence.value);
  if (message.refused) put(*message.refused, *out.mutable_refused());
  return pack(FrameType::kOpenReply, kControl, out);
}

Result<OpenReply> decode_open_reply(const env::Frame& frame) {
  proto::OpenReply in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kOpenReply, in));
  Fields fields("OPEN_REPLY");
  OpenReply message;
  message.sequence = SequenceId{in.sequence()};
  if (in.has_refused()) message.refused = get(in.refused(), fields);
  if (!fields.ok()) return fields.error();
  return message;
}

env::Frame encode(const Prompt& message) {
  proto::Prompt out;
  out.set_sequence(message.sequence.value);
  out.set_tokens(static_cast<std::uint32_t>(message.tokens.size()));
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
  Prompt message{SequenceId{in.sequence()}, std::vector<TokenId>(count)};
  std::memcpy(message.tokens.data(), frame.payload.data(), frame.payload.size());
  for (TokenId token : message.tokens)
    if (!is_token(token)) return corrupt("PROMPT", fmt::format("token {}", token));
  return message;
}

env::Frame encode(const StepMessage& message) {
  proto::Step out;
  out.set_route(message.route.value);
  out.set_rows(static_cast<std::uint32_t>(message.rows.size()));
  env::Frame frame = pack(FrameType::kStep, priority_of(message.rows), out,
                          message.rows.size() * kStepRowBytes + message.hidden.size());
  ByteWriter payload(frame.payload.span());
  for (const StepRow& row : message.rows) {
    payload.write(row.sequence.value);
    payload.write(row.position);
    payload.write(row.token);
  }
  payload.put(message.hidden.span());
  return frame;
}

Result<StepMessage> decode_step(const env::Frame& frame, std::size_t row_bytes) {
  proto::Step in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kStep, in, true));
  const std::size_t count = in.rows();
  if (count < 1 || count > limits::kBatchRows)
    return corrupt("STEP", fmt::format("{} rows, the limit is {}", count, limits::kBatchRows));
  if (row_bytes > limits::kFramePayloadBytes ||
      frame.payload.size() != count * (kStepRowBytes + row_bytes))
    return corrupt("STEP", fmt::format("{} rows of {} bytes in {} payload bytes", count, row_bytes,
                                       frame.payload.size()));
  StepMessage message;
  message.route = RouteHandle{in.route()};
  message.rows.reserve(count);
  ByteReader reader(frame.payload.span());
  for (std::size_t i = 0; i < count; ++i) {
    StepRow row;
    MESH_ASSIGN_OR_RETURN(row.sequence.value, reader.read<std::uint64_t>());
    MESH_ASSIGN_OR_RETURN(row.position, reader.read<std::uint32_t>());
    MESH_ASSIGN_OR_RETURN(row.token, reader.read<TokenId>());
    if (row.position >= limits::kContext || !is_token(row.token))
      return corrupt("STEP", fmt::format("position {}, token {}", row.position, row.token));
    message.rows.push_back(row);
  }
  MESH_ASSIGN_OR_RETURN(const auto hidden, reader.take(reader.remaining()));
  message.hidden = Buffer::copy_of(hidden);
  return message;
}

env::Frame encode(const Tokens& message) {
  proto::Tokens out;
  out.set_rows(static_cast<std::uint32_t>(message.rows.size()));
  env::Frame frame =
      pack(FrameType::kTokens, env::Priority::kDecode, out, message.rows.size() * kTokenRowBytes);
  ByteWriter payload(frame.payload.span());
  for (const TokenRow& row : message.rows) {
    payload.write(row.sequence.value);
    payload.write(row.position);
    payload.write(row.token);
    payload.write(static_cast<std::uint32_t>(row.finish));
  }
  return frame;
}

Result<Tokens> decode_tokens(const env::Frame& frame) {
  proto::Tokens in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kTokens, in, true));
  const std::size_t count = in.rows();
  if (count < 1 || count > limits::kBatchRows || frame.payload.size() != count * kTokenRowBytes)
    return corrupt("TOKENS", fmt::format("{} rows in {} bytes", count, frame.payload.size()));
  Tokens message;
  message.rows.reserve(count);
  ByteReader reader(frame.payload.span());
  for (std::size_t i = 0; i < count; ++i) {
    TokenRow row;
    MESH_ASSIGN_OR_RETURN(row.sequence.value, reader.read<std::uint64_t>());
    MESH_ASSIGN_OR_RETURN(row.position, reader.read<std::uint32_t>());
    MESH_ASSIGN_OR_RETURN(row.token, reader.read<TokenId>());
    MESH_ASSIGN_OR_RETURN(const std::uint32_t finish, reader.read<std::uint32_t>());
    if (row.position > limits::kContext || !is_token(row.token) ||
        finish > static_cast<std::uint32_t>(Finish::kLength))
      return corrupt("TOKENS", fmt::format("position {}, token {}, finish {}", row.position,
                                           row.token, finish));
    row.finish = static_cast<Finish>(finish);
    message.rows.push_back(row);
  }
  return message;
}

env::Frame encode(const Close& message) {
  return encode_sequences(FrameType::kClose, message.sequences, nullptr);
}

Result<Close> decode_close(const env::Frame& frame) {
  proto::Sequences in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kClose, in));
  Fields fields("CLOSE");
  MESH_ASSIGN_OR_RETURN(auto sequences, get_sequences(in, fields));
  return Close{std::move(sequences)};
}

env::Frame encode(const Fail& message) {
  return encode_sequences(FrameType::kFail, message.sequences, &message.why);
}

Result<Fail> decode_fail(const env::Frame& frame) {
  proto::Sequences in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kFail, in));
  Fields fields("FAIL");
  MESH_ASSIGN_OR_RETURN(auto sequences, get_sequences(in, fields));
  fields.require(in.has_why(), "the reason is missing");
  Error why = get(in.why(), fields);
  if (!fields.ok()) return fields.error();
  return Fail{std::move(sequences), std::move(why)};
}

}  // namespace mesh::wire
