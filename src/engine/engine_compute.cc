#include "engine/engine_compute.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/check.h"
#include "model/config.h"

namespace mesh::engine {

struct EngineCompute::Impl {
  Impl(std::unique_ptr<ops::Backend> device, formats::ModelFiles files, model::ModelSpec model,
       env::Loop& control, EngineOptions given)
      : backend(std::move(device)),
        source(std::move(files.tensors)),
        spec(std::move(model)),
        info(backend->info()),
        self_test(backend->self_test()),
        loop(control),
        options(std::move(given)) {}

  // Runs `work` on the compute thread; `work` returns what is to be run on the control loop.
  using Work = std::function<std::function<void()>()>;
  void enqueue(Work work) {
    MESH_CHECK(!*busy, "a load or step is in flight already");
    *busy = true;
    {
      const std::lock_guard lock(mutex);
      next = std::move(work);
    }
    wake.notify_one();
  }

  void run_thread() {
    for (;;) {
      Work work;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [this] { return stopping || next.has_value(); });
        if (stopping) return;
        work = std::move(*next);
        next.reset();
      }
      // `alive` and `busy` are read and written on the control loop only.
      loop.dispatch([completion = work(), is_alive = alive, is_busy = busy] {
        if (!*is_alive) return;
        *is_busy = false;
        completion();
      });
    }
  }

  Result<LoadReport> load(LayerRange layers) {
    if (layers.empty()) {
      stage.reset();
      return LoadReport{};
    }
    auto loaded = Stage::load(*backend, *source, spec, layers, options.stage, std::move(stage));
    if (!loaded.ok()) return loaded.error();
    stage = std::move(loaded).value();
    return stage->report();
  }

  Result<StepOutput> run(const StepJob& job) {
    if (stage == nullptr) return Error(Code::kUnavailable, "no layers are loaded");
    const Instant start = options.now ? options.now() : Instant{};
    Result<StepOutput> out = stage->run(job);
    if (out.ok() && options.now) out->compute = options.now() - start;
    return out;
  }

  const std::unique_ptr<ops::Backend> backend;
  const std::shared_ptr<const formats::TensorSource> source;
  const model::ModelSpec spec;
  const ops::BackendInfo info;
  const std::uint64_t self_test;
  env::Loop& loop;
  const EngineOptions options;
  std::unique_ptr<Stage> stage;  // compute thread; destroyed before the backend

  const std::shared_ptr<bool> alive = std::make_shared<bool>(true);
  const std::shared_ptr<bool> busy = std::make_shared<bool>(false);
  std::mutex mutex;
  std::condition_variable wake;
  std::optional<Work> next;  // guarded by mutex
  bool stopping = false;     // guarded by mutex
  std::thread thread;
};

EngineCompute::EngineCompute(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {
  impl_->thread = std::thread([state = impl_.get()] { state->run_thread(); });
}

EngineCompute::~EngineCompute() {
  MESH_CHECK(impl_->thread.get_id() != std::this_thread::get_id(),
             "an engine destroyed by the completion of its own step");
  *impl_->alive = false;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_one();
  impl_->thread.join();
}

Result<std::unique_ptr<EngineCompute>> EngineCompute::make(std::unique_ptr<ops::Backend> backend,
                                                           formats::ModelFiles model,
                                                           env::Loop& loop, EngineOptions options) {
  MESH_ASSIGN_OR_RETURN(model::ModelSpec spec, model::parse_config(model));
  auto impl = std::make_unique<Impl>(std::move(backend), std::move(model), std::move(spec), loop,
                                     std::move(options));
  return std::unique_ptr<EngineCompute>(new EngineCompute(std::move(impl)));
}

ComputeShape EngineCompute::shape() const {
  const model::ModelSpec& spec = impl_->spec;
  return {spec.layers, spec.context, spec.hidden * tensor::dtype_bytes(spec.residual),
          spec.vocabulary};
}
const model::ModelSpec& EngineCompute::spec() const {
  return impl_->spec;
}
ops::BackendInfo EngineCompute::backend_info() const {
  return impl_->info;
}
std::uint64_t EngineCompute::self_test() const {
  return impl_->self_test;
}

void EngineCompute::load(LayerRange layers, std::function<void(Result<LoadReport>)> done) {
  impl_->enqueue([state = impl_.get(), layers, done = std::move(done)]() mutable {
    auto result = std::make_shared<Result<LoadReport>>(state->load(layers));
    return [result, done = std::move(done)] { done(std::move(*result)); };
  });
}

void EngineCompute::submit(StepJob job, std::function<void(Result<StepOutput>)> done) {
  // std::function needs copyable closures, a job is not.
  auto shared = std::make_shared<StepJob>(std::move(job));
  impl_->enqueue([state = impl_.get(), shared, done = std::move(done)]() mutable {
    auto result = std::make_shared<Result<StepOutput>>(state->run(*shared));
    return [result, done = std::move(done)] { done(std::move(*result)); };
  });
}

}  // namespace mesh::engine
