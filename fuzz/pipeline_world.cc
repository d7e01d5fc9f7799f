#include "pipeline_world.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "kvcache/page_tables.h"
#include "target.h"
#include "wire/frame.h"
#include "wire/messages.h"

namespace mesh::fuzz {
namespace {

constexpr std::uint32_t kLayers = 6;
constexpr std::uint32_t kContext = 100;
constexpr std::uint32_t kPages = 8;
constexpr std::uint64_t kFingerprint = 7;
constexpr const char* kClass = "fuzz/1";
constexpr std::uint32_t kRoutes = 6;

PeerId peer(std::uint32_t number) {
  PeerId id;
  id.bytes[0] = static_cast<std::uint8_t>(number + 1);
  return id;
}
const PeerId kSelf = peer(0);

// Peer 0 is the node itself, 1 to 3 are others.
std::vector<wire::StageAssignment> stages_of(std::uint32_t route) {
  switch (route) {
    case 0:
      return {{kSelf, {0, 6}}};
    case 1:
      return {{kSelf, {0, 2}}, {peer(1), {2, 6}}};
    case 2:
      return {{peer(1), {0, 2}}, {kSelf, {2, 4}}, {peer(2), {4, 6}}};
    case 3:
      return {{peer(1), {0, 4}}, {kSelf, {4, 6}}};
    case 4:
      return {{kSelf, {0, 2}}};  // ends before the last layer
    default:
      return {{peer(1), {0, 4}}, {kSelf, {4, 6}}, {peer(2), {6, 8}}};  // and behind it
  }
}

constexpr LayerRange kHoldings[] = {{0, 6}, {0, 2}, {2, 4}, {4, 6}};

pipeline::RouteChoice choice(std::uint32_t route) {
  return {Epoch{1}, kFingerprint, kClass, stages_of(route)};
}

sim::FakeComputeConfig compute_config() {
  sim::FakeComputeConfig config;
  config.shape = {kLayers, kContext, 16};
  config.pages = kPages;
  config.page_positions = kvcache::kPagePositions;
  return config;
}

}  // namespace

// Exactly one end, and nothing that the request did not ask for.
class PipelineWorld::Sink final : public pipeline::TokenSink {
 public:
  explicit Sink(std::uint32_t tokens_max) : tokens_left_(tokens_max) {}
  void admitted() override { MESH_CHECK(!ended_ && !std::exchange(admitted_, true), "admitted"); }
  void token(const SampledToken&) override {
    MESH_CHECK(admitted_ && !ended_, "a token outside of a request");
    MESH_CHECK(tokens_left_-- > 0, "more tokens than were asked for");
  }
  void finished(wire::Finish reason) override {
    MESH_CHECK(reason != wire::Finish::kNone, "finished without a reason");
    end();
  }
  void failed(const Error&) override { end(); }
  void end() { MESH_CHECK(!std::exchange(ended_, true), "a request that ends twice"); }
  bool ended() const { return ended_; }

