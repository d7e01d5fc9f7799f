#pragma once
// What the drivers of all engines share, so that they are asked and timed alike: options, the
// commands on standard input, one JSON object per line on standard output. The standard library
// alone, since the driver of another engine is built outside of this project's tree.
//
//   load: first line     {"event":"ready","engine":...,"load_s":...,"first_token_s":...,...}
//   prefill N            one prompt of N tokens in as few steps as the engine takes
//   decode S K [P]       S sequences behind prompts of P tokens (default 128), K steps of one token
//   ids N [P]            the fixed prompt of P tokens (default 8) and the first N greedy ids behind
//   set NAME VALUE       flash on|off, ubatch N (0: as many rows as the prompt has)
//   status               memory and CPU time of the process so far
//   quit

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace mesh::bench {

struct DriverOptions {
  std::string model;
  int threads = 1;
  std::vector<int> cores;  // the process is bound to them; empty: not bound
  std::string isa;         // as the engine names it; empty: the best of this machine
  std::string libraries;   // where another engine's shared libraries lie
  bool flash = true;       // of an engine that can do both
};

// What one command gave; `error` not empty: nothing else counts.
struct Answer {
  std::string error;
  std::vector<double> seconds;  // one per step that was timed
  std::vector<std::int32_t> ids;
};

// An engine with a model loaded. All calls come from one thread.
class Subject {
 public:
  virtual ~Subject() = default;
  // Pairs of name and JSON value for the first line: engine, version, kernels.
  virtual std::vector<std::pair<std::string, std::string>> facts() const = 0;
  virtual int vocabulary() const = 0;
  // The time from before the step to when the greedy token behind the prompt is known.
  virtual Answer prefill(int tokens) = 0;
  // The prompts are computed untimed, or found in place from the command before; every command
  // starts behind them. A step ends when the greedy token of each sequence is known.
  virtual Answer decode(int sequences, int steps, int prompt) = 0;
  virtual Answer greedy_ids(int count, int prompt) = 0;
  // False: no such setting.
  virtual bool set(const std::string& name, const std::string& value) = 0;
  // Lets threads that wait for work sleep; called after each command.
  virtual void rest() {}
};

// Exits with 2 and the usage when they make no sense.
DriverOptions read_driver_options(int argc, char** argv);
// Binds the process, and so all threads made later. False with a sentence on standard error when
// the system refuses.
bool bind_to_cores(const std::vector<int>& cores);

double seconds_now();  // monotonic

// Token at `position` of the fixed prompt of `sequence`: an ordinary one of any vocabulary here.
std::int32_t prompt_token(int sequence, int position, int vocabulary);

std::string json_text(const std::string& text);  // quoted and escaped

// Prints the first line, then answers commands until "quit" or the end of the input. `begin_s` is
// seconds_now() at the start of main(). Returns the exit status.
int run_driver(Subject& subject, const DriverOptions& options, double begin_s);

}  // namespace mesh::bench
