#include "engine/engine_compute.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "backends/backends.h"
#include "model/config.h"
#include "model/random_model.h"

namespace mesh::engine {
namespace {

// A loop that the test turns by hand.
class ManualLoop final : public env::Loop {
 public:
  void post(std::function<void()> task) override {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    posted_.notify_one();
  }
  void run_one() {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      posted_.wait(lock, [this] { return !tasks_.empty(); });
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
  void wait_for_task() {
    std::unique_lock lock(mutex_);
    posted_.wait(lock, [this] { return !tasks_.empty(); });
  }
  bool empty() {
    const std::lock_guard lock(mutex_);
    return tasks_.empty();
  }

 private:
  std::mutex mutex_;
  std::condition_variable posted_;
  std::deque<std::function<void()>> tasks_;
};

std::unique_ptr<EngineCompute> make_engine(ManualLoop& loop, std::function<Instant()> now = {}) {
  return EngineCompute::make(
             backends::make_backend("cpu", {}).value(), model::make_random_model({}).value(), loop,
             {.stage = {.pages = 3}, .now = std::move(now)})
      .value();
}

StepJob one_row() {
  StepJob job;
  job.tokens = {5};
  job.positions = {0};
  job.row_start = {0, 1};
  job.kv_length = {1};
  job.page_start = {0, 1};
  job.pages = {PageId{1}};
  job.sample_rows = {0};
  return job;
}

TEST(EngineCompute, LoadsAndRunsStepsOnItsThread) {
  ManualLoop loop;
  std::int64_t ticks = 0;
  auto engine = make_engine(loop, [&ticks] { return Instant(milliseconds(++ticks)); });
  EXPECT_EQ(engine->shape().layers, 4u);
  EXPECT_EQ(engine->shape().row_bytes, 128u);
  EXPECT_NE(engine->self_test(), 0u);
  EXPECT_EQ(engine->backend_info().numeric_class, "cpu/1");

  bool done = false;
  engine->submit(one_row(), [&](Result<StepOutput> out) {
    EXPECT_EQ(out.error().code, Code::kUnavailable);
    done = true;
  });
  loop.run_one();
  EXPECT_TRUE(done);
  engine->load({0, 4}, [&](Result<LoadReport> report) {
    EXPECT_EQ(report->layers, (LayerRange{0, 4}));
    EXPECT_EQ(report->pages, 3u);
    EXPECT_EQ(report->layer_hash.size(), 4u);
    // A step may be submitted from the completion.
    engine->submit(one_row(), [&](Result<StepOutput> out) {
      EXPECT_EQ(out->sampled.size(), 1u);
      EXPECT_EQ(out->compute, milliseconds(1));
      done = false;
    });
  });
  loop.run_one();
  loop.run_one();
  EXPECT_FALSE(done);
}

TEST(EngineCompute, AFailedLoadLeavesNothingAndTheNextOneWorks) {
  ManualLoop loop;
  auto engine = make_engine(loop);
  int calls = 0;
  engine->load({0, 2}, [&](Result<LoadReport> report) { calls += report.ok(); });
  loop.run_one();
  engine->load({0, 9}, [&](Result<LoadReport> report) {
    EXPECT_EQ(report.error().code, Code::kInvalidArgument);
    ++calls;
  });
  loop.run_one();
  engine->load({2, 4}, [&](Result<LoadReport> report) { calls += report.ok(); });
  loop.run_one();
  EXPECT_EQ(calls, 3);
}

TEST(EngineCompute, AnEmptyRangeDropsEverything) {
  ManualLoop loop;
  auto engine = make_engine(loop);
  int calls = 0;
  engine->load({0, 4}, [&](Result<LoadReport> report) { calls += report.ok(); });
  loop.run_one();
  engine->load({}, [&](Result<LoadReport> report) {
    ASSERT_TRUE(report.ok()) << report.error().message;
    EXPECT_TRUE(report->layers.empty());
    EXPECT_EQ(report->pages, 0u);
    ++calls;
  });
  loop.run_one();
  engine->submit(one_row(), [&](Result<StepOutput> out) {
    EXPECT_EQ(out.error().code, Code::kUnavailable);
    ++calls;
  });
  loop.run_one();
  EXPECT_EQ(calls, 3);
}

TEST(EngineCompute, NoCallbackAfterItsEnd) {
  ManualLoop loop;
  auto engine = make_engine(loop);
  bool called = false;
  engine->load({0, 4}, [&](Result<LoadReport>) { called = true; });
  loop.wait_for_task();
  engine.reset();
  while (!loop.empty()) loop.run_one();
  EXPECT_FALSE(called);
}

TEST(EngineComputeDeathTest, TwoStepsInFlightAreABug) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ManualLoop loop;
  auto engine = make_engine(loop);
  engine->load({0, 4}, [](Result<LoadReport>) {});
  EXPECT_DEATH(engine->submit(one_row(), [](Result<StepOutput>) {}), "in flight already");
}

}  // namespace
}  // namespace mesh::engine
