#include <algorithm>
#include <cmath>

#include "base/limits.h"
#include "wire/codec.h"
#include "wire/mesh.pb.h"
#include "wire/messages.h"

namespace mesh::wire {
namespace {

constexpr auto kControl = env::Priority::kControl;
constexpr std::size_t kStepRowBytes = 16;
constexpr std::size_t kTokenRowBytes = 20;
constexpr std::size_t kScoreBytes = sizeof(float);
constexpr std::size_t kTopBytes = sizeof(TokenId) + sizeof(float);
// Stands for a logarithm that is no number (a token of probability 0), as in the OpenAI API.
constexpr float kLogprobOfNothing = -9999.0f;

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
  if (why != nullptr) put_failure(*why, *out.mutable_why());
  return pack(type, kControl, out);
}

Result<std::vector<SequenceId>> get_sequences(const proto::Sequences& in, Fields& fields) {
  fields.require(in.sequences_size() >= 1 &&
                     static_cast<std::size_t>(in.sequences_size()) <= limits::kSequencesPerStage,
                 fmt::format("{} sequences, 1 to {} are possible", in.sequences_size(),
                             limits::kSequencesPerStage));
  if (!fields.ok()) return fields.error();
  std::vector<SequenceId> sequences;
  for (std::uint64_t value : in.sequences()) sequences.push_back(SequenceId{value});
  return sequences;
}

float sendable(float logprob) {
  return std::isfinite(logprob) ? std::min(logprob, 0.0f) : kLogprobOfNothing;
}

// What the last field of a row says of its scores: 0 none, else one for the token itself and one
// for each of `top`.
std::size_t scores_of(const TokenRow& row) {
  return row.logprob == 0 && row.top.empty() ? 0 : 1 + row.top.size();
}

std::size_t score_bytes(std::size_t scores) {
  return scores == 0 ? 0 : kScoreBytes + (scores - 1) * kTopBytes;
}

// SCORES have the priority of TOKENS, so that they never arrive behind the token that ends their
// sequence.
env::Frame encode_token_rows(FrameType type, const std::vector<TokenRow>& rows) {
  proto::Tokens out;
  out.set_rows(static_cast<std::uint32_t>(rows.size()));
  std::size_t bytes = rows.size() * kTokenRowBytes;
  for (const TokenRow& row : rows) bytes += score_bytes(scores_of(row));
  env::Frame frame = pack(type, env::Priority::kDecode, out, bytes);
  ByteWriter payload(frame.payload.span());
  for (const TokenRow& row : rows) {
    payload.write(row.sequence.value);
    payload.write(row.position);
    payload.write(row.token);
    payload.write(static_cast<std::uint16_t>(row.finish));
    payload.write(static_cast<std::uint16_t>(scores_of(row)));
  }
  for (const TokenRow& row : rows) {
    if (scores_of(row) == 0) continue;
    payload.write(sendable(row.logprob));
    for (const TokenScore& score : row.top) {
      payload.write(score.token);
      payload.write(sendable(score.logprob));
    }
  }
  return frame;
}

// One row of the fixed part; `scores` is what follows behind the rows.
Result<TokenRow> read_token_row(ByteReader& reader, std::string_view name, std::uint16_t& scores) {
  TokenRow row;
  MESH_ASSIGN_OR_RETURN(row.sequence.value, reader.read<std::uint64_t>());
  MESH_ASSIGN_OR_RETURN(row.position, reader.read<std::uint32_t>());
  MESH_ASSIGN_OR_RETURN(row.token, reader.read<TokenId>());
  MESH_ASSIGN_OR_RETURN(const std::uint16_t finish, reader.read<std::uint16_t>());
  MESH_ASSIGN_OR_RETURN(scores, reader.read<std::uint16_t>());
  if (row.position > limits::kContext || !is_token(row.token) ||
      finish > static_cast<std::uint16_t>(Finish::kLength) || scores > 1 + limits::kTopLogprobs)
    return corrupt(name, fmt::format("position {}, token {}, finish {}, {} scores", row.position,
                                     row.token, finish, scores));
  row.finish = static_cast<Finish>(finish);
  return row;
}

Result<float> read_logprob(ByteReader& reader, std::string_view name) {
  MESH_ASSIGN_OR_RETURN(const float logprob, reader.read<float>());
  if (!std::isfinite(logprob) || logprob > 0)
    return corrupt(name, fmt::format("a log-probability of {}", logprob));
  return logprob;
}

Result<std::vector<TokenRow>> decode_token_rows(const env::Frame& frame, FrameType type) {
  const std::string_view name = type_name(type);
  proto::Tokens in;
  MESH_RETURN_IF_ERROR(unpack(frame, type, in, true));
  const std::size_t count = in.rows();
  const auto wrong_size = [&] {
    return corrupt(name, fmt::format("{} rows in {} bytes", count, frame.payload.size()));
  };
  if (count < 1 || count > limits::kBatchRows || frame.payload.size() < count * kTokenRowBytes)
    return wrong_size();
  std::vector<TokenRow> rows;
  std::vector<std::uint16_t> scores(count);
  rows.reserve(count);
  ByteReader reader(frame.payload.span());
  std::size_t bytes = 0;
  for (std::uint16_t& of_row : scores) {
    MESH_ASSIGN_OR_RETURN(TokenRow row, read_token_row(reader, name, of_row));
    rows.push_back(std::move(row));
    bytes += score_bytes(of_row);
  }
  if (reader.remaining() != bytes) return wrong_size();
  for (std::size_t i = 0; i < count; ++i) {
    if (scores[i] == 0) continue;
    MESH_ASSIGN_OR_RETURN(rows[i].logprob, read_logprob(reader, name));
    rows[i].top.reserve(scores[i] - 1u);
    for (std::size_t n = 1; n < scores[i]; ++n) {
      TokenScore score;
      MESH_ASSIGN_OR_RETURN(score.token, reader.read<TokenId>());
      MESH_ASSIGN_OR_RETURN(score.logprob, read_logprob(reader, name));
      if (!is_token(score.token)) return corrupt(name, fmt::format("token {}", score.token));
      rows[i].top.push_back(score);
    }
  }
  return rows;
}

}  // namespace

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
    return corrupt("STEP", fmt::format("{} rows, 1 to {} are possible", count, limits::kBatchRows));
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
  return encode_token_rows(FrameType::kTokens, message.rows);
}

