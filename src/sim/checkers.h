#pragma once
// Invariants that a simulation asserts (ARCHITECTURE.md, "Invariants"). Each collects sentences; a run is good
// when violations() is empty at its end.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "scheduler/node_view.h"
#include "wire/messages.h"

namespace mesh::sim {

class Violations {
 public:
  void add(std::string sentence);
  const std::vector<std::string>& all() const { return sentences_; }
  bool empty() const { return count_ == 0; }
  std::size_t count() const { return count_; }

  static constexpr std::size_t kKept = 100;

 private:
  std::vector<std::string> sentences_;  // the first kKept
  std::size_t count_ = 0;
};

// Every admitted request ends exactly once: with its tokens in order, or with an error.
class RequestChecker {
 public:
  explicit RequestChecker(Violations& violations) : violations_(violations) {}
  // `expected`: the tokens that it must give when it ends well; empty: unknown. `deadline`: by then
  // it has ended.
  void admitted(const std::string& request, Instant now, Instant deadline,
                std::vector<TokenId> expected = {});
  // Token number `index` (from 0) as shown to the client.
  void token(const std::string& request, std::size_t index, TokenId token);
  void ended(const std::string& request, Instant now);
  void failed(const std::string& request, Instant now, const Error& error);
  // Nobody waits for it any more, its client or its entry having gone: nothing may follow.
  void left(const std::string& request);
  // At the end of the run.
  void finish();

  std::size_t admitted_count() const { return requests_.size(); }
  std::size_t ended_count() const { return ended_; }
  std::size_t failed_count() const { return failed_; }
  std::size_t open_count() const { return requests_.size() - ended_ - failed_ - left_; }

 private:
  struct Request {
    Instant deadline{};
    std::vector<TokenId> expected;
    std::size_t tokens = 0;
    bool over = false;
  };
  Request* find(const std::string& request, const char* what);
  void close(const std::string& request, Request& state, Instant now);

  Violations& violations_;
  std::map<std::string, Request> requests_;
  std::size_t ended_ = 0, failed_ = 0, left_ = 0;
};

// A route covers [0, layers) exactly, each stage on a node that says it holds those layers in that
// epoch. `nodes` is the truth (each node's own record), not somebody's view.
void check_route(const std::vector<wire::StageAssignment>& stages, Epoch epoch,
                 std::uint32_t layers, const scheduler::Nodes& nodes, Violations& violations);

// Pages in use never exceed what there is, and are none on an idle node.
void check_pages(const std::string& node, std::uint32_t used, std::uint32_t total, bool idle,
                 Violations& violations);

// A queue, table or buffer within its line of base/limits.h.
void check_limit(const std::string& what, std::size_t size, std::size_t limit,
                 Violations& violations);

// Epochs that one node sees never fall within one life.
class EpochChecker {
 public:
  explicit EpochChecker(Violations& violations) : violations_(violations) {}
  void seen(const std::string& node, Epoch epoch);
  void restarted(const std::string& node) { newest_.erase(node); }

 private:
  Violations& violations_;
  std::map<std::string, Epoch> newest_;
};

}  // namespace mesh::sim
