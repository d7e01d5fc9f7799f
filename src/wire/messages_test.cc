#include "wire/messages.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>

#include "base/limits.h"
#include "base/random.h"
#include "wire/frame.h"

namespace mesh::wire {
namespace {

PeerId peer(std::uint8_t n) {
  PeerId id;
  id.bytes.fill(n);
  return id;
}

Certificate certificate() {
  return {std::string(32, 'k'), peer(1),           {"full", "trusted"}, 7,
          1'700'000'000'000,    1'800'000'000'000, std::string(64, 's')};
}

ModelIdentity model() {
  return {"pocket", 0x1122334455667788, 6, 128, 4096, 1024, "bf16"};
}

Hello hello() {
  return {1,
          "node a",
          certificate(),
          {"0.1.0", "cpu/1", 0xABCDEF},
          model(),
          {"10.0.0.1:8643", "[::1]:8643"}};
}

NodeRecord record() {
  NodeRecord r;
  r.node = peer(1);
  r.incarnation = 1'700'000'000'123;
  r.version = 9;
  r.name = "node a";
  r.addresses = {"10.0.0.1:8643"};
  r.http = "127.0.0.1:8642";
  r.device = "AMD EPYC, 2 cores, avx512";
  r.engine = {"0.1.0", "cpu/1", 0xABCDEF};
  r.model = model();
  r.willing = true;
  r.pinned = LayerRange{0, 3};
  r.memory_for_model = 1ull << 33;
  r.state = NodeState::kReady;
  r.epoch = Epoch{4};
  r.layers = {0, 3};
  r.bytes_loaded = 123456;
  r.rows_computed = 77;
  r.pages_total = 64;
  r.pages_used = 3;
  r.tokens_per_s = 12.5;
  r.problem = "";
  r.share = {0x1234567890ABCDEF, 4, 2};
  return r;
}

Plan plan() {
  return {Epoch{5}, peer(1), 0x1122334455667788, 6, {{peer(2), {0, 2}}, {peer(1), {3, 6}}}};
}

Open open() {
  Open m;
  m.sequence = SequenceId{0xFEDCBA9876543210};
  m.entry = peer(3);
  m.epoch = Epoch{5};
  m.fingerprint = 0x1122334455667788;
  m.numeric_class = "cpu/1";
  m.stages = {{peer(2), {0, 3}}, {peer(1), {3, 6}}};
  m.prompt_tokens = 10;
  m.positions_max = 74;
  m.new_tokens_max = 64;
  m.sampling.stop_ids = {0, 2};
  m.sampling.temperature = 0.75f;
  m.sampling.seed = 99;
  return m;
}

// Every field that OPEN can carry.
Open full_open() {
  Open m = open();
  m.prompt_tokens = 130;
  m.replayed = 3;
  m.positions_max = 389;
  m.new_tokens_max = 300;
  m.sampling.top_k = 40;
  m.sampling.top_p = 0.5f;
  m.sampling.min_p = 0.25f;
  m.sampling.repetition_penalty = 1.5f;
  m.sampling.presence_penalty = -2;
  m.sampling.frequency_penalty = 2;
  m.sampling.choice = 2;
  m.sampling.min_tokens = 5;
  m.sampling.logit_bias = {{0, -100}, {7, 0.5f}, {1023, 100}};
  m.sampling.logprobs = 20;
  m.sampling.prompt_logprobs = true;
  m.page_keys = {std::string(16, 'a'), std::string(16, '\0')};
  m.prompt_ids = {5, 6, 5};
  m.replayed_ids = {9, 8, 7};
  return m;
}

StepMessage step(std::size_t rows, std::size_t row_bytes) {
  StepMessage m;
  m.route = RouteHandle{0x0123456789ABCDEF};
  for (std::size_t i = 0; i < rows; ++i)
    m.rows.push_back(
        {SequenceId{1000 + i}, static_cast<std::uint32_t>(20 + i), static_cast<TokenId>(300 + i)});
  m.hidden = Buffer(rows * row_bytes);
  for (std::size_t i = 0; i < m.hidden.size(); ++i)
    m.hidden.data()[i] = static_cast<std::byte>(i * 7);
  return m;
}

Tokens tokens() {
  return {{{SequenceId{1}, 10, 42, Finish::kNone},
           {SequenceId{2}, 11, 43, Finish::kStop},
           {SequenceId{3}, 12, 44, Finish::kLength}}};
}

// No scores, the token's alone, and both.
Tokens scored_tokens() {
  Tokens m = tokens();
  m.rows[1].logprob = -0.5f;
  m.rows[2].logprob = -1.25f;
  m.rows[2].top = {{44, -1.25f}, {7, -2}};
  return m;
}

Scores scores() {
  return {{{SequenceId{1}, 1, 42, Finish::kNone, -3, {{41, -0.5f}}},
           {SequenceId{1}, 2, 43, Finish::kNone, 0, {{43, 0}}}}};
}

const Error kWhy(Code::kUnavailable, "node b has no pages left", true);

// One message of each kind, and how to decode it (whether it decodes is the answer).
struct Case {
  std::string name;
  env::Frame frame;
  std::function<bool(const env::Frame&)> decodes;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](std::string name, env::Frame frame, auto decode) {
    all.push_back({std::move(name), std::move(frame),
                   [decode](const env::Frame& f) { return decode(f).ok(); }});
  };
  add("hello", encode(hello()), decode_hello);
  add("refuse", encode(Refuse{kWhy}), decode_refuse);
  add("heartbeat", encode(Heartbeat{3, 1000, 2000}), decode_heartbeat);
  add("record", encode(SignedRecord{encode_record(record()), "public", std::string(64, 's')}),
      [](const env::Frame& f) -> Result<NodeRecord> {
        MESH_ASSIGN_OR_RETURN(const SignedRecord signed_record, decode_signed_record(f));
        return decode_record(signed_record.record);
      });
  add("plan", encode(plan()), decode_plan);
  add("open", encode(open()), decode_open);
  add("open_full", encode(full_open()), decode_open);
  add("open_reply", encode(OpenReply{SequenceId{5}, std::nullopt}), decode_open_reply);
  add("open_reply_refused", encode(OpenReply{SequenceId{5}, kWhy}), decode_open_reply);
  add("open_reply_cached", encode(OpenReply{SequenceId{5}, std::nullopt, 128, 389}),
      decode_open_reply);
  add("prompt", encode(Prompt{SequenceId{5}, {1, 2, 1023}}), decode_prompt);
  add("prompt_rest", encode(Prompt{SequenceId{5}, {1, 2, 1023}, 128}), decode_prompt);
  add("step", encode(step(2, 8)), [](const env::Frame& f) { return decode_step(f, 8); });
  add("tokens", encode(tokens()), decode_tokens);
  add("tokens_scored", encode(scored_tokens()), decode_tokens);
  add("scores", encode(scores()), decode_scores);
  add("extend", encode(Extend{SequenceId{5}, 645}), decode_extend);
  add("credit", encode(Credit{SequenceId{5}, 165}), decode_credit);
  add("rows_done", encode(RowsDone{512}), decode_rows_done);
  add("close", encode(Close{{SequenceId{5}, SequenceId{6}}}), decode_close);
  add("fail", encode(Fail{{SequenceId{5}}, kWhy}), decode_fail);
  return all;
}

TEST(Messages, RoundTripOfMembers) {
  EXPECT_EQ(decode_hello(encode(hello())).value(), hello());
  Hello bare = hello();
  bare.model.reset();
  bare.addresses.clear();
  EXPECT_EQ(decode_hello(encode(bare)).value(), bare);
  EXPECT_EQ(decode_refuse(encode(Refuse{kWhy})).value().why, kWhy);
  const Heartbeat beat = decode_heartbeat(encode(Heartbeat{3, 1000, 2000})).value();
  EXPECT_EQ(beat.count, 3u);
  EXPECT_EQ(beat.sent_ns, 1000u);
  EXPECT_EQ(beat.echo_ns, 2000u);
  EXPECT_EQ(decode_record(encode_record(record())).value(), record());
  EXPECT_EQ(decode_plan(encode(plan())).value(), plan());
  EXPECT_EQ(decode_certificate(encode_certificate(certificate())).value(), certificate());
  const SignedRecord signed_record{"bytes", "key", std::string(64, 's')};
  const SignedRecord back = decode_signed_record(encode(signed_record)).value();
  EXPECT_EQ(back.record, "bytes");
  EXPECT_EQ(back.public_key, "key");
  EXPECT_EQ(back.signature, std::string(64, 's'));
}

TEST(Messages, RoundTripOfRequests) {
  EXPECT_EQ(decode_open(encode(open())).value(), open());
  EXPECT_EQ(decode_open(encode(full_open())).value(), full_open());
  const OpenReply reply =
      decode_open_reply(encode(OpenReply{SequenceId{5}, kWhy, 128, 389})).value();
  EXPECT_EQ(reply.sequence, SequenceId{5});
  EXPECT_EQ(reply.refused, kWhy);
  EXPECT_EQ(reply.cached, 128u);
  EXPECT_EQ(reply.positions_max, 389u);
  const Prompt prompt{SequenceId{5}, {1, 2, 1023}};
  EXPECT_EQ(decode_prompt(encode(prompt)).value(), prompt);
  const Prompt rest{SequenceId{5}, {1, 2, 1023}, 128};
  EXPECT_EQ(decode_prompt(encode(rest)).value(), rest);
  const StepMessage sent = step(3, 24);
  const StepMessage got = decode_step(encode(sent), 24).value();
  EXPECT_EQ(got.route, sent.route);
  EXPECT_EQ(got.rows, sent.rows);
  EXPECT_EQ(got.hidden.text(), sent.hidden.text());
  EXPECT_EQ(decode_tokens(encode(tokens())).value(), tokens());
  EXPECT_EQ(decode_tokens(encode(scored_tokens())).value(), scored_tokens());
  EXPECT_EQ(decode_scores(encode(scores())).value(), scores());
  const Extend extend{SequenceId{5}, 645};
  EXPECT_EQ(decode_extend(encode(extend)).value(), extend);
  const Credit credit{SequenceId{5}, 165};
  EXPECT_EQ(decode_credit(encode(credit)).value(), credit);
  EXPECT_EQ(decode_rows_done(encode(RowsDone{1024})).value(), RowsDone{1024});
  EXPECT_EQ(decode_close(encode(Close{{SequenceId{5}, SequenceId{6}}})).value().sequences,
            (std::vector<SequenceId>{{5}, {6}}));
  const Fail fail = decode_fail(encode(Fail{{SequenceId{5}}, kWhy})).value();
  EXPECT_EQ(fail.sequences, std::vector<SequenceId>{{5}});
  EXPECT_EQ(fail.why, kWhy);
}

// MESH_UPDATE_GOLDEN=1 rewrites the files; the difference is then reviewed like code.
TEST(Messages, GoldenFrames) {
  for (const Case& c : cases()) {
    std::string hex = to_hex(encode_frame(c.frame).span());
    std::string lines;
    for (std::size_t at = 0; at < hex.size(); at += 64) lines += hex.substr(at, 64) + "\n";
    const std::string path = std::string(MESH_TEST_DATA) + "/wire/" + c.name + ".hex";
    if (std::getenv("MESH_UPDATE_GOLDEN") != nullptr) std::ofstream(path) << lines;
    std::ifstream file(path);
    std::stringstream golden;
    golden << file.rdbuf();
    EXPECT_EQ(lines, golden.str()) << path;
  }
}

TEST(Messages, TypesDoNotMix) {
  for (const Case& c : cases()) {
    for (const Case& other : cases())
      EXPECT_TRUE(other.frame.type == c.frame.type || !c.decodes(other.frame)) << c.name;
  }
}

// Cuts header and payload at every length; whatever is accepted must not crash, and no payload may
// be shorter than announced.
TEST(Messages, TruncationNeverCrashes) {
  for (const Case& c : cases()) {
    EXPECT_TRUE(c.decodes(c.frame)) << c.name;
    for (std::size_t size = 0; size < c.frame.header.size(); ++size) {
      env::Frame cut;
      cut.type = c.frame.type;
      cut.header = Buffer::copy_of(c.frame.header.text().substr(0, size));
      cut.payload = Buffer::copy_of(c.frame.payload.text());
      (void)c.decodes(cut);
    }
    for (std::size_t size = 0; size < c.frame.payload.size(); ++size) {
      env::Frame cut;
      cut.type = c.frame.type;
      cut.header = Buffer::copy_of(c.frame.header.text());
      cut.payload = Buffer::copy_of(c.frame.payload.text().substr(0, size));
      EXPECT_FALSE(c.decodes(cut)) << c.name << " " << size;
    }
    const Buffer whole = encode_frame(c.frame);
    for (std::size_t size = 0; size < whole.size(); ++size)
      EXPECT_FALSE(decode_frame(std::as_const(whole).span().first(size)).ok());
  }
}

TEST(Messages, CorruptionNeverCrashes) {
  const std::uint64_t seed = 20;
  SCOPED_TRACE(seed);
  Prng random(seed);
  std::size_t accepted = 0, refused = 0;
  for (const Case& c : cases()) {
    const Buffer whole = encode_frame(c.frame);
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (int round = 0; round < 16; ++round) {
        Buffer bytes = Buffer::copy_of(whole.text());
        bytes.data()[at] ^= static_cast<std::byte>(1 + random.below(255));
        const auto frame = decode_frame(bytes.span());
        if (frame.ok() && c.decodes(*frame))
          ++accepted;
        else
          ++refused;
      }
    }
  }
  EXPECT_GT(accepted, 0u);
  EXPECT_GT(refused, 0u);
}

