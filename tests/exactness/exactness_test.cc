// Bits of every hop row and logit row, and tokens of seeded generations, over cuts, batches,
// chunks, threads and instruction sets.
//
//   exactness_test --pairwise     a covering set of all pairs of factor values
//   exactness_test --product      every combination (the big model: every combination but the cuts)
//   exactness_test --rewrite      the pairwise set, then writes the committed hashes
//   exactness_test … --fail-fast  stops at the first failure
//   exactness_test … --only NAME  one model; may be repeated
//   exactness_test --references [--isa NAME]
//                                 only the hashes that are committed, of all models but the big and
//                                 the long one, and a few steps of few rows: for processors that
//                                 are emulated. --isa: this instruction set instead of the best
//
// Prints one line "FAIL <check> …" per failure; checks: rows, committed, kernels, isa, long,
// sampling.

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "backends/backends.h"
#include "base/bytes.h"
#include "pairwise.h"
#include "runner.h"
#include "sampling.h"
#include "subjects.h"

namespace mesh::exactness {
namespace {

constexpr std::size_t kBatchRows[] = {1, 2, 3, 7, 8, 9, 16, 17, 64, 513};
constexpr std::size_t kChunks[] = {0, 1, 7, 64};
constexpr int kThreads[] = {1, 2};
#if defined(__aarch64__)
constexpr const char* kIsas[] = {"neon_dotprod", "neon", "scalar"};
#else
constexpr const char* kIsas[] = {"avx512", "avx2", "scalar"};
#endif
// Operators that run one code under every instruction set (docs/numerics.md).
constexpr const char* kGenericOps[] = {"embed", "rope_table", "take_rows"};

struct Options {
  bool product = false, rewrite = false, fail_fast = false, references = false;
  std::vector<std::string> only;  // models; empty: all
  std::string isa;                // with references; empty: the best
};

// Every place to cut into two, and some cuts into three and four.
std::vector<std::vector<std::uint32_t>> cut_patterns(std::uint32_t layers) {
  std::vector<std::vector<std::uint32_t>> patterns{{}};
  for (std::uint32_t cut = 1; cut < layers; ++cut) patterns.push_back({cut});
  if (layers == 4) {
    for (std::vector<std::uint32_t> cuts :
         {std::vector<std::uint32_t>{1, 2}, {1, 3}, {2, 3}, {1, 2, 3}})
      patterns.push_back(cuts);
  } else if (layers > 4) {
    patterns.push_back({1, layers - 1});
    patterns.push_back({layers / 3, 2 * layers / 3});
    patterns.push_back({1, 2, 3});
    patterns.push_back({layers / 4, layers / 2, 3 * layers / 4});
  }
  return patterns;
}

class Run {
 public:
  explicit Run(const Options& options) : options_(options) {}

  int main() {
    const auto start = std::chrono::steady_clock::now();
    if (options_.references ? !make_one_backend() : !make_backends()) return 1;
    auto subjects = make_subjects(!options_.references);
    auto long_subject = make_long_subject();
    if (!subjects.ok() || !long_subject.ok()) {
      fmt::print("FAIL setup: {}\n",
                 (subjects.ok() ? long_subject.error() : subjects.error()).message);
      return 1;
    }
    subjects_ = std::move(subjects).value();
    if (!options_.only.empty())
      std::erase_if(subjects_, [&](const Subject& s) { return !chosen(s.name); });
    make_references();
    if (options_.references) {
      run_few_rows();
    } else {
      if (!stop() && !subjects_.empty()) run_set();
      if (!stop()) run_long(*long_subject);
      if (!stop()) run_generations();
    }
    if (!stop()) check_kernels();
    if (!stop()) check_committed();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    fmt::print("{} configurations, {} failures, {:.1f} s\n", configurations_, failures_,
               time.count());
    return failures_ == 0 ? 0 : 1;
  }

 private:
  void fail(const char* check, const std::string& text) {
    ++failures_;
    if (failures_ <= 50) fmt::print("FAIL {} {}\n", check, text);
    std::fflush(stdout);
  }
  bool stop() const { return options_.fail_fast && failures_ > 0; }

  bool chosen(const std::string& name) const {
    return options_.only.empty() ||
           std::find(options_.only.begin(), options_.only.end(), name) != options_.only.end();
  }

