#include "sim/fake_compute.h"

#include <algorithm>
#include <memory>

#include "base/random.h"

namespace mesh::sim {
namespace {

std::uint64_t embed(TokenId token) {
  return splitmix64(0x70CE4ull + static_cast<std::uint64_t>(token));
}
// Running state of one layer after a row: what attention sees.
std::uint64_t attend(std::uint64_t before, std::uint64_t row) {
  return splitmix64(before * 3 + row);
}
std::uint64_t layer_out(std::uint64_t row, std::uint64_t state, std::uint32_t layer) {
  return splitmix64(row ^ splitmix64(state + layer));
}
TokenId sample(std::uint64_t row, std::uint32_t vocabulary) {
  return static_cast<TokenId>(splitmix64(row) % vocabulary);
}

}  // namespace

FakeCompute::FakeCompute(env::Timers& timers, FakeComputeConfig config, Violations& violations)
    : timers_(timers), config_(config), violations_(violations) {
  MESH_CHECK(config_.shape.row_bytes >= sizeof(std::uint64_t), "row_bytes {}",
             config_.shape.row_bytes);
}

FakeCompute::~FakeCompute() = default;

std::vector<TokenId> FakeCompute::reference(const FakeComputeConfig& config,
                                            const std::vector<TokenId>& prompt, std::size_t count) {
  std::vector<std::uint64_t> states(config.shape.layers, 0);
  std::vector<TokenId> out;
  std::uint64_t row = 0;
  const auto run = [&](TokenId token) {
    row = embed(token);
    for (std::uint32_t layer = 0; layer < config.shape.layers; ++layer) {
      states[layer] = attend(states[layer], row);
      row = layer_out(row, states[layer], layer);
    }
  };
  for (TokenId token : prompt) run(token);
  while (out.size() < count) {
    out.push_back(sample(row, config.vocabulary));
    run(out.back());
  }
  return out;
}

void FakeCompute::load(LayerRange layers, std::function<void(Result<engine::LoadReport>)> done) {
  if (busy_) violations_.add("load() while a step or load is in flight");
  if (layers.end > config_.shape.layers || layers.begin > layers.end)
    violations_.add("load() of layers " + layers.to_string());
  busy_ = true;
  auto shared = std::make_shared<std::function<void(Result<engine::LoadReport>)>>(std::move(done));
  timer_ = timers_.after(config_.load_per_layer * layers.size(), [this, layers, shared] {
    busy_ = false;
    layers_ = layers;
    cells_.assign(std::size_t{config_.pages} * config_.page_positions * layers.size(), Cell{});
    engine::LoadReport report;
    report.layers = layers;
    report.bytes_loaded = config_.layer_bytes * layers.size();
    report.pages = layers.empty() ? 0 : config_.pages;
    for (std::uint32_t layer = layers.begin; layer < layers.end; ++layer)
      report.layer_hash.push_back(splitmix64(layer));
    (*shared)(std::move(report));
  });
}

void FakeCompute::submit(engine::StepJob job,
                         std::function<void(Result<engine::StepOutput>)> done) {
  if (busy_) violations_.add("submit() while a step or load is in flight");
  busy_ = true;
  const Duration time = config_.step_base + config_.row_per_layer *
                                                static_cast<std::int64_t>(job.rows()) *
                                                static_cast<std::int64_t>(layers_.size());
  struct Pending {
    engine::StepJob job;
    std::function<void(Result<engine::StepOutput>)> done;
  };
  auto pending = std::make_shared<Pending>(Pending{std::move(job), std::move(done)});
  timer_ = timers_.after(time, [this, pending, time] {
    busy_ = false;
    if (fail_next_) {
      const Error error = *fail_next_;
      fail_next_.reset();
      pending->done(error);
      return;
    }
    if (const auto fine = check(pending->job); !fine.ok()) {
      violations_.add(fine.error().message);
      pending->done(fine.error());
      return;
    }
    auto output = compute(pending->job);
    if (output.ok())
      output->compute = time;
    else
      violations_.add(output.error().message);
    pending->done(std::move(output));
  });
}

Result<void> FakeCompute::check(const engine::StepJob& job) const {
  const auto wrong = [](std::string what) { return Error(Code::kInternal, "step: " + what); };
  const std::size_t rows = job.rows(), sequences = job.kv_length.size();
  const bool first = layers_.begin == 0, last = layers_.end == config_.shape.layers;
  if (layers_.empty()) return wrong("no layers are loaded");
  if (rows == 0 || sequences == 0) return wrong("no rows");
  if (job.tokens.size() != rows) return wrong("tokens and positions differ in number");
  if (job.row_start.size() != sequences + 1 || job.page_start.size() != sequences + 1)
    return wrong("row_start or page_start has a wrong length");
  if (job.row_start.front() != 0 || job.row_start.back() != static_cast<std::int32_t>(rows))
    return wrong("row_start does not cover the rows");
  if (job.page_start.front() != 0 ||
      job.page_start.back() != static_cast<std::int32_t>(job.pages.size()))
    return wrong("page_start does not cover the pages");
  if (job.residual_in.size() != (first ? 0 : rows * config_.shape.row_bytes))
    return wrong(fmt::format("{} residual bytes for {} rows", job.residual_in.size(), rows));
  if (!last && !job.sample_rows.empty()) return wrong("sampling before the last stage");
  for (std::size_t i = 0; i < job.sample_rows.size(); ++i)
    if (job.sample_rows[i] < 0 || job.sample_rows[i] >= static_cast<std::int32_t>(rows) ||
        (i > 0 && job.sample_rows[i] <= job.sample_rows[i - 1]))
      return wrong("sample_rows do not ascend within the rows");
  std::vector<int> users(config_.pages, 0);
  for (PageId page : job.pages) {
    if (page.value == 0 || page.value >= config_.pages)
      return wrong(fmt::format("page {} of {}", page.value, config_.pages));
    ++users[page.value];
  }
  for (std::size_t s = 0; s < sequences; ++s) {
    const std::int32_t begin = job.row_start[s], end = job.row_start[s + 1];
    const std::int32_t pages = job.page_start[s + 1] - job.page_start[s];
    if (begin >= end || pages < 0) return wrong("a sequence without rows or with negative pages");
    for (std::int32_t row = begin; row < end; ++row)
      if (job.positions[row] != job.kv_length[s] - (end - row))
        return wrong(fmt::format("row {} has position {}, the cache will hold {}", row,
                                 job.positions[row], job.kv_length[s]));
    if (job.positions[begin] < 0 ||
        job.kv_length[s] > static_cast<std::int32_t>(config_.shape.context))
      return wrong(fmt::format("positions {} to {}", job.positions[begin], job.kv_length[s]));
    if (pages * static_cast<std::int64_t>(config_.page_positions) < job.kv_length[s])
      return wrong(fmt::format("{} pages for {} positions", pages, job.kv_length[s]));
    // Sequences with a common beginning read the same pages; what is written has one owner.
    for (std::int32_t row = begin; row < end; ++row) {
      const PageId page =
          job.pages[static_cast<std::size_t>(job.page_start[s]) +
                    static_cast<std::size_t>(job.positions[row]) / config_.page_positions];
      if (users[page.value] > 1)
        return wrong(fmt::format("page {} is written and used twice", page.value));
    }
  }
  return {};
}

FakeCompute::Cell& FakeCompute::cell(PageId page, std::int32_t position, std::uint32_t layer) {
  const std::size_t slot = std::size_t{page.value} * config_.page_positions +
                           static_cast<std::size_t>(position) % config_.page_positions;
  return cells_[slot * layers_.size() + (layer - layers_.begin)];
}

Result<engine::StepOutput> FakeCompute::compute(const engine::StepJob& job) {
  engine::StepOutput out;
  const std::size_t row_bytes = config_.shape.row_bytes;
  const bool first = layers_.begin == 0, last = layers_.end == config_.shape.layers;
  std::vector<std::uint64_t> values(job.rows());
  for (std::size_t s = 0; s < job.kv_length.size(); ++s) {
    const auto page_of = [&](std::int32_t position) {
      return job.pages[static_cast<std::size_t>(job.page_start[s]) +
                       static_cast<std::size_t>(position) / config_.page_positions];
    };
    for (std::int32_t r = job.row_start[s]; r < job.row_start[s + 1]; ++r) {
      const std::int32_t position = job.positions[r];
      std::uint64_t row = embed(job.tokens[r]);
      if (!first) std::memcpy(&row, job.residual_in.data() + r * row_bytes, sizeof(row));
      for (std::uint32_t layer = layers_.begin; layer < layers_.end; ++layer) {
        std::uint64_t before = 0;
        if (position > 0) {
          const Cell& previous = cell(page_of(position - 1), position - 1, layer);
          if (previous.position != position - 1)
            return Error(Code::kInternal,
                         fmt::format("step: position {} is not in the cache, its place holds {}",
                                     position - 1, previous.position));
          before = previous.state;
        }
        const std::uint64_t state = attend(before, row);
        cell(page_of(position), position, layer) = {position, state};
        row = layer_out(row, state, layer);
      }
      values[r] = row;
      ++rows_;
    }
  }
  if (!last) {
    out.residual_out = Buffer(job.rows() * row_bytes);
    std::fill(out.residual_out.span().begin(), out.residual_out.span().end(), std::byte{0});
    for (std::size_t r = 0; r < job.rows(); ++r)
      std::memcpy(out.residual_out.data() + r * row_bytes, &values[r], sizeof(values[r]));
  }
  for (std::size_t i = 0; i < job.sample_rows.size(); ++i) {
    TokenId token = sample(values[job.sample_rows[i]], config_.vocabulary);
    if (!job.sampling.empty()) token = job.sampling[i].given.value_or(token);
    out.sampled.push_back({token, 0.0f, {}});
  }
  out.non_finite.assign(job.kv_length.size(), 0);
  return out;
}

}  // namespace mesh::sim
