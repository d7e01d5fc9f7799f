#include "limits/limit_cases.h"

#include <fmt/format.h>

#include <cstring>
#include <filesystem>

#include "base/limits.h"
#include "cli/config_file.h"
#include "cli/data_dir.h"
#include "engine/eval.h"
#include "formats/byte_source.h"
#include "formats/safetensors.h"
#include "limits/sentences.h"
#include "membership/fake_verifier.h"
#include "membership/membership.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "wire/frame.h"
#include "wire/messages.h"

namespace mesh::limits_test {
namespace {

std::string repeat(std::string_view part, std::size_t count, std::string_view between = "") {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0) out += between;
    out += part;
  }
  return out;
}

std::string without(std::string text, const std::string& path, const std::string& name) {
  for (std::size_t at = text.find(path); at != text.npos; at = text.find(path))
    text.replace(at, path.size(), name);
  return text;
}

template <typename T>
std::string sentence(const Result<T>& result) {
  return result.ok() ? kAccepted : result.error().message;
}

std::string too_long_header() {
  const std::uint64_t length = limits::kSafetensorsHeaderBytes + 1;
  return sentence(formats::parse_safetensors_header(std::as_bytes(std::span(&length, 1)),
                                                    length + 100, "FILE"));
}

std::string too_large_json() {
  const std::string path = sparse_file(limits::kJsonFileBytes + 1);
  return without(sentence(formats::read_text_file(path, limits::kJsonFileBytes)), path, "FILE");
}

std::string too_large_config() {
  const std::string path = sparse_file(limits::kConfigFileBytes + 1);
  return without(sentence(cli::read_text_file(path)), path, "FILE");
}

std::string too_many_tensors() {
  std::string header = "{";
  for (std::size_t i = 0; i <= limits::kTensorsPerModel; ++i)
    header += fmt::format(R"({}"{}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                          i == 0 ? "" : ",", i);
  return safetensors_says(header + "}", 0);
}

std::string too_many_shards() {
  std::string map;
  for (std::size_t i = 0; i <= limits::kShardsPerModel; ++i)
    map += fmt::format(R"({}"{}":"{}.safetensors")", i == 0 ? "" : ",", i, i);
  return said("index", R"({"weight_map":{)" + map + "}}");
}

std::string too_long_prompt() {
  const auto tokenizer = text::Tokenizer::parse(patched_tokenizer("{}"), "");
  return sentence((*tokenizer)->encode(std::string(limits::kPromptBytes + 1, 'a')));
}

std::string rendered(const std::string& source) {
  const auto chat = text::ChatTemplate::parse(source);
  if (!chat.ok()) return chat.error().message;
  text::ChatInputs inputs;
  inputs.messages_json = "[]";
  return sentence((*chat)->render(inputs));
}

std::string split_by(const std::string& regex, const std::string& text) {
  const auto tokenizer = text::Tokenizer::parse(
      patched_tokenizer(
          R"({"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")" +
          regex + R"("}},{"type":"ByteLevel"}]}})"),
      "");
  if (!tokenizer.ok()) return tokenizer.error().message;
  return sentence((*tokenizer)->encode(text));
}

// The prefix of an empty frame with another length in it.
std::string frame_of_length(std::size_t at, std::uint32_t length) {
  Buffer bytes = wire::encode_frame({});
  std::memcpy(bytes.data() + at, &length, sizeof length);
  return sentence(wire::decode_prefix(std::as_const(bytes).span()));
}
constexpr std::size_t kHeaderLengthAt = 16, kPayloadLengthAt = 20;

std::string too_many_messages() {
  const std::string chat =
      R"({"messages":[)" +
      repeat(R"({"role":"user","content":"a"})", limits::kRequestMessages + 1, ",") + "]}";
  return said("chat", chat);
}

