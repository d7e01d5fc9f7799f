#pragma once
// One node's hop and driver among peers that say anything a decoder accepts.

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/random.h"
#include "engine/compute.h"
#include "env/manual_loop.h"
#include "pipeline/driver.h"
#include "pipeline/hop.h"
#include "sim/fake_compute.h"

namespace mesh::fuzz {

// Reads small numbers from the input; 0 behind its end.
class Script {
 public:
  explicit Script(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  bool more() const { return at_ < bytes_.size(); }
  std::uint32_t next(std::uint32_t below) { return more() ? bytes_[at_++] % below : 0; }

 private:
  std::span<const std::uint8_t> bytes_;
  std::size_t at_ = 0;
};

// Plays scripts. Every message goes through encode() and decode_*() on its way in, as on a node; so
// does every frame that the node sends to itself. What it sends to others has to decode.
class PipelineWorld final : public env::Transport, public env::Random {
 public:
  explicit PipelineWorld(std::uint32_t holding);  // which layers the node holds: 0..3
  ~PipelineWorld() override;

  void play(Script& script);  // one message or event
  void finish();              // every sequence ends, no page stays in use, the engine saw no fault

 private:
  class Sink;

  PeerId self() const override;
  void set_handler(env::TransportHandler*) override {}
  void dial(const env::Address&) override {}
  Result<void> send(PeerId to, env::Frame frame) override;
  void close(PeerId, const Error&) override {}
  void fill(std::span<std::byte> out) override;

  void deliver(PeerId from, const env::Frame& frame);
  void play_open(Script& script, PeerId from, SequenceId sequence);
  void play_grant(Script& script, PeerId from, SequenceId sequence);
  void play_message(Script& script, PeerId from, std::uint32_t kind);
  SequenceId pick_sequence(Script& script) const;

  env::ManualLoop loop_;
  NullEvents events_;
  metrics::Registry metrics_;
  Prng stream_{1};
  env::Env env_;
  sim::Violations violations_;
  sim::FakeCompute compute_;
  pipeline::Hop hop_;
  pipeline::Driver driver_;
  std::uint32_t route_ = 0;          // what the driver's next request takes
  std::optional<PeerId> lost_;       // sends to it fail
  std::vector<SequenceId> started_;  // by the driver
  std::vector<SequenceId> lives_;    // of these, as OPEN named them
  std::vector<std::shared_ptr<Sink>> sinks_;
};

}  // namespace mesh::fuzz