TEST(Messages, RandomHeadersNeverCrash) {
  const std::uint64_t seed = 21;
  SCOPED_TRACE(seed);
  Prng random(seed);
  for (const Case& c : cases()) {
    for (int round = 0; round < 2000; ++round) {
      env::Frame frame;
      frame.type = c.frame.type;
      frame.header = Buffer(random.below(64));
      for (std::byte& b : frame.header.span()) b = static_cast<std::byte>(random.next());
      (void)c.decodes(frame);
    }
  }
}

// Changes one thing of a valid message and expects the refusal.
template <typename Message, typename Decode, typename Change>
void refuses(const Message& message, Decode decode, Change change, const char* what) {
  Message bad = message;
  change(bad);
  const auto result = decode(encode(bad));
  ASSERT_FALSE(result.ok()) << what;
  EXPECT_EQ(result.error().code, Code::kCorrupt) << what;
}

TEST(Messages, ScoresAreValidated) {
  const auto no = [](const char* what, auto change) {
    refuses(scored_tokens(), decode_tokens, change, what);
  };
  no("too many scores", [](Tokens& m) { m.rows[2].top.resize(limits::kTopLogprobs + 1); });
  no("no token", [](Tokens& m) { m.rows[2].top[1].token = -1; });
  no("finish", [](Tokens& m) { m.rows[2].finish = static_cast<Finish>(3); });
  refuses(
      scores(), decode_scores, [](Scores& m) { m.rows[0].finish = Finish::kStop; }, "ends");
  refuses(
      scores(), decode_scores, [](Scores& m) { m.rows.clear(); }, "no rows");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, std::numeric_limits<float>::infinity(), 0.5f}) {
    for (const std::size_t at : {60u, 64u, 72u, 80u}) {  // one score, then one with two likeliest
      env::Frame frame = encode(scored_tokens());
      std::memcpy(frame.payload.data() + at, &bad, sizeof bad);
      EXPECT_FALSE(decode_tokens(frame).ok()) << at;
    }
  }
  env::Frame longer = encode(tokens());
  longer.payload = Buffer(longer.payload.size() + 4);
  std::memcpy(longer.payload.data(), encode(tokens()).payload.data(), 60);
  EXPECT_FALSE(decode_tokens(longer).ok());
}