std::string one_node_too_many() {
  std::string path = (std::filesystem::temp_directory_path() / "mesh-limits-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) return "no directory";
  std::vector<cli::NodeDirectory> claimed;
  std::string last = "no directory is full";
  for (int i = 0; i <= limits::kNodesPerMachine; ++i) {
    auto directory = cli::NodeDirectory::claim(path);
    if (!directory.ok()) {
      last = without(directory.error().message, path, "DIR");
      break;
    }
    claimed.push_back(std::move(directory).value());
  }
  claimed.clear();
  std::filesystem::remove_all(path);
  return last;
}

PeerId numbered(std::size_t number) {
  PeerId id;
  std::memcpy(id.bytes.data() + 1, &number, sizeof number);
  id.bytes[0] = 1;
  return id;
}

std::string one_link_too_many() {
  membership::FakeVerifier verifier(numbered(0), std::string(32, 'C'));
  membership::Config config;
  config.self = numbered(0);
  config.verifier = &verifier;
  membership::Membership core(std::move(config));
  for (std::size_t i = 1; i <= limits::kPeers + 1; ++i) {
    const membership::Actions out =
        core.link_up(Instant{}, {numbered(i), {"10.0.0.1", static_cast<std::uint16_t>(i)}, false});
    if (!out.close.empty()) return out.close.front().second.message;
  }
  return kAccepted;
}

std::string too_many_threads() {
  engine::EvalOptions options;
  options.threads = limits::kComputeThreads + 1;
  return sentence(engine::run_eval(options));
}

std::string completion(const std::string& more) {
  return said("completion", R"({"prompt":"a",)" + more + "}");
}

std::string biases(std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += fmt::format("{}\"{}\":1", i == 0 ? "" : ",", i);
  return completion(R"("logit_bias":{)" + out + "}");
}

std::string prompts(std::size_t count, int n) {
  return said("completion",
              R"({"prompt":[)" + repeat("\"a\"", count, ",") + fmt::format(R"(],"n":{}}})", n));
}

}  // namespace

