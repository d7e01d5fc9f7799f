#include "wire/codec.h"

#include <google/protobuf/message_lite.h>

#include "base/error_table.h"
#include "base/limits.h"
#include "wire/frame.h"
#include "wire/mesh.pb.h"

namespace mesh::wire {
namespace {

// Length of the UTF-8 character at `at` (RFC 3629: no overlong forms, no surrogates), 0 when there
// is none.
std::size_t character(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;
  };
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return first >= 0x20 && first != 0x7F ? 1 : 0;
  if (first >= 0xC2 && first <= 0xDF) return follows(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!follows(1) || !follows(2)) return 0;
    if (first == 0xE0 && byte(1) < 0xA0) return 0;
    if (first == 0xED && byte(1) >= 0xA0) return 0;
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!follows(1) || !follows(2) || !follows(3)) return 0;
    if (first == 0xF0 && byte(1) < 0x90) return 0;
    if (first == 0xF4 && byte(1) >= 0x90) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

std::string_view type_name(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return "HELLO";
    case FrameType::kRefuse:
      return "REFUSE";
    case FrameType::kHeartbeat:
      return "HEARTBEAT";
    case FrameType::kRecord:
      return "RECORD";
    case FrameType::kPlan:
      return "PLAN";
    case FrameType::kOpen:
      return "OPEN";
    case FrameType::kOpenReply:
      return "OPEN_REPLY";
    case FrameType::kPrompt:
      return "PROMPT";
    case FrameType::kStep:
      return "STEP";
    case FrameType::kTokens:
      return "TOKENS";
    case FrameType::kClose:
      return "CLOSE";
    case FrameType::kFail:
      return "FAIL";
    case FrameType::kExtend:
      return "EXTEND";
    case FrameType::kCredit:
      return "CREDIT";
    case FrameType::kRowsDone:
      return "ROWS_DONE";
    case FrameType::kScores:
      return "SCORES";
  }
  return "UNKNOWN";
}

Error corrupt(std::string_view message, std::string_view what) {
  return Error(Code::kCorrupt, fmt::format("{}: {}", message, what));
}

env::Frame pack(FrameType type, env::Priority priority, const google::protobuf::MessageLite& header,
                std::size_t payload_bytes) {
  env::Frame frame;
  frame.type = static_cast<std::uint8_t>(type);
  frame.priority = priority;
  frame.header = Buffer(header.ByteSizeLong());
  if (!frame.header.empty())
    header.SerializeWithCachedSizesToArray(reinterpret_cast<std::uint8_t*>(frame.header.data()));
  if (payload_bytes > 0) frame.payload = Buffer(payload_bytes);
  return frame;
}

bool parse(std::string_view bytes, google::protobuf::MessageLite& out) {
  return bytes.size() <= limits::kFrameHeaderBytes &&
         out.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

std::string serialize(const google::protobuf::MessageLite& message) {
  return message.SerializeAsString();
}

Result<void> unpack(const env::Frame& frame, FrameType type, google::protobuf::MessageLite& out,
                    bool payload) {
  const std::string_view name = type_name(type);
  if (frame.type != static_cast<std::uint8_t>(type))
    return corrupt(name, fmt::format("the frame has type {}", frame.type));
  if (auto limits = check_limits(frame); !limits.ok()) return corrupt(name, limits.error().message);
  if (!payload && !frame.payload.empty())
    return corrupt(name, fmt::format("{} payload bytes where none belong", frame.payload.size()));
  if (!parse(frame.header.text(), out)) return corrupt(name, "the header does not parse");
  return {};
}

bool is_text(std::string_view text, std::size_t limit) {
  if (text.size() > limit) return false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

std::string clean_text(std::string_view text, std::size_t limit) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character(text, at);
    if (out.size() + std::max<std::size_t>(length, 1) > limit) break;
    if (length == 0)
      out += '?';
    else
      out += text.substr(at, length);
    at += std::max<std::size_t>(length, 1);
  }
  return out;
}

std::string raw(const PeerId& id) {
  return std::string(id.bytes.begin(), id.bytes.end());
}

std::string Fields::text(const std::string& value, std::size_t limit, std::string_view name) {
  if (!is_text(value, limit)) {
    require(false, value.size() > limit
                       ? fmt::format("{} has {} bytes, the limit is {}", name, value.size(), limit)
                       : fmt::format("{} is not plain text", name));
    return {};
  }
  return value;
}

PeerId Fields::peer(const std::string& value, std::string_view name) {
  auto id = PeerId::from_bytes(value);
  if (!id.ok() || id->empty()) {
    require(false, fmt::format("{} is not a node id ({} bytes)", name, value.size()));
    return {};
  }
  return *id;
}

void put_failure(const Error& error, proto::Failure& out) {
  out.set_code(wire_code(error.code));
  out.set_message(clean_text(error.message, limits::kSentenceBytes));
  out.set_retryable(error.retryable);
}

Error get_failure(const proto::Failure& in, Fields& fields) {
  return Error(code_from_wire(in.code()),
               fields.text(in.message(), limits::kSentenceBytes, "the reason"), in.retryable());
}

}  // namespace mesh::wire