  bool make_one_backend() {
    auto backend = backends::make_backend("cpu", {1, options_.isa});
    if (!backend.ok()) {
      fail("isa", backend.error().message);
      return false;
    }
    isas_ = {(*backend)->info().isa};
    fmt::print("references on {}: {}\n", isas_.front(), (*backend)->info().device);
    backends_[{isas_.front(), 1}] = std::move(backend).value();
    return true;
  }

  // The kernels of one row and of few.
  void run_few_rows() {
    for (const Subject& subject : subjects_)
      for (const std::size_t rows : {1, 3, 8}) {
        if (stop()) return;
        ++configurations_;
        const auto ran = run_schedule(backend(isas_.front(), 1), subject, {},
                                      make_schedule(subject, rows, rows == 1 ? 0 : 1, 8, 1),
                                      known_[subject.name]);
        if (!ran.ok())
          fail("rows", fmt::format("{}: rows {}: {}", subject.name, rows, ran.error().message));
      }
  }

  bool make_backends() {
    for (const char* isa : kIsas)
      for (int threads : kThreads) {
        auto backend = backends::make_backend("cpu", {threads, isa});
        if (backend.ok()) {
          backends_[{isa, threads}] = std::move(backend).value();
          continue;
        }
        const char* ci = std::getenv("CI");
        if (ci != nullptr && std::string(ci) == "true") {
          fail("isa", backend.error().message);
        } else if (threads == 1) {
          fmt::print("\n*** SKIPPED: {} is NOT compared on this machine: {}\n\n", isa,
                     backend.error().message);
        }
      }
    isas_.clear();
    for (const char* isa : kIsas)
      if (backends_.contains({isa, 1})) isas_.push_back(isa);
    return !isas_.empty();
  }

  ops::Backend& backend(const std::string& isa, int threads) {
    return *backends_.at({isa, threads});
  }

  // Whole prefill of every content, alone, on one stage, one thread and the best instruction set:
  // what everything else must equal, and what is committed.
  void make_references() {
    for (const Subject& subject : subjects_) {
      Schedule schedule;
      for (std::size_t c = 0; c < subject.contents.size(); ++c) {
        schedule.content_of.push_back(c);
        schedule.steps.push_back({{c, 0, static_cast<std::int32_t>(subject.contents[c].size())}});
      }
      const auto ran =
          run_schedule(backend(isas_.front(), 1), subject, {}, schedule, known_[subject.name]);
      if (!ran.ok()) fail("rows", subject.name + ": " + ran.error().message);
    }
  }

  void run_one(const Subject& subject, const std::vector<std::uint32_t>& cuts, std::size_t rows,
               std::size_t chunk, int threads, const std::string& isa, std::size_t salt) {
    const bool slow = isa == "scalar";
    // The big model costs a third of a GFLOP per row: scalar kernels get few.
    if (slow && subject.size == Size::kBig) rows = std::min<std::size_t>(rows, 17);
    std::size_t total = std::max<std::size_t>(rows, slow && subject.size != Size::kTiny ? 20 : 80);
    if (subject.size == Size::kBig) total = std::max<std::size_t>(rows, slow ? 6 : 30);
    const std::size_t first = salt % 3 == 0 ? 0 : salt % subject.contents.size();
    const Schedule schedule = make_schedule(subject, rows, chunk, total, first);
    ++configurations_;
    const auto ran =
        run_schedule(backend(isa, threads), subject, cuts, schedule, known_[subject.name]);
    if (ran.ok()) return;
    std::string cut_text;
    for (std::uint32_t cut : cuts) cut_text += fmt::format(" {}", cut);
    fail("rows", fmt::format("{}: cuts [{} ] rows {} chunk {} threads {} {}: {}", subject.name,
                             cut_text, rows, chunk, threads, isa, ran.error().message));
  }