const std::vector<BrokenLimit>& broken_limits() {
  static const std::vector<BrokenLimit> kCases = {
      {"kSafetensorsHeaderBytes", too_long_header,
       "FILE: header length 104857601, at most 104857600 are read; is it a safetensors file?"},
      {"kJsonFileBytes", too_large_json, "FILE: 67108865 bytes, at most 67108864 are read"},
      {"kTensorsPerModel", too_many_tensors, "FILE: more than 1048576 tensors"},
      {"kTensorRank",
       [] {
         return said("safetensors",
                     R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,8],"data_offsets":[0,8]}})");
       },
       "FILE: tensor a: shape is not a list of at most 8 extents"},
      {"kShardsPerModel", too_many_shards, "FILE: 10001 shards, at most 10000 are read"},
      {"kConfigFileBytes", too_large_config, "FILE is larger than 1048576 bytes"},
      {"kExperts", [] { return said("qwen3_moe", R"({"num_local_experts":4097})"); },
       "qwen3_moe: config.json: num_local_experts is 4097, it must be in 0..4096"},
      {"kLayers", [] { return said("llama", R"({"num_hidden_layers":1025})"); },
       "llama: config.json: num_hidden_layers is 1025, it must be in 1..1024"},
      {"kHidden", [] { return said("llama", R"({"hidden_size":131073})"); },
       "llama: config.json: hidden_size is 131073, it must be in 1..131072"},
      {"kIntermediate", [] { return said("llama", R"({"intermediate_size":1048577})"); },
       "llama: config.json: intermediate_size is 1048577, it must be in 1..1048576"},
      {"kHeads", [] { return said("llama", R"({"num_attention_heads":4097})"); },
       "llama: config.json: num_attention_heads is 4097, it must be in 1..4096"},
      {"kHeadDim", [] { return said("llama", R"({"head_dim":4098})"); },
       "llama: config.json: head_dim is 4098, it must be in 2..4096"},
      {"kVocabulary", [] { return said("llama", R"({"vocab_size":4194305})"); },
       "llama: config.json: vocab_size is 4194305, it must be in 1..4194304"},
      {"kContext", [] { return said("llama", R"({"max_position_embeddings":4194305})"); },
       "llama: config.json: max_position_embeddings is 4194305, it must be in 1..4194304"},
      {"kPromptBytes", too_long_prompt, "a prompt of 16777217 bytes, at most 16777216 are allowed"},
      {"kTemplateOutputBytes", [] { return rendered("{{ 'x' * 33554433 }}"); },
       "line 1: the template makes texts of more than 33554433 bytes"},
      {"kTemplateSteps",
       [] {
         return rendered(
             "{% for i in range(5000) %}{% for j in range(5000) %}{{ '' }}{% endfor %}{% endfor "
             "%}");
       },
       "line 1: the template takes more than 10000000 steps"},
      {"kTemplateItems", [] { return rendered("{% set a = [1] * 9000000 %}"); },
       "line 1: the template makes lists of more than 8388608 items"},
      {"kTemplateDepth",
       [] { return rendered("{{ " + repeat("(", 101) + "1" + repeat(")", 101) + " }}"); },
       "chat template: line 1: nested deeper than 100"},
      {"kTemplateSourceBytes",
       [] { return rendered(std::string(limits::kTemplateSourceBytes + 1, 'x')); },
       "chat template: line 1: the template has 1048577 bytes, at most 1048576 are allowed"},
      {"kRegexBytes", [] { return split_by(std::string(limits::kRegexBytes + 1, 'x'), "a"); },
       "regular expression: a pattern of 65537 bytes, the limit is 65536, at byte 0"},
      {"kRegexSteps", [] { return split_by("(a|aa)+[bc]", std::string(60, 'a')); },
       "splitting text at byte 0: match limit exceeded"},
      {"kFrameHeaderBytes", [] { return frame_of_length(kHeaderLengthAt, (64u << 10) + 1); },
       "frame: a header of 65537 bytes, the limit is 65536"},
      {"kFramePayloadBytes", [] { return frame_of_length(kPayloadLengthAt, (64u << 20) + 1); },
       "frame: a payload of 67108865 bytes, the limit is 67108864"},
      {"kPeers", one_link_too_many, "this node has 512 links, its limit"},
      {"kRecordBytes", [] { return said("wire", "SignedRecord.record 4097"); },
       "RECORD: a record of 4097 bytes, the limit is 4096"},
      {"kRouteStages", [] { return said("wire", "65*Plan.stages.begin 0"); },
       "PLAN: 67 stages, the limit is 64"},
      {"kAddressesPerPeer", [] { return said("wire", "17*Hello.addresses 5"); },
       "HELLO: 19 addresses, the limit is 16"},
      {"kNameBytes", [] { return said("wire", "Hello.node_name 129"); },
       "HELLO: the node name has 129 bytes, the limit is 128"},
      {"kAddressBytes", [] { return said("wire", "Record.http 265"); },
       "record: the HTTP address has 265 bytes, the limit is 264"},
      {"kDeviceBytes", [] { return said("wire", "Record.device 257"); },
       "record: the device has 257 bytes, the limit is 256"},
      {"kSentenceBytes", [] { return said("wire", "Refuse.why.message 601"); },
       "REFUSE: the reason has 601 bytes, the limit is 600"},
      {"kRoles", [] { return said("wire", "9*Hello.certificate.roles 3"); },
       "HELLO: 11 roles, the limit is 8"},
      {"kRoleBytes", [] { return said("wire", "Hello.certificate.roles 33"); },
       "HELLO: a role has 33 bytes, the limit is 32"},
      {"kCertificateBytes",
       [] { return sentence(wire::decode_certificate(std::string(1025, 'x'))); },
       "certificate: 1025 bytes, the limit is 1024"},
      {"kPublicKeyBytes", [] { return said("wire", "SignedRecord.public_key 257"); },
       "RECORD: a public key of 257 bytes, the limit is 256"},
      {"kSignatureBytes", [] { return said("wire", "SignedRecord.signature 63"); },
       "RECORD: the signature has not 64 bytes"},
      {"kEpoch", [] { return said("wire", "Plan.epoch 4611686018427387905"); },
       "PLAN: epoch 4611686018427387905, the limit is 4611686018427387904"},
      {"kKeyedPageTokens", [] { return said("wire", "OpenReply.cached 63"); },
       "OPEN_REPLY: 63 cached positions are no whole pages of 64"},
      {"kPageKeys", [] { return said("wire", "Open.page_keys 65537"); },
       "OPEN: 65537 page keys for 10 tokens"},
      {"kPageKeyBytes",
       [] {
         return said("wire", "Open.prompt_tokens 65,Open.positions_max 4096,Open.page_keys 1");
       },
       "OPEN: 0 payload bytes where the counts say 16"},
      {"kLogitBiases", [] { return biases(limits::kLogitBiases + 1); },
       "logit_bias has 1025 entries, at most 1024 are taken."},
      {"kTopLogprobs", [] { return completion(R"("logprobs":21)"); },
       "logprobs must be an integer from 0 to 20; got 21."},
      {"kBatchRows", [] { return said("wire", "Step.rows 1025"); },
       "STEP: 1025 rows, 1 to 1024 are possible"},
      {"kComputeThreads", too_many_threads, "1025 threads; 1 to 1024 are possible"},
      {"kStopIds", [] { return completion(R"("stop_token_ids":[)" + repeat("1", 65, ",") + "]"); },
       "stop_token_ids must be a list of at most 64 token ids; got a list of 65."},
      {"kStopStrings", [] { return completion(R"("stop":[)" + repeat("\"x\"", 17, ",") + "]"); },
       "stop must be a list of at most 16 strings; got a list of 17."},
      {"kStopStringBytes",
       [] { return completion(R"("stop":[")" + std::string(1025, 'x') + "\"]"); },
       "stop[0] has 1025 bytes, at most 1024 are taken."},
      {"kSequencesPerRequest", [] { return prompts(128, 3); },
       "n (or best_of) times the number of prompts must be at most 256; got 384."},
      {"kNodesPerMachine", one_node_too_many,
       "64 nodes already run from DIR; give this one another --data-dir"},
      {"kRequestJsonDepth", [] { return said("chat", repeat("[", limits::kRequestJsonDepth + 1)); },
       "The JSON body nests deeper than 64 levels."},
      {"kRequestMessages", too_many_messages,
       "messages has 10001 entries, at most 10000 are taken."},
      {"kRequestPrompts", [] { return prompts(limits::kRequestPrompts + 1, 1); },
       "prompt has 129 entries, at most 128 are taken."},
      {"kChoices", [] { return prompts(1, 17); }, "n must be an integer from 1 to 16; got 17."},
  };
  return kCases;
}

