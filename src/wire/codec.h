#pragma once
// Shared by the message codecs; internal to wire/.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"
#include "env/transport.h"
#include "wire/messages.h"

namespace google::protobuf {
class MessageLite;
}  // namespace google::protobuf

namespace mesh::wire {

namespace proto {
class Failure;
}  // namespace proto

std::string_view type_name(FrameType type);  // "HELLO"
// kCorrupt, "HELLO: what".
Error corrupt(std::string_view message, std::string_view what);

// A frame around `header`, its payload `payload_bytes` long and not yet written.
env::Frame pack(FrameType type, env::Priority priority, const google::protobuf::MessageLite& header,
                std::size_t payload_bytes = 0);
// Parses the header of a frame that must be of `type`, within limits, and without payload unless
// `payload` says so.
Result<void> unpack(const env::Frame& frame, FrameType type, google::protobuf::MessageLite& out,
                    bool payload = false);
bool parse(std::string_view bytes, google::protobuf::MessageLite& out);
std::string serialize(const google::protobuf::MessageLite& message);

// Well-formed UTF-8 without control characters, at most `limit` bytes.
bool is_text(std::string_view text, std::size_t limit);
// `text` made so: shortened between characters, '?' for bytes that may not stand there.
std::string clean_text(std::string_view text, std::size_t limit);

std::string raw(const PeerId& id);  // its 32 bytes

// One field that must satisfy a condition; collects the first that does not.
class Fields {
 public:
  explicit Fields(std::string_view message) : message_(message) {}
  void require(bool condition, std::string_view what) {
    if (!condition && wrong_.empty()) wrong_ = what;
  }
  std::string text(const std::string& value, std::size_t limit, std::string_view name);
  PeerId peer(const std::string& value, std::string_view name);
  bool ok() const { return wrong_.empty(); }
  Error error() const { return corrupt(message_, wrong_); }

 private:
  std::string message_;
  std::string wrong_;
};

void put_failure(const Error& error, proto::Failure& out);
Error get_failure(const proto::Failure& in, Fields& fields);

inline bool is_token(TokenId token) {
  return token >= 0 && static_cast<std::uint32_t>(token) < limits::kVocabulary;
}

}  // namespace mesh::wire