  void run_set() {
    std::size_t most_cuts = 0;
    for (const Subject& subject : subjects_)
      most_cuts = std::max(most_cuts, cut_patterns(subject.spec.layers).size());
    const std::vector<int> sizes{
        static_cast<int>(subjects_.size()),      static_cast<int>(most_cuts),
        static_cast<int>(std::size(kBatchRows)), static_cast<int>(std::size(kChunks)),
        static_cast<int>(std::size(kThreads)),   static_cast<int>(isas_.size())};
    const auto rows = options_.product ? product(sizes) : pairwise(sizes);
    if (!options_.product)
      fmt::print("pairwise set: {} of {} configurations\n", rows.size(), product(sizes).size());
    for (std::size_t i = 0; i < rows.size() && !stop(); ++i) {
      const std::vector<int>& row = rows[i];
      const Subject& subject = subjects_[static_cast<std::size_t>(row[0])];
      const auto patterns = cut_patterns(subject.spec.layers);
      const auto pattern = static_cast<std::size_t>(row[1]);
      if (options_.product) {
        // A smaller model has fewer patterns; the big one and the quantised ones take each
        // combination of the other factors with one of them.
        if (pattern >= patterns.size()) continue;
        const std::size_t others = i % (rows.size() / (subjects_.size() * most_cuts));
        if ((subject.size == Size::kBig || subject.one_cut_each) &&
            others % patterns.size() != pattern)
          continue;
      }
      run_one(subject, patterns[pattern % patterns.size()],
              kBatchRows[static_cast<std::size_t>(row[2])],
              kChunks[static_cast<std::size_t>(row[3])], kThreads[static_cast<std::size_t>(row[4])],
              isas_[static_cast<std::size_t>(row[5])], i);
    }
  }

  // One sequence over more than two segments of attention: whole prefill, decode from the start,
  // and replays (prefill up to a position near a border of segments, then decode).
  void run_long(const Subject& subject) {
    ContentHashes& known = known_[subject.name];
    const auto length = static_cast<std::int32_t>(subject.contents[0].size());
    const auto run = [&](const std::string& isa, int threads, const std::string& what,
                         std::vector<std::uint32_t> cuts, const Schedule& schedule) {
      if (stop()) return;
      ++configurations_;
      const auto ran = run_schedule(backend(isa, threads), subject, cuts, schedule, known);
      if (!ran.ok())
        fail("long", fmt::format("{} {} threads {}: {}", what, isa, threads, ran.error().message));
    };
    const auto prefill_then_decode = [&](std::int32_t prefill, std::int32_t step,
                                         std::int32_t end) {
      Schedule schedule;
      schedule.content_of = {0};
      for (std::int32_t at = 0; at < end;) {
        const std::int32_t rows = at < prefill ? std::min(step, prefill - at) : 1;
        schedule.steps.push_back({{0, at, rows}});
        at += rows;
      }
      return schedule;
    };
    for (const std::string& isa : isas_) {
      run(isa, 1, "prefill", {}, prefill_then_decode(length, 1024, length));
      run(isa, 2, "decode", {1}, prefill_then_decode(0, 1, length));
      for (std::int32_t at : {511, 512, 513, 1023, 1024, 1025}) {
        run(isa, 2, fmt::format("replay to {}", at), {}, prefill_then_decode(at, 1024, at + 4));
        run(isa, 1, fmt::format("chunked replay to {}", at), {1},
            prefill_then_decode(at, 100, at + 4));
      }
    }
  }

  void run_generations() {
    auto small = make_small_subject();
    if (!small.ok()) return fail("setup", small.error().message);
    if (chosen(small->name)) run_generations(*small);
    for (const Subject& subject : subjects_)
      if (subject.name == "pocket") run_generations(subject);
  }

  void run_generations(const Subject& subject) {
    const std::vector<std::vector<std::uint32_t>> cuts{
        {}, {1}, {1, 3}, {1, 2, subject.spec.layers - 1}};
    constexpr std::size_t kSampleChunks[] = {0, 1, 7};
    constexpr Start kStarts[] = {Start::kTogether, Start::kStaggered, Start::kReplayed};
    Generations& known = generated_[subject.name];
    const auto run = [&](const std::string& isa, int threads, const SamplingSetup& setup) {
      if (stop()) return;
      ++configurations_;
      const auto ran = run_sampling(backend(isa, threads), subject, setup, known);
      if (!ran.ok())
        fail("sampling",
             fmt::format("{}: {} stages chunk {} start {} threads {} {}: {}", subject.name,
                         setup.cuts.size() + 1, setup.chunk, static_cast<int>(setup.start), threads,
                         isa, ran.error().message));
    };
    run(isas_.front(), 1, {});
    const std::vector<int> sizes{static_cast<int>(cuts.size()), 3, 3,
                                 static_cast<int>(std::size(kThreads)),
                                 static_cast<int>(isas_.size())};
    for (const std::vector<int>& row : options_.product ? product(sizes) : pairwise(sizes)) {
      SamplingSetup setup;
      setup.cuts = cuts[static_cast<std::size_t>(row[0])];
      setup.chunk = kSampleChunks[row[1]];
      setup.start = kStarts[row[2]];
      const std::string& isa = isas_[static_cast<std::size_t>(row[4])];
      if (!options_.product) setup.tokens = isa == "scalar" ? 30 : 80;
      run(isa, kThreads[static_cast<std::size_t>(row[3])], setup);
    }
  }

