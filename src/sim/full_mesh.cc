#include "sim/full_mesh.h"

#include <algorithm>
#include <utility>

#include "base/error_table.h"
#include "base/limits.h"
#include "base/version.h"
#include "kvcache/page_tables.h"
#include "sim/control_mesh.h"

namespace mesh::sim {
namespace {

constexpr std::uint64_t kLayerBytes = 100;
constexpr std::uint64_t kFingerprint = 0xF11;
const std::string kCluster(32, 'C');

// Reading a model's configuration and tokenizer takes so long after the start.
constexpr Duration kOpenModel = milliseconds(150);

}  // namespace

// One client: checks what its request gets, in the order in which it gets it.
class FullMesh::Client : public pipeline::TokenSink {
 public:
  Client(FullMesh& mesh, std::uint32_t entry, std::string name,
         const pipeline::GenerateParams& params, ClientHabits habits)
      : mesh_(mesh),
        entry_(entry),
        name_(std::move(name)),
        habits_(habits),
        progress_(mesh.world_.now()) {
    if (params.sampling.prompt_logprobs)
      to_score_.assign(params.prompt.begin() + 1, params.prompt.end());
  }

  void admitted() override {
    if (std::exchange(admitted_, true)) mesh_.violations_.add(name_ + " is admitted twice");
    progress();
  }
  void prompt_scores(std::vector<SampledToken> scores) override {
    for (const SampledToken& score : scores) {
      if (to_score_.empty() || to_score_.front() != score.token)
        return mesh_.violations_.add(name_ + " gets a score that is not its next one");
      to_score_.pop_front();
    }
    progress();
  }
  void token(const SampledToken& sampled) override {
    const TokenId id = sampled.token;
    if (!admitted_) mesh_.violations_.add(name_ + " gets a token before it is admitted");
    if (!to_score_.empty()) mesh_.violations_.add(name_ + " gets a token before all scores");
    mesh_.requests_.token(name_, tokens_++, id);
    ++mesh_.counts_.tokens;
    progress();
    if (habits_.pause_after == tokens_) pause();
    if (habits_.cancel_after == tokens_) leave(mesh_.counts_.cancelled);
  }
  void finished(wire::Finish reason) override {
    if (open_ && reason != expected_)
      mesh_.violations_.add(fmt::format("{} finishes for reason {}, not {}", name_,
                                        static_cast<int>(reason), static_cast<int>(expected_)));
    open_ = false;
    ++mesh_.counts_.finished;
    mesh_.requests_.ended(name_, mesh_.world_.now());
    mesh_.world_.trace(name_ + " finished");
  }
  void failed(const Error& why) override {
    open_ = false;
    ++mesh_.counts_.failed[std::string(code_name(why.code))];
    mesh_.requests_.failed(name_, mesh_.world_.now(), why);
    mesh_.world_.trace(name_ + " failed: " + why.message);
  }

  void expect(SequenceId sequence, wire::Finish reason, std::weak_ptr<Client> self) {
    sequence_ = sequence;
    expected_ = reason;
    self_ = std::move(self);
  }
  // Nobody waits for the answer any more: nothing may arrive from now on.
  void entry_crashed() {
    open_ = false;
    ++mesh_.counts_.lost;
    give_up();
  }
  void check_progress() {
    if (paused_) progress();
    const Duration still = mesh_.world_.now() - progress_;
    if (!open_ || still <= mesh_.options_.stall || std::exchange(stalled_, true)) return;
    mesh_.violations_.add(fmt::format("{} has stood still for {:.1f} s after {} tokens", name_,
                                      to_seconds(still), tokens_));
  }
  bool open() const { return open_; }
  std::uint32_t entry() const { return entry_; }

 private:
  void progress() { progress_ = mesh_.world_.now(); }
  void pause() {
    paused_ = true;
    mesh_.node(entry_).driver().set_reading(sequence_, false);
    mesh_.world_.after(habits_.pause, [self = self_] {
      const std::shared_ptr<Client> client = self.lock();
      if (!client || !client->open_) return;
      client->paused_ = false;
      client->mesh_.node(client->entry_).driver().set_reading(client->sequence_, true);
    });
  }
  void leave(std::size_t& count) {
    open_ = false;
    ++count;
    mesh_.node(entry_).driver().cancel(sequence_);
    give_up();
  }
  void give_up() {
    mesh_.requests_.left(name_);
    mesh_.world_.trace(name_ + " left");
  }

