#include "wire/frame.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "base/random.h"
#include "wire/messages.h"

namespace mesh::wire {
namespace {

env::Frame sample() {
  env::Frame frame;
  frame.type = 19;
  frame.flags = kFlagOptional;
  frame.priority = env::Priority::kPrefill;
  frame.stream = 0x0102030405060708;
  frame.header = Buffer::copy_of("header");
  frame.payload = Buffer::copy_of("payload bytes");
  return frame;
}

TEST(Frame, RoundTrip) {
  const env::Frame frame = sample();
  const Buffer bytes = encode_frame(frame);
  ASSERT_EQ(bytes.size(), kFramePrefixBytes + 6 + 13);
  const auto back = decode_frame(bytes.span());
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(back->type, frame.type);
  EXPECT_EQ(back->flags, frame.flags);
  EXPECT_EQ(back->priority, frame.priority);
  EXPECT_EQ(back->stream, frame.stream);
  EXPECT_EQ(back->header.text(), "header");
  EXPECT_EQ(back->payload.text(), "payload bytes");
}

TEST(Frame, PrefixGivesBuffersOfTheAnnouncedSize) {
  const Buffer bytes = encode_frame(sample());
  const auto frame = decode_prefix(bytes.span().first(kFramePrefixBytes));
  ASSERT_TRUE(frame.ok());
  EXPECT_EQ(frame->header.size(), 6u);
  EXPECT_EQ(frame->payload.size(), 13u);
}

TEST(Frame, EveryTruncationIsRefused) {
  const Buffer bytes = encode_frame(sample());
  for (std::size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(decode_frame(std::as_const(bytes).span().first(size)).ok()) << size;
}

// Sets a u32 of the prefix; the announced bytes do not exist, so only the check can refuse in time.
TEST(Frame, LimitsHoldBeforeAllocation) {
  for (const std::size_t at : {std::size_t{16}, std::size_t{20}}) {
    Buffer bytes = encode_frame(sample());
    const std::uint32_t huge = 0xFFFFFFFF;
    std::memcpy(bytes.data() + at, &huge, sizeof(huge));
    const auto frame = decode_prefix(bytes.span().first(kFramePrefixBytes));
    ASSERT_FALSE(frame.ok());
    EXPECT_EQ(frame.error().code, Code::kCorrupt);
    EXPECT_NE(frame.error().message.find("4294967295"), std::string::npos);
  }
}

TEST(Frame, ForeignPrefixesAreRefused) {
  for (const std::size_t at : {0u, 1u, 2u, 6u, 7u}) {
    Buffer bytes = encode_frame(sample());
    bytes.data()[at] = std::byte{0xEE};
    EXPECT_FALSE(decode_prefix(bytes.span()).ok()) << at;
  }
}

TEST(Frame, CheckLimitsNamesBoth) {
  env::Frame frame;
  frame.header = Buffer(limits::kFrameHeaderBytes + 1);
  const auto result = check_limits(frame);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "a header of 65537 bytes, the limit is 65536");
}

}  // namespace
}  // namespace mesh::wire
