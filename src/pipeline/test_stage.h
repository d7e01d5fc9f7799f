#pragma once
// For tests of the hop: a stage of a route of three on its own node, and what it tells the others.

#include <cstdint>
#include <numeric>
#include <optional>
#include <vector>

#include "base/check.h"
#include "pipeline/hop.h"
#include "pipeline/test_compute.h"

namespace mesh::pipeline {

inline const PeerId kA = test_peer('a'), kB = test_peer('b'), kC = test_peer('c'),
                    kX = test_peer('x');
inline const std::vector<wire::StageAssignment> kRoute = {{kA, {0, 2}}, {kB, {2, 4}}, {kC, {4, 6}}};
inline constexpr std::uint64_t kPrint = 77;

inline wire::Open open_message(std::uint64_t id, std::uint32_t prompt, std::uint32_t more,
                               PeerId entry) {
  wire::Open open;
  open.sequence = SequenceId{id};
  open.entry = entry;
  open.epoch = Epoch{1};
  open.fingerprint = kPrint;
  open.numeric_class = "n1";
  open.stages = kRoute;
  open.prompt_tokens = prompt;
  open.new_tokens_max = more;
  open.positions_max = prompt + more;
  open.sampling.stop_ids = {99};
  return open;
}

inline std::vector<TokenId> tokens_of(std::size_t count) {
  std::vector<TokenId> out(count);
  std::iota(out.begin(), out.end(), 1);
  return out;
}

// A stage of kRoute on node `self`.
class Stage {
 public:
  Stage(PeerId self, LayerRange layers, std::uint32_t pages = 16)
      : transport(self),
        env{loop, loop, loop, random, transport, events, metrics},
        hop(env, compute) {
    compute.held = layers;
    compute.pages = pages;
    hop.hold({Epoch{1}, layers, kPrint, "n1", compute.pages});
  }
  // The one answer to an OPEN or EXTEND.
  wire::OpenReply reply(PeerId entry) {
    const auto replies = transport.take(entry, wire::FrameType::kOpenReply);
    MESH_CHECK(replies.size() == 1, "{} answers", replies.size());
    return wire::decode_open_reply(replies.at(0)).value();
  }
  // What OPEN was answered with; empty: accepted.
  std::optional<Error> open(const wire::Open& message) {
    hop.on_open(message.entry, message);
    return reply(message.entry).refused;
  }
  wire::OpenReply extend(std::uint64_t id, std::uint32_t positions, PeerId entry) {
    hop.on_extend(entry, {SequenceId{id}, positions});
    return reply(entry);
  }
  void credit(std::uint64_t id, std::uint32_t positions, PeerId entry) {
    hop.on_credit(entry, {SequenceId{id}, positions});
  }
  void token(std::uint64_t id, std::uint32_t position, TokenId token = 5) {
    hop.on_tokens(kC, {{{SequenceId{id}, position, token, wire::Finish::kNone}}});
  }
  // Runs what can be run; how many rows that was.
  std::uint64_t finish_all() {
    const std::uint64_t before = hop.rows_computed();
    while (compute.finish_one()) {
    }
    return hop.rows_computed() - before;
  }
  // All rows sent to a peer.
  std::vector<wire::StepRow> sent_rows(PeerId to) {
    std::vector<wire::StepRow> out;
    for (const env::Frame& frame : transport.take(to, wire::FrameType::kStep)) {
      const wire::StepMessage step = wire::decode_step(frame, kTestShape.row_bytes).value();
      out.insert(out.end(), step.rows.begin(), step.rows.end());
    }
    return out;
  }
  // What ROWS_DONE told a peer, each message.
  std::vector<std::uint32_t> rows_done(PeerId to) {
    std::vector<std::uint32_t> out;
    for (const env::Frame& frame : transport.take(to, wire::FrameType::kRowsDone))
      out.push_back(wire::decode_rows_done(frame)->rows);
    return out;
  }
  // Failures told to the entry.
  std::vector<wire::Fail> fails(PeerId entry) {
    std::vector<wire::Fail> out;
    for (const env::Frame& frame : transport.take(entry, wire::FrameType::kFail))
      out.push_back(wire::decode_fail(frame).value());
    return out;
  }
  wire::StepMessage rows(std::uint64_t id, std::uint32_t first, std::uint32_t count) const {
    wire::StepMessage step;
    step.route = wire::route_handle(Epoch{1}, kRoute);
    for (std::uint32_t i = 0; i < count; ++i) step.rows.push_back({SequenceId{id}, first + i, 5});
    step.hidden = Buffer(count * kTestShape.row_bytes);
    return step;
  }

  env::ManualLoop loop;
  CountingRandom random;
  NullEvents events;
  metrics::Registry metrics;
  RecordingTransport transport;
  TestCompute compute;
  env::Env env;
  Hop hop;
};

}  // namespace mesh::pipeline