// A node sends what others accept, also of a distribution that has no logarithm.
TEST(Messages, OwnScoresAreMadeToFit) {
  Tokens m = scored_tokens();
  m.rows[1].logprob = -std::numeric_limits<float>::infinity();
  m.rows[2].logprob = std::numeric_limits<float>::quiet_NaN();
  m.rows[2].top[0].logprob = 1e-7f;
  const Tokens back = decode_tokens(encode(m)).value();
  EXPECT_EQ(back.rows[1].logprob, -9999.0f);
  EXPECT_EQ(back.rows[2].logprob, -9999.0f);
  EXPECT_EQ(back.rows[2].top[0].logprob, 0.0f);
}

// Scores cost bytes where they stand and nowhere else.
TEST(Messages, RowsWithoutScoresStayTwentyBytes) {
  EXPECT_EQ(encode(tokens()).payload.size(), 60u);
  EXPECT_EQ(encode(scored_tokens()).payload.size(), 60u + 4 + 4 + 2 * 8);
}

TEST(Messages, GrantsAreValidated) {
  refuses(
      Extend{SequenceId{1}, 9}, decode_extend, [](Extend& m) { m.positions_max = 0; }, "none");
  refuses(
      Extend{SequenceId{1}, 9}, decode_extend,
      [](Extend& m) { m.positions_max = limits::kContext + 1; }, "beyond the context");
  refuses(
      Credit{SequenceId{1}, 9}, decode_credit, [](Credit& m) { m.positions = 0; }, "none");
  EXPECT_EQ(decode_credit(encode(Credit{SequenceId{1}, ~0u})).value().positions, limits::kContext);
  refuses(
      RowsDone{9}, decode_rows_done, [](RowsDone& m) { m.rows = 0; }, "none");
  refuses(
      RowsDone{9}, decode_rows_done, [](RowsDone& m) { m.rows = limits::kBatchRows + 1; },
      "more than a step has");
  const OpenReply reply{SequenceId{5}, std::nullopt, 128, 389};
  refuses(
      reply, decode_open_reply, [](OpenReply& m) { m.cached = 127; }, "part of a page");
  refuses(
      reply, decode_open_reply, [](OpenReply& m) { m.cached = limits::kContext + 64; }, "cached");
  refuses(
      reply, decode_open_reply, [](OpenReply& m) { m.positions_max = limits::kContext + 1; },
      "positions");
  const Prompt rest{SequenceId{5}, {1, 2, 1023}, 128};
  refuses(
      rest, decode_prompt, [](Prompt& m) { m.first_position = 127; }, "part of a page");
  refuses(
      rest, decode_prompt, [](Prompt& m) { m.first_position = limits::kContext; }, "beyond");
}

