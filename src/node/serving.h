#pragma once
// The gateway of a node: takes requests in, turns prompts into tokens on the blocking pool, and
// hands both to a Generation.

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "env/blocking_pool.h"
#include "env/env.h"
#include "node/gateway.h"
#include "node/generation.h"
#include "node/mesh_node.h"
#include "node/request_plan.h"
#include "node/text_service.h"

namespace mesh::node {

class Serving : public Gateway {
 public:
  // `blocking` runs templates and tokenising. All references outlive this object.
  Serving(env::Env& env, MeshNode& node, env::BlockingPool& blocking);
  ~Serving() override;

  // Control loop: from now on prompts can be encoded.
  void set_model(std::shared_ptr<const TextService> text, ModelRules rules);

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
  // Control loop: running requests go on, each one that still comes ends with `why`.
  void stop_admitting(const Error& why);
  // Control loop: no request is running or waiting.
  bool idle() const { return requests_.empty(); }
  // Control loop: every request ends with `why`, as does each one that still comes.
  void shut_down(const Error& why);

 private:
  Generation::World world();
  Result<RequestPlan> admit(const GenerateRequest& request);
  void encode(GenerateRequest request, const Generation& generation);
  void start(const std::string& id, std::optional<std::uint32_t> max_tokens,
             Result<std::vector<PreparedPrompt>> prompts);
  Result<std::uint32_t> new_tokens(std::optional<std::uint32_t> max_tokens,
                                   std::size_t prompt) const;
  void fail(const std::string& request_id, const Error& why);
  // Runs `job` with the model's texts on the blocking pool, or calls it there or here with why that
  // is impossible.
  using TextJob = std::function<void(Result<std::shared_ptr<const TextService>>)>;
  void with_text(TextJob job);

  env::Env& env_;
  MeshNode& node_;
  env::BlockingPool& blocking_;
  ServingMetrics metrics_;
  std::shared_ptr<const TextService> text_;  // control loop
  ModelRules rules_;
  std::optional<Error> closed_;  // what requests that come now are told
  std::map<std::string, std::shared_ptr<Generation>> requests_;  // control loop
  mutable std::mutex status_mutex_;  // status() is called from the I/O thread
  std::shared_ptr<const MeshStatus> status_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace mesh::node