  // A forced instruction set runs no kernel of another one, the generic operators excepted.
  void check_kernels() {
    for (const auto& [key, device] : backends_) {
      const auto uses = device->kernels_used();
      if (uses.empty()) fail("kernels", key.first + ": none was used");
      for (const ops::KernelUse& use : uses) {
        const bool generic = std::find(std::begin(kGenericOps), std::end(kGenericOps), use.op) !=
                             std::end(kGenericOps);
        const bool named = use.kernel.starts_with(use.isa + ".");
        if (use.isa != (generic ? "generic" : key.first) || !named)
          fail("kernels", fmt::format("forced {} ran {} of {} for {}", key.first, use.kernel,
                                      use.isa, use.op));
      }
    }
  }

  void check_committed() {
    const std::string name = backends_.begin()->second->info().numeric_class;
    std::string file = name;
    std::replace(file.begin(), file.end(), '/', '-');
    const std::string path = MESH_TEST_DATA "/exactness/" + file + ".json";
    nlohmann::json hashes;
    for (const auto& [model, rows] : known_) hashes[model] = to_hex(digest(rows));
    nlohmann::json sampled;
    for (const auto& [model, generations] : generated_)
      sampled[model] = to_hex(digest(generations));
    if (options_.rewrite) {
      const nlohmann::json all{{"class", name}, {"models", hashes}, {"sampling", sampled}};
      std::ofstream(path) << all.dump(2) << "\n";
      fmt::print("wrote {}\n", path);
      return;
    }
    std::ifstream stream(path);
    const nlohmann::json committed = nlohmann::json::parse(stream, nullptr, false);
    if (committed.is_discarded() || committed.value("class", "") != name) {
      fail("committed", "no hashes of class " + name + " in " + path);
      return;
    }
    for (const auto& [model, hash] : hashes.items()) {
      const std::string expected = committed["models"].value(model, "none");
      if (expected != hash.get<std::string>())
        fail("committed", fmt::format("{}: class {} had hash {}, now {}: new numbers need a new "
                                      "class name",
                                      model, name, expected, hash.get<std::string>()));
    }
    const nlohmann::json committed_sampling = committed.value("sampling", nlohmann::json::object());
    for (const auto& [model, hash] : sampled.items()) {
      const std::string expected = committed_sampling.value(model, "none");
      if (expected != hash.get<std::string>())
        fail("committed", fmt::format("{} sampling: class {} had hash {}, now {}", model, name,
                                      expected, hash.get<std::string>()));
    }
    if (options_.only.empty() && !options_.references &&
        hashes.size() != committed["models"].size())
      fail("committed",
           fmt::format("{} models, {} have hashes", hashes.size(), committed["models"].size()));
  }

  const Options options_;
  std::vector<Subject> subjects_;
  std::vector<std::string> isas_;
  std::map<std::pair<std::string, int>, std::unique_ptr<ops::Backend>> backends_;
  std::map<std::string, ContentHashes> known_;
  std::map<std::string, Generations> generated_;
  int configurations_ = 0;
  int failures_ = 0;
};

}  // namespace
}  // namespace mesh::exactness

int main(int argc, char** argv) {
  mesh::exactness::Options options;
  bool chosen = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--product")
      options.product = chosen = true;
    else if (flag == "--pairwise")
      chosen = true;
    else if (flag == "--rewrite")
      options.rewrite = chosen = true;
    else if (flag == "--fail-fast")
      options.fail_fast = true;
    else if (flag == "--only" && i + 1 < argc)
      options.only.emplace_back(argv[++i]);
    else if (flag == "--references")
      options.references = chosen = true;
    else if (flag == "--isa" && i + 1 < argc)
      options.isa = argv[++i];
    else {
      fmt::print("unknown flag {}\n", flag);
      return 2;
    }
  }
  if (!chosen) {
    fmt::print(
        "usage: exactness_test --pairwise|--product|--rewrite|--references [--isa NAME] "
        "[--fail-fast] "
        "[--only MODEL]\n");
    return 2;
  }
  return mesh::exactness::Run(options).main();
}
