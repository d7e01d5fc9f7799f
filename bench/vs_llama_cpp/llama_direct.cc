// The driver of llama.cpp and, with -DMESH_BENCH_IK, of ik_llama.cpp: their C interface in process,
// with the settings that are fastest for each. setup.sh builds it against their headers and
// libraries.

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "bench/vs_llama_cpp/driver.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"
#ifndef MESH_BENCH_IK
#include "ggml-cpu.h"
#endif

namespace mesh::bench {
namespace {

constexpr int kCellsUnit = 256;  // both engines pad the cells that attention reads to this

void print_warnings(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN) std::fputs(text, stderr);
}

// One question of this file answered once for both interfaces.
#ifdef MESH_BENCH_IK
constexpr const char* kEngine = "ik_llama.cpp";
int vocabulary_of(const llama_model* model) {
  return llama_n_vocab(model);
}
bool keep_up_to(llama_context* context, int sequence, int position) {
  return llama_kv_cache_seq_rm(context, sequence, position, -1);
}
void forget_all(llama_context* context) {
  llama_kv_cache_clear(context);
}
#else
constexpr const char* kEngine = "llama.cpp";
int vocabulary_of(const llama_model* model) {
  return llama_vocab_n_tokens(llama_model_get_vocab(model));
}
bool keep_up_to(llama_context* context, int sequence, int position) {
  return llama_memory_seq_rm(llama_get_memory(context), sequence, position, -1);
}
void forget_all(llama_context* context) {
  llama_memory_clear(llama_get_memory(context), false);
}
#endif

#ifndef MESH_BENCH_IK
// The bytes that a function of the library writes into the structure it returns. A header of
// another version has another size, and everything behind it would be wrong.
template <class Function>
std::size_t bytes_returned(Function function) {
  struct Room {
    unsigned char bytes[4096];
  };
  const auto fill_room = reinterpret_cast<Room (*)()>(reinterpret_cast<void (*)()>(function));
  std::size_t end = 0;
  for (const unsigned char pattern : {'\x25', '\x5A'}) {
    const std::unique_ptr<unsigned char[]> memory(new unsigned char[sizeof(Room)]);
    std::memset(memory.get(), pattern, sizeof(Room));
    new (memory.get()) Room(fill_room());  // built in place: what is not written keeps the pattern
    for (std::size_t i = end; i < sizeof(Room); ++i)
      if (memory[i] != pattern) end = i + 1;
  }
  return end;
}

bool header_fits_library() {
  const std::size_t model = bytes_returned(&llama_model_default_params);
  const std::size_t context = bytes_returned(&llama_context_default_params);
  const llama_context_params defaults = llama_context_default_params();
  const bool fits =
      model <= sizeof(llama_model_params) && model + 8 > sizeof(llama_model_params) &&
      context <= sizeof(llama_context_params) && context + 8 > sizeof(llama_context_params) &&
      defaults.n_ctx == 512 && defaults.n_batch == 2048 && defaults.n_ubatch == 512 &&
      defaults.n_seq_max == 1 && defaults.type_k == GGML_TYPE_F16 &&
      defaults.type_v == GGML_TYPE_F16 && defaults.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_AUTO &&
      defaults.offload_kqv && llama_model_default_params().use_extra_bufts;
  if (!fits)
    std::fprintf(stderr,
                 "the headers are of another version than the libraries: model parameters %zu "
                 "bytes of %zu, context parameters %zu of %zu\n",
                 model, sizeof(llama_model_params), context, sizeof(llama_context_params));
  return fits;
}

// The variant of the CPU backend to load: the named one, else the one that scores best here.
std::string choose_variant(const std::string& directory, const std::string& isa) {
  const std::string wanted = isa == "avx2" ? "haswell" : isa == "avx512" ? "zen4" : isa;
  const std::string prefix = "libggml-cpu-", suffix = ".so";
  if (!wanted.empty()) return directory + "/" + prefix + wanted + suffix;
  std::string best;
  int best_score = 0;
  DIR* const entries = opendir(directory.c_str());
  if (entries == nullptr) return best;
  while (const dirent* entry = readdir(entries)) {
    const std::string name = entry->d_name;
    if (name.compare(0, prefix.size(), prefix) != 0) continue;
    void* const library = dlopen((directory + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) continue;
    const auto score = reinterpret_cast<int (*)()>(dlsym(library, "ggml_backend_score"));
    if (score != nullptr && score() > best_score) {
      best_score = score();
      best = directory + "/" + name;
    }
    dlclose(library);
  }
  closedir(entries);
  return best;
}

// Threads of llama.cpp that spin between the graphs of a command and sleep between commands.
class Threads {
 public:
  bool start(ggml_backend_reg_t backend, const std::string& library, const DriverOptions& options) {
    const auto make = reinterpret_cast<decltype(&ggml_threadpool_new)>(
        ggml_backend_reg_get_proc_address(backend, "ggml_threadpool_new"));
    // The backend tells of new and free alone; its library exports the rest.
    void* const loaded = dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
    if (make == nullptr || loaded == nullptr) return false;
    pause_ = reinterpret_cast<decltype(pause_)>(dlsym(loaded, "ggml_threadpool_pause"));
    if (pause_ == nullptr) return false;
    ggml_threadpool_params params = ggml_threadpool_params_default(options.threads);
    for (const int core : options.cores) params.cpumask[core] = true;
    params.strict_cpu = options.cores.size() >= static_cast<std::size_t>(options.threads);
    pool_ = make(&params);
    return pool_ != nullptr;
  }
  ggml_threadpool* pool() const { return pool_; }
  // The next graph wakes them.
  void pause() const { pause_(pool_); }

 private:
  void (*pause_)(ggml_threadpool*) = nullptr;
  ggml_threadpool* pool_ = nullptr;  // lives as long as the process
};
#endif

class LlamaSubject final : public Subject {
 public:
  explicit LlamaSubject(const DriverOptions& options) : options_(options), flash_(options.flash) {}
  ~LlamaSubject() override {
    for (Context& context : contexts_) drop(context);
    if (model_ != nullptr) free_model();
  }

  bool load();

  std::vector<std::pair<std::string, std::string>> facts() const override {
    return {{"engine", json_text(kEngine)},
            {"version", json_text(version_)},
            {"kernels", json_text(kernels_)}};
  }

  int vocabulary() const override { return vocabulary_; }

  Answer prefill(int tokens) override {
    if (!need_context({1, tokens, ubatch_ > 0 ? std::min(ubatch_, tokens) : tokens, false}))
      return {"no context", {}, {}};
    forget_all(here().handle);
    start_batch();
    for (int i = 0; i < tokens; ++i) add(prompt_token(0, i, vocabulary_), i, 0, i + 1 == tokens);
    const double begin = seconds_now();
    if (!run()) return {"llama_decode failed", {}, {}};
    const std::int32_t id = likeliest(tokens - 1);
    const double end = seconds_now();
    return {"", {end - begin}, {id}};
  }

  Answer decode(int sequences, int steps, int prompt) override {
    Context& context = here();
    const Shape& shape = context.shape;
    const bool kept = context.handle != nullptr && shape.decoding && shape.sequences == sequences &&
                      context.filled == prompt && prompt + steps <= shape.positions;
    if (!kept) {
      const int positions = (prompt + steps + kCellsUnit - 1) / kCellsUnit * kCellsUnit;
      if (!need_context({sequences, positions, std::min(std::max(prompt, sequences), 512), true}))
        return {"no context", {}, {}};
      if (!fill(sequences, prompt)) return {"llama_decode of the prompts failed", {}, {}};
    }
    for (int s = 0; s < sequences; ++s)
      if (!keep_up_to(context.handle, s, prompt)) return {"cannot return to the prompt", {}, {}};
    std::vector<std::int32_t> next = context.first;
    Answer answer;
    for (int step = 0; step < steps; ++step) {
      const double begin = seconds_now();
      start_batch();
      for (int s = 0; s < sequences; ++s)
        add(next[static_cast<std::size_t>(s)], prompt + step, s, true);
      if (!run()) return {"llama_decode failed", {}, {}};
      for (int s = 0; s < sequences; ++s) next[static_cast<std::size_t>(s)] = likeliest(s);
      answer.seconds.push_back(seconds_now() - begin);
    }
    answer.ids = next;
    return answer;
  }

  Answer greedy_ids(int count, int prompt) override {
    if (!need_context({1, prompt + count, prompt, false})) return {"no context", {}, {}};
    forget_all(here().handle);
    start_batch();
    for (int i = 0; i < prompt; ++i) add(prompt_token(0, i, vocabulary_), i, 0, i + 1 == prompt);
    Answer answer;
    for (int i = 0; i < count; ++i) {
      if (!run()) return {"llama_decode failed", {}, {}};
      answer.ids.push_back(likeliest(here().batch.n_tokens - 1));
      start_batch();
      add(answer.ids.back(), prompt + i, 0, true);
    }
    return answer;
  }

  bool set(const std::string& name, const std::string& value) override {
    if (name == "flash" && (value == "on" || value == "off")) {
      flash_ = value == "on";
      return true;
    }
    if (name == "ubatch") {
      ubatch_ = std::atoi(value.c_str());
      return ubatch_ >= 0;
    }
    return false;
  }

#ifndef MESH_BENCH_IK
  void rest() override {
    threads_.pause();
  }
#endif

 private:
  // What a context is made for. Another one is made when a command needs another.
  struct Shape {
    int sequences = 0, positions = 0, ubatch = 0;  // positions of each sequence
    bool decoding = false;
    friend bool operator==(const Shape&, const Shape&) = default;
  };
  struct Context {
    llama_context* handle = nullptr;
    llama_batch batch{};
    Shape shape;
    int filled = -1;                  // prompt in the cache of every sequence
    std::vector<std::int32_t> first;  // token behind each prompt
  };
  Context& here() {
    return contexts_[flash_ ? 1 : 0];
  }

  void free_model() {
#ifdef MESH_BENCH_IK
    llama_free_model(model_);
#else
    llama_model_free(model_);
#endif
  }

  static void drop(Context& context) {
    if (context.handle == nullptr) return;
    llama_free(context.handle);
    llama_batch_free(context.batch);
    context = {};
  }

  // That of the other attention stays when it is for the same work: trials change between them.
  bool need_context(const Shape& shape) {
    for (Context& context : contexts_)
      if (context.shape != shape) drop(context);
    Context& context = here();
    if (context.handle != nullptr) return true;
    llama_context_params params = llama_context_default_params();
    const int cells = (shape.positions + kCellsUnit - 1) / kCellsUnit * kCellsUnit;
    const int rows = std::max(shape.ubatch, shape.decoding ? shape.ubatch : shape.positions);
    params.n_ctx = static_cast<std::uint32_t>(cells * shape.sequences);
    params.n_batch = static_cast<std::uint32_t>(rows);
    params.n_ubatch = static_cast<std::uint32_t>(shape.ubatch);
    params.n_seq_max = static_cast<std::uint32_t>(shape.sequences);
    params.type_k = params.type_v = GGML_TYPE_F16;
#ifdef MESH_BENCH_IK
    params.n_threads = params.n_threads_batch = static_cast<std::uint32_t>(options_.threads);
    params.flash_attn = flash_;
#else
    params.n_threads = params.n_threads_batch = options_.threads;
    params.flash_attn_type =
        flash_ ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.no_perf = true;
#endif
    context.handle = llama_init_from_model(model_, params);
    if (context.handle == nullptr) return false;
#ifndef MESH_BENCH_IK
    llama_attach_threadpool(context.handle, threads_.pool(), threads_.pool());
#endif
    context.batch = llama_batch_init(std::max(rows, shape.sequences), 0, 1);
    context.shape = shape;
    return true;
  }

  // Each prompt is another text: shared cells would make attention cheaper than it is.
  bool fill(int sequences, int prompt) {
    Context& context = here();
    forget_all(context.handle);
    context.first.clear();
    for (int s = 0; s < sequences; ++s) {
      for (int done = 0; done < prompt;) {
        start_batch();
        for (; done < prompt && context.batch.n_tokens < context.shape.ubatch; ++done)
          add(prompt_token(s, done, vocabulary_), done, s, done + 1 == prompt);
        if (!run()) return false;
      }
      context.first.push_back(likeliest(context.batch.n_tokens - 1));
    }
    context.filled = prompt;
    return true;
  }

  void start_batch() {
    here().batch.n_tokens = 0;
  }
  void add(std::int32_t token, int position, int sequence, bool logits) {
    llama_batch& batch = here().batch;
    const int i = batch.n_tokens++;
    batch.token[i] = token;
    batch.pos[i] = position;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = sequence;
    batch.logits[i] = logits ? 1 : 0;
  }
  bool run() {
    return llama_decode(here().handle, here().batch) == 0;
  }

  std::int32_t likeliest(int row) {
    const float* logits = llama_get_logits_ith(here().handle, row);
    if (logits == nullptr) return 0;
    float most = logits[0];
    for (int i = 1; i < vocabulary_; ++i) most = logits[i] > most ? logits[i] : most;
    return static_cast<std::int32_t>(std::find(logits, logits + vocabulary_, most) - logits) %
           vocabulary_;
  }

  const DriverOptions options_;
  std::string version_, kernels_;
  bool flash_;
  int ubatch_ = 0;
  int vocabulary_ = 0;
  llama_model* model_ = nullptr;
  Context contexts_[2];  // without flash attention and with
#ifndef MESH_BENCH_IK
  Threads threads_;
#endif
};

#ifdef MESH_BENCH_IK
bool LlamaSubject::load() {
  llama_log_set(print_warnings, nullptr);
  llama_backend_init();
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  params.repack_tensors = true;  // -rtr 1
  params.use_mmap = false;       // implied by it
  model_ = llama_model_load_from_file(options_.model.c_str(), params);
  if (model_ == nullptr) return false;
  version_ = MESH_BENCH_PEER_VERSION;
  kernels_ = llama_print_system_info();
  vocabulary_ = vocabulary_of(model_);
  return need_context({1, 2, 1, false});
}
#else
bool LlamaSubject::load() {
  llama_log_set(print_warnings, nullptr);
  if (!header_fits_library()) return false;
  const std::string library = choose_variant(options_.libraries, options_.isa);
  const ggml_backend_reg_t backend = library.empty() ? nullptr : ggml_backend_load(library.c_str());
  if (backend == nullptr) {
    std::fprintf(stderr, "no CPU backend %s in %s\n", library.c_str(), options_.libraries.c_str());
    return false;
  }
  llama_backend_init();
  if (!threads_.start(backend, library, options_)) return false;
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  model_ = llama_model_load_from_file(options_.model.c_str(), params);
  if (model_ == nullptr) return false;
  version_ = MESH_BENCH_PEER_VERSION;
  version_ += ", library ";
  version_ += llama_version();
  kernels_ = library.substr(library.rfind('/') + 1) + ": " + llama_print_system_info();
  vocabulary_ = vocabulary_of(model_);
  return need_context({1, 2, 1, false});
}
#endif

// libgomp reads the cores of its threads when it is loaded: set them and start over once.
void bind_openmp(const DriverOptions& options, char** argv) {
  if (options.cores.empty() || std::getenv("GOMP_CPU_AFFINITY") != nullptr) return;
  std::string list;
  for (const int core : options.cores) list += (list.empty() ? "" : " ") + std::to_string(core);
  setenv("GOMP_CPU_AFFINITY", list.c_str(), 1);
  execv("/proc/self/exe", argv);
}

}  // namespace
}  // namespace mesh::bench

int main(int argc, char** argv) {
  using namespace mesh::bench;
  const DriverOptions options = read_driver_options(argc, argv);
#ifdef MESH_BENCH_IK
  bind_openmp(options, argv);
#else
  (void)bind_openmp;
#endif
  const double begin = seconds_now();
  if (!bind_to_cores(options.cores)) return 1;
  LlamaSubject subject(options);
  if (!subject.load()) {
    std::fprintf(stderr, "cannot load %s\n", options.model.c_str());
    return 1;
  }
  return run_driver(subject, options, begin);
}