const std::vector<ShownLimit>& shown_limits() {
  static const std::vector<ShownLimit> kCases = {
      {"kLinkQueueBytes", "src/net/tls_transport_test.cc",
       "TlsTransportTest.BoundsTheQueueOfASlowPeerAndLosesNothingAccepted"},
      {"kGgufHeaderBytes", "src/formats/gguf_test.cc",
       "GgufHeader.RefusesWhatOnlyHugeFilesCanHold"},
      {"kGgufMetadataKeys", "src/formats/gguf_test.cc", "GgufHeader.RefusesFrontsThatLie"},
      {"kGgufNameBytes", "src/formats/gguf_test.cc", "GgufHeader.RefusesMetadataThatLies"},
      {"kGgufStringBytes", "src/formats/gguf_test.cc",
       "GgufHeader.RefusesWhatOnlyHugeFilesCanHold"},
      {"kGgufArrayItems", "src/formats/gguf_test.cc", "GgufHeader.RefusesWhatOnlyHugeFilesCanHold"},
      {"kGgufTensorRank", "src/formats/gguf_test.cc", "GgufHeader.RefusesTensorsThatLie"},
      {"kGgufAlignment", "src/formats/gguf_test.cc",
       "GgufHeader.RefusesAlignmentsThatAreNoPowerOfTwo"},
      {"kGossipFanout", "src/sim/large_mesh_test.cc", "LargeMesh.AHundredNodesAgreeOnAPlan"},
      {"kStrikes", "src/membership/membership_test.cc", "Membership.BadSignaturesAreStrikes"},
      {"kLinkInboxBytes", "src/net/tls_transport_test.cc",
       "TlsTransportTest.ReadsNoFurtherThanTheHandlerKeepsUp"},
      {"kLinkInboxFrames", "src/net/tls_transport_test.cc",
       "TlsTransportTest.ReadsNoFurtherThanTheHandlerKeepsUp"},
      {"kFirstFrameBytes", "src/net/tls_transport_test.cc",
       "TlsTransportTest.EndsALinkThatSendsWhatIsNoFrame"},
      {"kWriteBatchBytes", "src/net/tls_transport_test.cc",
       "TlsTransportTest.KeepsTheOrderOfAThousandFramesBothWays"},
      {"kPendingHandshakesPerHost", "src/net/tls_transport_test.cc",
       "TlsTransportTest.HoldsNoMoreHandshakesOfOneHostThanAllowed"},
      {"kHandshakeDeadline", "src/net/tls_transport_test.cc",
       "TlsTransportTest.HoldsNoMoreHandshakesOfOneHostThanAllowed"},
      {"kCloseDeadline", "src/net/tls_transport_test.cc",
       "TlsTransportTest.CutsAPeerThatDoesNotReadTheRest"},
      {"kCertificateSkew", "src/net/cluster_key_test.cc", "CertificateTest.HoldsForItsNodeAndTime"},
      {"kKeyFileBytes", "src/net/identity_test.cc",
       "IdentityTest.RefusesLinksFoldersAndOversizedFiles"},
      {"kSequencesPerStage", "src/kvcache/kvcache_test.cc",
       "PageTables.RefusesNoPositionsAndTooManySequences"},
      {"kPromptRowsAhead", "src/pipeline/prompt_window_test.cc",
       "PromptWindow.RandomTrafficNeverExceedsTheWindowAndLeaksNothing"},
      {"kPromptRowsDone", "src/pipeline/prompt_window_test.cc",
       "PromptWindow.AcknowledgesManyAtOnceAndTheLastAtOnce"},
      {"kClosedSequences", "src/pipeline/hop_grant_test.cc",
       "PromptRows.OfSequencesThatEndAreAcknowledgedToo"},
      {"kPrefillChunk", "src/engine/batcher_test.cc", "Batcher.DefaultLimitsAreTheOptions"},
      {"kPipelinedChunk", "src/pipeline/hop_test.cc",
       "HopTest.PromptsFlowThroughSeveralStagesInParts"},
      {"kWaitingRowBytes", "src/engine/batcher_test.cc", "Batcher.ChecksSizesAndLimits"},
      {"kWaitingRequests", "src/node/serving_test.cc",
       "ServingTest.TooManyWaitingRequestsAreTurnedAway"},
      {"kReserveAhead", "src/pipeline/driver_test.cc",
       "DriverTest.ReservesAPartAndOnlyTheLastStageGetsThePrompt"},
      {"kExtendAhead", "src/pipeline/driver_test.cc", "DriverTest.AsksForMorePagesAheadOfNeed"},
      {"kCreditWindow", "src/pipeline/driver_test.cc", "DriverTest.GivesCreditAheadOfNeed"},
      {"kOpensAhead", "src/pipeline/admission_test.cc", "Admission.PlaysItsScenariosAsWritten"},
      {"kPreemptSettle", "src/pipeline/admission_test.cc", "Admission.PlaysItsScenariosAsWritten"},
      {"kExtendPatience", "src/pipeline/admission_test.cc", "Admission.PlaysItsScenariosAsWritten"},
      {"kCapacityRetryMax", "src/pipeline/admission_test.cc",
       "Admission.PlaysItsScenariosAsWritten"},
      {"kLoopTasks", "src/env/env_test.cc", "RealLoop.NeitherDeadlocksNorLosesTasksWhenFull"},
      {"kBlockingJobs", "src/env/env_test.cc", "BlockingPool.RefusesBeyondItsQueue"},
      {"kHttpBodyBytes", "src/api/http_server_test.cc", "HttpServerTest.BoundsHeaderAndBody"},
      {"kHttpHeaderBytes", "src/api/http_server_test.cc", "HttpServerTest.BoundsHeaderAndBody"},
      {"kHttpConnections", "src/api/http_server_test.cc",
       "HttpServerTest.RefusesConnectionsBeyondTheLimit"},
      {"kHttpRejecting", "src/api/http_server_test.cc",
       "HttpServerTest.RefusesConnectionsBeyondTheLimit"},
      {"kStreamBufferBytes", "src/api/http_server_test.cc",
       "HttpServerTest.BoundsWhatASlowReaderLeavesUnread"},
      {"kStreamHighBytes", "src/api/http_server_test.cc",
       "HttpServerTest.TellsWhenAReaderFallsBehindAndWhenItIsBack"},
      {"kStreamLowBytes", "src/api/http_server_test.cc",
       "HttpServerTest.TellsWhenAReaderFallsBehindAndWhenItIsBack"},
      {"kStreamBufferMost", "src/api/api_server_test.cc",
       "ApiServerTest.StreamsSeveralChoicesWithScores"},
      {"kHttpUnsentLowBytes", "tests/load/load_test.cc",
       "LoadTest.SlowReadersAreHeldBackAndEndedOthersLoseNothing"},
      {"kHttpBodiesBytes", "src/api/http_server_test.cc",
       "HttpServerTest.BoundsBodiesOfAllConnectionsTogether"},
      {"kHttpPipelineBytes", "src/api/http_server_test.cc",
       "HttpServerTest.AnswersPipelinedRequestsInOrder"},
      {"kHeartbeat", "src/membership/membership_test.cc",
       "Membership.HeartbeatsMeasureTheRoundTrip"},
      {"kSuspicion", "src/membership/membership_test.cc", "Membership.SilenceEndsTheLink"},
      {"kHelloDeadline", "src/membership/membership_test.cc", "Membership.HelloHasADeadline"},
      {"kDialDeadline", "src/net/tls_transport_test.cc", "TlsTransportTest.SaysWhyADialFails"},
      {"kRedialMin", "src/membership/membership_test.cc", "Membership.RedialsBackOff"},
      {"kRedialMax", "src/membership/membership_test.cc", "Membership.RedialsBackOff"},
      {"kRedialYield", "src/membership/membership_test.cc",
       "Membership.SmallerIdDialsAtOnceLargerYields"},
      {"kLostRecords", "src/membership/membership_test.cc", "Membership.LostMembersAreForgotten"},
      {"kShareLostRecords", "src/membership/membership_test.cc",
       "Membership.LostMembersAreToldToNewLinksForAMinuteOnly"},
      {"kOpenDeadline", "src/pipeline/driver_test.cc", "DriverTest.DeadlinesNameWhoIsSilent"},
      {"kRequestDeadline", "src/pipeline/driver_test.cc",
       "DriverTest.ARunningRequestHasADeadlineToo"},
      {"kCapacityRetryMin", "src/pipeline/driver_test.cc", "DriverTest.ARefusalIsTriedAgainByTime"},
      {"kRouteRetryPause", "src/pipeline/driver_test.cc",
       "DriverTest.ARouteThatIsNotReadyIsTriedForSomeSeconds"},
      {"kRouteRetry", "src/pipeline/driver_test.cc",
       "DriverTest.ARouteThatIsNotReadyIsTriedForSomeSeconds"},
      {"kParkedRelease", "src/pipeline/driver_test.cc",
       "DriverTest.AnUnreadAnswerIsParkedAndThenReleased"},
      {"kSequenceLifetime", "src/pipeline/hop_test.cc", "HopTest.EndsWhatAnEntryForgets"},
      {"kDrainDeadline", "src/sim/sim_full_test.cc", "FullMesh.FaultsEndInAFullPipeline"},
      {"kLeaveDeadline", "tests/loopback/loopback_test.cc",
       "Leaving.ANodeEndsItsAnswersTakesNoNewOnesAndExitsZero"},
      {"kHttpIdle", "src/api/http_server_test.cc", "HttpServerTest.EndsSlowHeadersAndBodies"},
      {"kHttpHeaderDeadline", "src/api/http_server_test.cc",
       "HttpServerTest.EndsSlowHeadersAndBodies"},
      {"kHttpBodyDeadline", "src/api/http_server_test.cc",
       "HttpServerTest.EndsSlowHeadersAndBodies"},
      {"kHttpWriteStall", "src/api/http_server_test.cc",
       "HttpServerTest.CutsAClientThatTakesNothing"},
      {"kSlowClient", "src/api/http_server_test.cc",
       "HttpServerTest.EndsAStreamWhoseReaderStaysBehind"},
      {"kHttpStreamPing", "src/api/http_server_test.cc", "HttpServerTest.KeepsSilentStreamsAlive"},
      {"kReplanSettle", "src/scheduler/planner_test.cc", "Planner.WaitsForTheViewToSettle"},
      {"kContestMax", "src/scheduler/planner_test.cc",
       "Planner.TheLargerIdYieldsToAPlannerThatItCannotSee"},
  };
  return kCases;
}

const std::vector<SilentLimit>& silent_limits() {
  static const std::vector<SilentLimit> kCases = {
      {"kChatHistoryLines", "older lines leave the history of libedit, which keeps the count"},
      {"kCloseReasonBytes", "every reason the program gives is shorter; a longer one is cut"},
      {"kPendingHandshakes", "all hosts together: a test has one host, whose own bound is less"},
      {"kAcceptsPerSecond", "delays a flood of connections by milliseconds"},
      {"kCertificateChainBytes", "OpenSSL's own bound on a message of the handshake"},
      {"kEncodeDeadline", "a minute in the queue of the tokeniser's threads"},
      {"kHttpLinger", "how long the rest of a refused body is read and dropped"},
  };
  return kCases;
}

}  // namespace mesh::limits_test