Result<Tokens> decode_tokens(const env::Frame& frame) {
  MESH_ASSIGN_OR_RETURN(auto rows, decode_token_rows(frame, FrameType::kTokens));
  return Tokens{std::move(rows)};
}

env::Frame encode(const Scores& message) {
  return encode_token_rows(FrameType::kScores, message.rows);
}

Result<Scores> decode_scores(const env::Frame& frame) {
  MESH_ASSIGN_OR_RETURN(auto rows, decode_token_rows(frame, FrameType::kScores));
  for (const TokenRow& row : rows)
    if (row.finish != Finish::kNone) return corrupt("SCORES", "a token of a prompt ends it");
  return Scores{std::move(rows)};
}

env::Frame encode(const RowsDone& message) {
  proto::RowsDone out;
  out.set_rows(message.rows);
  return pack(FrameType::kRowsDone, kControl, out);
}

Result<RowsDone> decode_rows_done(const env::Frame& frame) {
  proto::RowsDone in;
  MESH_RETURN_IF_ERROR(unpack(frame, FrameType::kRowsDone, in));
  if (in.rows() < 1 || in.rows() > limits::kBatchRows)
    return corrupt("ROWS_DONE",
                   fmt::format("{} rows, 1 to {} are possible", in.rows(), limits::kBatchRows));
  return RowsDone{in.rows()};
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
  Error why = get_failure(in.why(), fields);
  if (!fields.ok()) return fields.error();
  return Fail{std::move(sequences), std::move(why)};
}

}  // namespace mesh::wire
