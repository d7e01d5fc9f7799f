#include "wire/frame.h"

#include "base/limits.h"

namespace mesh::wire {
namespace {

constexpr std::uint16_t kMagic = 0x4D54;  // "TM"
constexpr std::uint8_t kVersion = 1;

struct Prefix {
  std::uint16_t magic = kMagic;
  std::uint8_t version = kVersion;
  std::uint8_t type = 0;
  std::uint16_t flags = 0;
  std::uint8_t priority = 0;
  std::uint8_t reserved = 0;
  std::uint64_t stream = 0;
  std::uint32_t header = 0;
  std::uint32_t payload = 0;
};
static_assert(sizeof(Prefix) == kFramePrefixBytes);

Error corrupt_frame(std::string what) {
  return Error(Code::kCorrupt, "frame: " + what);
}

// Reads the prefix without allocating anything.
Result<Prefix> read_prefix(std::span<const std::byte> bytes) {
  if (bytes.size() < kFramePrefixBytes)
    return corrupt_frame(fmt::format("{} bytes are no prefix", bytes.size()));
  Prefix prefix;
  std::memcpy(&prefix, bytes.data(), kFramePrefixBytes);
  if (prefix.magic != kMagic) return corrupt_frame(fmt::format("magic {:#06x}", prefix.magic));
  if (prefix.version != kVersion) return corrupt_frame(fmt::format("version {}", prefix.version));
  if (prefix.priority > static_cast<std::uint8_t>(env::Priority::kBulk))
    return corrupt_frame(fmt::format("priority {}", prefix.priority));
  if (prefix.reserved != 0) return corrupt_frame("the reserved byte is not zero");
  if (prefix.header > limits::kFrameHeaderBytes)
    return corrupt_frame(fmt::format("a header of {} bytes, the limit is {}", prefix.header,
                                     limits::kFrameHeaderBytes));
  if (prefix.payload > limits::kFramePayloadBytes)
    return corrupt_frame(fmt::format("a payload of {} bytes, the limit is {}", prefix.payload,
                                     limits::kFramePayloadBytes));
  return prefix;
}

env::Frame frame_of(const Prefix& prefix) {
  env::Frame frame;
  frame.type = prefix.type;
  frame.flags = prefix.flags;
  frame.priority = static_cast<env::Priority>(prefix.priority);
  frame.stream = prefix.stream;
  if (prefix.header > 0) frame.header = Buffer(prefix.header);
  if (prefix.payload > 0) frame.payload = Buffer(prefix.payload);
  return frame;
}

}  // namespace

Result<env::Frame> decode_prefix(std::span<const std::byte> prefix) {
  MESH_ASSIGN_OR_RETURN(const Prefix parsed, read_prefix(prefix));
  return frame_of(parsed);
}

void encode_prefix(const env::Frame& frame, std::span<std::byte> out) {
  MESH_CHECK(out.size() >= kFramePrefixBytes, "{} bytes for a prefix", out.size());
  MESH_CHECK(check_limits(frame).ok(), "a frame of {} + {} bytes", frame.header.size(),
             frame.payload.size());
  Prefix prefix;
  prefix.type = frame.type;
  prefix.flags = frame.flags;
  prefix.priority = static_cast<std::uint8_t>(frame.priority);
  prefix.stream = frame.stream;
  prefix.header = static_cast<std::uint32_t>(frame.header.size());
  prefix.payload = static_cast<std::uint32_t>(frame.payload.size());
  std::memcpy(out.data(), &prefix, kFramePrefixBytes);
}

Result<void> check_limits(const env::Frame& frame) {
  if (frame.header.size() > limits::kFrameHeaderBytes)
    return Error(Code::kInvalidArgument,
                 fmt::format("a header of {} bytes, the limit is {}", frame.header.size(),
                             limits::kFrameHeaderBytes));
  if (frame.payload.size() > limits::kFramePayloadBytes)
    return Error(Code::kInvalidArgument,
                 fmt::format("a payload of {} bytes, the limit is {}", frame.payload.size(),
                             limits::kFramePayloadBytes));
  return {};
}

Buffer encode_frame(const env::Frame& frame) {
  Buffer bytes(kFramePrefixBytes + frame.header.size() + frame.payload.size());
  encode_prefix(frame, bytes.span());
  ByteWriter rest(bytes.span().subspan(kFramePrefixBytes));
  rest.put(frame.header.span());
  rest.put(frame.payload.span());
  return bytes;
}

Result<env::Frame> decode_frame(std::span<const std::byte> bytes) {
  MESH_ASSIGN_OR_RETURN(const Prefix prefix, read_prefix(bytes));
  const std::size_t wanted =
      kFramePrefixBytes + std::size_t{prefix.header} + std::size_t{prefix.payload};
  if (bytes.size() != wanted)
    return corrupt_frame(fmt::format("{} bytes where the prefix says {}", bytes.size(), wanted));
  env::Frame frame = frame_of(prefix);
  if (prefix.header > 0)
    std::memcpy(frame.header.data(), bytes.data() + kFramePrefixBytes, prefix.header);
  if (prefix.payload > 0)
    std::memcpy(frame.payload.data(), bytes.data() + kFramePrefixBytes + prefix.header,
                prefix.payload);
  return frame;
}

}  // namespace mesh::wire
