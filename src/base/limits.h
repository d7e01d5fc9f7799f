#pragma once
// Every bound of the system in one place. A queue, frame, table or retry without a line here is a
// defect.

#include <cstddef>
#include <cstdint>

#include "base/time.h"

namespace mesh::limits {

// --- files
constexpr std::size_t kSafetensorsHeaderBytes = 100u << 20;  // as the reference implementation
constexpr std::size_t kJsonFileBytes = 64u << 20;  // config.json, tokenizer.json, index.json
constexpr std::size_t kTensorsPerModel = 1u << 20;
constexpr std::size_t kGgufHeaderBytes = 128u << 20;  // metadata and tensor table of one file
constexpr std::size_t kGgufMetadataKeys = 1u << 16;
constexpr std::size_t kGgufNameBytes = (1u << 16) - 1;  // of a key or tensor
constexpr std::size_t kGgufStringBytes = 16u << 20;     // of one value or item
constexpr std::size_t kGgufArrayItems = 1u << 24;       // of all arrays of one file
constexpr std::size_t kGgufTensorRank = 4;              // as ggml
constexpr std::uint64_t kGgufAlignment = 1u << 20;
constexpr std::size_t kTensorRank = 8;
constexpr std::size_t kShardsPerModel = 10'000;
constexpr std::size_t kConfigFileBytes = 1u << 20;  // config.toml
constexpr std::size_t kChatHistoryLines = 1000;     // of chat's line editor

// --- model
constexpr std::uint32_t kLayers = 1024;
constexpr std::uint32_t kHidden = 1u << 17;
constexpr std::uint32_t kIntermediate = 1u << 20;
constexpr std::uint32_t kExperts = 1u << 12;  // of one layer
constexpr std::uint32_t kHeads = 1u << 12;
constexpr std::uint32_t kHeadDim = 1u << 12;
constexpr std::uint32_t kVocabulary = 1u << 22;
constexpr std::uint32_t kContext = 1u << 22;

// --- text
constexpr std::size_t kPromptBytes = 16u << 20;
constexpr std::size_t kTemplateOutputBytes = 32u << 20;
constexpr std::size_t kTemplateSteps = 10'000'000;
constexpr std::size_t kTemplateItems = 8u << 20;  // of all lists made, a new text counts kTextItems
constexpr std::size_t kTemplateDepth = 100;
constexpr std::size_t kTemplateSourceBytes = 1u << 20;
constexpr std::size_t kRegexBytes = 64u << 10;           // one pattern of tokenizer.json
constexpr std::uint32_t kRegexSteps = 50'000'000;        // backtracking of one match

// --- wire
constexpr std::size_t kFrameHeaderBytes = 64u << 10;   // protobuf part of a frame
constexpr std::size_t kFramePayloadBytes = 64u << 20;  // raw part of a frame
constexpr std::size_t kLinkQueueBytes = 256u << 20;    // waiting to be written to one peer
constexpr std::size_t kPeers = 512;
constexpr std::size_t kRecordBytes = 4096;  // one gossiped record, encoded
constexpr std::size_t kRouteStages = 64;
constexpr std::size_t kAddressesPerPeer = 16;
constexpr std::size_t kNameBytes = 128;     // names of nodes, models, versions, classes
constexpr std::size_t kAddressBytes = 264;  // HOST:PORT
constexpr std::size_t kDeviceBytes = 256;
constexpr std::size_t kSentenceBytes = 600;  // an error's or problem's sentence for people
constexpr std::size_t kRoles = 8;
constexpr std::size_t kRoleBytes = 32;
constexpr std::size_t kCertificateBytes = 1024;  // encoded
constexpr std::size_t kPublicKeyBytes = 256;     // SubjectPublicKeyInfo, DER
constexpr std::size_t kSignatureBytes = 64;      // ed25519
constexpr std::uint64_t kEpoch = 1ull << 62;     // of a plan, so that one more always fits
constexpr std::uint32_t kKeyedPageTokens = 64;   // tokens that one key of OPEN stands for, a page
constexpr std::size_t kPageKeys = kContext / kKeyedPageTokens;
constexpr std::size_t kPageKeyBytes = 16;     // of a truncated SHA-256
constexpr std::size_t kLogitBiases = 1024;    // of one sequence
constexpr std::size_t kTopLogprobs = 20;      // likeliest tokens told of one position
constexpr std::size_t kGossipFanout = 16;        // links that a newer record is forwarded to
constexpr int kStrikes = 8;                      // bad messages of one link before it is closed

// --- links
constexpr std::size_t kLinkInboxBytes = 128u << 20;  // read from one peer and not yet handled
constexpr std::size_t kLinkInboxFrames = 1024;
constexpr std::size_t kFirstFrameBytes = 64u << 10;  // payload before the other side is known
constexpr std::size_t kCloseReasonBytes = 512;       // sentence of the last frame of a link
constexpr std::size_t kWriteBatchBytes = 64u << 10;  // small frames gathered into one write
constexpr std::size_t kPendingHandshakes = 64;       // inbound, all hosts together
constexpr std::size_t kPendingHandshakesPerHost = 16;
constexpr std::size_t kAcceptsPerSecond = 200;
constexpr std::size_t kCertificateChainBytes = 8u << 10;  // of a TLS handshake
constexpr std::size_t kKeyFileBytes = 16u << 10;
constexpr Duration kHandshakeDeadline = seconds(5);  // from TCP (kDialDeadline) to a usable link
constexpr Duration kCloseDeadline = seconds(1);      // to write what is queued
constexpr Duration kCertificateSkew = seconds(300);  // clocks of two machines may differ so much

// --- serving
constexpr std::size_t kSequencesPerStage = 1024;
constexpr std::size_t kBatchRows = 1024;            // rows of one step
constexpr std::size_t kPromptRowsAhead = 1024;      // sent to the next stage, not acknowledged
constexpr std::size_t kPromptRowsDone = 64;         // computed before they are acknowledged
constexpr std::size_t kClosedSequences = 4096;      // whose late rows a stage can still count
constexpr std::size_t kPrefillChunk = 512;          // prompt rows of one step
constexpr std::size_t kPipelinedChunk = 128;        // at the first of several stages
constexpr std::size_t kWaitingRowBytes = 1u << 30;  // rows waiting at the input of one stage
constexpr int kComputeThreads = 1024;               // of one host backend
constexpr std::size_t kWaitingRequests = 256;
constexpr std::uint32_t kReserveAhead = 256;  // positions reserved beyond those that are known
constexpr std::uint32_t kExtendAhead = 64;    // positions before the end of them EXTEND is sent
constexpr std::uint32_t kCreditWindow = 32;   // rows that stage 0 may run ahead of the reader
constexpr std::size_t kOpensAhead = 16;       // sequences of one entry that are being opened
constexpr std::size_t kStopIds = 64;
constexpr std::size_t kStopStrings = 16;
constexpr std::size_t kStopStringBytes = 1024;
constexpr std::size_t kSequencesPerRequest = kWaitingRequests;  // prompts times choices
constexpr int kNodesPerMachine = 64;        // directories and ports tried for a further node
constexpr std::size_t kLoopTasks = 1u << 16;  // tasks posted to the control loop
constexpr std::size_t kBlockingJobs = 512;

// --- HTTP
constexpr std::size_t kHttpBodyBytes = 16u << 20;
constexpr std::size_t kHttpHeaderBytes = 64u << 10;
constexpr std::size_t kHttpConnections = 1024;
constexpr std::size_t kStreamBufferBytes = 256u << 10; // unsent events of one stream: it is cut
constexpr std::size_t kStreamHighBytes = 16u << 10;    // its reader counts as behind
constexpr std::size_t kStreamLowBytes = 8u << 10;      // and here as back
constexpr std::size_t kStreamBufferMost = 64u << 20;   // for many choices, their scores and echoes
constexpr int kHttpUnsentLowBytes = 32 << 10;          // the system takes no more ahead of the wire
constexpr std::size_t kHttpBodiesBytes = 256u << 20;   // bodies being received, all connections
constexpr std::size_t kHttpPipelineBytes = 64u << 10;  // read ahead while an answer is being made
constexpr std::size_t kHttpRejecting = 64;  // connections kept beyond the limit to say 503
constexpr std::size_t kRequestJsonDepth = 64;
constexpr std::size_t kRequestMessages = 10'000;
constexpr std::size_t kRequestPrompts = 128;
constexpr std::int64_t kChoices = 16;                        // n and best_of

// --- time
constexpr Duration kHeartbeat = milliseconds(500);
constexpr Duration kSuspicion = seconds(2);      // silence after which a peer counts as gone
constexpr Duration kHelloDeadline = seconds(5);  // from TLS to an accepted HELLO
constexpr Duration kDialDeadline = seconds(5);
constexpr Duration kRedialMin = milliseconds(500);
constexpr Duration kRedialMax = seconds(30);
constexpr Duration kRedialYield = seconds(1);       // the larger id lets the smaller dial first
constexpr Duration kLostRecords = seconds(600);     // a gone member's record is kept so long
constexpr Duration kShareLostRecords = seconds(60); // and told to new links so long
constexpr Duration kOpenDeadline = seconds(5);  // all stages must have reserved their pages
constexpr Duration kRequestDeadline = seconds(600);
constexpr Duration kCapacityRetryMin = milliseconds(20);  // after a stage lacked pages
constexpr Duration kCapacityRetryMax = milliseconds(500);
constexpr Duration kRouteRetryPause = milliseconds(100);  // after a route was not ready
constexpr Duration kRouteRetry = seconds(3);              // then its sequences fail
constexpr Duration kPreemptSettle = milliseconds(300);    // from one preemption to the next
constexpr Duration kExtendPatience = seconds(1);  // the youngest waits so long for more pages
constexpr Duration kParkedRelease = seconds(2);   // a slow reader's sequence keeps its pages so long
constexpr Duration kSequenceLifetime = kRequestDeadline + seconds(60);  // on a stage
constexpr Duration kEncodeDeadline = seconds(60);  // template and tokenising, queue included
constexpr Duration kDrainDeadline = seconds(30);
constexpr Duration kLeaveDeadline = seconds(30);  // running requests when a node is asked to end
constexpr Duration kHttpIdle = seconds(75);            // keep-alive without a request
constexpr Duration kHttpHeaderDeadline = seconds(10);  // first byte to end of header
constexpr Duration kHttpBodyDeadline = seconds(60);
constexpr Duration kHttpWriteStall = seconds(30);  // no byte accepted by the client
constexpr Duration kSlowClient = seconds(10);      // behind for so long, a stream is ended
constexpr Duration kHttpLinger = seconds(2);       // reading on so that a last answer arrives
constexpr Duration kHttpStreamPing = seconds(15);  // silence after which a comment is sent
constexpr Duration kReplanSettle = milliseconds(300);
constexpr Duration kContestMax = seconds(60);  // between the plans of a planner that is overridden

}  // namespace mesh::limits