 private:
  std::uint32_t tokens_left_;
  bool admitted_ = false;
  bool ended_ = false;
};

PipelineWorld::PipelineWorld(std::uint32_t holding)
    : env_{loop_, loop_, loop_, *this, *this, events_, metrics_},
      compute_(loop_, compute_config(), violations_),
      hop_(env_, compute_),
      driver_(env_, [this]() -> Result<pipeline::RouteChoice> { return choice(route_); }) {
  const LayerRange layers = kHoldings[holding % std::size(kHoldings)];
  compute_.load(layers, [](const Result<engine::LoadReport>& done) { done->layers.size(); });
  loop_.advance(seconds(1));
  hop_.hold({Epoch{1}, layers, kFingerprint, kClass, kPages});
}

PipelineWorld::~PipelineWorld() = default;

PeerId PipelineWorld::self() const {
  return kSelf;
}

void PipelineWorld::fill(std::span<std::byte> out) {
  for (std::byte& byte : out) byte = static_cast<std::byte>(stream_.next());
}

Result<void> PipelineWorld::send(PeerId to, env::Frame frame) {
  MESH_RETURN_IF_ERROR(wire::check_limits(frame));
  if (lost_ == to) return Error(Code::kNotFound, "no link");
  if (frame.type == static_cast<std::uint8_t>(wire::FrameType::kOpen))
    if (const auto open = wire::decode_open(frame); open.ok() && open->entry == kSelf)
      lives_.push_back(open->sequence);
  auto shared = std::make_shared<env::Frame>(std::move(frame));
  if (to == kSelf) loop_.post([this, shared] { deliver(kSelf, *shared); });
  return {};
}

// As MeshNode::on_frame.
void PipelineWorld::deliver(PeerId from, const env::Frame& frame) {
  const auto handle = [&](auto decoded, auto&& use) {
    MESH_CHECK(decoded.ok() || from != kSelf, "an own frame: {}", decoded.error().message);
    if (decoded.ok()) use(std::move(decoded).value());
  };
  switch (static_cast<wire::FrameType>(frame.type)) {
    case wire::FrameType::kOpen:
      return handle(wire::decode_open(frame), [&](const auto& m) { hop_.on_open(from, m); });
    case wire::FrameType::kOpenReply:
      return handle(wire::decode_open_reply(frame),
                    [&](const auto& m) { driver_.on_open_reply(from, m); });
    case wire::FrameType::kPrompt:
      return handle(wire::decode_prompt(frame), [&](const auto& m) { hop_.on_prompt(from, m); });
    case wire::FrameType::kStep:
      return handle(wire::decode_step(frame, hop_.row_bytes()),
                    [&](auto&& m) { hop_.on_step(from, std::forward<decltype(m)>(m)); });
    case wire::FrameType::kTokens:
      return handle(wire::decode_tokens(frame), [&](const auto& m) {
        hop_.on_tokens(from, m);
        driver_.on_tokens(from, m);
      });
    case wire::FrameType::kClose:
      return handle(wire::decode_close(frame), [&](const auto& m) { hop_.on_close(from, m); });
    case wire::FrameType::kFail:
      return handle(wire::decode_fail(frame), [&](const auto& m) { driver_.on_fail(from, m); });
    case wire::FrameType::kExtend:
      return handle(wire::decode_extend(frame), [&](const auto& m) { hop_.on_extend(from, m); });
    case wire::FrameType::kCredit:
      return handle(wire::decode_credit(frame), [&](const auto& m) { hop_.on_credit(from, m); });
    case wire::FrameType::kRowsDone:
      return handle(wire::decode_rows_done(frame),
                    [&](const auto& m) { hop_.on_rows_done(from, m); });
    case wire::FrameType::kScores:
      return handle(wire::decode_scores(frame), [&](const auto& m) { driver_.on_scores(from, m); });
    default:
      return;
  }
}

// One of four that peers open, or a life of one that the driver started.
SequenceId PipelineWorld::pick_sequence(Script& script) const {
  const std::uint32_t number = script.next(8);
  if (number < 4 || lives_.empty()) return SequenceId{number + 1};
  return lives_[lives_.size() - 1 - number % std::min<std::size_t>(lives_.size(), 4)];
}

void PipelineWorld::play_open(Script& script, PeerId from, SequenceId sequence) {
  wire::Open open{sequence, from, Epoch{1}, kFingerprint, kClass, {}, 0, 0, 0, 0, {}, {}, {}, {}};
  open.stages = stages_of(script.next(kRoutes));
  open.prompt_tokens = 1 + script.next(70);
  open.new_tokens_max = 1 + script.next(40);
  open.replayed = script.next(4) == 0 ? script.next(open.new_tokens_max) : 0;
  const std::uint32_t rows = open.prompt_tokens + open.replayed;
  open.positions_max = rows + script.next(40);
  open.sampling.stop_ids.push_back(static_cast<TokenId>(script.next(256)));
  const std::vector<TokenId> known(rows, TokenId{5});
  // Prompts of the script are all of one token, and so are those of the driver.
  if (script.next(2) == 0 && rows > kvcache::kPagePositions)
    open.page_keys.push_back(kvcache::key_bytes(kvcache::page_keys(known, 1).front()));
  switch (script.next(6)) {
    case 0:
      open.sampling.prompt_logprobs = true;
      open.prompt_ids.assign(open.prompt_tokens - script.next(2), TokenId{5});
      break;
    case 1:
      open.sampling.repetition_penalty = 1.25f;
      open.prompt_ids.assign(script.next(2), TokenId{5});
      open.replayed_ids.assign(open.replayed, TokenId{6});
      break;
    default:
      break;
  }
  deliver(from, wire::encode(open));
}

void PipelineWorld::play_grant(Script& script, PeerId from, SequenceId sequence) {
  const std::uint32_t positions = script.next(128);
  switch (script.next(4)) {
    case 0:
      return deliver(from, wire::encode(wire::Extend{sequence, positions}));
    case 1:
      return deliver(from, wire::encode(wire::Credit{sequence, positions}));
    case 2:
      return deliver(from, wire::encode(wire::RowsDone{positions}));
    default:
      return deliver(from, wire::encode(wire::Scores{{{sequence, positions, TokenId{3}}}}));
  }
}

void PipelineWorld::play_message(Script& script, PeerId from, std::uint32_t kind) {
  const SequenceId sequence = pick_sequence(script);
  if (kind == 0) {
    play_open(script, from, sequence);
  } else if (kind == 1) {
    deliver(from, wire::encode(wire::Prompt{sequence,
                                            std::vector<TokenId>(1 + script.next(70), TokenId{5}),
                                            script.next(3) * 64}));
  } else if (kind == 2) {
    wire::StepMessage step;
    step.route = wire::route_handle(Epoch{1}, stages_of(script.next(kRoutes)));
    const std::uint32_t runs = 1 + script.next(3);
    for (std::uint32_t run = 0; run < runs; ++run) {
      const SequenceId owner = run == 0 ? sequence : pick_sequence(script);
      const std::uint32_t first = script.next(80), rows = 1 + script.next(40);
      for (std::uint32_t row = 0; row < rows; ++row)
        step.rows.push_back({owner, first + row, static_cast<TokenId>(row)});
    }
    const std::vector<std::byte> hidden(step.rows.size() * hop_.row_bytes(), std::byte{1});
    step.hidden = Buffer::copy_of(hidden);
    deliver(from, wire::encode(step));
  } else if (kind == 3) {
    wire::Tokens tokens;
    const std::uint32_t rows = 1 + script.next(4);
    for (std::uint32_t row = 0; row < rows; ++row)
      tokens.rows.push_back({row == 0 ? sequence : pick_sequence(script), script.next(82),
                             static_cast<TokenId>(script.next(256)),
                             static_cast<wire::Finish>(script.next(3))});
    deliver(from, wire::encode(tokens));
  } else if (kind == 4) {
    deliver(from, wire::encode(wire::Close{{sequence, pick_sequence(script)}}));
  } else if (kind == 5) {
    deliver(from, wire::encode(wire::Fail{{sequence}, Error(Code::kInternal, "told so")}));
  } else if (kind == 6) {
    play_grant(script, from, sequence);
  } else {
    std::optional<Error> refused;
    if (script.next(4) == 0) refused = Error(Code::kUnavailable, "no");
    deliver(from, wire::encode(wire::OpenReply{sequence, refused, 0, script.next(128)}));
  }
}

void PipelineWorld::play(Script& script) {
  const std::uint32_t kind = script.next(17);
  const PeerId from = peer(1 + script.next(3));
  if (kind < 8) {
    play_message(script, from, kind);
  } else if (kind == 8) {
    const Error why(Code::kUnavailable, "link lost");
    hop_.on_peer_down(from);
    driver_.on_peer_down(from, why);
  } else if (kind == 9) {
    route_ = script.next(kRoutes);
    pipeline::GenerateParams params;
    params.prompt.assign(1 + script.next(20), TokenId{3});
    params.new_tokens_max = 1 + script.next(20);
    params.sampling.stop_ids.push_back(static_cast<TokenId>(script.next(256)));
    sinks_.push_back(std::make_shared<Sink>(params.new_tokens_max));
    started_.push_back(driver_.start(std::move(params), sinks_.back()));
  } else if (kind == 10 && !started_.empty()) {
    const std::uint32_t which = script.next(static_cast<std::uint32_t>(started_.size()));
    if (!sinks_[which]->ended()) sinks_[which]->end();
    driver_.cancel(started_[which]);
  } else if (kind == 11) {
    compute_.fail_next(Error(Code::kInternal, "the engine failed"));
  } else if (kind == 12) {
    hop_.fail_all(Error(Code::kUnavailable, "draining"));
  } else if (kind == 13) {
    lost_ = script.next(2) == 0 ? std::nullopt : std::optional<PeerId>(from);
  } else if (kind == 14) {
    hop_.refuse_new(script.next(2) == 0 ? std::nullopt
                                        : std::optional(Error(Code::kUnavailable, "draining")));
  } else if (kind == 15) {
    loop_.advance(milliseconds(script.next(256)));
    driver_.tick(loop_.now());
  } else {
    loop_.run_ready();
  }
}

void PipelineWorld::finish() {
  loop_.advance(seconds(1));
  loop_.advance(limits::kRequestDeadline);
  driver_.tick(loop_.now());
  loop_.advance(seconds(1));
  hop_.fail_all(Error(Code::kUnavailable, "the end"));
  loop_.advance(seconds(1));
  if (planted(started_.size() > 2)) sinks_.front()->end();
  MESH_CHECK(driver_.running() == 0, "{} requests run on", driver_.running());
  for (const auto& sink : sinks_) MESH_CHECK(sink->ended(), "a request without an end");
  MESH_CHECK(hop_.idle() && hop_.pages_used() == 0, "{} sequences, {} pages", hop_.sequences(),
             hop_.pages_used());
  MESH_CHECK(violations_.empty(), "{}", violations_.all().front());
}

}  // namespace mesh::fuzz