// What a decode step costs beside the hidden row: prefix, header and 16 bytes per row, plus one TLS
// record (22 bytes).
TEST(Messages, StepOverheadPerRow) {
  for (const std::size_t rows : {8u, 9u, 64u, 1024u}) {
    const std::size_t row_bytes = 256;
    const std::size_t bytes = encode_frame(encode(step(rows, row_bytes))).size() + 22;
    EXPECT_LE(bytes, rows * (row_bytes + 64)) << rows;
    EXPECT_LE(bytes, rows * (row_bytes + 24)) << rows;
  }
}

TEST(Messages, StepPriorityFollowsItsRows) {
  EXPECT_EQ(encode(step(3, 8)).priority, env::Priority::kDecode);
  StepMessage chunk = step(3, 8);
  for (StepRow& row : chunk.rows) row.sequence = SequenceId{1};
  EXPECT_EQ(encode(chunk).priority, env::Priority::kPrefill);
}

TEST(Messages, OpenIsValidated) {
  const auto no = [](const char* what, auto change) { refuses(open(), decode_open, change, what); };
  no("no stages", [](Open& m) { m.stages.clear(); });
  no("gap", [](Open& m) { m.stages[1].layers.begin = 4; });
  no("overlap", [](Open& m) { m.stages[1].layers.begin = 2; });
  no("not from layer 0", [](Open& m) { m.stages[0].layers.begin = 1; });
  no("empty stage", [](Open& m) { m.stages[1].layers = {3, 3}; });
  no("too many layers", [](Open& m) { m.stages[1].layers.end = limits::kLayers + 1; });
  no("same node twice", [](Open& m) { m.stages[1].node = m.stages[0].node; });
  no("node is zero", [](Open& m) { m.stages[1].node = PeerId{}; });
  no("too many stages", [](Open& m) {
    m.stages.clear();
    for (std::uint32_t i = 0; i <= limits::kRouteStages; ++i)
      m.stages.push_back({peer(static_cast<std::uint8_t>(i + 1)), {i, i + 1}});
  });
  no("no prompt", [](Open& m) { m.prompt_tokens = 0; });
  no("fewer positions than prompt", [](Open& m) { m.positions_max = 9; });
  no("over the context", [](Open& m) { m.positions_max = limits::kContext + 1; });
  no("no new tokens", [](Open& m) { m.new_tokens_max = 0; });
  no("too many stop ids", [](Open& m) { m.sampling.stop_ids.assign(limits::kStopIds + 1, 1); });
  no("negative stop id", [](Open& m) { m.sampling.stop_ids = {-1}; });
  no("temperature is nan",
     [](Open& m) { m.sampling.temperature = std::numeric_limits<float>::quiet_NaN(); });
  no("infinite", [](Open& m) { m.sampling.temperature = std::numeric_limits<float>::infinity(); });
  no("negative temperature", [](Open& m) { m.sampling.temperature = -1; });
  no("epoch 0", [](Open& m) { m.epoch = Epoch{0}; });
}

