#pragma once
// The messages of protocol mesh/1 as plain structs. encode() makes a Frame (protobuf header + raw
// payload), decode_*() checks every length and range before it allocates and answers kCorrupt
// otherwise. docs/wire_format.md has the byte tables; golden frames are in tests/data/wire.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/result.h"
#include "base/sampling.h"
#include "env/transport.h"

namespace mesh::wire {

// Stable numbers. Unknown types with kFlagOptional are skipped; without it the link is closed with
// a reason.
enum class FrameType : std::uint8_t {
  kHello = 1,   // first frame of a link, both directions
  kRefuse = 2,  // last frame of a link: why it ends
  kHeartbeat = 3,
  kRecord = 4,      // gossip: one signed node record
  kPlan = 5,        // gossip: the layer plan
  kOpen = 16,       // entry → every stage: reserve pages for a sequence
  kOpenReply = 17,  // stage → entry
  kPrompt = 18,     // entry → stage 0: the prompt's ids
  kStep = 19,       // stage → next stage: a micro-batch of rows
  kTokens = 20,     // last stage → stage 0 and entry: sampled tokens
  kClose = 21,      // entry → every stage: release
  kFail = 22,       // stage → entry: sequences that cannot go on
  kExtend = 23,     // entry → every stage: reserve more pages
  kCredit = 24,     // entry → stage 0: positions that may be run
  kRowsDone = 25,   // stage → the stage before: flow control of prompt rows
  kScores = 26,     // last stage → entry: log-probabilities of the prompt
};
inline constexpr std::uint16_t kFlagOptional = 1;

// Proof of membership: signed by the cluster key (ed25519 over the encoded fields before
// `signature`).
struct Certificate {
  std::string cluster_key;  // 32 raw bytes, the cluster's public key
  PeerId node;
  std::vector<std::string> roles;  // "full", "worker", …
  std::uint64_t serial = 0;
  std::int64_t not_before_ms = 0, not_after_ms = 0;  // unix
  std::string signature;                             // 64 bytes
  friend bool operator==(const Certificate&, const Certificate&) = default;
};

// The model a node serves or wants to serve. Empty name: it has none yet and takes the mesh's.
struct ModelIdentity {
  std::string name;  // as clients ask for it
  std::uint64_t fingerprint = 0;
  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t context = 0;
  std::uint32_t vocabulary = 0;
  std::string kv_dtype = {};  // what the KV cache is kept in, a name of ops/kv_layout.h
  friend bool operator==(const ModelIdentity&, const ModelIdentity&) = default;
};

// How a node computes. Links need equal engine version, class and self-test.
struct EngineIdentity {
  std::string version;        // base/version.h
  std::string numeric_class;  // "cpu/1"
  std::uint64_t self_test = 0;
  friend bool operator==(const EngineIdentity&, const EngineIdentity&) = default;
};

struct Hello {
  std::uint32_t protocol = 0;
  std::string node_name;
  Certificate certificate;
  EngineIdentity engine;
  std::optional<ModelIdentity> model;
  std::vector<std::string> addresses;  // host:port where this node accepts peers
  friend bool operator==(const Hello&, const Hello&) = default;
};

struct Refuse {
  Error why{Code::kInternal, ""};
};

struct Heartbeat {
  std::uint64_t count = 0;
  std::uint64_t sent_ns = 0;  // sender's monotonic clock, echoed
  std::uint64_t echo_ns = 0;  // last sent_ns seen from the receiver: gives the round trip
};

enum class NodeState : std::uint8_t {
  kJoining = 0,
  kWaiting = 1,
  kLoading = 2,
  kReady = 3,
  kDraining = 4,
  kFailed = 5
};

// What a node says of itself; only the owner writes it. (incarnation, version) orders records of
// one owner.
// What of its machine's cores a node computes with. Nodes that count the same cores take turns.
struct MachineShare {
  std::uint64_t machine = 0;  // the same for processes that run on the same cores; 0: unknown
  std::uint32_t cores = 0;
  std::uint32_t threads = 0;  // of the node's engine
  friend bool operator==(const MachineShare&, const MachineShare&) = default;
};

struct NodeRecord {
  PeerId node;
  std::uint64_t incarnation = 0;  // start time of the process, unix ms
  std::uint64_t version = 0;
  std::string name;
  std::vector<std::string> addresses;  // peers: host:port
  std::string http;                    // "127.0.0.1:8642", "" when it serves no API
  std::string device;                  // "AMD EPYC, 2 cores, avx512"
  EngineIdentity engine;
  std::optional<ModelIdentity> model;  // present once the node has the model's files
  bool willing = false;                // may hold layers and be planner
  std::optional<LayerRange> pinned;    // --layers
  std::uint64_t memory_for_model = 0;  // bytes it offers for weights and KV
  NodeState state = NodeState::kJoining;
  Epoch epoch;                      // plan whose layers are loaded
  LayerRange layers;                // loaded and ready for `epoch`
  std::uint64_t bytes_loaded = 0;   // weight bytes read for `layers`
  std::uint64_t rows_computed = 0;  // rows run through `layers` since start
  std::uint32_t pages_total = 0, pages_used = 0;
  double tokens_per_s = 0;  // recent, as entry
  std::string problem;      // why kFailed, one sentence
  MachineShare share;
  friend bool operator==(const NodeRecord&, const NodeRecord&) = default;
};

// A record as gossiped: the owner's bytes and its ed25519 signature over them, forwarded untouched.
struct SignedRecord {
  std::string record;      // encoded NodeRecord
  std::string public_key;  // owner's SubjectPublicKeyInfo (DER); SHA-256 of it is the node id
  std::string signature;
};

struct StageAssignment {
  PeerId node;
  LayerRange layers;
  friend bool operator==(const StageAssignment&, const StageAssignment&) = default;
};

// Which node holds which layers. Made by the elected planner; the larger epoch wins, ties to the
// lower planner id.
struct Plan {
  Epoch epoch;
  PeerId planner;
  std::uint64_t fingerprint = 0;
  std::uint32_t layers = 0;
  std::vector<StageAssignment>
      stages;  // in layer order; may leave gaps when nobody can hold a layer
  friend bool operator==(const Plan&, const Plan&) = default;
};

struct Open {
  SequenceId sequence;
  PeerId entry;
  Epoch epoch;
  std::uint64_t fingerprint = 0;
  std::string numeric_class;
  std::vector<StageAssignment> stages;
  std::uint32_t prompt_tokens = 0;
  // Replay: so many tokens of the answer are known and run like the prompt. Of the positions
  // [0, prompt_tokens + replayed) only the last gives a new token.
  std::uint32_t replayed = 0;
  std::uint32_t positions_max = 0;   // pages are reserved for this many positions; EXTEND adds more
  std::uint32_t new_tokens_max = 0;  // the last stage ends the sequence with "length" after so many
  SamplingParams sampling;
  // SHA-256 of every whole page of prompt and replayed tokens, chained (kvcache/prefix_cache.h),
  // 16 bytes each: what a stage still holds of them need not be computed again. May be empty.
  std::vector<std::string> page_keys;
  // To the last stage only: the prompt's distinct ids (repetition penalty) or all of them in order
  // (prompt_logprobs), and the replayed ids when there are penalties.
  std::vector<TokenId> prompt_ids, replayed_ids;
  friend bool operator==(const Open&, const Open&) = default;
};

struct OpenReply {
  SequenceId sequence;
  std::optional<Error> refused;
  std::uint32_t cached = 0;  // OPEN: positions, whole pages, that this stage need not compute
  std::uint32_t positions_max = 0;  // what is reserved now; tells answers to EXTEND apart
};

// entry → every stage: reserve pages up to positions_max; answered by OPEN_REPLY. A refusal changes
// nothing.
struct Extend {
  SequenceId sequence;
  std::uint32_t positions_max = 0;
  friend bool operator==(const Extend&, const Extend&) = default;
};

// entry → stage 0: rows below this position may be run. A sequence that reaches it is parked until
// more credit comes. OPEN and PROMPT give none beyond the prompt; without credit nothing is
// decoded.
struct Credit {
  SequenceId sequence;
  std::uint32_t positions = 0;
  friend bool operator==(const Credit&, const Credit&) = default;
};

// stage → the stage before: so many prompt rows that it sent have been computed.
struct RowsDone {
  std::uint32_t rows = 0;
  friend bool operator==(const RowsDone&, const RowsDone&) = default;
};

struct Prompt {
  SequenceId sequence;
  std::vector<TokenId> tokens;       // from first_position on, replayed ones too; payload: i32 each
  std::uint32_t first_position = 0;  // all before it are cached on every stage
  friend bool operator==(const Prompt&, const Prompt&) = default;
};

struct StepRow {
  SequenceId sequence;
  std::uint32_t position = 0;
  TokenId token = 0;
  friend bool operator==(const StepRow&, const StepRow&) = default;
};

// Rows of one route. Payload: rows × {u64 sequence, u32 position, i32 token}, then rows × hidden
// residual bytes.
struct StepMessage {
  RouteHandle route;
  std::vector<StepRow> rows;
  Buffer hidden;  // rows · row_bytes
};

enum class Finish : std::uint8_t { kNone = 0, kStop = 1, kLength = 2 };

struct TokenRow {
  SequenceId sequence;
  std::uint32_t position = 0;  // of the sampled token
  TokenId token = 0;
  Finish finish = Finish::kNone;
  // To the entry only, and only if asked for: of the token, then of the likeliest ones.
  float logprob = 0;
  std::vector<TokenScore> top = {};
  friend bool operator==(const TokenRow&, const TokenRow&) = default;
};

struct Tokens {
  std::vector<TokenRow> rows;
  friend bool operator==(const Tokens&, const Tokens&) = default;
};

// last stage → entry: log-probabilities of tokens of the prompt (SamplingParams::prompt_logprobs);
// `finish` is kNone.
struct Scores {
  std::vector<TokenRow> rows;
  friend bool operator==(const Scores&, const Scores&) = default;
};

struct Close {
  std::vector<SequenceId> sequences;
};

struct Fail {
  std::vector<SequenceId> sequences;
  Error why{Code::kInternal, ""};
};

env::Frame encode(const Hello& message);
env::Frame encode(const Refuse& message);
env::Frame encode(const Heartbeat& message);
env::Frame encode(const SignedRecord& message);
env::Frame encode(const Plan& message);
env::Frame encode(const Open& message);
env::Frame encode(const OpenReply& message);
env::Frame encode(const Prompt& message);
env::Frame encode(const StepMessage& message);  // copies the rows' bytes once, into the payload
env::Frame encode(const Tokens& message);
env::Frame encode(const Close& message);
env::Frame encode(const Fail& message);
env::Frame encode(const Extend& message);
env::Frame encode(const Credit& message);
env::Frame encode(const RowsDone& message);
env::Frame encode(const Scores& message);

Result<Hello> decode_hello(const env::Frame& frame);
Result<Refuse> decode_refuse(const env::Frame& frame);
Result<Heartbeat> decode_heartbeat(const env::Frame& frame);
Result<SignedRecord> decode_signed_record(const env::Frame& frame);
Result<Plan> decode_plan(const env::Frame& frame);
Result<Open> decode_open(const env::Frame& frame);
Result<OpenReply> decode_open_reply(const env::Frame& frame);
Result<Prompt> decode_prompt(const env::Frame& frame);
Result<StepMessage> decode_step(const env::Frame& frame, std::size_t row_bytes);
Result<Tokens> decode_tokens(const env::Frame& frame);
Result<Close> decode_close(const env::Frame& frame);
Result<Fail> decode_fail(const env::Frame& frame);
Result<Extend> decode_extend(const env::Frame& frame);
Result<Credit> decode_credit(const env::Frame& frame);
Result<RowsDone> decode_rows_done(const env::Frame& frame);
Result<Scores> decode_scores(const env::Frame& frame);

// Bytes that are signed or stored.
std::string encode_record(const NodeRecord& record);
Result<NodeRecord> decode_record(std::string_view bytes);
std::string certificate_body(const Certificate& certificate);  // what the cluster key signs
// A certificate as a file or HELLO field.
std::string encode_certificate(const Certificate& certificate);
Result<Certificate> decode_certificate(std::string_view bytes);

// Same stages and epoch, same handle, on every node.
RouteHandle route_handle(Epoch epoch, const std::vector<StageAssignment>& stages);

}  // namespace mesh::wire
