#pragma once
// All that the API may ask of the mesh. Thread-safe: calls come from the I/O thread, answers are
// delivered on the control loop, so a sink must hand them over and return at once.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"

namespace mesh::node {

// A chat to be continued. Texts are JSON exactly as the client sent them (messages array, tools
// array or empty).
struct GenerateRequest {
  std::string request_id;
  std::string messages_json;
  std::string tools_json;
  std::string template_json;                // chat_template_kwargs, "" or an object
  std::optional<std::uint32_t> max_tokens;  // absent: the rest of the context
};

struct Usage {
  std::uint32_t prompt_tokens = 0;
  std::uint32_t completion_tokens = 0;  // the stop token not counted
};

struct Timings {
  Duration prompt{};      // submit → first token
  Duration generation{};  // first → last token
};

enum class FinishReason { kStop, kLength };

// Receives one request's answer: any number of text pieces (whole UTF-8 characters), then exactly
// one end or error.
class GenerateSink {
 public:
  virtual ~GenerateSink() = default;
  virtual void on_start(const Usage& prompt) = 0;  // admitted; before the first text
  virtual void on_text(std::string text) = 0;
  virtual void on_end(FinishReason reason, const Usage& usage, const Timings& timings) = 0;
  virtual void on_error(const Error& error) = 0;
};

struct NodeStatus {
  PeerId id;
  std::string name;
  bool self = false;
  std::string state;       // "joining", "waiting", "loading", "ready", "failed", "lost"
  std::string problem;     // one sentence when failed
  std::string http, peer;  // host:port
  std::string device;
  LayerRange layers;  // loaded
  std::uint64_t bytes_loaded = 0, rows_computed = 0;
  std::uint64_t bytes_expected = 0;  // what these layers weigh in the model's files; 0: unknown
  std::uint32_t pages_total = 0, pages_used = 0;
  double tokens_per_s = 0;
  double rtt_ms = 0;  // from the answering node; 0 for itself
};

struct MeshStatus {
  std::string version, numeric_class;
  std::uint64_t self_test = 0;
  std::string cluster;  // short id
  std::string model;    // "" until known
  std::uint64_t fingerprint = 0;
  std::uint32_t layers = 0, context = 0;
  Epoch epoch;
  bool ready = false;
  std::vector<LayerRange> missing;  // uncovered layers
  std::string waiting_for;          // one sentence when not ready
  std::vector<NodeStatus> nodes;    // ordered by first layer, then id
  std::uint32_t requests_running = 0, requests_waiting = 0;
  double tokens_per_s = 0;
};

class Gateway {
 public:
  virtual ~Gateway() = default;
  // Never blocks. The sink is called later, on the control loop, and kept until its end.
  virtual void generate(GenerateRequest request, std::shared_ptr<GenerateSink> sink) = 0;
  // The client has gone; nothing more is delivered. Unknown ids are ignored.
  virtual void cancel(const std::string& request_id) = 0;
  // A snapshot, at most one loop turn old.
  virtual MeshStatus status() const = 0;
};

}  // namespace mesh::node