TEST(Messages, SamplingIsValidated) {
  const auto no = [](const char* what, auto change) {
    refuses(
        full_open(), decode_open, [&](Open& m) { change(m.sampling); }, what);
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinite = std::numeric_limits<float>::infinity();
  for (const float bad : {0.0f, -0.5f, 1.5f, nan})
    no("top_p", [&](SamplingParams& p) { p.top_p = bad; });
  for (const float bad : {-0.5f, 1.5f, nan}) no("min_p", [&](auto& p) { p.min_p = bad; });
  for (const float bad : {0.0f, -1.0f, infinite, nan})
    no("repetition penalty", [&](SamplingParams& p) { p.repetition_penalty = bad; });
  for (const float bad : {-2.5f, 2.5f, infinite, nan}) {
    no("presence penalty", [&](SamplingParams& p) { p.presence_penalty = bad; });
    no("frequency penalty", [&](SamplingParams& p) { p.frequency_penalty = bad; });
  }
  no("min_tokens", [](SamplingParams& p) { p.min_tokens = limits::kContext + 1; });
  no("logprobs below none", [](SamplingParams& p) { p.logprobs = -2; });
  no("too many logprobs", [](SamplingParams& p) { p.logprobs = limits::kTopLogprobs + 1; });
  no("bias twice", [](SamplingParams& p) { p.logit_bias = {{1, 1}, {1, 2}}; });
  no("biases descend", [](SamplingParams& p) { p.logit_bias = {{2, 1}, {1, 2}}; });
  no("bias of no token", [](SamplingParams& p) { p.logit_bias = {{-1, 1}}; });
  no("bias beyond the vocabulary", [](SamplingParams& p) {
    p.logit_bias = {{static_cast<TokenId>(limits::kVocabulary), 1}};
  });
  no("bias is nan", [&](SamplingParams& p) { p.logit_bias = {{1, nan}}; });
  no("bias is infinite", [&](SamplingParams& p) { p.logit_bias = {{1, infinite}}; });
  no("too many biases", [](SamplingParams& p) {
    for (std::size_t i = 0; i <= limits::kLogitBiases; ++i)
      p.logit_bias.emplace_back(static_cast<TokenId>(2000 + i), 1.0f);
  });
}

TEST(Messages, PayloadOfOpenIsValidated) {
  const auto no = [](const char* what, auto change) {
    refuses(full_open(), decode_open, change, what);
  };
  no("replayed beyond the positions", [](Open& m) { m.positions_max = 132; });
  no("all replayed", [](Open& m) { m.new_tokens_max = 3; });
  no("sum overflows 32 bits", [](Open& m) { m.replayed = ~0u; });
  no("no row left to compute", [](Open& m) {
    m.prompt_tokens = 125;
    m.prompt_ids.clear();
  });
  no("more ids than the prompt has", [](Open& m) { m.prompt_ids.assign(131, 1); });
  no("part of the replayed ids", [](Open& m) { m.replayed_ids.pop_back(); });
  no("prompt id", [](Open& m) { m.prompt_ids[0] = -1; });
  no("replayed id", [](Open& m) { m.replayed_ids[2] = -1; });
  env::Frame longer = encode(full_open());
  longer.payload = Buffer(longer.payload.size() + 4);
  EXPECT_FALSE(decode_open(longer).ok());
}

// The longest OPEN that decode_open takes is a frame that the wire takes.
TEST(Messages, TheLongestOpenFitsIntoAFrame) {
  Open m = full_open();
  m.numeric_class = std::string(limits::kNameBytes, 'c');
  m.stages.clear();
  for (std::uint32_t i = 0; i < limits::kRouteStages; ++i)
    m.stages.push_back({peer(static_cast<std::uint8_t>(i + 1)), {i, i + 1}});
  m.prompt_tokens = limits::kContext - 3;
  m.positions_max = m.new_tokens_max = limits::kContext;
  m.sampling.stop_ids.assign(limits::kStopIds, limits::kVocabulary - 1);
  m.sampling.logit_bias.clear();
  for (std::size_t i = 0; i < limits::kLogitBiases; ++i)
    m.sampling.logit_bias.emplace_back(static_cast<TokenId>(i), 1.0f);
  m.page_keys.assign(limits::kPageKeys - 1, std::string(limits::kPageKeyBytes, 'k'));
  m.prompt_ids.assign(m.prompt_tokens, 1);
  const env::Frame frame = encode(m);
  EXPECT_TRUE(check_limits(frame).ok());
  EXPECT_EQ(decode_open(frame).value(), m);
}

TEST(Messages, PlanIsValidated) {
  const auto no = [](const char* what, auto change) { refuses(plan(), decode_plan, change, what); };
  no("epoch 0", [](Plan& m) { m.epoch = Epoch{0}; });
  no("epoch too large", [](Plan& m) { m.epoch = Epoch{~0ull}; });
  no("no layers", [](Plan& m) { m.layers = 0; });
  no("beyond the layers", [](Plan& m) { m.layers = 5; });
  no("overlap", [](Plan& m) { m.stages[1].layers.begin = 1; });
  no("out of order", [](Plan& m) { std::swap(m.stages[0], m.stages[1]); });
  no("empty", [](Plan& m) { m.stages[0].layers = {0, 0}; });
  no("same node twice", [](Plan& m) { m.stages[1].node = m.stages[0].node; });
  no("no planner", [](Plan& m) { m.planner = PeerId{}; });
  Plan nobody = plan();
  nobody.stages.clear();
  EXPECT_EQ(decode_plan(encode(nobody)).value(), nobody);
}

TEST(Messages, HelloIsValidated) {
  const auto no = [](const char* what, auto change) {
    refuses(hello(), decode_hello, change, what);
  };
  no("short key", [](Hello& m) { m.certificate.cluster_key = "k"; });
  no("short signature", [](Hello& m) { m.certificate.signature = "s"; });
  no("too many roles", [](Hello& m) { m.certificate.roles.assign(limits::kRoles + 1, "full"); });
  no("long role", [](Hello& m) { m.certificate.roles = {std::string(33, 'r')}; });
  no("control characters in a role", [](Hello& m) { m.certificate.roles = {"full\n"}; });
  no("too many layers", [](Hello& m) { m.model->layers = limits::kLayers + 1; });
}

TEST(Messages, RequestsAreValidated) {
  refuses(
      Prompt{SequenceId{1}, {1}}, decode_prompt, [](Prompt& m) { m.tokens.clear(); }, "empty");
  refuses(
      Prompt{SequenceId{1}, {1}}, decode_prompt, [](Prompt& m) { m.tokens = {-5}; }, "id");
  refuses(
      tokens(), decode_tokens, [](Tokens& m) { m.rows.clear(); }, "no rows");
  refuses(
      tokens(), decode_tokens, [](Tokens& m) { m.rows[0].finish = static_cast<Finish>(3); },
      "finish");
  refuses(
      tokens(), decode_tokens, [](Tokens& m) { m.rows.assign(limits::kBatchRows + 1, m.rows[0]); },
      "too many rows");
  refuses(
      Close{{SequenceId{1}}}, decode_close, [](Close& m) { m.sequences.clear(); }, "none");
  refuses(
      Close{{SequenceId{1}}}, decode_close,
      [](Close& m) { m.sequences.assign(limits::kSequencesPerStage + 1, {1}); }, "too many");
  EXPECT_FALSE(decode_step(encode(step(2, 8)), 9).ok());
  EXPECT_FALSE(decode_step(encode(step(limits::kBatchRows + 1, 0)), 0).ok());
  EXPECT_FALSE(decode_step(encode(step(0, 0)), 0).ok());
  StepMessage far = step(1, 0);
  far.rows[0].position = limits::kContext;
  EXPECT_FALSE(decode_step(encode(far), 0).ok());
}

TEST(Messages, RecordIsValidated) {
  const auto no = [](const char* what, auto change) {
    NodeRecord bad = record();
    change(bad);
    EXPECT_FALSE(decode_record(encode_record(bad)).ok()) << what;
  };
  no("no node", [](NodeRecord& r) { r.node = PeerId{}; });
  no("version 0", [](NodeRecord& r) { r.version = 0; });
  no("state", [](NodeRecord& r) { r.state = static_cast<NodeState>(6); });
  no("layers reversed", [](NodeRecord& r) { r.layers = {3, 1}; });
  no("pinned empty", [](NodeRecord& r) { r.pinned = LayerRange{3, 3}; });
  no("rate", [](NodeRecord& r) { r.tokens_per_s = -1; });
  EXPECT_FALSE(decode_record(std::string(limits::kRecordBytes + 1, 'x')).ok());
}

TEST(Messages, OwnTextIsMadeToFit) {
  NodeRecord big = record();
  big.name = std::string(500, 'n');
  big.problem = "caf\xC3\xA9 \xFF\n" + std::string(2000, 'p');
  big.addresses.assign(40, std::string(400, 'a'));
  const std::string bytes = encode_record(big);
  EXPECT_LE(bytes.size(), limits::kRecordBytes);
  const NodeRecord back = decode_record(bytes).value();
  EXPECT_EQ(back.name.size(), limits::kNameBytes);
  EXPECT_EQ(back.problem.substr(0, 8), "caf\xC3\xA9 ??");
  EXPECT_FALSE(back.addresses.empty());
  const Error cut(Code::kInternal, std::string(limits::kSentenceBytes - 1, 'x') + "\xC3\xA9");
  EXPECT_EQ(decode_refuse(encode(Refuse{cut})).value().why.message.size(),
            limits::kSentenceBytes - 1);
}

TEST(Messages, ForeignTextIsRefused) {
  for (const std::string bad :
       {"\xFF", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\x01", "\xE2\x82", "\x7F"}) {
    env::Frame frame = encode(Refuse{Error(Code::kInternal, std::string(bad.size(), 'q'))});
    std::string header(frame.header.text());
    const std::size_t at = header.find('q');
    header.replace(at, bad.size(), bad);
    frame.header = Buffer::copy_of(header);
    EXPECT_FALSE(decode_refuse(frame).ok());
  }
}

TEST(Messages, HeaderOverItsLimitIsRefused) {
  env::Frame frame = encode(Heartbeat{});
  frame.header = Buffer(limits::kFrameHeaderBytes + 1);
  EXPECT_FALSE(decode_heartbeat(frame).ok());
}

TEST(Messages, RouteHandleDependsOnEverything) {
  const auto stages = open().stages;
  const RouteHandle handle = route_handle(Epoch{5}, stages);
  EXPECT_EQ(handle, route_handle(Epoch{5}, stages));
  EXPECT_NE(handle, route_handle(Epoch{6}, stages));
  auto other = stages;
  other[1].node = peer(9);
  EXPECT_NE(handle, route_handle(Epoch{5}, other));
  other = stages;
  other[0].layers.end = other[1].layers.begin = 2;
  EXPECT_NE(handle, route_handle(Epoch{5}, other));
}

TEST(Messages, CertificateBodyLeavesOutTheSignature) {
  Certificate a = certificate(), b = certificate();
  b.signature = std::string(64, 'x');
  EXPECT_EQ(certificate_body(a), certificate_body(b));
  b.roles = {"full", "trusted", ""};
  EXPECT_NE(certificate_body(a), certificate_body(b));
  b = a;
  b.not_after_ms += 1;
  EXPECT_NE(certificate_body(a), certificate_body(b));
}

}  // namespace
}  // namespace mesh::wire