  FullMesh& mesh_;
  std::uint32_t entry_;
  std::string name_;
  ClientHabits habits_;
  Instant progress_;
  SequenceId sequence_;
  std::weak_ptr<Client> self_;
  wire::Finish expected_ = wire::Finish::kLength;
  std::deque<TokenId> to_score_;  // tokens of the prompt whose scores are to come
  std::size_t tokens_ = 0;
  bool admitted_ = false, open_ = true, stalled_ = false, paused_ = false;
};

FullMesh::FullMesh(FullMeshOptions options)
    : options_(std::move(options)), world_(options_.seed), network_(world_) {
  compute_.shape = {options_.layers, 4096, 16};
  compute_.page_positions = kvcache::kPagePositions;
  compute_.pages = options_.pages;
  compute_.layer_bytes = kLayerBytes;
  cost_.layer_bytes.assign(options_.layers, kLayerBytes);
  network_.set_quality(options_.link);
  for (std::uint32_t n = 1; n <= options_.nodes; ++n) machines_[n];
}

FullMesh::~FullMesh() {
  for (auto& [n, machine] : machines_)
    if (machine.node != nullptr) crash(n);
}

std::string FullMesh::name(std::uint32_t n) {
  return fmt::format("n{:04}", n);
}
PeerId FullMesh::id(std::uint32_t n) {
  return ControlMesh::id(n);
}

node::NodeConfig FullMesh::config(std::uint32_t n) const {
  const auto address = [](std::uint32_t k) {
    return env::Address{fmt::format("10.0.{}.{}", k >> 8, k & 255), 8643};
  };
  node::NodeConfig out;
  out.name = name(n);
  out.certificate = membership::FakeVerifier::issue(kCluster, id(n), std::int64_t{1} << 60);
  out.engine = {std::string(engine_version()), "cpu/1", 7};
  out.addresses = {address(n).to_string()};
  out.device = "simulated";
  for (std::uint32_t seed = 1; seed <= std::min(2u, options_.nodes); ++seed)
    if (seed != n) out.seeds.push_back(address(seed));
  if (const auto pinned = options_.pinned.find(n); pinned != options_.pinned.end())
    out.pinned = pinned->second;
  out.memory_for_model = static_cast<std::uint64_t>(
      options_.memory * static_cast<double>(kLayerBytes * options_.layers));
  out.min_nodes = options_.min_nodes;
  return out;
}

void FullMesh::start(std::uint32_t n) {
  Machine& machine = machines_.at(n);
  MESH_CHECK(machine.node == nullptr, "{} runs already", name(n));
  const std::uint64_t life = ++machine.lives;
  machine.host = std::make_unique<Host>(
      world_, name(n), splitmix64(splitmix64(options_.seed ^ fnv1a64(name(n))) ^ life));
  Host& host = *machine.host;
  node::NodeConfig node_config = config(n);
  machine.transport =
      network_.attach(host, id(n), env::Address::parse(node_config.addresses.front()).value());
  machine.env = std::make_unique<env::Env>(
      env::Env{host, host, host, host, *machine.transport, host, host.metrics()});
  machine.verifier = std::make_unique<membership::FakeVerifier>(id(n), kCluster);
  machine.node =
      std::make_unique<node::MeshNode>(*machine.env, *machine.verifier, std::move(node_config));
  machine.node->start();
  machine.opening = host.after(kOpenModel, [this, n] { open_model(n); });
}

void FullMesh::open_model(std::uint32_t n) {
  Machine& machine = machines_.at(n);
  auto fake = std::make_unique<FakeCompute>(*machine.host, compute_, violations_);
  machine.compute = options_.wrap_compute ? options_.wrap_compute(std::move(fake))
                                          : std::unique_ptr<engine::Compute>(std::move(fake));
  node::LocalModel model;
  model.identity = {"pocket", kFingerprint,           options_.layers,
                    8,        compute_.shape.context, compute_.vocabulary};
  model.cost = cost_;
  model.stage_bytes = [](LayerRange layers) { return kLayerBytes * layers.size(); };
  machine.node->attach_model(std::move(model), *machine.compute);
}

void FullMesh::crash(std::uint32_t n, bool silent) {
  Machine& machine = machines_.at(n);
  for (const std::shared_ptr<Client>& client : clients_)
    if (client->open() && client->entry() == n) client->entry_crashed();
  if (silent) network_.silence(id(n));
  machine.last_events = machine.host->recent();
  machine.opening.cancel();
  add_lives(counts_, machine.node->driver());
  machine.node.reset();
  machine.compute.reset();
  machine.transport.reset();
  machine.env.reset();
  machine.host.reset();
  epochs_.restarted(name(n));
  world_.trace(name(n) + (silent ? " goes silent" : " crashes"));
}

// --- clients

void FullMesh::add_lives(ClientCounts& counts, const pipeline::Driver& driver) {
  counts.preemptions += driver.preemptions();
  counts.parked += driver.releases();
  counts.replays += driver.replays();
}

ClientCounts FullMesh::counts() const {
  ClientCounts out = counts_;
  for (const auto& [n, machine] : machines_)
    if (machine.node != nullptr) add_lives(out, machine.node->driver());
  return out;
}

void FullMesh::submit(std::uint32_t n, pipeline::GenerateParams params, ClientHabits habits) {
  const std::string request = fmt::format("request {} at {}", ++counts_.submitted, name(n));
  std::vector<TokenId> expected =
      FakeCompute::reference(compute_, params.prompt, params.new_tokens_max);
  const auto stop =
      std::find_first_of(expected.begin(), expected.end(), params.sampling.stop_ids.begin(),
                         params.sampling.stop_ids.end());
  const bool stops = stop != expected.end();
  expected.erase(stop, expected.end());
  requests_.admitted(request, world_.now(),
                     world_.now() + limits::kOpenDeadline + limits::kRequestDeadline,
                     std::move(expected));
  auto client = std::make_shared<Client>(*this, n, request, params, habits);
  clients_.erase(std::remove_if(clients_.begin(), clients_.end(),
                                [](const auto& old) { return !old->open(); }),
                 clients_.end());
  clients_.push_back(client);
  std::shared_ptr<pipeline::TokenSink> sink = client;
  if (options_.wrap_sink) sink = options_.wrap_sink(std::move(sink));
  const SequenceId sequence = node(n).driver().start(std::move(params), std::move(sink));
  client->expect(sequence, stops ? wire::Finish::kStop : wire::Finish::kLength, client);
}

void FullMesh::submit_random(std::uint32_t n, Prng& random, bool plain) {
  pipeline::GenerateParams params;
  // One in eight prompts takes several chunks.
  const std::uint64_t prompt = 1 + random.below(!plain && random.below(8) == 0 ? 1300 : 60);
  while (params.prompt.size() < prompt)
    params.prompt.push_back(static_cast<TokenId>(random.below(compute_.vocabulary)));
  if (random.below(4) == 0)
    for (std::size_t i = 0; i < std::min<std::size_t>(params.prompt.size(), 150); ++i)
      params.prompt[i] = static_cast<TokenId>(i);
  const std::uint64_t pool = (options_.pages - 1) * std::uint64_t{kvcache::kPagePositions};
  const std::uint64_t room = pool > prompt ? pool - prompt : 1;
  params.new_tokens_max = static_cast<std::uint32_t>(
      1 + random.below(std::min<std::uint64_t>(options_.answer_max, room)));
  if (random.below(4) == 0) params.sampling.repetition_penalty = 1.1f;
  if (random.below(4) == 0) params.sampling.presence_penalty = 0.5f;
  if (random.below(8) == 0) {
    params.sampling.prompt_logprobs = true;
    params.sampling.logprobs = 1;
  }
  if (random.below(4) == 0) {
    const std::vector<TokenId> all =
        FakeCompute::reference(compute_, params.prompt, params.new_tokens_max);
    params.sampling.stop_ids = {all[random.below(all.size())]};
    if (params.sampling.stop_ids.front() == all.front()) params.sampling.stop_ids.clear();
  }
  ClientHabits habits;
  if (!plain && random.below(10) == 0)
    habits.cancel_after = static_cast<std::size_t>(1 + random.below(10));
  if (random.below(8) < options_.slow_readers) {
    habits.pause_after = static_cast<std::size_t>(1 + random.below(20));
    habits.pause = milliseconds(static_cast<std::int64_t>(random.below(6000)));
  }
  submit(n, std::move(params), habits);
}

// --- questions

std::string FullMesh::state() const {
  const node::MeshNode* first = nullptr;
  std::size_t running = 0;
  for (const auto& [n, machine] : machines_) running += machine.node != nullptr;
  for (const auto& [n, machine] : machines_) {
    if (machine.node == nullptr) continue;
    const node::MeshNode& node = *machine.node;
    std::size_t alive = 0;
    for (const auto& [peer, member] : node.membership().members()) alive += member.alive;
    if (alive + 1 != running)
      return fmt::format("{} sees {} of {} others", name(n), alive, running - 1);
    if (first == nullptr) first = &node;
    const wire::Plan& plan = node.membership().plan();
    if (!(plan == first->membership().plan()))
      return fmt::format("{} has plan {}, not {}", name(n), plan.epoch.value,
                         first->membership().plan().epoch.value);
    if (node.membership().own().epoch != plan.epoch)
      return fmt::format("{} serves plan {}, not {}", name(n), node.membership().own().epoch.value,
                         plan.epoch.value);
    if (const auto route = node.choose_route(); !route.ok())
      return fmt::format("{}: {}", name(n), route.error().message);
  }
  return first == nullptr ? "nothing runs" : "";
}

bool FullMesh::settle(Duration limit) {
  const Instant end = world_.now() + limit;
  int steady = 0;
  while (world_.now() < end && steady < 10) {
    world_.run_for(milliseconds(100));
    check_running();
    steady = state().empty() ? steady + 1 : 0;
  }
  return steady == 10;
}

bool FullMesh::drain(Duration limit) {
  const Instant end = world_.now() + limit;
  while (open_requests() > 0 && world_.now() < end) {
    world_.run_for(milliseconds(100));
    check_running();
  }
  return open_requests() == 0;
}

void FullMesh::check_running() {
  for (const std::shared_ptr<Client>& client : clients_) client->check_progress();
  for (const auto& [n, machine] : machines_) {
    if (machine.node == nullptr) continue;
    const node::MeshNode& node = *machine.node;
    const wire::NodeRecord& own = node.membership().own();
    epochs_.seen(name(n), node.membership().plan().epoch);
    check_limit(name(n) + " bytes of layers held", cost_.bytes(own.layers), own.memory_for_model,
                violations_);
    check_limit(name(n) + " waiting requests", machine.node->driver().waiting(),
                limits::kWaitingRequests, violations_);
    check_limit(name(n) + " members", node.membership().members().size(), limits::kPeers,
                violations_);
    const pipeline::Hop* const hop = node.hop();
    if (hop == nullptr) continue;
    check_pages(name(n), hop->pages_used(), compute_.pages - 1, hop->sequences() == 0, violations_);
    check_limit(name(n) + " sequences", hop->sequences(), limits::kSequencesPerStage, violations_);
    check_limit(name(n) + " waiting rows", hop->waiting_rows(),
                limits::kWaitingRowBytes / compute_.shape.row_bytes, violations_);
    if (machine.host->errors() != 0)
      violations_.add(fmt::format("{} logs {} errors, the last events: {}", name(n),
                                  machine.host->errors(), machine.host->recent().back()));
  }
}

void FullMesh::check_idle() {
  scheduler::Nodes truth;
  for (const auto& [n, machine] : machines_)
    if (machine.node != nullptr) truth.push_back({machine.node->membership().own(), true});
  for (auto& [n, machine] : machines_) {
    if (machine.node == nullptr) continue;
    const Result<pipeline::RouteChoice> route = machine.node->choose_route();
    if (route.ok())
      check_route(route->stages, route->epoch, options_.layers, truth, violations_);
    else
      violations_.add(fmt::format("{} has no route: {}", name(n), route.error().message));
    check_limit(name(n) + " running requests when idle", machine.node->driver().running(), 0,
                violations_);
    check_limit(name(n) + " waiting requests when idle", machine.node->driver().waiting(), 0,
                violations_);
    const pipeline::Hop* const hop = machine.node->hop();
    if (hop == nullptr) continue;
    check_pages(name(n), hop->pages_used(), compute_.pages - 1, true, violations_);
    check_limit(name(n) + " sequences when idle", hop->sequences(), 0, violations_);
    check_limit(name(n) + " waiting rows when idle", hop->waiting_rows(), 0, violations_);
  }
  // What others were told: counters travel at the pace of heartbeats.
  for (const scheduler::NodeView& node : truth)
    check_pages("the record of " + node.record.name, node.record.pages_used,
                node.record.pages_total, true, violations_);
}

std::vector<std::string> FullMesh::recent(std::size_t per_node) const {
  std::vector<std::string> out;
  for (const auto& [n, machine] : machines_) {
    std::deque<std::string> events = machine.last_events;
    if (machine.host)
      events.insert(events.end(), machine.host->recent().begin(), machine.host->recent().end());
    const std::size_t skip = events.size() > per_node ? events.size() - per_node : 0;
    out.insert(out.end(), events.begin() + static_cast<std::ptrdiff_t>(skip), events.end());
  }
  return out;
}

}  // namespace mesh::sim
