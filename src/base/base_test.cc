#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "base/bounded_queue.h"
#include "base/bytes.h"
#include "base/error_table.h"
#include "base/events.h"
#include "base/hash.h"
#include "base/ids.h"
#include "base/random.h"
#include "base/result.h"
#include "base/thread_pool.h"

namespace mesh {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return Error(Code::kInvalidArgument, fmt::format("{} is odd", n));
  return n / 2;
}

Result<int> quarter(int n) {
  MESH_ASSIGN_OR_RETURN(const int h, half(n));
  return half(h);
}

TEST(ResultTest, PropagatesTheFirstError) {
  EXPECT_EQ(quarter(12).value(), 3);
  EXPECT_EQ(quarter(6).error(), Error(Code::kInvalidArgument, "3 is odd"));
  EXPECT_EQ(quarter(6).error().with_context("splitting").message, "splitting: 3 is odd");
}

TEST(ErrorTable, WireNumbersRoundTrip) {
  for (std::uint32_t n = 1; n <= 10; ++n) EXPECT_EQ(wire_code(code_from_wire(n)), n);
  EXPECT_EQ(code_from_wire(999), Code::kInternal);
}

TEST(PeerIdTest, TextRoundTrips) {
  PeerId id;
  for (int i = 0; i < 32; ++i) id.bytes[i] = static_cast<std::uint8_t>(i * 7 + 1);
  const std::string text = id.to_string();
  EXPECT_EQ(text.size(), 52u);
  EXPECT_EQ(PeerId::parse(text).value(), id);
  EXPECT_FALSE(PeerId::parse("short").ok());
  EXPECT_FALSE(PeerId::parse(std::string(52, '!')).ok());
}

TEST(LayerRangeTest, ParsesOnlyHalfOpenRanges) {
  EXPECT_EQ(LayerRange::parse("3:7").value(), (LayerRange{3, 7}));
  for (const char* bad : {"", "3", "7:3", "3:3", "a:b", "3:7x", "-1:2", ":4"})
    EXPECT_FALSE(LayerRange::parse(bad).ok()) << bad;
}

TEST(ByteReaderTest, RefusesToReadPastTheEnd) {
  Buffer buffer(6);
  ByteWriter writer(buffer.span());
  writer.write<std::uint32_t>(0x01020304);
  writer.write<std::uint16_t>(7);
  ByteReader reader(buffer.span());
  EXPECT_EQ(reader.read<std::uint32_t>().value(), 0x01020304u);
  EXPECT_FALSE(reader.read<std::uint64_t>().ok());
  EXPECT_EQ(reader.read<std::uint16_t>().value(), 7u);
  EXPECT_EQ(reader.take(1).error().code, Code::kCorrupt);
}

TEST(HasherTest, DoesNotDependOnTheCut) {
  Hasher whole, parts;
  whole.update("abcdef");
  parts.update("abc");
  parts.update("def");
  EXPECT_EQ(whole.digest(), parts.digest());
  EXPECT_EQ(whole.digest(), xxh3_64("abcdef"));
}

// The answers that come with the reference implementation (Random123, kat_vectors).
TEST(PhiloxTest, GivesTheKnownAnswers) {
  using Block = std::array<std::uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Block{0x6627E8D5u, 0xE169C58Du, 0xBC57AC4Cu, 0x9B00DBD8u}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408F276Du, 0x41C83B0Eu, 0xA20BC7C6u, 0x6D5451FDu}));
  EXPECT_EQ(
      philox4x32({0x243F6A88u, 0x85A308D3u, 0x13198A2Eu, 0x03707344u}, {0xA4093822u, 0x299F31D0u}),
      (Block{0xD16CFE09u, 0x94FDCCEBu, 0x5001E420u, 0x24126EA1u}));
}

TEST(PrngTest, IsTheSameEverywhere) {
  Prng a(1);
  EXPECT_EQ(a.next(), splitmix64(1));
  for (int i = 0; i < 1000; ++i) EXPECT_LT(a.below(10), 10u);
}

TEST(FormatEvent, QuotesOnlyWhereNeeded) {
  EXPECT_EQ(format_event("a.b", {{"x", 3}, {"y", "two words"}}), "a.b x=3 y=\"two words\"");
}

TEST(ThreadPoolTest, RunsEveryPartOnce) {
  for (int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> hits(37);
      pool.run(37, [&](int part, int worker) {
        EXPECT_LT(worker, threads);
        hits[part].fetch_add(1);
      });
      for (auto& hit : hits) ASSERT_EQ(hit.load(), 1);
    }
  }
}

// Workers that come late must find the job that runs now, whole, or none.
TEST(ThreadPoolTest, ManyShortJobsMeetLateWorkers) {
  ThreadPool pool(4);
  Prng prng(5);
  for (int round = 0; round < 5000; ++round) {
    const int parts = 1 + static_cast<int>(prng.below(9));
    std::atomic<int> sum{0};
    pool.run(parts, [&](int part, int) { sum.fetch_add(part + 1); });
    ASSERT_EQ(sum.load(), parts * (parts + 1) / 2) << "round " << round << " seed 5";
  }
}

TEST(BoundedQueueTest, RefusesWhenFullAndDrainsAfterClose) {
  BoundedQueue<int> queue(2);
  int v = 1;
  EXPECT_TRUE(queue.try_push(v));
  EXPECT_TRUE(queue.try_push(v));
  EXPECT_FALSE(queue.try_push(v));
  queue.close();
  EXPECT_TRUE(queue.pop().has_value());
  EXPECT_TRUE(queue.pop().has_value());
  EXPECT_FALSE(queue.pop().has_value());
}

}  // namespace
}  // namespace mesh
