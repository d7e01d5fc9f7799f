#pragma once
// The gateway of a node: turns chats into sequences for the driver and tokens into text for the
// client.

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "env/blocking_pool.h"
#include "env/env.h"
#include "node/gateway.h"
#include "node/mesh_node.h"
#include "node/text_service.h"

namespace mesh::node {

class Serving : public Gateway {
 public:
  // `blocking` runs templates and tokenising. All references outlive this object.
  Serving(env::Env& env, MeshNode& node, env::BlockingPool& blocking);
  ~Serving() override;

  // Control loop: from now on chats can be encoded.
  void set_text(std::shared_ptr<const TextService> text, std::vector<TokenId> stop_ids);

  void generate(GenerateRequest request, std::shared_ptr<GenerateSink> sink) override;
  void cancel(const std::string& request_id) override;
  void set_reading(const std::string& request_id, bool reading) override;
  void tokenize(TokenizeRequest request,
                std::function<void(Result<std::vector<TokenText>>)> done) override;
  void detokenize(std::vector<TokenId> tokens,
                  std::function<void(Result<std::string>)> done) override;
  void metrics(std::function<void(std::string)> done) override;
  MeshStatus status() const override;

  // Control loop: takes a new snapshot for status().
  void publish_status();
  // Control loop, every 100 ms or so: ends requests whose prompt is not encoded in time.
  void tick();
  // Control loop: each request that still comes ends with `why`; those that are here run on.
  void stop_admitting(const Error& why) { shut_down_ = why; }
  // Control loop: no request is here.
  bool idle() const { return requests_.empty(); }
  // Control loop: every request ends with `why`, as does each one that still comes.
  void shut_down(const Error& why);

 private:
  class Answer;
  struct Entry {
    std::shared_ptr<GenerateSink> sink;
    std::optional<SequenceId> sequence;  // none while the prompt is being encoded
    Instant submitted;
  };
  void encode(GenerateRequest request, std::shared_ptr<const TextService> text);
  void start(const GenerateRequest& request, Result<std::vector<TokenId>> prompt);
  Result<std::uint32_t> new_tokens(const GenerateRequest& request, std::size_t prompt) const;
  void fail(const std::string& request_id, const Error& why);

  env::Env& env_;
  MeshNode& node_;
  env::BlockingPool& blocking_;
  std::shared_ptr<const TextService> text_;  // control loop
  std::vector<TokenId> stop_ids_;
  std::optional<Error> shut_down_;
  std::map<std::string, Entry> requests_;  // control loop
  mutable std::mutex status_mutex_;        // status() is called from the I/O thread
  std::shared_ptr<const MeshStatus> status_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mesh::node
