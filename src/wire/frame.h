#pragma once
// Frames on a byte stream: a 24-byte little-endian header, the protobuf header, the raw payload.
//   u16 magic 0x4D54, u8 version 1, u8 type, u16 flags, u8 priority, u8 0, u64 stream, u32 header
//   bytes, u32 payload bytes

#include <cstddef>
#include <optional>
#include <span>

#include "base/bytes.h"
#include "base/result.h"
#include "env/transport.h"

namespace mesh::wire {

inline constexpr std::size_t kFramePrefixBytes = 24;

// Checks magic, version and limits before anything is allocated. Errors: kCorrupt.
Result<env::Frame> decode_prefix(std::span<const std::byte> prefix);
// Writes the 24 bytes for a frame whose parts are in place.
void encode_prefix(const env::Frame& frame, std::span<std::byte> out);
// Errors: invalid_argument when a part is over its limit.
Result<void> check_limits(const env::Frame& frame);
// Whole frame as contiguous bytes and back; for in-memory transports, tests and golden files.
Buffer encode_frame(const env::Frame& frame);
Result<env::Frame> decode_frame(std::span<const std::byte> bytes);

}  // namespace mesh::wire
